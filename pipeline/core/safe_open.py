"""Open files and directories without following links or waiting, and lock them with flock(2).

Another user of the host may put a FIFO or a link in a file's place, or lock a file that they can open for reading.
Must not know the content.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

from pipeline.core import neutral
from pipeline.errors import HostLacks

PRIVATE = 0o600  # who cannot open a file for reading cannot lock it either
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def file(path: Path, flags: int) -> int:
    """Open a regular file of this user's, private where `flags` create it. Raises `HostLacks` for anything else."""
    handle = os.open(path, flags | _SAFE, PRIVATE)
    try:
        _require(path, handle, stat.S_ISREG, "a regular file")
    except HostLacks:
        os.close(handle)
        raise
    return handle


def directory(path: Path) -> int:
    """Open a directory of this user's. Raises `HostLacks` for another user's, and `OSError` for anything else."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFE)
    try:
        _require(path, handle, stat.S_ISDIR, "a directory")
    except HostLacks:
        os.close(handle)
        raise
    return handle


def is_at(path: Path, handle: int) -> bool:
    """Return whether the open file still is at `path`."""
    opened = os.fstat(handle)
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino)


def flock(path: Path, handle: int, kind: int) -> None:
    """Lock the open file at `path`. Raises `BlockingIOError`, or `HostLacks` where the file system has no locks."""
    try:
        fcntl.flock(handle, kind)
    except BlockingIOError:
        raise
    except OSError as error:
        raise HostLacks(
            f"the file system: no locks; expected flock(2) to work, got {error.strerror}",
            where=str(path),
            why="runs side by side would destroy each other's files",
            hint="name a directory on a local file system: --artifacts DIR, or TMPDIR=DIR where it lies in that",
        ) from error


def _require(path: Path, handle: int, is_kind: Callable[[int], bool], kind: str) -> None:
    status = os.fstat(handle)
    if not is_kind(status.st_mode):
        got = "something else"
    elif status.st_uid not in (os.geteuid(), 0):
        got = f"one of user {status.st_uid}"
    else:
        return
    raise HostLacks(
        f"{path}: not ours; expected {kind} of user {os.geteuid()}, got {got}", hint=f"ls -ld {neutral.word(path)}"
    )
