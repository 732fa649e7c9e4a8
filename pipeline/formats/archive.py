"""Unpack tar archives of any compression, and RPM payloads as tar streams.

Every member is checked before anything is written: nothing leaves the destination, no link
points out of it, no device, no bomb. Compression is found by content, since upstream names plain
tar files `.gz`. Knows nothing of kernels or pins.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import tarfile
import tempfile
import zlib
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, cast

from pipeline.core import process
from pipeline.core.fs import CHUNK
from pipeline.errors import HostLacks, Refused
from pipeline.formats import rpm_lead
from pipeline.formats.git_tree import SYMLINK, Entry, blob_id, file_mode


@dataclass(frozen=True)
class Limits:
    """Maximum members, unpacked bytes, and bytes and parts of one path of an archive.

    `padding` are the bytes that may stand where no content is: behind the end, and as headers of one member.
    """

    members: int = 250_000  # Linux 6.1 has 84,000
    total: int = 8 << 30
    path: int = 1024
    depth: int = 64
    padding: int = 1 << 20


@dataclass(frozen=True)
class Item:
    """A checked member. `data` must be read before the next item is requested."""

    path: str
    kind: str  # "file", "directory", "symlink" or "hardlink"
    mode: int
    size: int
    target: str
    data: IO[bytes] | None


_LONGEST_NAME = 255  # bytes of one part of a path: what file systems take, NAME_MAX
_MEMBER_MOST = 512 << 20  # bytes of a member that is taken into memory
_BROKEN = (
    tarfile.TarError,
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    ValueError,
    OverflowError,
    IndexError,
    RecursionError,
)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Yield the archive at `path` as a stream; an RPM as the tar stream of its payload."""
    with path.open("rb", buffering=0) as stream:  # unbuffered: a child may go on reading from its start
        magic = stream.read(4)
        stream.seek(0)
        if magic != rpm_lead.MAGIC:
            yield cast(IO[bytes], stream)
            return
        with tempfile.TemporaryFile() as errors, _rpm_payload(cast(IO[bytes], stream), errors) as payload:
            yield payload


@contextlib.contextmanager
def _rpm_payload(rpm: IO[bytes], errors: IO[bytes]) -> Iterator[IO[bytes]]:
    # Without this option it packs the tar stream by gzip's best level, which takes ten times as long as all else.
    with process.start(["rpm2archive", "--nocompression", "-"], stdin=rpm, stderr=errors) as child:
        yield process.pipe(child.stdout)


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Convert the errors of damaged archives into `Refused`."""
    try:
        yield
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the archive's
            raise HostLacks(f"the archive {name}: could not be read or unpacked: {error}") from None
        raise Refused(f"the archive {name}: damaged or truncated: {error}", hint="./inv fetch") from None


def _items(stream: IO[bytes], name: str, limits: Limits, strip: int) -> Iterator[Item]:
    """Yield every member of the tar stream, checked, without the first `strip` parts of each path."""
    checker = _Checker(name, limits)
    with _decompressed(stream) as plain:
        headers = _Headers(plain, checker)
        with tarfile.open(fileobj=cast(IO[bytes], headers), mode="r|") as archive:
            for member in archive:
                headers.content = True
                path = checker.path(member.name, strip)
                if path:
                    item = checker.item(archive, member, path, strip)
                    yield item
                    while item.data is not None and item.data.read(CHUNK):
                        pass  # else it would be skipped while the next header is looked for
                headers.begin()
            # The end marker is a block behind the last member; tarfile takes a cut there for the end.
            if archive.fileobj is None or archive.fileobj.tell() < archive.offset + tarfile.BLOCKSIZE:
                raise EOFError("no end-of-archive marker")
        padding = 0
        while piece := plain.read(CHUNK):  # to the end, where the compression's own checksum stands
            padding += len(piece)
            if padding > limits.padding:
                raise checker.refuse("", f"more than {limits.padding} bytes behind its end")


class _Headers:
    """A stream for tarfile with a limit on one member's header, which tarfile reads into memory whole."""

    def __init__(self, stream: IO[bytes], checker: _Checker) -> None:
        self.stream, self.checker = stream, checker
        self.begin()

    def begin(self) -> None:
        """Count further bytes as the next member's header."""
        self.content, self.left = False, self.checker.limits.padding

    def read(self, size: int) -> bytes:
        piece = self.stream.read(size)
        self.left -= 0 if self.content else len(piece)
        if self.left < 0:
            raise self.checker.refuse("", f"a header of more than {self.checker.limits.padding} bytes")
        return piece


