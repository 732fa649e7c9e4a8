"""The one way to write a file whole, and to hash one. Knows nothing of what is in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline import trees

CHUNK = 1 << 20  # bytes read at a time


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_limited(path: Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes, for files that a person or a stranger named.

    Raises `OSError`, whose `strerror` says what was expected, for anything else: a device or a FIFO would be waited
    for, and what has no end would fill the memory.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"expected a regular file, got {_KINDS[stat.S_IFMT(mode)]}", str(path))
        data, left = bytearray(), most + 1  # a size that is told need not be true, as below /proc
        while left and (piece := os.read(handle, min(left, CHUNK))):
            data += piece
            left -= len(piece)
    finally:
        os.close(handle)
    if not left:
        raise OSError(errno.EFBIG, f"expected at most {most} bytes, got more", str(path))
    return bytes(data)


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextlib.contextmanager
def atomic(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A stream whose bytes appear at `path` all at once, or never; what killed runs left of it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    for left in path.parent.glob(f"{glob.escape(prefix)}????????"):
        with contextlib.suppress(OSError), _holding(left, wait=False):  # in use, or not ours
            left.unlink()
    handle, temporary = _held_temporary(path.parent, prefix)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            temporary.chmod(mode)
            temporary.replace(path)  # still held: nobody takes it for a leftover
    finally:
        temporary.unlink(missing_ok=True)


def _held_temporary(directory: Path, prefix: str) -> tuple[int, Path]:
    """A new file, open and held with flock(2)."""
    while True:
        handle, name = tempfile.mkstemp(dir=directory, prefix=prefix)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another run took it for a leftover before it was held


@contextlib.contextmanager
def scratch(parent: Path, prefix: str = "scratch-") -> Iterator[Path]:
    """A fresh directory below `parent`, gone afterwards; what killed runs left there is removed first.

    Its owner holds flock(2) on it, which the kernel lets go of whatever kills the owner.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        with _holding(parent):  # so that nobody takes what is just being made for a leftover
            for left in parent.glob(f"{prefix}*"):
                with contextlib.suppress(OSError), _holding(left, wait=False):  # in use, or not ours
                    trees.remove(left)
            path = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
            held.enter_context(_holding(path))
        try:
            yield path
        finally:
            with contextlib.suppress(OSError):
                trees.remove(path)


@contextlib.contextmanager
def _holding(path: Path, *, wait: bool = True) -> Iterator[None]:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Removes a file, a link, or a tree at once for those who look: under another name first, `.old-` before its own.

    Directories that may not be written are opened: an image's and a snapshot's are like that.
    """
    gone = path if path.name.startswith(".old-") else path.with_name(f".old-{path.name.lstrip('.')}")
    if gone != path:
        if gone.is_dir() and not gone.is_symlink():
            remove(gone)
        path.rename(gone)
    if gone.is_symlink() or not gone.is_dir():
        gone.unlink()
    else:
        trees.remove(gone)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replaces the content of `path` in one rename."""
    with atomic(path) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


def point(link: Path, target: str) -> None:
    """Lets `link` be a symbolic link to `target`, by one rename; for one writer at a time."""
    temporary = link.with_name(f".{link.name}-new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
