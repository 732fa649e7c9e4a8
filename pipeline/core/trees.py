"""Walk, measure, clear special mode bits of, and remove directory trees with untrusted content.

Every step goes through the handle of a directory, and no link is followed, so that a name that changes meanwhile leads
nowhere else. Neither the longest path that the kernel takes nor the number of open files bounds a tree's depth. Must
not know the content.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_ATTEMPTS = 3  # at an entry that came while its directory was emptied


@dataclass(frozen=True)
class Entry:
    """An entry of a tree: its directory's handle, valid until the next entry, its name and its status.

    A directory is met twice: before what is in it, and `after` that.
    """

    directory: int
    name: str
    status: os.stat_result
    after: bool = False

    @property
    def is_directory(self) -> bool:
        """Whether the entry is a directory, not a link to one."""
        return stat.S_ISDIR(self.status.st_mode)


def walk(top: Path) -> Iterator[Entry]:
    """Yield every entry below the directory `top` once, but not `top` itself.

    Passes over what vanishes meanwhile and over directories that may not be read.
    """
    try:
        here = os.open(top, DIRECTORY)
    except OSError:
        return
    yield from walk_from(here)


def walk_from(here: int) -> Iterator[Entry]:
    """Yield every entry below the open directory `here`, and close it."""
    with contextlib.suppress(OSError):  # moved while it was read
        yield from (entry for entry in _tour(here, _entered) if not entry.after)


def usage(top: Path) -> int:
    """Return the bytes of disk that removing `top` would free: what is allocated, files with several names once."""
    seen: set[tuple[int, int]] = set()
    try:
        total = 512 * top.lstat().st_blocks  # stat(2): blocks of 512 bytes, whatever the file system's are
    except OSError:
        return 0
    for entry in walk(top):
        status = entry.status
        if status.st_nlink > 1 and not entry.is_directory:
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
        total += 512 * status.st_blocks
    return total


def clear_special_bits(top: Path) -> None:
    """Take the set-user-id, set-group-id and sticky bits off everything in the tree `top`.

    Its directories can be entered by their owner afterwards. A file that keeps its bits is removed. Raises `OSError`.
    """
    with contextlib.suppress(FileNotFoundError):
        here = _unlocked(None, os.fspath(top))
        os.fchmod(here, stat.S_IMODE(os.fstat(here).st_mode) & ~_SPECIAL)
        for entry in _tour(here, _unlocked):
            if entry.status.st_mode & _SPECIAL and not stat.S_ISLNK(entry.status.st_mode) and not entry.after:
                _take_bits(entry)


def _take_bits(entry: Entry) -> None:
    try:
        _set_mode(entry.directory, entry.name, stat.S_IMODE(entry.status.st_mode) & ~_SPECIAL)
    except PermissionError:
        if entry.is_directory:
            raise
        os.unlink(entry.name, dir_fd=entry.directory)


def remove(top: Path) -> None:
    """Remove the directory `top` with everything in it, also while another run does.

    Raises `OSError` for what cannot be removed, and for a link.
    """
    for attempt in range(_ATTEMPTS):
        last = attempt == _ATTEMPTS - 1
        try:
            for entry in _tour(_unlocked(None, os.fspath(top)), _unlocked):
                if not entry.is_directory:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.name, dir_fd=entry.directory)
                elif entry.after:
                    _remove_empty(entry.name, entry.directory, last=last)
        except FileNotFoundError:
            if attempt == 0 and not os.path.lexists(top):
                raise  # it was not there
            if last and os.path.lexists(top):
                raise
            continue
        if _remove_empty(top, None, last=last):
            return


def chown(top: Path, user: int, group: int) -> None:
    """Make the tree `top` another user's. Raises `OSError`."""
    os.chown(top, user, group, follow_symlinks=False)
    for entry in walk(top):
        os.chown(entry.name, user, group, dir_fd=entry.directory, follow_symlinks=False)


def _remove_empty(name: str | Path, directory: int | None, *, last: bool) -> bool:
    """Remove an empty directory; return False for one that got an entry meanwhile."""
    try:
        os.rmdir(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if last or error.errno != errno.ENOTEMPTY:
            raise
        return False
    return True


def _tour(here: int, enter: Callable[[int, str], int | None]) -> Iterator[Entry]:
    """Yield the entries of the directory `here` and of all below; close the handle at the end.

    One handle is open at a time: the way back is `..`, and must lead to where the tour came from.
    """
    above: list[tuple[tuple[int, int], Entry, list[str]]] = []
    left: list[str] = []
    try:
        yield from _entries(here, left)
        while left or above:
            if not left:
                identity, entry, left = above.pop()
                here = _back(here, identity)
                yield Entry(here, entry.name, entry.status, after=True)
                continue
            name = left.pop()
            child = enter(here, name)
            if child is not None:
                above.append((_identity(here), Entry(here, name, os.fstat(child)), left))
                os.close(here)
                here, left = child, []
                yield from _entries(here, left)
    finally:
        os.close(here)


def _entries(here: int, directories: list[str]) -> Iterator[Entry]:
    """Yield the entries of one directory, and collect its directories."""
    with os.scandir(here) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # vanished, or in a directory that may be read but not entered
                continue
            yield Entry(here, entry.name, status)
            if stat.S_ISDIR(status.st_mode):
                directories.append(entry.name)


def _identity(handle: int) -> tuple[int, int]:
    status = os.fstat(handle)
    return status.st_dev, status.st_ino


def _back(here: int, identity: tuple[int, int]) -> int:
    """Return the handle of the parent directory and close that of `here`."""
    above = os.open("..", DIRECTORY, dir_fd=here)
    if _identity(above) != identity:
        os.close(above)
        raise OSError(errno.ESTALE, "the directory was moved while it was read")
    os.close(here)
    return above


def _entered(here: int, name: str) -> int | None:
    """Return a handle of a directory that may be read and left; None for another."""
    try:
        child = os.open(name, DIRECTORY, dir_fd=here)
    except OSError:
        return None
    try:
        os.stat("..", dir_fd=child)
    except OSError:
        os.close(child)
        return None
    return child


def _unlocked(here: int | None, name: str) -> int:
    """Return a handle of a directory made readable, searchable and writable. Raises `OSError`."""
    with _held(here, name) as (handle, status):
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
        if not os.access(f"/proc/self/fd/{handle}", os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            os.chmod(f"/proc/self/fd/{handle}", stat.S_IMODE(status.st_mode) | stat.S_IRWXU)  # noqa: PTH101
        return os.open(".", DIRECTORY, dir_fd=handle)


def _set_mode(here: int, name: str, mode: int) -> None:
    with _held(here, name) as (handle, status):
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(f"/proc/self/fd/{handle}", mode)  # noqa: PTH101 - Linux has no chmod that follows no link


@contextlib.contextmanager
def _held(here: int | None, name: str) -> Iterator[tuple[int, os.stat_result]]:
    """Yield a handle of the entry itself, without opening it."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    try:
        yield handle, os.fstat(handle)
    finally:
        os.close(handle)
