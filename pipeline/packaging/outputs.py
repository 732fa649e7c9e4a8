"""Read and collect what a build left, as a stranger's: regular files below its top directory, within limits.

The one way to what lies there. A name is followed from handle to handle and through no link, a file is opened without
waiting for it and must be a regular one of the build's own, and what it holds is copied while its size is watched.
The copies have our modes. Nothing of a file that is refused is shown. Must not know what was built.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.core import trees
from pipeline.core.console import human_bytes
from pipeline.core.fs import CHUNK
from pipeline.errors import BuildFailed
from pipeline.formats import rpm_lead
from pipeline.sandbox.runtime import build_user

NAME_MOST = 200  # bytes; the longest name of a package of ours has 70
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~^-]*")  # what a package, a program or a directory of ours is called
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Most:
    """What may be collected at most: bytes of one file, bytes in all, and files."""

    file: int
    total: int
    count: int


PACKAGES = Most(file=2 << 30, total=6 << 30, count=32)  # a kernel's largest package has 400 MiB, and there are six


class _Odd(Exception):
    """What is wrong with an entry, and what was expected."""

    def __init__(self, problem: str, expected: str = "a regular file of its own") -> None:
        super().__init__(f"{problem}; expected {expected}")


@dataclass(frozen=True)
class Left:
    """What the build of the step `step` left below `top`. `hint` is the next command for who reads an error."""

    step: str
    top: Path
    hint: str = ""

    def packages(self, into: Path) -> list[Path]:
        """Copy every RPM below RPMS into `into`, which is made; the copies, by name.

        Raises `BuildFailed` for anything else that lies there, and leaves nothing in `into` then.
        """
        return self._copied(self._packages(), into, PACKAGES, mode=0o644, check=_is_package)

    def files(self, names: tuple[str, ...], into: Path, most: Most, *, mode: int) -> list[Path]:
        """Copy the files `names`, paths below the top, into the directory `into`, which is made when it is not there.

        Raises `BuildFailed` for one that is missing or no regular file, and when they are too big.
        """
        return self._copied(iter(names), into, most, mode=mode, check=lambda _: None)

    def opened(self, name: str) -> BinaryIO:
        """Open a file by its path below the top. Raises `BuildFailed` unless it is a regular file of its own."""
        with self._telling(name):
            return _opened(self.top, name)

    def _copied(
        self, names: Iterator[str], into: Path, most: Most, *, mode: int, check: Callable[[BinaryIO], None]
    ) -> list[Path]:
        made, left = list[Path](), most.total
        into.mkdir(exist_ok=True)
        try:
            for name in names:
                with self._telling(name), _opened(self.top, name) as source:
                    if len(made) == most.count:
                        raise _Odd("one file too many", f"at most {most.count}")
                    check(source)
                    target = into / name.rpartition("/")[2]
                    if target in made:
                        raise _Odd("a second file of this name", "each name once")
                    made.append(target)
                    left -= _copy(source, target, mode, min(most.file, left))
        except BaseException:
            for target in made:
                target.unlink(missing_ok=True)
            raise
        return sorted(made)

    def _packages(self) -> Iterator[str]:
        """The paths of the RPMs: in RPMS itself, or in a directory of it for each architecture."""
        for name, is_directory in self._listed("RPMS"):
            inner = [f"{name}/{below}" for below, _ in self._listed(f"RPMS/{name}")] if is_directory else [name]
            for path in inner:
                with self._telling(f"RPMS/{path}"):
                    if not path.endswith(".rpm"):
                        raise _Odd(
                            "neither a directory nor a package by its name",
                            "RPMS/NAME.rpm or RPMS/ARCHITECTURE/NAME.rpm",
                        )
                yield f"RPMS/{path}"

    def _listed(self, directory: str) -> list[tuple[str, bool]]:
        """The names in a directory in order, with whether each is a directory; all are plain, and they are few."""
        found: list[tuple[str, bool]] = []
        with self._telling(directory):
            handle = _entered(self.top, directory)
            try:
                with os.scandir(handle) as entries:
                    for entry in entries:
                        with self._telling(f"{directory}/{entry.name}"):
                            _check_name(entry.name)
                            if len(found) == PACKAGES.count:
                                raise _Odd("one entry too many", f"at most {PACKAGES.count} in a directory")
                        found.append((entry.name, entry.is_dir(follow_symlinks=False)))
            finally:
                os.close(handle)
        return sorted(found)

    @contextlib.contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        """Turns what is wrong with an entry into the step's error."""
        try:
            yield
        except _Odd as odd:
            shown = ascii(name[:NAME_MOST])[1:-1]
            where = self.top / shown if _is_plain(name) else self.top
            why = "what a build leaves is read only where it is a plain file: a build may have been made to mislead"
            raise BuildFailed(f"{self.step}: {shown}: {odd}", where=str(where), why=why, hint=self.hint) from None


