"""Collect a build's untrusted output: regular files below its top directory, within limits.

The only access to those files. A name is followed from handle to handle and through no link, a file is opened without
waiting for it and must be a regular one of the build's own, and what it holds is copied while its size is watched.
The copies have our modes. Nothing of a file that is refused is shown. Must not know what was built.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.core import trees
from pipeline.core.fs import CHUNK
from pipeline.core.units import human_bytes
from pipeline.errors import BuildFailed
from pipeline.formats import rpm_lead
from pipeline.sandbox.runtime import build_user

LINE = 4096  # bytes; a longer line comes in pieces
MAX_NAMES = 10_000  # of a directory that is listed for a hint
MAX_NAME = 200  # bytes; the longest name of a package of ours has 70
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
class OutputLimits:
    """Limits of collected files: bytes of one file, bytes in total, and number of files."""

    file: int
    total: int
    count: int


PACKAGES = OutputLimits(
    file=2 << 30, total=6 << 30, count=32
)  # a kernel's largest package has 400 MiB, and there are six


class _BadEntry(Exception):
    """An entry that is not as expected."""

    def __init__(self, problem: str, expected: str = "a regular file of its own") -> None:
        super().__init__(f"{problem}; expected {expected}")


@dataclass(frozen=True)
class BuildOutputs:
    """The files below `top`, the top directory of step `step`'s build. `hint` is the next command of an error."""

    step: str
    top: Path
    hint: str = ""

    def copy_packages(self, into: Path) -> list[Path]:
        """Copy all RPMs below RPMS into `into`, which is created; return the copies by name.

        Raises `BuildFailed` for anything else that lies there, and leaves nothing in `into` then.
        """
        return self._copy_all(self._package_paths(), into, PACKAGES, mode=0o644, check=_check_lead)

    def copy_files(self, names: tuple[str, ...], into: Path, limits: OutputLimits, *, mode: int) -> list[Path]:
        """Copy the files `names`, paths below the top, into the directory `into`, created where it is missing.

        Raises `BuildFailed` for one that is missing or no regular file, and when they are too big.
        """
        return self._copy_all(iter(names), into, limits, mode=mode, check=lambda _: None)

    def open_file(self, name: str) -> BinaryIO:
        """Open a file by its path below the top. Raises `BuildFailed` unless it is a regular file of its own."""
        with self._build_errors(name):
            return _open_path(self.top, name)

    def read_below(self, directory: str, endings: tuple[str, ...], limits: OutputLimits) -> Iterator[tuple[str, bytes]]:
        """Yield the path below the top, and the content, of each file below `directory` whose name ends so, in order.

        Raises `BuildFailed` for one that is no regular file of its own, and when they are too many or too big.
        """
        remaining, count, pending = limits.total, 0, [directory]
        while pending:
            here = pending.pop()
            for name, is_directory in _scan(self.top, here):
                path = f"{here}/{name}"
                if is_directory:
                    pending.append(path)
                elif name.endswith(endings):
                    count += 1
                    with self._build_errors(path), _open_path(self.top, path) as stream:
                        data = stream.read(min(limits.file, remaining) + 1)
                        remaining -= len(data)
                        if count > limits.count or remaining < 0 or len(data) > limits.file:
                            most = f"at most {limits.count} files, {human_bytes(limits.total)} in all"
                            raise _BadEntry("too much of this kind", most)
                    yield path, data

    def _copy_all(
        self, names: Iterator[str], into: Path, limits: OutputLimits, *, mode: int, check: Callable[[BinaryIO], None]
    ) -> list[Path]:
        made, remaining = list[Path](), limits.total
        into.mkdir(exist_ok=True)
        try:
            for name in names:
                with self._build_errors(name), _open_path(self.top, name) as source:
                    if len(made) == limits.count:
                        raise _BadEntry("one file too many", f"at most {limits.count}")
                    check(source)
                    target = into / name.rpartition("/")[2]
                    if target in made:
                        raise _BadEntry("a second file of this name", "each name once")
                    made.append(target)
                    remaining -= _copy(source, target, mode, min(limits.file, remaining))
        except BaseException:
            for target in made:
                target.unlink(missing_ok=True)
            raise
        return sorted(made)

    def _package_paths(self) -> Iterator[str]:
        """Yield the paths of the RPMs: in RPMS itself, or in a directory for each architecture."""
        for name, is_directory in self._list("RPMS"):
            inner = [f"{name}/{below}" for below, _ in self._list(f"RPMS/{name}")] if is_directory else [name]
            for path in inner:
                with self._build_errors(f"RPMS/{path}"):
                    if not path.endswith(".rpm"):
                        raise _BadEntry(
                            "neither a directory nor named as a package",
                            "RPMS/NAME.rpm or RPMS/ARCHITECTURE/NAME.rpm",
                        )
                yield f"RPMS/{path}"

    def _list(self, directory: str) -> list[tuple[str, bool]]:
        """Return the names in a directory, sorted, with whether each is a directory; names and number are checked."""
        found: list[tuple[str, bool]] = []
        with self._build_errors(directory):
            handle = _open_directory(self.top, directory)
            try:
                with os.scandir(handle) as entries:
                    for entry in entries:
                        with self._build_errors(f"{directory}/{entry.name}"):
                            _check_name(entry.name)
                            if len(found) == PACKAGES.count:
                                raise _BadEntry("one entry too many", f"at most {PACKAGES.count} in a directory")
                        found.append((entry.name, entry.is_dir(follow_symlinks=False)))
            finally:
                os.close(handle)
        return sorted(found)

    @contextlib.contextmanager
    def _build_errors(self, name: str) -> Iterator[None]:
        """Translate `_BadEntry` into the step's error."""
        try:
            yield
        except _BadEntry as odd:
            shown = ascii(name[:MAX_NAME])[1:-1]
            where = self.top / shown if _is_plain(name) else self.top
            why = "the output of a build is untrusted, and read only from regular files"
            raise BuildFailed(f"{self.step}: {shown}: {odd}", where=str(where), why=why, hint=self.hint) from None


