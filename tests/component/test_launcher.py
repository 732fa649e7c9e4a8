"""`./inv` itself, in a copy of this checkout as it is now, uncommitted work included.

One real environment is made, by two first uses at once; the rest runs on it, or on a stand-in for its
Python that writes down how it is called. What a use costs is counted in programs started, not in time.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fixtures.commandline import ROOT

MAKING, INSTALLING = "inv: making ", "inv: installing the locked dependencies"
NEEDED = ("cmp", "cp", "dirname", "readlink", "flock", "id", "env", "sh")  # all that the launcher may call


def copy_checkout(target: Path) -> Path:
    """The files git knows or would add, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in listed.stdout.decode().split("\0"):
        source, place = ROOT / name, target / name
        if name and source.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)
    return target


def script(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


@dataclass
class Desk:
    """A directory of programs that is the whole search path, and what was called of them."""

    bin: Path
    log: Path
    links: list[str] = field(default_factory=lambda: list(NEEDED))

    def __post_init__(self) -> None:
        for name in self.links:
            real = shutil.which(name)
            assert real is not None, name
            self.stand_in(name, f'exec {shlex.quote(real)} "$@"')

    def stand_in(self, name: str, *lines: str) -> None:
        """A program of this name that writes down its call first."""
        script(self.bin / name, f'echo "{name} $*" >> {shlex.quote(str(self.log))}', *lines)

    def environment(self, **more: str) -> dict[str, str]:
        return environment(PATH=str(self.bin), **more)

    def calls(self) -> list[str]:
        """The calls since the last look."""
        said = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return said


def environment(**more: str) -> dict[str, str]:
    """Ours, pip's settings and proxies included, without what would bend Python or the settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FNAT_", "INV_"))}
    return {**kept, **more}


def use(
    launcher: Path | str, *words: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run([launcher, *words], cwd=cwd, env=env or environment(), capture_output=True, text=True)


@dataclass
class House:
    """A checkout with its environment, and what its two first uses said."""

    root: Path
    first: list[subprocess.CompletedProcess[str]]

    @property
    def inv(self) -> Path:
        return self.root / "inv"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """The one real environment, made by two uses that begin at the same time."""
    root = copy_checkout(tmp_path_factory.mktemp("launcher") / "a house")
    argv = [str(root / "inv"), "lines"]
    both = [
        subprocess.Popen(argv, cwd=root, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [process.communicate() for process in both]
    done = [subprocess.CompletedProcess(argv, p.returncode, *end) for p, end in zip(both, ends, strict=True)]
    return House(root, done)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "bin", tmp_path / "calls")


@pytest.fixture
def watched(house: House, desk: Desk) -> Desk:
    """The house's Python writes down its calls too."""
    python = house.root / ".venv/bin/python"
    real = python.with_name("python-itself")
    if not real.is_symlink():
        python.rename(real)
    script(python, f'echo "python $*" >> {shlex.quote(str(desk.log))}', f'exec {shlex.quote(str(real))} "$@"')
    return desk


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout that was never used."""
    return copy_checkout(tmp_path / "bare")


@pytest.fixture
def furnished(bare: Path, desk: Desk) -> Path:
    """A checkout whose environment has a stand-in for Python, which does nothing but write down its calls."""
    script(bare / ".venv/bin/python", f'echo "python $*" >> {shlex.quote(str(desk.log))}')
    return bare


# --- First use -----------------------------------------------------------------------------------------


def test_two_first_uses_at_once_both_succeed(house: House) -> None:
    assert [done.returncode for done in house.first] == [0, 0], house.first
    assert {done.stdout for done in house.first} == {use(house.inv, "lines", cwd=house.root).stdout}
    assert "el6" in house.first[0].stdout


def test_two_first_uses_at_once_make_one_environment(house: House) -> None:
    said = "".join(done.stderr for done in house.first)
    assert (said.count(MAKING), said.count(INSTALLING)) == (1, 1), said


def test_the_first_use_puts_nothing_outside_the_checkouts_ignored_places(house: House) -> None:
    made = {path.name for path in house.root.iterdir()} - {path.name for path in ROOT.iterdir()}
    assert made <= {".venv", ".venv.lock", "artifacts", "__pycache__"}
    ignored = (house.root / ".gitignore").read_text().split()
    assert {"/.venv", "/.venv.lock"} <= set(ignored)


# --- Every later use -----------------------------------------------------------------------------------


def test_a_later_use_compares_the_lock_and_starts_nothing_else(house: House, watched: Desk) -> None:
    done = use(house.inv, "lines", cwd=house.root, env=watched.environment())
    assert (done.returncode, done.stderr) == (0, "")
    compare, *others = watched.calls()
    assert compare.startswith("cmp -s ")
    assert others == ["python -m pipeline lines"]


def test_python_takes_the_launchers_place(house: House, watched: Desk, tmp_path: Path) -> None:
    python = house.root / ".venv/bin/python"
    script(python, f"echo $$ > {tmp_path}/pid")
    with subprocess.Popen([house.inv, "lines"], env=watched.environment()) as process:
        process.wait()
    assert int((tmp_path / "pid").read_text()) == process.pid


def test_without_words_the_tasks_are_listed(house: House, watched: Desk) -> None:
    done = use(house.inv, cwd=house.root, env=watched.environment())
    assert "  fetch " in done.stdout
    assert watched.calls()[-1] == "python -m pipeline --list"


def test_words_reach_the_program_as_they_were_typed(house: House, watched: Desk) -> None:
    script(house.root / ".venv/bin/python", f"for word; do echo \"<$word>\" >> '{watched.log}'; done")
    use(house.inv, "lines", "two words", "", "*", "$HOME", cwd=house.root, env=watched.environment())
    assert watched.calls()[1:] == ["<-m>", "<pipeline>", "<lines>", "<two words>", "<>", "<*>", "<$HOME>"]


def test_the_exit_code_is_the_programs(house: House, watched: Desk) -> None:
    assert use(house.inv, "nonsense", cwd=house.root, env=watched.environment()).returncode == 2


def test_it_works_from_another_directory_and_through_links(house: House, watched: Desk, tmp_path: Path) -> None:
    expected = house.first[0].stdout
    (tmp_path / "absolute").symlink_to(house.inv)
    (tmp_path / "relative").symlink_to(os.path.relpath(house.inv, tmp_path))
    (tmp_path / "chain").symlink_to("relative")
    (tmp_path / "house").symlink_to(house.root)
    ways: list[Path | str] = [house.inv, os.path.relpath(house.inv, tmp_path), "./absolute", "./relative", "./chain"]
    for launcher in [*ways, "house/inv"]:
        done = use(launcher, "lines", cwd=tmp_path, env=watched.environment())
        assert (done.returncode, done.stdout) == (0, expected), launcher
        assert [call for call in watched.calls() if call.startswith("python")] == ["python -m pipeline lines"]


def test_it_works_by_its_name_on_the_search_path_and_as_a_shells_argument(house: House, watched: Desk) -> None:
    on_path = {**watched.environment(), "PATH": f"{watched.bin}:{house.root}"}
    assert use("sh", "-c", "inv --version", cwd=house.root.parent, env=on_path).stdout.startswith("inv ")
    assert use("sh", "inv", "--version", cwd=house.root, env=on_path).stdout.startswith("inv ")


def test_a_changed_lock_installs_again_once_and_makes_nothing_anew(house: House, watched: Desk) -> None:
    lock = house.root / "requirements/run.txt"
    lock.write_text(lock.read_text() + "# changed\n")
    both = {**watched.environment(), "PATH": f"{watched.bin}:{os.environ['PATH']}"}
    done = use(house.inv, "lines", cwd=house.root, env=both)
    assert done.returncode == 0, done.stderr
    assert INSTALLING in done.stderr and MAKING not in done.stderr
    started = [call for call in watched.calls() if call.startswith("python -m")]
    assert [call.split()[2] for call in started] == ["pip", "pipeline.host.programs", "pipeline"]
    assert use(house.inv, "lines", cwd=house.root, env=both).stderr == ""
    assert [call.split()[0] for call in watched.calls()] == ["cmp", "python"]


# --- With a stand-in for Python ------------------------------------------------------------------------


def test_only_test_wants_the_test_dependencies_and_its_programs(furnished: Path, desk: Desk) -> None:
    for words, lock, groups in [(["lines"], "run", "fetch"), (["test", "--only", "unit"], "test", "fetch test")]:
        done = use(furnished / "inv", *words, cwd=furnished, env=desk.environment())
        assert done.returncode == 0, done.stderr
        pip, programs, program = [call for call in desk.calls() if call.startswith("python -m")]
        assert "--require-hashes" in pip and pip.endswith(f"/requirements/{lock}.txt")
        assert programs == f"python -m pipeline.host.programs {groups}"
        assert program == f"python -m pipeline {' '.join(words)}"


def test_a_first_use_that_goes_on_keeps_no_other_waiting(furnished: Path, desk: Desk) -> None:
    """The tests call the launcher themselves; a build takes an hour, and its progress is asked for meanwhile."""
    inv = shlex.quote(str(furnished / "inv"))
    script(furnished / ".venv/bin/python", f'[ "$3" != test ] || exec timeout 30 {inv} lines')
    desk.stand_in("timeout", f'exec {shlex.quote(str(shutil.which("timeout")))} "$@"')
    assert use(furnished / "inv", "test", cwd=furnished, env=desk.environment()).returncode == 0


def test_an_install_that_fails_ends_with_7_and_the_command_and_is_tried_again(furnished: Path, desk: Desk) -> None:
    log = shlex.quote(str(desk.log))
    script(furnished / ".venv/bin/python", f'echo "python $*" >> {log}', '[ "$2" != pip ]')
    for _ in range(2):
        done = use(furnished / "inv", "lines", cwd=furnished, env=desk.environment())
        assert done.returncode == 7
        assert "error: the locked dependencies could not be installed\n" in done.stderr
        assert f"next: {furnished}/.venv/bin/python -m pip install --require-hashes -r " in done.stderr
        assert not [call for call in desk.calls() if call.startswith("python -m pipeline")]


def test_host_programs_that_are_missing_end_it_with_their_own_code(furnished: Path, desk: Desk) -> None:
    script(furnished / ".venv/bin/python", '[ "$2" != pipeline.host.programs ] || exit 7')
    done = use(furnished / "inv", "lines", cwd=furnished, env=desk.environment())
    assert done.returncode == 7
    assert not (furnished / ".venv/inv-run.txt").exists()


def test_an_environment_that_no_longer_works_is_made_anew(furnished: Path, desk: Desk) -> None:
    script(furnished / ".venv/bin/python", "exit 127")
    desk.stand_in("python3", 'case "$*" in *venv\\ --clear*) exit 9 ;; esac')
    done = use(furnished / "inv", "lines", cwd=furnished, env=desk.environment())
    assert MAKING in done.stderr
    assert desk.calls()[-1] == f"python3 -m venv --clear {furnished}/.venv"
    assert done.returncode == 9


# --- Without Python ------------------------------------------------------------------------------------

LACKS = "error: Python 3.11 or newer with venv is needed\n"


def test_no_python_and_no_right_to_install_ends_with_7_and_the_one_command(bare: Path, desk: Desk) -> None:
    desk.stand_in("apt-get")
    desk.stand_in("id", "echo 1000")
    desk.stand_in("sudo", "exit 1")
    desk.stand_in("python3", "exit 1")  # too old, or without venv
    done = use(bare / "inv", "lines", cwd=bare, env=desk.environment())
    assert (done.returncode, done.stdout) == (7, "")
    command = "apt-get install -y --no-install-recommends python3 python3-venv"
    assert done.stderr == f"{LACKS}  next: sudo {command}\n"
    assert not [call for call in desk.calls() if call.startswith("apt-get")]
    assert not (bare / ".venv").exists()


def test_without_a_package_manager_it_says_what_is_needed(bare: Path, desk: Desk) -> None:
    done = use(bare / "inv", "lines", cwd=bare, env=desk.environment())
    assert done.returncode == 7
    assert done.stderr == f"{LACKS}  next: install it, then run this again\n"


@pytest.mark.parametrize(("user", "before"), [("0", ""), ("1000", "sudo -n ")])
def test_who_may_install_gets_python_installed(bare: Path, desk: Desk, user: str, before: str) -> None:
    desk.stand_in("id", f"echo {user}")
    desk.stand_in("sudo", "shift", '[ "$1" = true ] || exec "$@"')
    desk.stand_in("apt-get")
    done = use(bare / "inv", "lines", cwd=bare, env=desk.environment())
    calls = desk.calls()
    assert [call for call in calls if call.startswith("apt-get")] == [
        "apt-get -q update",
        "apt-get install -y --no-install-recommends python3 python3-venv",
    ]
    assert any(call.startswith("sudo") for call in calls) is bool(before)
    assert done.returncode == 7  # this apt-get installed nothing
    assert "although one was installed" in done.stderr


def test_an_install_of_python_that_fails_ends_with_7_and_its_command(bare: Path, desk: Desk) -> None:
    desk.stand_in("id", "echo 0")
    desk.stand_in("dnf", "exit 1")
    done = use(bare / "inv", "lines", cwd=bare, env=desk.environment())
    assert done.returncode == 7
    assert "error: Python could not be installed\n  next: dnf install -y python3.11\n" in done.stderr


def test_a_python_that_is_named_is_tried_first(bare: Path, desk: Desk) -> None:
    desk.stand_in("mine", 'case "$*" in *venv\\ --clear*) exit 9 ;; esac')
    desk.stand_in("python3", "exit 1")
    done = use(bare / "inv", "lines", cwd=bare, env=desk.environment(INV_PYTHON="mine"))
    assert done.returncode == 9
    assert not [call for call in desk.calls() if call.startswith("python3")]


# --- The current directory is not code -----------------------------------------------------------------

# What the standard library, the dependencies and this project are called, and what Python looks for by itself.
SHADOWS = (
    *(
        "json",
        "os",
        "site",
        "sitecustomize",
        "usercustomize",
        "encodings",
        "re",
        "typing",
        "pathlib",
        "signal",
        "inspect",
    ),
    *(
        "functools",
        "tomllib",
        "pip",
        "venv",
        "ensurepip",
        "yaml",
        "invoke",
        "rich",
        "pydantic",
        "git",
        "docker",
        "requests",
    ),
    *("pytest", "pipeline", "tasks"),
)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A directory whose every module, program and settings file, as well as it can be run, leaves the file `ran`."""
    place = tmp_path / "hostile"
    code = f"open({str(tmp_path / 'ran')!r}, 'a').write(__file__)\n"
    for name in ("json", "invoke", "pipeline"):
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text(code)
    for name in (*SHADOWS, ".invoke"):
        (place / f"{name}.py").write_text(code)
    for name in (*NEEDED, "python3", "git"):
        script(place / name, f"touch {tmp_path / 'ran'}", "exit 0")
    return place


# What a variable may say without anybody meaning the current directory, or any that lies there.
BENT: list[dict[str, str]] = [
    {},
    *({"PYTHONPATH": value} for value in (":", ".", "pipeline:", ":/nowhere", "./:..")),
    {"PYTHONHOME": "."},
    {"PYTHONUSERBASE": "."},
    {"PYTHONPYCACHEPREFIX": "."},
    {"INVOKE_TASKS_AUTO_DASH_NAMES": "0"},
]


@pytest.mark.parametrize("variables", BENT, ids=str)
def test_nothing_in_the_current_directory_is_run(
    house: House, watched: Desk, hostile: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    for words in (["lines"], ["--list"], ["build-all", "--image", "none"]):
        there = use(house.inv, *words, cwd=hostile, env=watched.environment(**variables))
        assert there.stdout == use(house.inv, *words, cwd=house.root, env=watched.environment()).stdout
        assert there.returncode == (2 if "none" in words else 0), there.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("before", ["", ":", ".:", "here/../:"])
def test_a_search_path_that_means_the_current_directory_finds_no_program_there(
    house: House, watched: Desk, hostile: Path, tmp_path: Path, before: str
) -> None:
    path = f"{before}{watched.bin}" if before else ""
    done = use(house.inv, "lines", cwd=hostile, env=environment(PATH=path))
    assert (done.returncode, done.stdout) == (0, house.first[0].stdout), done.stderr
    assert not (tmp_path / "ran").exists()


def test_the_first_use_runs_nothing_of_the_current_directory(bare: Path, desk: Desk, hostile: Path) -> None:
    """With the real interpreter up to the point where packages would be installed."""
    real = f"{sys.base_prefix}/bin/python3"
    log, made = shlex.quote(str(desk.log)), bare / ".venv/bin/python"
    desk.stand_in(
        "python3",
        *(f'[ "$1" = -I ] && exec {real} "$@"', f'{real} -m venv --without-pip "$4" || exit'),
        f'mv "{made}" "{made}-real"',
        f"printf '%s\\n' '#!/bin/sh' 'echo \"python $*\" >> {log}' > \"{made}\"",
        f'printf "%s\\n" \'[ "$2" != pip ] || {made}-real -m json.tool --help >/dev/null; exit\' >> "{made}"',
        f'chmod +x "{made}"',
    )
    for name in ("mv", "chmod"):
        desk.stand_in(name, f'exec {shutil.which(name)} "$@"')
    done = use(bare / "inv", "lines", cwd=hostile, env=desk.environment(PYTHONPATH=":"))
    assert done.returncode == 0, done.stderr
    started = [call.split()[2] for call in desk.calls() if call.startswith("python -m")]
    assert started == ["pip", "pipeline.host.programs", "pipeline"]
    assert not (hostile.parent / "ran").exists()


def test_a_directory_that_the_search_path_of_modules_names_is_asked_for(
    house: House, watched: Desk, tmp_path: Path
) -> None:
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked/sitecustomize.py").write_text("print('asked for')")
    done = use(house.inv, "lines", cwd=tmp_path, env=watched.environment(PYTHONPATH=f":{tmp_path}/asked:"))
    assert done.stdout.startswith("asked for\n")
