"""What is not our mistake ends without a traceback: streams, terminals, locales, names, damaged documents."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core import documents, fs, locks, temporary
from pipeline.errors import ExitCode, HostLacks, Refused
from pipeline.packaging import inventory
from pipeline.packaging.graph import Step, StepGraph
from pipeline.sandbox.images import PackageList
from pipeline.sources.store import Store
from tests.fixtures.built import Built
from tests.fixtures.commandline import Inv

LONG = "x" * 300


def shell(inv: Inv, script: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    """A script of bash in which `inv` is the command line."""
    text = f'inv() {{ {shlex.join(inv.argv())} "$@"; }}\n{script}'
    return subprocess.run(
        ["bash", "-c", text], cwd=inv.cwd, env=inv.environment(**more), capture_output=True, check=False
    )


# --- Streams -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["lines", "lines --json", "status", "--list", "--help", "lines --show el7"])
@pytest.mark.parametrize(
    "redirect", [">&-", "2>&-", "<&-", "<&- >&- 2>&-", "| head -c 1", "2>&1 >/dev/null | head -c 0"]
)
def test_closed_streams_change_neither_the_exit_code_nor_what_else_is_said(
    tmp_path: Path, words: str, redirect: str
) -> None:
    ended = shell(Inv(tmp_path), f"inv {words} {redirect}; exit ${{PIPESTATUS[0]}}")
    assert ended.returncode == (ExitCode.USAGE if "el7" in words else ExitCode.OK), ended.stderr
    assert b"Traceback" not in ended.stderr and b"Exception ignored" not in ended.stderr
    assert b"el7" in ended.stderr or ended.stderr == b""


@pytest.mark.parametrize("words", ["lines", "lines --json", "--list"])
def test_an_output_that_takes_nothing_is_named(tmp_path: Path, words: str) -> None:
    ended = shell(Inv(tmp_path), f"inv {words} > /dev/full")
    assert ended.returncode == ExitCode.HOST
    assert b"standard output" in ended.stderr and b"Exception ignored" not in ended.stderr


def test_what_a_closed_output_would_have_said_goes_into_no_file(tmp_path: Path) -> None:
    inv = Inv(tmp_path)
    assert shell(inv, "inv store verify >&- 2>&- <&-").returncode == ExitCode.OK
    [lock] = inv.artifacts.rglob("*.lock")
    assert lock.read_text() == ""


@pytest.mark.parametrize("columns", [0, 1])
def test_a_terminal_without_columns_is_written_to(tmp_path: Path, columns: int) -> None:
    inv, (ours, theirs) = Inv(tmp_path), pty.openpty()
    fcntl.ioctl(theirs, 0x5414, (b"\0\0" + columns.to_bytes(2, sys.byteorder) + b"\0" * 4))  # TIOCSWINSZ
    with subprocess.Popen(inv.argv("lines"), cwd=inv.cwd, env=inv.environment(), stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        said = b""
        while True:
            try:
                said += os.read(ours, 1 << 16)
            except OSError:  # EIO: nobody has the other end any more
                break
    os.close(ours)
    assert child.returncode == 0 and said and b"Traceback" not in said


# --- Locales, names, places ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("inv lines --show $'\\xff\\xfe'", ExitCode.USAGE),
        ("inv $'\\xff'", ExitCode.USAGE),
        ("inv status --artifacts $'a\\xff'", ExitCode.OK),
        ("inv store verify --artifacts $'a\\xff' --json", ExitCode.OK),
        ("FNAT_RUNTIME=$'\\xff' inv status", ExitCode.USAGE),
        ("printf '\\xff' > s; FNAT_SETTINGS=s inv status", ExitCode.USAGE),
        ("printf 'jobs=%05000d' 9 | tr 0 9 > s; FNAT_SETTINGS=s inv status", ExitCode.USAGE),
        ("printf 'a=' > s; printf '[%.0s' $(seq 5000) >> s; FNAT_SETTINGS=s inv status", ExitCode.USAGE),
        ("printf '\\xff' > l.toml; inv lines --line-file l.toml", ExitCode.USAGE),
        (f"inv status --artifacts {LONG}", ExitCode.HOST),
        (f"inv clean failed --artifacts {LONG}", ExitCode.HOST),
        (f"inv lines --line-file {LONG}", ExitCode.USAGE),
        (f"inv shell {LONG} --line lts61", ExitCode.USAGE),
        (f'printf \'extends = "lts61"\\nname = "{LONG}"\\n\' > l.toml; inv lines --line-file l.toml', ExitCode.USAGE),
        ("mkdir x; cd x; rmdir ../x; inv status", ExitCode.HOST),
        ("unset HOME; inv status", ExitCode.OK),
        ("HOME=$PWD/missing inv status", ExitCode.OK),
        ("mkdir -p a/store/locks/store.lock; inv store verify --artifacts a", ExitCode.HOST),
        ("mkdir a; touch a/store; inv store verify --artifacts a", ExitCode.HOST),
    ],
)
@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}])
def test_names_and_places_that_nobody_expects_are_told(
    tmp_path: Path, script: str, code: ExitCode, locale: dict[str, str]
) -> None:
    ended = shell(Inv(tmp_path), script, **locale)
    assert ended.returncode == code, ended.stderr
    assert b"Traceback" not in ended.stderr
    assert (b"error: " in ended.stderr) == (code is not ExitCode.OK)
    if locale:
        assert (ended.stdout + ended.stderr).isascii()


def test_a_mistake_of_ours_is_told_as_one(tmp_path: Path) -> None:
    inv = Inv(tmp_path)
    script = (
        "import tasks; from pipeline.cli import app; from pipeline.commands.task import verb\n"
        "def broken(context):\n    'Break.'\n    return {}['key']\n"
        "tasks.broken = verb()(broken); app.main()"
    )
    argv = [inv.argv()[0], "-c", script, "broken", "--json"]
    ended = subprocess.run(argv, env=inv.environment(), cwd=inv.cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == ExitCode.BUG and "Traceback" in ended.stderr
    assert "a mistake in this program: KeyError: 'key'" in ended.stderr and "report it" in ended.stderr
    assert json.loads(ended.stdout)["exit_code"] == ExitCode.BUG


# --- File systems ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
@pytest.mark.parametrize(
    "use",
    [
        lambda place: locks.locked(place / "lock").__enter__(),
        lambda place: fs.write_atomic(place / "file", "text"),
        lambda place: fs.scratch(place).__enter__(),
    ],
)
def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, use: Callable[[Path], object]
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unknown)
    with pytest.raises(HostLacks, match="the file system: no locks; expected flock"):
        use(tmp_path)


# --- Documents ---------------------------------------------------------------------------------------------------

GARBAGE = (b"", b"{", b"[1]", b"null", b'{"other": 1}', b"\xff\xfe", b"[" * 100_000)


@pytest.mark.parametrize("data", GARBAGE)
def test_a_damaged_document_is_named_with_what_is_wrong_and_what_mends_it(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "about.json"
    file.write_bytes(data)
    with pytest.raises(Refused, match=r"about\.json: damaged; expected .*, got ") as caught:
        documents.read(file, PackageList, hint="./inv clean images")
    assert (caught.value.where, caught.value.hint) == (str(file), "./inv clean images")


@pytest.mark.parametrize("data", [*GARBAGE, b'{"begun": "x", "inputs": 3, "state": "done"}', b'{"inputs": [1]}'])
def test_damaged_metadata_of_a_step_stop_neither_status_nor_the_next_run(tmp_path: Path, data: bytes) -> None:
    inv = Inv(tmp_path)
    built = Built(inv.artifacts)
    (built.step("ipvsadm", "one") / "meta.json").write_bytes(data)
    inv("status"), inv("clean")
    built.step("ipvsadm", "two")
    plan = StepGraph([Step("ipvsadm", lambda work: None, {"source": "three"})])
    assert built.runner("lts61").explain(plan)


@pytest.mark.parametrize("name", ["key-A", "line-x", "debian-x"])
@pytest.mark.parametrize("data", GARBAGE)
def test_a_damaged_record_of_the_store_is_none(tmp_path: Path, name: str, data: bytes) -> None:
    store = Store(tmp_path)
    store.write_record(name, {})
    [file] = (tmp_path / "records").iterdir()
    file.write_bytes(data)
    assert store.record(name, dict[str, object]) is None
    assert [path.read_bytes() for path in (tmp_path / "bad").iterdir()] == [data]


def test_no_temporary_directory_at_all_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    with pytest.raises(HostLacks, match="the directory for temporary files") as caught, temporary.scratch("a-"):
        pass
    assert caught.value.hint.startswith("TMPDIR=DIR")


def test_a_document_that_is_a_fifo_or_has_no_end_is_damaged(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 40)
    for name, got in (("fifo", "a FIFO"), ("sparse", "got more")):
        with pytest.raises(Refused, match=got):
            documents.read(tmp_path / name, PackageList, hint="./inv status")
        assert inventory.package_count(tmp_path / name) == 0