def lines(top: Path, name: str, most: int) -> Iterator[bytes]:
    """Yield the lines of a file that a build may have left, of at most `most` bytes; none for what is no such file.

    For figures that decide nothing. A line longer than 4 KiB comes in pieces.
    """
    with contextlib.suppress(_Odd), _opened(top, name) as stream:
        while most > 0 and (line := stream.readline(4096)):
            most -= len(line)
            yield line


def texts(top: Path, directory: str, prefix: str, most: Most) -> Iterator[str]:
    """Yield the texts of files in a directory's tree whose names begin with `prefix`, as far as `most` allows.

    For hints that decide nothing: what is no regular file is passed over.
    """
    left, seen = most.total, 0
    try:
        handle = _entered(top, directory)
    except _Odd:
        return
    for entry in trees.walk_from(handle):
        if not entry.name.startswith(prefix):
            continue
        seen += 1
        if seen > most.count or left <= 0:
            return
        with contextlib.suppress(_Odd), _file(entry.directory, entry.name) as stream:
            data = stream.read(min(most.file, left))
            left -= len(data)
            yield data.decode(errors="replace")


def _is_plain(name: str) -> bool:
    return all(_NAME.fullmatch(part) and len(part) <= NAME_MOST for part in name.split("/"))


def _check_name(name: str) -> None:
    if not _is_plain(name):
        raise _Odd("a name that nothing of ours has", f"letters, digits and ._+~^-, at most {NAME_MOST} of them")


def _entered(top: Path, path: str) -> int:
    """A handle of the directory `path` below `top`. Raises `_Odd` where a part of it is a link or no directory."""
    try:
        here = os.open(top, trees.DIRECTORY)
    except PermissionError as error:  # the build's own user may close it, and we may be that user
        raise _Odd(
            f"below a directory that cannot be opened ({error.strerror})", "one with the mode that it had"
        ) from None
    for part in path.split("/") if path else ():
        try:
            below = os.open(part, trees.DIRECTORY, dir_fd=here)
        except OSError as error:
            raise _Odd(_kind(here, part, error), "a directory") from None
        finally:
            os.close(here)
        here = below
    return here


def _opened(top: Path, path: str) -> BinaryIO:
    """The file `path` below `top`. Raises `_Odd`."""
    above, _, name = path.rpartition("/")
    here = _entered(top, above)
    try:
        return _file(here, name)
    finally:
        os.close(here)


def _file(directory: int, name: str) -> BinaryIO:
    """A regular file that the build or we have made, and that has no other name. Raises `_Odd`."""
    try:
        handle = os.open(name, _FILE, dir_fd=directory)
    except OSError as error:
        raise _Odd(_kind(directory, name, error)) from None
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid in (build_user(), os.geteuid()):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if not stat.S_ISREG(status.st_mode):
        raise _Odd(_KINDS.get(stat.S_IFMT(status.st_mode), "no regular file"))
    if status.st_nlink != 1:
        raise _Odd(f"a file with {status.st_nlink} names", "a file with one name")
    raise _Odd(f"a file of the user {status.st_uid}", f"one of the user {build_user()}, who builds")


def _kind(directory: int, name: str, error: OSError) -> str:
    """What an entry is that could not be opened."""
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except OSError:
        return "missing" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error.strerror})"
    return _KINDS.get(stat.S_IFMT(mode), f"cannot be opened ({error.strerror})")


def _is_package(stream: BinaryIO) -> None:
    if not rpm_lead.is_lead(stream.read(rpm_lead.SIZE)):
        raise _Odd("does not begin as an RPM package does", "a package")
    stream.seek(0)


def _copy(source: BinaryIO, target: Path, mode: int, most: int) -> int:
    """Copy a file to a new one of this mode, and return its size in bytes. Raises `_Odd` for more than `most`."""
    size = os.fstat(source.fileno()).st_size
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as out:
        os.fchmod(handle, mode)
        copied = 0
        while size <= most and (piece := source.read(min(CHUNK, most + 1 - copied))):
            out.write(piece)
            copied += len(piece)
            size = max(size, copied)  # it grows
    if size > most:
        raise _Odd(f"{human_bytes(size)} or more", f"at most {human_bytes(most)}")
    return copied
