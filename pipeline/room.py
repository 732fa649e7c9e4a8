"""Tells a full disk, or one that may not be written, from every other failure, whoever ran into it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from pipeline.console import human_bytes
from pipeline.errors import HostLacks
from pipeline.process import ProgramFailed

LEAST = 1 << 20  # bytes; with less than that left a program that fails did so for want of room
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HINT = "make room there, then run the same command again"
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
            raise lacking(place, error.strerror or "") from error
        if error.errno in _FORBIDDEN:
            raise HostLacks(f"it cannot be written: {error.strerror}", where=str(place)) from error
        raise
    except ProgramFailed as error:
        if _was_full(error, place):
            raise lacking(place, error.what) from error
        raise


@contextlib.contextmanager
def below(root: Path) -> Iterator[None]:
    """Turns what nobody else has handled into `HostLacks`: no room, and what of the artifacts `root` cannot be used."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename or os.sep)
        if error.errno in FULL:
            raise lacking(place, error.strerror or "") from error
        if error.filename is not None and _unusable(error.errno, place.absolute(), root.absolute()):
            what = f"the artifacts directory {root} cannot be used: {error.strerror}"
            hint = "have a directory there that you may write, all of it; or name another one: --artifacts DIR"
            raise HostLacks(what, where=str(place), hint=hint) from error
        raise


def _unusable(number: int | None, place: Path, root: Path) -> bool:
    """Whether a person must see to it: `root` itself cannot be had, or something in it is not as we make it."""
    above, inside = root.is_relative_to(place), place.is_relative_to(root)
    if number in (*_FORBIDDEN, errno.ENOTDIR):
        return above or inside
    return (above and not root.is_dir()) or (inside and place.is_symlink() and not place.exists())


def require(place: Path, amount: int, what: str) -> None:
    """Raises `HostLacks` unless `amount` bytes are free at `place` for `what`."""
    if free(place) < amount:
        why = f"{what} needs {human_bytes(amount)}, {human_bytes(free(place))} are free"
        raise HostLacks("there is no room", where=str(place.resolve()), why=why, hint=HINT)


def free(place: Path) -> int:
    """Bytes that may still be written where `place` is, or will be."""
    left = os.statvfs(next(path for path in (place, *place.resolve().parents) if path.exists()))
    return left.f_bavail * left.f_frsize


def lacking(place: Path, why: str) -> HostLacks:
    """The error that says so; `why` as whoever ran into it said it."""
    told = f"{why}; {human_bytes(free(place))} are free"
    return HostLacks("there is no room", where=str(place.resolve()), why=told, hint=HINT)


def _was_full(error: ProgramFailed, place: Path) -> bool:
    if error.result is None:
        return False
    with contextlib.suppress(OSError):  # createrepo_c, for one, only says "file operation error"
        if free(place) < LEAST:
            return True
    said = error.result.text + error.result.error_text
    return error.result.status == -signal.SIGXFSZ or any(os.strerror(number) in said for number in FULL)
