"""Convert errors of a full disk, missing permissions and removed files into `HostLacks`; check free disk space.

Only what a mistake of this program cannot cause is taken for the host's: an error of the disk or the kernel, and
anything about a file below the artifacts, which others may remove, replace or fill while a run works with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.core import neutral, rlimits, temporary
from pipeline.core.process import ProgramFailed
from pipeline.core.units import human_bytes
from pipeline.errors import HostLacks

LEAST = 1 << 20  # bytes; a program that fails with less free lacked disk space
FULL = (errno.ENOSPC, errno.EDQUOT)
HINT = "free some space there, then run the same command again"
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
# Of the disk or the kernel, wherever the file lies.
_HOSTS = (
    *_FORBIDDEN,
    *(errno.EIO, errno.ENFILE, errno.EMFILE, errno.EFBIG, errno.ENOMEM, errno.EAGAIN, errno.ESTALE, errno.ENODEV),
    *(errno.ENXIO, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENAMETOOLONG, errno.ELOOP, errno.ETXTBSY, errno.EBUSY),
)
# Of names: below the artifacts others may have changed them, elsewhere they are what a mistake of ours looks like.
_CHANGED = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EXDEV, errno.EMLINK),
    errno.EINVAL,
)


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Convert "no space", "not permitted" and "missing" below `place` into `HostLacks`, also when a program reports it.

    Enter it after the context that cleans up `place`, since the free space there is measured.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        if limit := rlimits.exceeded(error):
            raise limit from error
        if not isinstance(error, OSError):
            raise
        if error.errno in FULL:
            raise full_error(place, error) from error
        if error.errno in _FORBIDDEN:
            raise HostLacks(f"the directory cannot be written: {error.strerror}", where=str(place)) from error
        if not is_there(place):
            raise removed_error(place) from error
        raise
    except ProgramFailed as error:
        raise _behind_program(error, place) or error from error


def _behind_program(error: ProgramFailed, place: Path) -> HostLacks | None:
    if limit := _limit_of(error):
        return limit
    if _was_full(error, place):
        return full_error(place, error)
    return None if is_there(place) else removed_error(place)


def _limit_of(error: ProgramFailed) -> HostLacks | None:
    if error.result is None:
        return None
    return rlimits.exceeded_by_program(error.result.status, error.result.text + error.result.error_text, error.what)


@contextlib.contextmanager
def host_errors(root: Path) -> Iterator[None]:
    """Convert unhandled errors of a full disk and of an unusable artifacts `root` into `HostLacks`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        if failure := host_error(error, root):
            raise failure from error
        raise
    except ProgramFailed as error:
        raise _limit_of(error) or error from error


def host_error(error: BaseException, root: Path) -> HostLacks | None:
    """Return the host's problem behind an error that escaped; None where it may be a defect of this program."""
    if limit := rlimits.exceeded(error):
        return limit
    if isinstance(error, MemoryError):
        return HostLacks("the host: no memory is left; expected some for this program", hint="free -m")
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return HostLacks(
            f"the host: {error}; expected one more thread or process", hint="cat /proc/sys/kernel/threads-max"
        )
    if not isinstance(error, OSError) or error.errno is None:
        return None
    place, reason = Path(_named(error)), os.strerror(error.errno)
    if error.errno in FULL and error.filename is None and (free(root) < LEAST or _lacks_inodes(root)):
        return full_error(root, error)  # a write names no file, and most of what is written lies there
    if error.errno in FULL and error.filename is None:
        what = f"no disk space is left: {reason}; expected some for standard output and for temporary files"
        return HostLacks(what, hint=f"df -h . {neutral.word(tempfile.gettempdir())}")
    if error.errno in FULL:
        return full_error(place, error)
    own = temporary.directory_of_run()
    is_ours = error.filename is not None and _is_below(place, (root, own) if own else (root,))
    if error.filename is not None and _unusable(error.errno, place.absolute(), root.absolute()):
        what = f"the artifacts directory {root} cannot be used: {reason}"
        hint = "have a directory there that you may write, all of it; or name another one: --artifacts DIR"
        return HostLacks(what, where=str(place), hint=hint)
    if error.errno == errno.ENOENT and is_ours:
        return removed_error(place)
    if error.errno in _HOSTS or (error.errno in _CHANGED and is_ours):
        where = place if error.filename is not None else "the host"
        hint = f"ls -ld {neutral.word(place)}" if error.filename is not None else "dmesg"
        return HostLacks(f"{where}: cannot be used; expected one that this user may use, got {reason}", hint=hint)
    return None


