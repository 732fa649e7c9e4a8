"""Files written whole or not at all, and locks that die with their holder."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.core.fs import atomic, read_limited, scratch, sha256_of, write_atomic
from pipeline.core.locks import locked
from pipeline.errors import ExitCode, Locked
from tests.fixtures.commandline import ROOT

# --- Files ---------------------------------------------------------------------------------------------


def test_a_reader_sees_the_old_or_the_new_content_and_nothing_between(tmp_path: Path) -> None:
    file = tmp_path / "file"
    old, new = b"o" * 300_000, b"n" * 500_000
    write_atomic(file, old)
    with atomic(file) as stream:
        for start in range(0, len(new), 100_000):
            stream.write(new[start : start + 100_000])
            stream.flush()
            assert file.read_bytes() == old
    assert file.read_bytes() == new


def test_a_regular_file_is_read_up_to_its_limit_and_not_beyond(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10)
    assert read_limited(file, 10) == b"x" * 10
    with pytest.raises(OSError, match="expected at most 9 bytes, got more"):
        read_limited(file, 9)


@pytest.mark.parametrize("kind", ["device", "FIFO", "directory", "socket", "sparse", "absent"])
def test_what_has_no_end_or_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    place = Path("/dev/zero") if kind == "device" else tmp_path / kind
    if kind == "FIFO":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    elif kind == "socket":
        stack = socket.socket(socket.AF_UNIX)
        stack.bind(str(place))
        stack.close()
    elif kind == "sparse":
        place.touch()
        os.truncate(place, 10 << 30)
    with pytest.raises(OSError) as refused:
        read_limited(place, 1000)
    said = {"sparse": "expected at most 1000 bytes, got more", "absent": "No such file or directory"}
    assert refused.value.strerror == said.get(kind, f"expected a regular file, got a {kind}")


def test_many_writers_and_readers_never_meet_half_a_file(tmp_path: Path) -> None:
    file, contents = tmp_path / "file", [bytes([letter]) * 200_000 for letter in b"abc"]
    write_atomic(file, contents[0])
    stop = threading.Event()

    def write(content: bytes) -> None:
        while not stop.is_set():
            write_atomic(file, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    seen = {file.read_bytes() for _ in range(200)}
    stop.set()
    for writer in writers:
        writer.join()
    assert seen <= set(contents)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomic(file, "old")
    with pytest.raises(RuntimeError), atomic(file) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_first_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic(tmp_path / "file") as stream:
        stream.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_lies_beside_the_file_so_that_the_rename_cannot_copy(tmp_path: Path) -> None:
    with atomic(tmp_path / "file") as stream:
        (temporary,) = tmp_path.iterdir()
        assert temporary.name.startswith(".file.")
        stream.write(b"x")


def test_directories_are_made_and_the_mode_is_as_asked_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "a/b/plain", "text")
        with atomic(tmp_path / "program", mode=0o755) as stream:
            stream.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a/b/plain").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "program").stat().st_mode) == 0o755


def test_text_is_written_as_utf8_and_hashed_by_its_bytes(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "né\n")
    assert (tmp_path / "file").read_bytes() == b"n\xc3\xa9\n"
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"n\xc3\xa9\n").hexdigest()


WRITER = (
    "import sys; from pathlib import Path; from pipeline.core.fs import atomic, scratch\n"
    "place = Path(sys.argv[1])\n"
    "with atomic(place / 'file') as stream, scratch(place / 'work') as directory:\n"
    "    stream.write(b'half'); stream.flush(); (directory / 'part').touch()\n"
    "    print('begun', flush=True); sys.stdin.read()\n"
)


@contextmanager
def writing(place: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of writing `file` and of work in a scratch directory; killed at the end."""
    argv = [sys.executable, "-c", WRITER, str(place)]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        try:
            yield process
        finally:
            process.kill()


def test_what_a_killed_run_left_half_written_is_removed_by_the_next(tmp_path: Path) -> None:
    with writing(tmp_path):
        pass
    assert not (tmp_path / "file").exists()
    assert len(list(tmp_path.glob(".file.*"))) == len(list((tmp_path / "work").iterdir())) == 1
    write_atomic(tmp_path / "file", "whole")
    with scratch(tmp_path / "work") as directory:
        assert list((tmp_path / "work").iterdir()) == [directory]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "work"]
    assert list((tmp_path / "work").iterdir()) == []


