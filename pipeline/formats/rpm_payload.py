"""Read the files in an RPM as a stream, and hold them against its own header and digests.

For packages of strangers: nothing is written, memory and time are bounded, and whatever contradicts the header ends the
reading. No program of the host is run. The digests prove that a package is whole, not who made it: signatures are
`pipeline.sources.openpgp`'s. Format: RPM's docs/manual/format_v4.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pipeline.core import neutral
from pipeline.errors import Refused
from pipeline.formats import cpio_reader, decompression, rpm_header, rpm_lead
from pipeline.formats.rpm_header import PackagedFile, SignatureTag, Tag

# A kernel with all of a distribution's modules has 400 MB, one with their debugging data 1.5 GiB, and its largest file,
# a vmlinux with such data, less than half of one.
MEMBER_MOST, TOTAL_MOST = 512 << 20, 4 << 30
TIME_MOST = 300.0  # seconds for one package; one of 115 MB in xz takes 10
_QUEUED = 8  # pieces that wait for the digest's thread
_PLAIN_PATH = re.compile(r"(?:/(?!\.{0,2}(?:/|\Z))[^/]+)+")  # absolute, without `.`, `..` and empty parts
# PGPHASHALGO_*: RFC 4880, 9.4
_MD5 = 1
_ALGORITHMS = {_MD5: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}
_STRONG = ("sha256", "sha384", "sha512")


@dataclass(frozen=True)
class Wanted:
    """How much of a file is read: at most `most` bytes, of a longer one the beginning if `part`, else none."""

    most: int
    part: bool = False


@dataclass(frozen=True)
class ListedFile:
    """A file as the header lists it. `size` in bytes."""

    file: PackagedFile
    size: int


@dataclass
class Package:
    """An opened package. `digests` name those that hold, in the order in which they were checked."""

    path: Path
    raw: IO[bytes]
    headers: rpm_header.RpmFile
    deadline: float
    files: Mapping[str, ListedFile] = field(init=False)
    digests: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._check_header()
        self.files = self._listed()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self.raw.fileno()).st_size

    def refuse(self, problem: str) -> Refused:
        """Return the error of a package that is not as it must be."""
        return Refused(
            f"{self.path.name}: damaged or hostile: {problem}",
            where=str(self.path),
            why="nothing in it can be believed",
            hint=neutral.command(["rpmkeys", "--checksig", "-v", self.path]),
        )

    def read(self, wanted: Mapping[str, Wanted], *, whole: bool = True) -> Iterator[tuple[str, bytes]]:
        """Yield paths and contents of the `wanted` regular files, in the payload's order.

        What is yielded has its own digest of the header, and is proven when the iteration ends: then every file of the
        header was there once, with its type and size, and the payload has its digest. Unless `whole`, no more is
        unpacked than it takes to find all that is wanted. Raises `Refused`.
        """
        with self._digest() as pull:
            left = yield from self._walk(pull, wanted, whole=whole)
            while not whole and pull():
                self._check_time()
            if left and whole:
                raise self.refuse(f"{len(left)} files are not in its payload, {next(iter(left))} among them")

    def read_few(self, wanted: Mapping[str, Wanted]) -> Iterator[tuple[str, bytes]]:
        """Yield paths and contents of the `wanted` regular files, each proven by its own digest in the header.

        What is behind the last of them is not read. Where the header has but MD5 of files, the payload's digest proves
        them when the iteration ends. Raises `Refused`.
        """
        if self._file_digest in _STRONG:
            self._rewind()
            yield from self._walk(self._pull, wanted, whole=False)
        else:
            yield from self.read(wanted, whole=False)

    def verify(self) -> None:
        """Check the payload's digest without unpacking it. Raises `Refused`."""
        with self._digest() as pull:
            while pull():
                self._check_time()

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise self.refuse("it took too long to read")

    def _walk(
        self, pull: Callable[[], bytes], wanted: Mapping[str, Wanted], *, whole: bool
    ) -> Generator[tuple[str, bytes], None, Mapping[str, ListedFile]]:
        """Yield as `read`, and return the files of the header that were not reached."""
        limits = decompression.Limits(TOTAL_MOST, self.deadline)
        stream = decompression.Stream(pull, f"the payload of {self.path.name}", limits)
        left = {path: row for path, row in self.files.items() if not row.file.is_ghost}
        missing = {path for path in wanted if path in left}
        with stream.ahead():
            for path, data in self._members(stream, left, wanted) if missing or whole else ():
                yield path, data
                missing.discard(path)
                if not missing and not whole:
                    break
        return left

    def _members(
        self, stream: decompression.Stream, left: dict[str, ListedFile], wanted: Mapping[str, Wanted]
    ) -> Iterator[tuple[str, bytes]]:
        linked: dict[tuple[int, int, int], list[str]] = {}  # hard links that wait for the content, in the last of them
        order = list(self.files)

        def size_of(number: int) -> int:
            if number >= len(order):
                raise self.refuse(f"a file that its header does not list: number {number}")
            return self.files[order[number]].size

        for member, content in cpio_reader.members(stream, size_of, MEMBER_MOST, len(left), self.files):
            path = order[member.number] if member.number is not None else member.path
            row = left.pop(path, None)
            if row is None:
                twice = path in self.files and not self.files[path].file.is_ghost
                raise self.refuse(f"{path} is {'there twice' if twice else 'not in its header'}")
            self._check_member(path, member, row)
            paths = [path]
            if member.is_regular and member.links > 1:
                paths = linked.setdefault(member.inode, [])
                paths.append(path)
                if member.size != row.size:
                    continue
                linked.pop(member.inode)
                if other := next((name for name in paths if self.files[name].size != row.size), ""):
                    raise self.refuse(f"{other} is a hard link to {path}, which has another size")
            wanting = {name: wanted[name] for name in paths if name in wanted}
            if not wanting or not stat.S_ISREG(row.file.mode):
                continue
            most = max(part.most for part in wanting.values())
            if row.size > most and not all(part.part for part in wanting.values()):
                raise self.refuse(f"{path} has {row.size} bytes; expected at most {most}")
            data = self._content(content(), most, wanting)
            yield from ((name, data) for name in wanting)
        if linked:
            raise self.refuse(f"{next(iter(linked.values()))[0]} is a hard link to a file that is not in its payload")

    def _content(self, pieces: Iterator[bytes], most: int, paths: Iterable[str]) -> bytes:
        """Return the first `most` bytes of a file, once the whole of it has the digest that the header has of it."""
        digest, found = hashlib.new(self._file_digest, usedforsecurity=False), list[bytes]()
        for piece in pieces:
            digest.update(piece)
            if most:
                found.append(piece[:most])
                most -= len(found[-1])
        for path in paths:
            if self.files[path].file.content.lower() not in ("", digest.hexdigest()):
                raise self.refuse(f"{path} differs from its {self._file_digest}")
        return b"".join(found)

    @property
    def _file_digest(self) -> str:
        """The algorithm of the header's digests of files."""
        algorithm = self.headers.header.number(Tag.FILE_DIGEST_ALGORITHM, _MD5)
        if algorithm not in _ALGORITHMS:
            raise self.refuse(f"digests of files of an unknown algorithm, number {algorithm}")
        return _ALGORITHMS[algorithm]

    def _check_member(self, path: str, member: cpio_reader.Member, row: ListedFile) -> None:
        if member.mode and stat.S_IFMT(member.mode) != stat.S_IFMT(row.file.mode):
            raise self.refuse(f"{path} is of another type than in its header")
        shared = member.links > 1 and member.size == 0
        if stat.S_ISREG(row.file.mode) and member.size != row.size and not shared:
            raise self.refuse(f"{path} has {member.size} bytes, and {row.size} in its header")

    def _check_header(self) -> None:
        """Check the header's own digests, and the file's size."""
        signature = self.headers.signature
        header = os.pread(self.raw.fileno(), self.headers.header_size, self.headers.body_offset)
        for tag, name in ((SignatureTag.SHA256_HEADER, "sha256"), (SignatureTag.SHA1_HEADER, "sha1")):
            if wanted := signature.text(tag):
                if hashlib.new(name, header, usedforsecurity=False).hexdigest() != wanted:
                    raise self.refuse(f"its header differs from its {name}")
                self.digests.append(f"header {name}")
        if (announced := self.headers.whole_size) not in (None, self.size):
            raise self.refuse(f"it has {self.size} bytes; expected {announced}, which its own headers announce")

    def _listed(self) -> dict[str, ListedFile]:
        """Return the header's files by path, checked."""
        header, rows = self.headers.header, self.headers.files()
        sizes = header.numbers(Tag.LONG_FILE_SIZES) or header.numbers(Tag.FILE_SIZES)
        if len(sizes) != len(rows):
            raise self.refuse("file lists of different lengths in its header")
        if self.headers.arch == "src":  # whose files have names, and are no evidence
            return {}
        found: dict[str, ListedFile] = {}
        for row, size in zip(rows, sizes, strict=True):
            if not _PLAIN_PATH.fullmatch(row.path):
                raise self.refuse(f"its header lists {row.path[:80]!a}, which is no plain path")
            if row.path in found:
                raise self.refuse(f"its header lists {row.path} twice")
            if stat.S_ISREG(row.mode) and size > MEMBER_MOST:
                raise self.refuse(f"{row.path} has {size} bytes; expected at most {MEMBER_MOST}")
            found[row.path] = ListedFile(row, size)
        return found

    @contextlib.contextmanager
    def _digest(self) -> Iterator[Callable[[], bytes]]:
        """Yield a function that returns the next piece of the payload, and check its digest at the end.

        The digest is computed in a thread of its own, beside the decoder.
        """
        name, wanted, begun = self._payload_digest()
        self._rewind()
        with ThreadPoolExecutor(1) as pool:
            waiting: list[Future[Any]] = []

            def pull() -> bytes:
                data = self._pull()
                if begun is not None and data:
                    waiting.append(pool.submit(begun.update, data))
                    if len(waiting) > _QUEUED:
                        waiting.pop(0).result()
                return data

            yield pull
        if begun is None:
            return
        if begun.hexdigest() != wanted.lower():
            raise self.refuse(f"its content differs from its {name}")
        self.digests.append(name)

    def _rewind(self) -> None:
        self.raw.seek(self.headers.body_offset + self.headers.header_size)

    def _pull(self) -> bytes:
        return self.raw.read(decompression.PIECE)

    def _payload_digest(self) -> tuple[str, str, hashlib._Hash | None]:
        """Return name and value of the digest that the package has of its payload, and its computation."""
        header, signature = self.headers.header, self.headers.signature
        if wanted := header.text(Tag.PAYLOAD_DIGEST):
            name = _ALGORITHMS.get(header.number(Tag.PAYLOAD_DIGEST_ALGORITHM, 8))
            if name in (None, _ALGORITHMS[_MD5]):
                raise self.refuse("a payload digest of an unknown algorithm")
            return f"payload {name}", wanted, hashlib.new(name, usedforsecurity=False)
        if value := signature.binary(SignatureTag.MD5):
            digest = hashlib.new("md5", usedforsecurity=False)
            digest.update(os.pread(self.raw.fileno(), self.headers.header_size, self.headers.body_offset))
            return "header and payload md5", value.hex(), digest
        return "", "", None


@contextlib.contextmanager
def opened(path: Path, seconds: float = TIME_MOST) -> Iterator[Package]:
    """Open an RPM, to be read within `seconds`. Raises `Refused` for one whose header is not as it must be."""
    with rpm_lead.opened(path) as raw:
        yield Package(path, raw, rpm_header.read_opened(raw, path), time.monotonic() + seconds)
