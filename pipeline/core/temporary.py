"""Place temporary files in one directory of this user, which is closed to other users.

Each run has one directory there for itself and the programs that it starts (TMPDIR). The next run removes a killed
run's directory. Must not know the content.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.core import fs, neutral, rlimits
from pipeline.errors import HostLacks

SOCKET_MOST = 107  # bytes of a socket's path: unix(7)
_RANDOM = 8  # characters that tempfile adds to a name
_TRIES = 100  # another run may remove the empty directory just before it is used
_of_run: Path | None = None  # the directory of this run, while `use_run_directory` lasts


@contextlib.contextmanager
def use_run_directory() -> Iterator[None]:
    """Put all temporary files of this process and its children into one directory, removed at the end."""
    global _of_run
    _tidy_up()
    with _scratch(_shared(), "run-") as path:
        before = os.environ.get("TMPDIR"), tempfile.tempdir
        os.environ["TMPDIR"] = tempfile.tempdir = str(path)
        _of_run = path
        try:
            yield
        finally:
            _of_run, tempfile.tempdir = None, before[1]
            if before[0] is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before[0]


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """Yield a fresh directory for temporary files, removed afterwards."""
    own = directory_of_run()
    with fs.fresh(own, prefix) if own else _scratch(_shared(), prefix) as path:
        yield path


@contextlib.contextmanager
def socket_directory(prefix: str, longest: int) -> Iterator[Path]:
    """Yield a fresh directory for sockets with names of up to `longest` bytes, within the limit of unix(7)."""
    below = len(f"/{prefix}{'x' * _RANDOM}/") + longest
    with contextlib.ExitStack() as held:
        own = directory_of_run()
        if own and _length(own) + below <= SOCKET_MOST:
            yield held.enter_context(scratch(prefix))
            return
        for root in _roots():
            if _length(_usual(root)) + 1 + _RANDOM + below <= SOCKET_MOST:
                yield held.enter_context(_scratch(root, prefix))
                return
        raise HostLacks(
            "the directory for temporary files: its name is too long; expected one in which a socket's path has at "
            f"most {SOCKET_MOST} bytes, got none",
            where=", ".join(map(str, _roots())),
            hint="TMPDIR=/tmp ./inv ...",
        )


def directory_of_run() -> Path | None:
    """Return the run's directory; None without one, or where TMPDIR has changed since."""
    return _of_run if str(_of_run) == tempfile.tempdir else None


def _length(path: Path) -> int:
    return len(os.fsencode(path))


def _shared() -> Path:
    """Return the directory that all users of the host may share."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        hint = "TMPDIR=DIR ./inv ..., with a directory that you may write and that has room"
        lacking = HostLacks(f"the directory for temporary files: {error.strerror}", hint=hint)
        raise _limit() or lacking from None


def _limit() -> HostLacks | None:
    """Return the resource limit that prevents writing one byte, if any."""
    try:
        handle, name = tempfile.mkstemp(dir=os.environ.get("TMPDIR") or "/tmp")
        try:
            os.write(handle, b"x")
        finally:
            os.close(handle)
            Path(name).unlink()
    except OSError as error:
        return rlimits.exceeded(error)
    return None


def _roots() -> list[Path]:
    """Return the candidates for this user's directory, the usual one first; the others have short names."""
    own = directory_of_run()
    shared = own.parent.parent if own else _shared()
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    usable = runtime.is_absolute() and _is_private(runtime)
    return list(dict.fromkeys([shared, *([runtime] if usable else []), Path("/tmp")]))


@contextlib.contextmanager
def _scratch(root: Path, prefix: str) -> Iterator[Path]:
    """Yield a fresh directory in this user's directory below `root`; remove both if nothing else is in them."""
    with contextlib.ExitStack() as held:
        for _ in range(_TRIES):
            place = _ours(root)
            with contextlib.suppress(FileNotFoundError):
                path = held.enter_context(fs.fresh(place, prefix))
                break
        else:
            raise HostLacks(
                "the directory for temporary files: removed each time before its first use",
                where=str(root),
                hint="TMPDIR=DIR ./inv ...",
            )
        try:
            yield path
        finally:
            held.close()
            with contextlib.suppress(OSError):  # another run is in it
                place.rmdir()


def _ours(root: Path) -> Path:
    """Return this user's private directory below `root`, under another name where another user took the usual one."""
    _check_shared(root)
    usual = _usual(root)
    with contextlib.suppress(FileExistsError):
        usual.mkdir(mode=0o700)
    for place in (usual, *_others(root)):
        if _is_private(place):
            return place
    return Path(tempfile.mkdtemp(prefix=f"{usual.name}-", dir=root))


def _usual(root: Path) -> Path:
    return root / f"lvs-fullnat-{os.geteuid()}"


def _others(root: Path) -> list[Path]:
    return sorted(root.glob(f"{_usual(root).name}-{'?' * _RANDOM}"))


def _is_private(place: Path) -> bool:
    """Return whether `path` is a directory, no link, of this user's, and closed to all others."""
    try:
        status = place.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _check_shared(root: Path) -> None:
    """Raise `HostLacks` where every user may rename the entries of `root`."""
    mode = root.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise HostLacks(
            f"the directory for temporary files {root}: anybody may replace what is in it; expected the sticky bit, "
            f"got mode {stat.S_IMODE(mode):o}",
            hint=f"chmod +t {neutral.word(root)}, or TMPDIR=DIR ./inv ...",
        )


def _tidy_up() -> None:
    """Remove leftovers of killed runs from this user's directories."""
    for root in _roots():
        for place in (_usual(root), *_others(root)):
            if _is_private(place):
                fs.remove_leftovers(place, "")
                with contextlib.suppress(OSError):  # another run is in it
                    place.rmdir()