def test_what_another_run_is_writing_is_left_alone(tmp_path: Path) -> None:
    with writing(tmp_path):
        write_atomic(tmp_path / "file", "whole")
        with scratch(tmp_path / "work") as directory:
            assert len(list((tmp_path / "work").iterdir())) == 2
            assert list(directory.iterdir()) == []
        (theirs,) = (tmp_path / "work").iterdir()
        assert (theirs / "part").exists()
        (half,) = tmp_path.glob(".file.*")
        assert half.read_bytes() == b"half"


def test_a_scratch_directory_is_gone_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), scratch(tmp_path / "work") as directory:
        (directory / "below").mkdir()
        raise RuntimeError
    assert list((tmp_path / "work").iterdir()) == []


# --- Locks ---------------------------------------------------------------------------------------------

HOLDER = (
    "import sys; from pathlib import Path; from pipeline.core.locks import locked\n"
    "with locked(Path(sys.argv[1]), shared=sys.argv[2] == 'shared'):\n"
    "    print('held', flush=True); sys.stdin.read()\n"
)


@contextmanager
def held(path: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, until the block ends or it is killed."""
    argv = [sys.executable, "-c", HOLDER, str(path), kind]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def free(path: Path, *, shared: bool = False) -> bool:
    try:
        with locked(path, shared=shared, wait=False):
            return True
    except Locked:
        return False


@pytest.mark.parametrize(
    ("holder", "shared", "possible"),
    [("shared", True, True), ("shared", False, False), ("exclusive", True, False), ("exclusive", False, False)],
)
def test_only_those_who_share_hold_a_lock_together(tmp_path: Path, holder: str, shared: bool, possible: bool) -> None:
    path = tmp_path / "lock"
    with held(path, holder):
        assert free(path, shared=shared) is possible
    assert free(path)


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_who_is_refused_learns_who_holds_the_lock(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock"
    with held(path, kind) as holder, pytest.raises(Locked) as caught, locked(path, wait=False):
        raise AssertionError("two hold it")
    assert caught.value.code == ExitCode.LOCKED
    assert caught.value.where == str(path)
    assert f"pid {holder.pid}: " in caught.value.why
    assert "wait" in caught.value.hint


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_a_lock_dies_with_its_holder_even_by_sigkill(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock"
    with held(path, kind) as holder:
        assert not free(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert free(path)


def test_an_error_inside_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "lock"):
        raise RuntimeError
    assert free(tmp_path / "lock")


def test_who_waits_gets_the_lock_when_it_is_given_back(tmp_path: Path) -> None:
    path, got = tmp_path / "lock", threading.Event()

    def wait() -> None:
        with locked(path):
            got.set()

    with held(path, "exclusive"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not got.wait(0.2)
    assert got.wait(10)
    waiting.join()


def test_the_holders_name_does_not_pile_up_in_the_file(tmp_path: Path) -> None:
    for _ in range(3):
        with locked(tmp_path / "lock"):
            pass
    assert (tmp_path / "lock").read_text().count("pid ") == 1


def test_a_lock_file_stays_so_that_nobody_locks_a_removed_one(tmp_path: Path) -> None:
    with locked(tmp_path / "deep/lock"):
        first = (tmp_path / "deep/lock").stat().st_ino
    with locked(tmp_path / "deep/lock"):
        assert (tmp_path / "deep/lock").stat().st_ino == first


def test_the_error_of_who_holds_a_lock_is_their_own(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), locked(tmp_path / "lock"):
        raise BlockingIOError


def test_who_has_to_wait_is_told_for_whom(tmp_path: Path) -> None:
    told: list[str] = []
    with locked(tmp_path / "lock", waiting=told.append):
        assert told == []

        def wait() -> None:
            with locked(tmp_path / "lock", waiting=told.append):
                told.append("had it")

        other = threading.Thread(target=wait)
        other.start()
        while not told:
            time.sleep(0.01)
    other.join()
    assert told[0].startswith(f"pid {os.getpid()}: ") and told[1:] == ["had it"]
