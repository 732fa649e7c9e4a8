"""Trees that a stranger's program has filled: measured, disarmed and removed, whatever is in them."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core import trees

DEEP = 3000  # directories in each other: more than open files are allowed, and 40 times the longest path
NAME = "d" * 50


@pytest.fixture
def few_files() -> Iterator[None]:
    """A process that may have few files open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory with a file in it that nothing may touch."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "key").write_text("secret")
    (tmp_path / "outside" / "key").chmod(0o4600)
    (tmp_path / "outside").chmod(0o500)
    return tmp_path / "outside"


@pytest.fixture
def hostile(tmp_path: Path, outside: Path) -> Iterator[Path]:
    """A tree with everything in it that a build can make."""
    top = tmp_path / "hostile"
    (top / "locked" / "inner").mkdir(parents=True)
    (top / "many").mkdir()
    for number in range(2000):
        (top / "many" / str(number)).touch()
    (top / "link").symlink_to(outside)
    (top / "locked" / "loop").symlink_to("..")
    (top / "locked" / "key").hardlink_to(outside / "key")
    (top / "odd\nname \x1b[2J").write_bytes(b"x")
    (top / "sparse").open("wb").truncate(1 << 40)
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(top):
        listening.bind("socket")
    chain(top / "many", DEEP)
    (top / "locked").chmod(0)
    yield top
    if top.exists():
        trees.remove(top)  # pytest itself could not


def chain(place: Path, depth: int) -> None:
    """Makes directories in each other, with a file in the innermost one."""
    here = os.open(place, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(NAME, dir_fd=here)
        below = os.open(NAME, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("deepest", os.O_WRONLY | os.O_CREAT, 0o6755, dir_fd=here))
    os.close(here)


@pytest.mark.usefixtures("few_files")
def test_a_hostile_tree_is_removed_whole_and_nothing_outside_it(hostile: Path, outside: Path) -> None:
    trees.remove(hostile)
    assert not hostile.exists()
    assert (outside / "key").read_text() == "secret"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500


def test_a_link_in_a_trees_place_is_not_followed(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(OSError, match="Not a directory"):
        trees.remove(tmp_path / "link")
    trees.clear_special_bits(outside.parent / "nothing")
    assert (outside / "key").exists()


@pytest.mark.usefixtures("few_files")
def test_every_entry_is_met_once_however_deep_and_what_is_allocated_is_counted(hostile: Path) -> None:
    names = [entry.name for entry in trees.walk(hostile)]
    assert names.count("deepest") == 1 and names.count(NAME) == DEEP and names.count("fifo") == 1
    assert DEEP * 512 < trees.usage(hostile) < 1 << 30, "a sparse file is not what it says"


@pytest.mark.usefixtures("few_files")
def test_no_special_bit_stays_and_no_other_file_changes(hostile: Path, outside: Path) -> None:
    for name, mode in (("suid", 0o4755), ("sgid", 0o2711), ("both", 0o6777)):
        (hostile / name).touch()
        (hostile / name).chmod(mode)
    (hostile / "shared").mkdir()
    (hostile / "shared").chmod(0o3777)
    closed = stat.S_IMODE((hostile / "locked").stat().st_mode)
    (hostile / "locked").chmod(0o700)
    (hostile / "locked" / "key").unlink()  # another name of the file outside
    (hostile / "locked").chmod(closed)
    trees.clear_special_bits(hostile)
    modes = {entry.name: stat.S_IMODE(entry.status.st_mode) for entry in trees.walk(hostile)}
    assert [modes[name] for name in ("suid", "sgid", "both", "shared", "deepest")] == [
        0o755, 0o711, 0o777, 0o777, 0o755 & ~os.umask(os.umask(0)),
    ]  # fmt: skip
    assert stat.S_IMODE((outside / "key").stat().st_mode) == 0o4600


def test_a_tree_whose_entries_another_run_removes_meanwhile_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "top"
    for name in ("a/b", "c"):
        (top / name).mkdir(parents=True)
        (top / name / "file").write_text("x")
    real = os.unlink

    def first(name: str, *, dir_fd: int | None = None) -> None:
        real(name, dir_fd=dir_fd)
        real(name, dir_fd=dir_fd)  # the other run was there before

    monkeypatch.setattr(os, "unlink", first)
    trees.remove(top)
    assert not top.exists()
    with pytest.raises(FileNotFoundError):
        trees.remove(top)