def removed_error(place: Path) -> HostLacks:
    """Return the error of a run whose files were removed meanwhile."""
    return HostLacks(
        f"{place}: missing; expected a file of this run or an earlier one",
        where=str(place),
        why="it was removed while in use",
        hint="run the same command again: what is missing is made anew",
    )


def _named(error: OSError) -> str:
    name = error.filename2 or error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else os.sep


def _is_below(place: Path, roots: Iterable[Path]) -> bool:
    return any(place.absolute().is_relative_to(root.absolute()) for root in roots)


def _unusable(number: int | None, place: Path, root: Path) -> bool:
    """Return whether a person must repair `root`: not accessible, or with an entry unlike those this program makes."""
    above, inside = root.is_relative_to(place), place.is_relative_to(root)
    if number in (*_FORBIDDEN, errno.ENOTDIR):
        return above or inside
    return (above and not _is_directory(root)) or (inside and _is_link(place) and not is_there(place))


def is_there(path: Path) -> bool:
    """Return whether anything is at `path`; False for every error, where `Path.exists` raises."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:
        return False


def require(place: Path, amount: int, what: str) -> None:
    """Raise `HostLacks` unless `amount` bytes are free at `place` for `what`."""
    if free(place) < amount:
        why = f"{what} needs {human_bytes(amount)}, {human_bytes(free(place))} are free"
        raise HostLacks("no disk space is left", where=str(place.resolve()), why=why, hint=HINT)


def free(place: Path) -> int:
    """Return the bytes that may still be written at `place`, or where that will be created."""
    left = os.statvfs(_existing_parent(place))
    return left.f_bavail * left.f_frsize


def full_error(place: Path, found: BaseException | str) -> HostLacks:
    """Return the error of missing disk space; `found` is the evidence of it."""
    number = found.errno if isinstance(found, OSError) else None
    why = os.strerror(number) if number else found if isinstance(found, str) else getattr(found, "what", str(found))
    if number == errno.EDQUOT:
        hint = "remove what is not needed, `./inv clean` says what could go; or have this user's quota raised"
        return HostLacks(
            "no disk space is left", where=str(place.resolve()), why=f"{why}: this user's quota", hint=hint
        )
    if _lacks_inodes(place):
        return HostLacks(
            "no disk space is left: no inodes, however many bytes",
            where=str(place.resolve()),
            why=f"{why}; {human_bytes(free(place))} and 0 inodes are free",
            hint=f"df -i {neutral.word(_existing_parent(place))}",
        )
    failure = f"{why}; {human_bytes(free(place))} are free"
    return HostLacks("no disk space is left", where=str(place.resolve()), why=failure, hint=HINT)


def _lacks_inodes(place: Path) -> bool:
    left = os.statvfs(_existing_parent(place))
    return left.f_files > 0 and left.f_favail == 0


def _existing_parent(place: Path) -> Path:
    """Return the path itself, or its nearest existing parent."""
    return next(path for path in (place, *place.resolve().parents) if is_there(path))


def _was_full(error: ProgramFailed, place: Path) -> bool:
    if error.result is None:
        return False
    with contextlib.suppress(OSError):  # createrepo_c, for one, only says "file operation error"
        if free(place) < LEAST or _lacks_inodes(place):
            return True
    reason = error.result.text + error.result.error_text
    return any(os.strerror(number) in reason for number in FULL)