def lines(top: Path, name: str, limit: int) -> Iterator[bytes]:
    """Yield the lines of a build's file, up to `limit` bytes; none where it is no regular file.

    For figures that decide nothing. A line longer than `LINE` comes in pieces.
    """
    with contextlib.suppress(_BadEntry), _open_path(top, name) as stream:
        while limit > 0 and (line := stream.readline(LINE)):
            limit -= len(line)
            yield line


def piece(top: Path, name: str, position: int, limit: int, *, links: int = 1) -> bytes:
    """Return up to `limit` bytes of a build's file from `position`; none where it is no regular file.

    For hints that decide nothing, as `names`. The file may have as many names as `links`.
    """
    with contextlib.suppress(_BadEntry, OSError), _open_path(top, name, links) as stream:
        stream.seek(position)
        return stream.read(limit)
    return b""


def sha256(top: Path, name: str, *, links: int = 1) -> str:
    """Return the SHA-256 of a build's file, which may have as many names as `links`; empty for no regular file."""
    digest = hashlib.sha256()
    with contextlib.suppress(_BadEntry, OSError), _open_path(top, name, links) as stream:
        while piece := stream.read(CHUNK):
            digest.update(piece)
        return digest.hexdigest()
    return ""


def _scan(top: Path, directory: str) -> list[tuple[str, bool]]:
    """Return the names in a directory of a build, sorted, with whether each is a directory; none where it is none."""
    try:
        handle = _open_directory(top, directory)
    except _BadEntry:
        return []
    try:
        with os.scandir(handle) as entries:
            return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    finally:
        os.close(handle)


def names(top: Path, directory: str) -> list[str]:
    """Return the names in a directory of a build, at most `MAX_NAMES`; none where it is no directory."""
    try:
        handle = _open_directory(top, directory)
    except _BadEntry:
        return []
    try:
        with os.scandir(handle) as entries:
            return [entry.name for entry in itertools.islice(entries, MAX_NAMES)]
    finally:
        os.close(handle)