@contextlib.contextmanager
def _decompressed(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield the stream decompressed, by decompressors that detect a truncated file, unlike tarfile's."""
    peeked = io.BufferedReader(stream, CHUNK)  # type: ignore[type-var]  # any object with read() will do
    magic = peeked.peek(6)[:6]
    try:
        if magic.startswith(b"\x1f\x8b"):
            yield cast(IO[bytes], gzip.GzipFile(fileobj=peeked))
        elif magic.startswith(b"BZh"):
            yield cast(IO[bytes], bz2.BZ2File(peeked))
        elif magic == b"\xfd7zXZ\0":
            yield cast(IO[bytes], lzma.LZMAFile(peeked))  # noqa: SIM115 - the caller's stream is closed by its owner
        else:
            yield cast(IO[bytes], peeked)
    finally:
        peeked.detach()  # else the stream would be closed with it


class _Checker:
    """Checks of one member against the members before it."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.name, self.limits = name, limits
        self.kinds: dict[str, str] = {}
        self.total = 0

    def refuse(self, member: str, why: str) -> Refused:
        return Refused(f"the archive {self.name}: member not allowed: {why}", where=ascii(member))

    def path(self, member: str, strip: int) -> str:
        """Return the member's path below the destination; empty for the destination itself."""
        if member.startswith("/"):
            raise self.refuse(member, "an absolute path")
        if len(member.encode(errors="surrogateescape")) > self.limits.path:
            raise self.refuse(member[:80], f"a path of more than {self.limits.path} bytes")
        if any(ord(char) < 32 or ord(char) == 127 for char in member):
            raise self.refuse(member, "a control character in its path")
        parts = [part for part in member.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self.refuse(member, "a path that leaves the destination through '..'")
        if len(parts) > self.limits.depth:
            raise self.refuse(member[:80], f"a path of more than {self.limits.depth} parts")
        if any(len(part.encode(errors="surrogateescape")) > _LONGEST_NAME for part in parts):
            raise self.refuse(member[:80], f"a name of more than {_LONGEST_NAME} bytes")
        return "/".join(parts[strip:])

    def item(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, strip: int) -> Item:
        kind = self._kind(member)
        self._place(path, kind)
        self.total += member.size if kind == "file" else 0
        if len(self.kinds) > self.limits.members:
            raise self.refuse(member.name, f"more than {self.limits.members} members")
        if member.size < 0 or self.total > self.limits.total:
            raise self.refuse(member.name, f"more than {self.limits.total} bytes unpacked")
        target = self._target(member, path, kind, strip)
        data = archive.extractfile(member) if kind == "file" else None
        return Item(path, kind, member.mode & 0o777, member.size, target, data)

    def _kind(self, member: tarfile.TarInfo) -> str:
        for is_kind, kind in (
            (member.isreg(), "file"),
            (member.isdir(), "directory"),
            (member.issym(), "symlink"),
            (member.islnk(), "hardlink"),
        ):
            if is_kind:
                return kind
        raise self.refuse(member.name, "a device, pipe or other special file")

    def _place(self, path: str, kind: str) -> None:
        above = path
        while above := above.rpartition("/")[0]:
            if self.kinds.setdefault(above, "directory") != "directory":
                raise self.refuse(path, f"a path below {above!a}, which is no directory")
        if path in self.kinds and (kind, self.kinds[path]) != ("directory", "directory"):
            raise self.refuse(path, "a path that is there twice")
        self.kinds[path] = kind

    def _target(self, member: tarfile.TarInfo, path: str, kind: str, strip: int) -> str:
        if len(member.linkname.encode(errors="surrogateescape")) > self.limits.path:
            raise self.refuse(member.name, f"a link to a path of more than {self.limits.path} bytes")
        if kind == "symlink":
            # '..' only in front: there it climbs real directories of this archive, while behind a
            # name it could climb out of whatever that name turns out to link to.
            parts = [part for part in member.linkname.split("/") if part not in ("", ".")]
            climb = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
            if member.linkname.startswith("/") or climb > path.count("/") or ".." in parts[climb:]:
                raise self.refuse(member.name, f"a link to {member.linkname!a}, out of the destination")
            return member.linkname
        if kind == "hardlink":
            target = self.path(member.linkname, strip)
            if self.kinds.get(target) != "file":
                raise self.refuse(member.name, f"a hard link to {member.linkname!a}, no file of the archive")
            return target
        return ""


def unpack(source: IO[bytes] | Path, destination: Path, name: str, limits: Limits = Limits(), strip: int = 0) -> None:
    """Unpack into `destination`, which must be missing or empty, once every member has passed the checks.

    A stream that cannot be read twice is unpacked as it is read.
    Only the execute bit of a mode is kept. Members that differ only by case are refused where the
    file system cannot tell them apart.
    """
    destination.mkdir(parents=True, exist_ok=True)
    if any(destination.iterdir()):
        raise Refused("the destination of an archive must be empty", where=str(destination))
    with contextlib.ExitStack() as open_files, _reading(name):
        if isinstance(source, Path):
            with opened(source) as stream:
                _survey(stream, name, limits, strip)
            source = open_files.enter_context(opened(source))
        elif source.seekable():
            start = source.tell()
            _survey(source, name, limits, strip)
            source.seek(start)
        for item in _items(source, name, limits, strip):
            _write(item, destination / item.path, destination, name)


def _survey(stream: IO[bytes], name: str, limits: Limits, strip: int) -> None:
    """Check every member and write nothing, so that a bomb is refused before its files exist."""
    for _ in _items(stream, name, limits, strip):
        pass


def _write(item: Item, path: Path, destination: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if item.kind == "directory":
            path.mkdir(exist_ok=True)
        elif item.kind == "symlink":
            path.symlink_to(item.target)
        elif item.kind == "hardlink":
            path.hardlink_to(destination / item.target)
        else:
            mode = 0o755 if item.mode & 0o100 else 0o644
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as out:
                for chunk in _chunks(item):
                    out.write(chunk)
    except FileExistsError:
        why = "it differs from another member only by case, which this file system cannot hold"
        raise Refused(f"the archive {name}: member not allowed: {why}", where=ascii(item.path)) from None


def _chunks(item: Item) -> Iterator[bytes]:
    """Yield the content of a file in pieces."""
    left = item.size
    while left:
        piece = item.data.read(min(CHUNK, left)) if item.data is not None else b""
        if not piece:
            raise EOFError("a member ends early")
        left -= len(piece)
        yield piece


def listing(
    stream: IO[bytes], name: str, strip: int = 0, *, keep: Container[str] = (), into: Path | None = None
) -> dict[str, Entry]:
    """Return the git listing of the tree in a tar stream; unpack only the files in `keep`, `into` a directory."""
    found: dict[str, Entry] = {}
    with _reading(name):
        for item in _items(stream, name, Limits(), strip):
            if item.kind == "file":
                content = b"".join(_chunks(item))
                found[item.path] = Entry(file_mode(item.mode), blob_id(content))
                item = replace(item, data=io.BytesIO(content))
            elif item.kind == "symlink":
                found[item.path] = Entry(SYMLINK, blob_id(os.fsencode(item.target)))
            elif item.kind == "hardlink":
                found[item.path] = found[item.target]
            if into is not None and item.kind != "directory" and item.path in keep:
                _write(item, into / item.path, into, name)
    return found


def read(path: Path, wanted: Mapping[str, int]) -> dict[str, bytes]:
    """Return the files named in `wanted` (path: size in bytes at most) of the archive at `path`."""
    found: dict[str, bytes] = {}
    with opened(path) as stream, _reading(path.name):
        for item in _items(stream, path.name, Limits(), 0):
            if item.path in wanted and item.kind == "file":
                if item.size > wanted[item.path]:
                    raise Refused(f"{item.path} in {path.name} has {item.size} bytes, more than {wanted[item.path]}")
                found[item.path] = b"".join(_chunks(item))
    return found


def members(path: Path) -> Iterator[tuple[Item, bytes]]:
    """Yield every member of the archive at `path` in order with its content, which is empty for all but files."""
    with opened(path) as stream, _reading(path.name):
        for item in _items(stream, path.name, Limits(), 0):
            if item.size > _MEMBER_MOST:
                raise Refused(f"{item.path} in {path.name}: {item.size} bytes; expected at most {_MEMBER_MOST}")
            yield item, b"".join(_chunks(item)) if item.kind == "file" else b""


def beginning(path: Path) -> tuple[str, int]:
    """Return a source archive's common directory, and its first member's time in seconds since 1970.

    Raises `Refused` for an archive that does not begin with a directory of its own.
    """
    with (
        opened(path) as stream,
        _reading(path.name),
        _decompressed(stream) as plain,
        tarfile.open(fileobj=plain, mode="r|") as archive,
    ):
        first = archive.next()
        if first is None:
            raise EOFError("no member")
        directory, _, below = _Checker(path.name, Limits()).path(first.name, 0).partition("/")
        if not below and not first.isdir():
            raise Refused(f"the archive {path.name} does not begin with a directory of its own")
        return directory, int(first.mtime)
