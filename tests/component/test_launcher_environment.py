"""What `./inv` does about an environment that is broken, a Python that is named, and what may not be installed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.component.test_launcher import Desk, copy_checkout, script, use


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "bin", tmp_path / "calls")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout that was never used."""
    return copy_checkout(tmp_path / "bare")


@pytest.fixture
def furnished(bare: Path, desk: Desk) -> Path:
    """A checkout whose environment has a stand-in for Python, which does nothing but write down its calls."""
    script(bare / ".venv/bin/python", f"echo \"python $*\" >> '{desk.log}'")
    return bare


def made_of(root: Path, **rows: object) -> None:
    """Writes what venv notes of an environment."""
    text = "".join(f"{key} = {value}\n" for key, value in rows.items())
    (root / ".venv/pyvenv.cfg").write_text(f"home = /usr/bin\n{text}")


@pytest.mark.parametrize(
    ("rows", "unfinished", "why"),
    [
        ({"executable": "/nowhere/python3.11"}, "", "its Python was replaced or removed"),
        ({"command": "/usr/bin/python3 -m venv --clear /elsewhere/a b/.venv"}, "", "made in another place, /elsewhere"),
        ({}, "killed", "it was not finished"),
    ],
    ids=["Python gone", "moved", "half made"],
)
def test_a_broken_environment_is_made_anew_with_a_note(
    furnished: Path, desk: Desk, rows: dict[str, str], unfinished: str, why: str
) -> None:
    shutil.copy(furnished / "requirements/run.txt", furnished / ".venv/inv-run.txt")
    made_of(furnished, **rows)
    (furnished / ".venv/inv-unfinished").write_text(unfinished)
    (furnished / ".venv/inv-run.txt").write_text("" if unfinished else (furnished / "requirements/run.txt").read_text())
    desk.stand_in("python3", 'case "$*" in *venv\\ --clear*) exit 9 ;; esac')
    done = use(furnished / "inv", "lines", cwd=furnished, env=desk.environment())
    assert done.returncode == 9
    assert f"inv: {furnished}/.venv does not work: " in done.stderr and why in done.stderr


def test_a_sound_environment_is_used_as_it_is(furnished: Path, desk: Desk) -> None:
    shutil.copy(furnished / "requirements/run.txt", furnished / ".venv/inv-run.txt")
    made_of(furnished, executable=sys.executable, command=f"/usr/bin/python3 -m venv --clear {furnished}/.venv")
    done = use(furnished / "inv", "lines", cwd=furnished, env=desk.environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert [call.split()[0] for call in desk.calls()] == ["cmp", "python"]


def test_an_environment_that_another_python_took_over_is_made_anew(furnished: Path, desk: Desk) -> None:
    shutil.copy(furnished / "requirements/run.txt", furnished / ".venv/inv-run.txt")
    made_of(furnished, executable=sys.executable)
    (furnished / ".venv/bin/python").unlink()
    (furnished / ".venv/bin/python").symlink_to("/bin/true")
    desk.stand_in("python3", 'case "$*" in *venv\\ --clear*) exit 9 ;; esac')
    done = use(furnished / "inv", "lines", cwd=furnished, env=desk.environment())
    assert done.returncode == 9 and "its Python was replaced" in done.stderr


def test_a_broken_environment_behind_a_link_is_left_alone(furnished: Path, desk: Desk, tmp_path: Path) -> None:
    (furnished / ".venv").rename(tmp_path / "shared")
    (furnished / ".venv").symlink_to(tmp_path / "shared")
    script(tmp_path / "shared/bin/python", "exit 127")
    desk.stand_in("python3")
    done = use(furnished / "inv", "lines", cwd=furnished, env=desk.environment())
    assert done.returncode == 7 and "a link to an environment: its Python does not run" in done.stderr
    assert (tmp_path / "shared/bin/python").exists()
    assert not [call for call in desk.calls() if "venv --clear" in call]


@pytest.mark.parametrize("named", ["old", "/nowhere/python3"])
def test_a_bad_python_that_is_named_is_an_error_and_no_other_is_taken(furnished: Path, desk: Desk, named: str) -> None:
    shutil.copy(furnished / "requirements/run.txt", furnished / ".venv/inv-run.txt")
    desk.stand_in("old", "exit 1")
    desk.stand_in("python3")
    done = use(furnished / "inv", "lines", cwd=furnished, env=desk.environment(INV_PYTHON=named))
    assert done.returncode == 7
    assert f"error: INV_PYTHON: {named}; expected a Python 3.11 or newer with venv\n" in done.stderr
    assert not [call for call in desk.calls() if call.startswith("python")]


def test_what_may_not_be_installed_is_told_with_the_command(bare: Path, desk: Desk) -> None:
    desk.stand_in("id", "echo 0")
    desk.stand_in("apt-get")
    done = use(bare / "inv", "lines", cwd=bare, env=desk.environment(INV_NO_INSTALL="1"))
    assert done.returncode == 7 and "INV_NO_INSTALL forbids" in done.stderr
    assert "next: as root: apt-get install -y --no-install-recommends python3 python3-venv" in done.stderr
    assert not [call for call in desk.calls() if call.startswith("apt-get")]


def test_what_is_installed_is_announced_as_it_is_run(bare: Path, desk: Desk) -> None:
    desk.stand_in("id", "echo 0")
    desk.stand_in("apt-get")
    done = use(bare / "inv", "lines", cwd=bare, env=desk.environment())
    install = "apt-get install -y --no-install-recommends python3 python3-venv"
    assert f"inv: running: sh -c 'apt-get -q update && {install}'\n" in done.stderr


def test_the_program_is_told_where_the_checkout_is(furnished: Path, desk: Desk, tmp_path: Path) -> None:
    shutil.copy(furnished / "requirements/run.txt", furnished / ".venv/inv-run.txt")
    script(furnished / ".venv/bin/python", 'echo "$INV_HOME"')
    assert use(furnished / "inv", "lines", cwd=tmp_path, env=desk.environment()).stdout == f"{furnished}\n"
