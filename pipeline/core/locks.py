"""Lock between runs with flock(2), which the kernel releases however the holder ends.

Shared for those who use the store, exclusive for those who change what others rely on. A lock
file is never removed: its content names the last exclusive holder, for the message only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pipeline.core import safe_open
from pipeline.errors import HostLacks, Locked


@contextlib.contextmanager
def locked(
    path: Path, *, shared: bool = False, wait: bool = True, waiting: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock at `path`; with `wait=False` raise `Locked` with the holder's name instead of waiting.

    `waiting` gets the holder's name before a wait begins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(_opened(path), "a+b", buffering=0) as stream:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            safe_open.flock(path, stream.fileno(), kind | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holders(os.fstat(stream.fileno())) or _written(stream) or "a run that reads the store"
            if not wait:
                raise Locked(
                    "another run holds the lock", where=str(path), why=holder, hint="wait for it to end, then try again"
                ) from None
            if waiting is not None:
                waiting(holder)
            safe_open.flock(path, stream.fileno(), kind)
        if not shared:
            # The name is for a message only: a cleanup must be able to lock on a full disk.
            with contextlib.suppress(OSError):
                stream.truncate(0)
                stream.write(f"pid {os.getpid()}: {' '.join(sys.argv)[:300]}\n".encode(errors="surrogateescape"))
        yield


def is_held(path: Path) -> bool:
    """Return whether another run holds the lock exclusively; create, write and wait for nothing."""
    try:
        handle = safe_open.file(path, os.O_RDONLY)
    except PermissionError:  # another user's: only they may open it
        return bool(_holders(path.lstat()))
    except (OSError, HostLacks):
        return False
    try:
        safe_open.flock(path, handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _opened(path: Path) -> int:
    """Yield the lock file, private to this user: whoever can read a lock file can hold the lock for ever."""
    handle = safe_open.file(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    if os.fstat(handle).st_mode & 0o077:  # made before this was so
        with contextlib.suppress(PermissionError):
            os.fchmod(handle, safe_open.PRIVATE)
    return handle


def _holders(status: os.stat_result) -> str:
    """Return the lock's holders as proc(5) `/proc/locks` lists them; shared holders write no name into the file."""
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return ""
    # "1: FLOCK ADVISORY READ 4932 fe:00:2164842 0 EOF"; those who wait have an arrow in the second column.
    pids = {int(row[4]) for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5] == file}
    return "; ".join(f"pid {pid}: {_command(pid)}" for pid in sorted(pids) if pid > 0)


def _command(pid: int) -> str:
    try:
        with Path(f"/proc/{pid}/cmdline").open("rb", buffering=0) as stream:  # which may have MiB
            words = stream.read(4096).split(b"\0")
    except OSError:
        return "(gone)"
    return b" ".join(words).decode(errors="replace").strip()[:300]


def _written(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read(400).decode(errors="replace").strip()
