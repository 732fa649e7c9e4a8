"""Write, hash, copy and remove files atomically. Knows nothing of their content."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from pipeline.core import safe_open, trees
from pipeline.errors import HostLacks, Refused

CHUNK = 1 << 20  # bytes read at a time


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_limited(path: Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes, for files that a person or a stranger named.

    Raises `OSError`, whose `strerror` says what was expected, for anything else: a device or a FIFO would block, and
    an endless file would fill the memory.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device without anything behind it
            _check_regular(path, path.stat().st_mode)
        raise
    try:
        _check_regular(path, os.fstat(handle).st_mode)
        data, left = bytearray(), most + 1  # the reported size may be wrong, as below /proc
        while left and (piece := os.read(handle, min(left, CHUNK))):
            data += piece
            left -= len(piece)
    finally:
        os.close(handle)
    if not left:
        raise OSError(errno.EFBIG, f"expected at most {most} bytes, got more", str(path))
    return bytes(data)


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"expected a regular file, got {_KINDS[stat.S_IFMT(mode)]}", str(path))


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def copy_hashed(source: Path, target: Path) -> str:
    """Copy a file to the new file `target`; return the SHA-256 of the bytes written, whatever becomes of `source`."""
    digest = hashlib.sha256()
    with source.open("rb") as stream, target.open("xb") as copy:
        while piece := stream.read(CHUNK):
            digest.update(piece)
            copy.write(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic(path: Path, mode: int = 0o644, *, exclusive: bool = False) -> Iterator[BinaryIO]:
    """Yield a stream whose bytes appear at `path` by one rename; remove leftovers of killed runs.

    `exclusive`: raise `FileExistsError` where something is there, and leave it as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    handle, temporary = _held_temporary(path.parent, f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            temporary.chmod(mode)
            if exclusive:
                path.hardlink_to(temporary)
            else:
                temporary.replace(path)  # still locked: no other run takes it for a leftover
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what killed runs left of writing the file `path`."""
    for left in path.parent.glob(f"{glob.escape(f'.{path.name}.')}????????"):
        with contextlib.suppress(OSError, HostLacks):  # in use, or not ours
            handle = safe_open.file(left, os.O_RDONLY)
            with _locked(left, handle, fcntl.LOCK_NB):
                left.unlink()


@contextlib.contextmanager
def restored_on_error(path: Path) -> Iterator[None]:
    """Put a small file back as it is now, or remove it where there is none, when the block raises.

    The copy is whole on the disk before the block begins, so that a full disk does not keep it from coming back. Raises
    `HostLacks` before that for what is no file.
    """
    try:
        before = read_limited(path, CHUNK)
    except FileNotFoundError:
        before = None
    except OSError as error:
        raise HostLacks(f"{path.name}: cannot be replaced: {error.strerror}", where=str(path)) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, copy = _held_temporary(path.parent, f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(before or b"")
            stream.flush()
            os.fsync(stream.fileno())
            copy.chmod(0o644)
            try:
                yield
            except BaseException:
                with contextlib.suppress(OSError):  # the first error is the one to tell
                    _put_back(path, copy, before)
                raise
    finally:
        copy.unlink(missing_ok=True)


def _put_back(path: Path, copy: Path, before: bytes | None) -> None:
    if before is None:
        path.unlink(missing_ok=True)
    elif not path.is_file() or path.read_bytes() != before:
        copy.replace(path)


def _held_temporary(directory: Path, prefix: str) -> tuple[int, Path]:
    """Yield a new file, open and locked with flock(2)."""
    while True:
        handle, name = tempfile.mkstemp(dir=directory, prefix=prefix)
        safe_open.flock(Path(name), handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another run took it for a leftover before it was held


@contextlib.contextmanager
def scratch(parent: Path, prefix: str = "scratch-") -> Iterator[Path]:
    """Yield a fresh directory below `parent`, removed afterwards; first remove leftovers of killed runs."""
    parent.mkdir(parents=True, exist_ok=True)
    with fresh(parent, prefix) as path:
        yield path


@contextlib.contextmanager
def fresh(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a fresh directory below an existing `parent`, removed afterwards.

    Its owner holds flock(2) on it, which the kernel releases when the owner dies. No other user can open it, and
    so none can hold that lock; `parent` is not locked, since others may be able to open that.
    """
    remove_leftovers(parent, prefix)
    path, handle = _held_directory(parent, prefix)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            trees.remove(path)
        os.close(handle)


def _held_directory(parent: Path, prefix: str) -> tuple[Path, int]:
    """Yield a new directory, open and locked with flock(2)."""
    while True:
        path = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        try:
            handle = safe_open.directory(path)
        except FileNotFoundError:  # another run took it for a leftover before it was held
            continue
        safe_open.flock(path, handle, fcntl.LOCK_EX)
        if safe_open.is_at(path, handle):
            return path, handle
        os.close(handle)


def remove_leftovers(parent: Path, prefix: str) -> None:
    """Remove leftovers of `fresh` below `parent`, except those in use and other users'."""
    for left in parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError, HostLacks):
            handle = safe_open.directory(left)
            with _locked(left, handle, fcntl.LOCK_NB):
                trees.remove(left)


@contextlib.contextmanager
def _locked(path: Path, handle: int, how: int) -> Iterator[None]:
    """Lock the open file at `path`, and close it afterwards."""
    try:
        safe_open.flock(path, handle, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, link or tree atomically: rename it first, to the prefix `.old-`.

    Makes read-only directories writable first, such as those of images and snapshots.
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


def copy_verified(source: Path, target: Path, sha256: str) -> Path:
    """Copy a file whose bytes must have this digest; return `target`, which exists only with these bytes.

    Raises `Refused` for other bytes: the file changed after its verification.
    """
    digest = hashlib.sha256()
    handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream, atomic(target) as out:
        while piece := stream.read(CHUNK):
            digest.update(piece)
            out.write(piece)
        if digest.hexdigest() != sha256:
            what = f"{source.name}: SHA-256 {digest.hexdigest()}; expected {sha256}"
            why = "it changed since it was verified, and nothing of it is used"
            raise Refused(what, where=str(source), why=why, hint="the same command again, which looks at it first")
    return target


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace the content of `path` by one rename."""
    with atomic(path) as stream:
        stream.write(_bytes(data))


def write_together(contents: Mapping[Path, bytes | str]) -> None:
    """Replace the contents of files that belong together: all of them, or none where one cannot be written.

    Each is whole on the disk before the first is renamed; the last of `contents` is renamed first. Raises `HostLacks`
    for a directory where a file is to be.
    """
    with contextlib.ExitStack() as stack:
        for path, data in contents.items():
            stream = stack.enter_context(atomic(path))
            stream.write(_bytes(data))
            stream.flush()
            os.fsync(stream.fileno())
            if path.is_dir():  # what a rename would fail at
                raise HostLacks(f"{path.name}: a directory; expected a file, or nothing yet", where=str(path))


def _bytes(data: bytes | str) -> bytes:
    """Return the bytes of a file; a path or an argument in it may hold bytes that are no UTF-8: they stay."""
    return data.encode(errors="surrogateescape") if isinstance(data, str) else data


def replace_symlink(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target` by one rename; for one writer at a time."""
    temporary = link.with_name(f".{link.name}-new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