def texts(top: Path, directory: str, prefix: str, limits: OutputLimits) -> Iterator[str]:
    """Yield the texts of files in a directory's tree whose names begin with `prefix`, within `limits`.

    For hints that decide nothing: what is no regular file is passed over.
    """
    remaining, count = limits.total, 0
    try:
        handle = _open_directory(top, directory)
    except _BadEntry:
        return
    for entry in trees.walk_from(handle):
        if not entry.name.startswith(prefix):
            continue
        count += 1
        if count > limits.count or remaining <= 0:
            return
        with contextlib.suppress(_BadEntry), _open_entry(entry.directory, entry.name) as stream:
            data = stream.read(min(limits.file, remaining))
            remaining -= len(data)
            yield data.decode(errors="replace")


def _is_plain(name: str) -> bool:
    return all(_NAME.fullmatch(part) and len(part) <= MAX_NAME for part in name.split("/"))


def _check_name(name: str) -> None:
    if not _is_plain(name):
        raise _BadEntry("an unexpected name", f"letters, digits and ._+~^-, at most {MAX_NAME} of them")


def _open_directory(top: Path, path: str) -> int:
    """Open the directory `path` below `top`. Raises `_BadEntry` where a part of it is a link or no directory."""
    try:
        here = os.open(top, trees.DIRECTORY)
    except PermissionError as error:  # the build's own user may close it, and we may be that user
        raise _BadEntry(
            f"below a directory that cannot be opened ({error.strerror})", "one with the mode that it had"
        ) from None
    for part in path.split("/") if path else ():
        try:
            below = os.open(part, trees.DIRECTORY, dir_fd=here)
        except OSError as error:
            raise _BadEntry(_describe(here, part, error), "a directory") from None
        finally:
            os.close(here)
        here = below
    return here


def _open_path(top: Path, path: str, links: int = 1) -> BinaryIO:
    """Open the file `path` below `top`. Raises `_BadEntry`."""
    above, _, name = path.rpartition("/")
    here = _open_directory(top, above)
    try:
        return _open_entry(here, name, links)
    finally:
        os.close(here)


def _open_entry(directory: int, name: str, links: int = 1) -> BinaryIO:
    """Open a regular file of the build user or our own, with at most `links` names. Raises `_BadEntry`."""
    try:
        handle = os.open(name, _FILE, dir_fd=directory)
    except OSError as error:
        raise _BadEntry(_describe(directory, name, error)) from None
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= links and status.st_uid in (build_user(), os.geteuid()):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if not stat.S_ISREG(status.st_mode):
        raise _BadEntry(_KINDS.get(stat.S_IFMT(status.st_mode), "no regular file"))
    if status.st_nlink > links:
        raise _BadEntry(f"a file with {status.st_nlink} names", "a file with one name")
    raise _BadEntry(f"a file of the user {status.st_uid}", f"one of the user {build_user()}, who builds")


def _describe(directory: int, name: str, error: OSError) -> str:
    """Return the kind of an entry that could not be opened."""
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except OSError:
        return "missing" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error.strerror})"
    return _KINDS.get(stat.S_IFMT(mode), f"cannot be opened ({error.strerror})")


def _check_lead(stream: BinaryIO) -> None:
    if not rpm_lead.is_lead(stream.read(rpm_lead.SIZE)):
        raise _BadEntry("no RPM lead", "an RPM package")
    stream.seek(0)


def _copy(source: BinaryIO, target: Path, mode: int, limit: int) -> int:
    """Copy a file to a new one of this mode, and return its size in bytes. Raises `_BadEntry` for more than `limit`."""
    size = os.fstat(source.fileno()).st_size
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as out:
        os.fchmod(handle, mode)
        copied = 0
        while size <= limit and (piece := source.read(min(CHUNK, limit + 1 - copied))):
            out.write(piece)
            copied += len(piece)
            size = max(size, copied)  # it grows
    if size > limit:
        raise _BadEntry(f"{human_bytes(size)} or more", f"at most {human_bytes(limit)}")
    return copied
