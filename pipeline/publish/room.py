"""Tells a full disk, or one that may not be written, from every other failure, whoever ran into it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import HostLacks
from pipeline.process import ProgramFailed

LEAST = 1 << 20  # bytes; with less than that left a program that fails did so for want of room
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns "no room" and "not allowed" below `place` into `HostLacks`, also when a program found out.

    To be entered after whatever cleans up `place`, since what is left there is looked at.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise _no_room(place, error.strerror or "") from error
        if error.errno in _FORBIDDEN:
            raise HostLacks(f"it cannot be written: {error.strerror}", where=str(place)) from error
        raise
    except ProgramFailed as error:
        if _was_full(error, place):
            raise _no_room(place, error.what) from error
        raise


def _was_full(error: ProgramFailed, place: Path) -> bool:
    if error.result is None:
        return False
    with contextlib.suppress(OSError):  # createrepo_c, for one, only says "file operation error"
        left = os.statvfs(place)
        if left.f_bavail * left.f_frsize < LEAST:
            return True
    said = error.result.text + error.result.error_text
    return error.result.status == -signal.SIGXFSZ or any(os.strerror(number) in said for number in FULL)


def _no_room(place: Path, why: str) -> HostLacks:
    hint = "make room there, then run the same command again"
    return HostLacks("there is no room", where=str(place), why=why, hint=hint)
