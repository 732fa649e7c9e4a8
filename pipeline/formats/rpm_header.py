"""Read both headers of an RPM file, without rpm and without running anything.

The layout is that of RPM's docs/manual/format_v4.md (lead, signature header padded to 8 bytes,
header, payload) and docs/manual/format_header.md (16 bytes of intro, 16 per entry, data); tag numbers are those
of include/rpm/rpmtag.h. A package may be a
stranger's: what is read is bounded, and a file of a package cannot be mistaken for two. Proves nothing: digests and
signatures are `pipeline.sources.openpgp`'s.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import IO, BinaryIO, cast

from pipeline.core.fs import CHUNK
from pipeline.errors import Refused
from pipeline.formats import rpm_lead

_HEADER_MAGIC = b"\x8e\xad\xe8\x01"
_MOST_ENTRIES, _MOST_DATA = 0xFFFF, 64 << 20  # rpm itself takes 256 MiB, rpm 4.8 16 MiB: lib/header_internal.hh
_TEXT_USUAL = 64  # bytes of a text and its zero byte: as many are looked through first
_MOST_VALUES = 2_000_000  # in one header; that of kernel-devel has 300,000
_MOST_PATHS = 64 << 20  # characters of all directories, one for each file; those of kernel-devel have 1 MB
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~^-]{0,250}")  # also the one argument that rpmsign is given
_SENSES = {2: "<", 4: ">", 8: "="}  # RPMSENSE_LESS, GREATER and EQUAL, in the order in which rpm writes them


class SignatureTag(IntEnum):
    """Tags of the signature header that this program reads."""

    DSA_HEADER = 267  # RPMSIGTAG_DSA: over the header alone; any key but an RSA one
    RSA_HEADER = 268  # RPMSIGTAG_RSA: the same by an RSA key
    SHA1_HEADER = 269  # RPMSIGTAG_SHA1: of the header, in hex
    LONG_SIZE = 270  # RPMSIGTAG_LONGSIZE: as SIZE, where that is too small
    SHA256_HEADER = 273  # RPMSIGTAG_SHA256: the same over SHA-256
    SIZE = 1000  # RPMSIGTAG_SIZE: bytes of header and payload
    PGP = 1002  # RPMSIGTAG_PGP: over header and payload, rpm's v3 signature
    MD5 = 1004  # RPMSIGTAG_MD5: of header and payload, 16 bytes
    GPG = 1005  # RPMSIGTAG_GPG: the same by any key but an RSA one


class Tag(IntEnum):
    """Tags of the header that this program reads."""

    NAME = 1000
    VERSION = 1001
    RELEASE = 1002
    EPOCH = 1003
    SUMMARY = 1004
    BUILD_TIME = 1006
    LICENSE = 1014
    ARCH = 1022
    OLD_FILE_NAMES = 1027
    FILE_SIZES = 1028
    FILE_MODES = 1030
    FILE_DIGESTS = 1035
    FILE_LINK_TARGETS = 1036
    FILE_FLAGS = 1037
    PROVIDE_NAME = 1047
    REQUIRE_FLAGS = 1048
    REQUIRE_NAME = 1049
    REQUIRE_VERSION = 1050
    CONFLICT_NAME = 1054
    CONFLICT_VERSION = 1055
    CHANGELOG_TEXT = 1082
    OBSOLETE_NAME = 1090
    SOURCE_PACKAGE = 1106
    PROVIDE_FLAGS = 1112
    PROVIDE_VERSION = 1113
    OBSOLETE_VERSION = 1115
    DIRECTORY_INDEXES = 1116
    BASE_NAMES = 1117
    DIRECTORY_NAMES = 1118
    PAYLOAD_FORMAT = 1124
    PAYLOAD_COMPRESSOR = 1125
    LONG_FILE_SIZES = 5008
    FILE_DIGEST_ALGORITHM = 5011
    FILE_TRIGGER_SCRIPTS = 5066
    TRANSACTION_FILE_TRIGGER_SCRIPTS = 5076
    PAYLOAD_DIGEST = 5092
    PAYLOAD_DIGEST_ALGORITHM = 5093
    RPM_FORMAT = 5114


Value = bytes | tuple[int, ...] | tuple[str, ...]
# Entry types of RPM's docs/manual/format_header.md: whole numbers by width, then texts; 7 is binary.
_NUMBERS = {1: "B", 2: "B", 3: "H", 4: "I", 5: "Q"}
_TEXTS, _BINARY = (6, 8, 9), 7


@dataclass(frozen=True)
class Header:
    """One header: its tags, the number of its entries and the bytes of its data."""

    tags: Mapping[int, Value]
    entries: int
    data_size: int

    def texts(self, tag: int) -> tuple[str, ...]:
        """Return the texts of a tag; none when absent."""
        value = self.tags.get(tag, ())
        return cast(tuple[str, ...], value) if value and isinstance(value[0], str) else ()

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the numbers of a tag; none when absent."""
        value = self.tags.get(tag, ())
        return value if isinstance(value, tuple) and value and isinstance(value[0], int) else ()

    def text(self, tag: int, default: str = "") -> str:
        """Return the one text of a tag."""
        return next(iter(self.texts(tag)), default)

    def number(self, tag: int, default: int = 0) -> int:
        """Return the one number of a tag."""
        return next(iter(self.numbers(tag)), default)

    def binary(self, tag: int) -> bytes:
        """Return the bytes of a tag; none when absent."""
        value = self.tags.get(tag, b"")
        return value if isinstance(value, bytes) else b""


@dataclass(frozen=True)
class PackagedFile:
    """A file in a header's list; `content` is a link's target, or the digest in hex, empty for a directory."""

    path: str
    flags: int
    mode: int
    content: str

    @property
    def is_config(self) -> bool:
        """Whether the file is a configuration file: RPMFILE_CONFIG."""
        return bool(self.flags & 1)

    @property
    def is_kept(self) -> bool:
        """Whether an update keeps an edited file: RPMFILE_NOREPLACE."""
        return bool(self.flags & 1 << 4)

    @property
    def is_ghost(self) -> bool:
        """Whether the package has no content for the file: RPMFILE_GHOST."""
        return bool(self.flags & 1 << 6)


@dataclass(frozen=True)
class RpmFile:
    """The headers of one RPM file, the offset of the signed part, and the payload's first bytes."""

    signature: Header
    header: Header
    body_offset: int
    payload_magic: bytes

    @property
    def header_size(self) -> int:
        """Bytes of the header that begins at `body_offset`."""
        return 16 + 16 * self.header.entries + self.header.data_size

    @property
    def name(self) -> str:
        """The package's name."""
        return self.header.text(Tag.NAME)

    @property
    def arch(self) -> str:
        """The architecture; `src` for a source package, whose header has that of its builder."""
        return "src" if Tag.SOURCE_PACKAGE in self.header.tags else self.header.text(Tag.ARCH)

    @property
    def nvra(self) -> str:
        """name-version-release.arch, as in the file's name."""
        version, release = self.header.text(Tag.VERSION), self.header.text(Tag.RELEASE)
        return f"{self.name}-{version}-{release}.{self.arch}"

    @property
    def nevra(self) -> str:
        """name-epoch:version-release.arch, with epoch 0 when absent."""
        version, release = self.header.text(Tag.VERSION), self.header.text(Tag.RELEASE)
        return f"{self.name}-{self.header.number(Tag.EPOCH)}:{version}-{release}.{self.arch}"

    @property
    def file_name(self) -> str:
        """The file's name in a repository, whatever its name at its origin."""
        return f"{self.nvra}.rpm"

    def files(self) -> list[PackagedFile]:
        """Return the header's list of files in order. Raises `Refused` for a contradictory list."""
        header = self.header
        names, directories = header.texts(Tag.BASE_NAMES), header.texts(Tag.DIRECTORY_NAMES)
        places = header.numbers(Tag.DIRECTORY_INDEXES)
        try:
            if sum(len(directories[place]) for place in places) > _MOST_PATHS:
                raise Refused(f"{self.nvra}: paths of more than {_MOST_PATHS} characters in its header")
            paths = [directories[place] + name for place, name in zip(places, names, strict=True)]
            columns = (header.numbers(Tag.FILE_FLAGS), header.numbers(Tag.FILE_MODES))
            texts = (header.texts(Tag.FILE_LINK_TARGETS), header.texts(Tag.FILE_DIGESTS))
            rows = list(zip(paths or header.texts(Tag.OLD_FILE_NAMES), *columns, *texts, strict=True))
        except (ValueError, IndexError):
            raise Refused(f"{self.nvra}: file lists of different lengths in its header") from None
        self._check_plain("a path", [text for path, _, _, target, _ in rows for text in (path, target)])
        return [PackagedFile(path, flags, mode, target or digest) for path, flags, mode, target, digest in rows]

    def sizes(self) -> tuple[int, ...]:
        """Return the size of each file in bytes, in the order of `files`; empty where the header has other numbers."""
        found = self.header.numbers(Tag.LONG_FILE_SIZES) or self.header.numbers(Tag.FILE_SIZES)
        return found if len(found) == len(self.header.texts(Tag.BASE_NAMES)) else ()

    def dependencies(self, kind: str) -> list[str]:
        """Return dependencies in rpm's notation, `name = 1:2-3`; `kind` is PROVIDE or REQUIRE."""
        names, versions = (self.header.texts(Tag[f"{kind}_{part}"]) for part in ("NAME", "VERSION"))
        flags = self.header.numbers(Tag[f"{kind}_FLAGS"])
        try:
            found = [_dependency(*row) for row in zip(names, flags, versions, strict=True)]
        except ValueError:
            raise Refused(f"{self.nvra}: dependency lists of different lengths in its header") from None
        self._check_plain("a dependency", found)
        return found

    def _check_plain(self, what: str, texts: Sequence[str]) -> None:
        """Raise `Refused` for texts with unprintable characters."""
        if unprintable := next((text for text in texts if not text.isprintable()), None):
            raise Refused(
                f"{self.nvra}: {what} with characters that cannot be printed; expected none: {unprintable[:80]!a}"
            )

    @property
    def whole_size(self) -> int | None:
        """Bytes of the whole file by its signature header; None where absent."""
        body = self.signature.number(SignatureTag.LONG_SIZE) or self.signature.number(SignatureTag.SIZE)
        return self.body_offset + body if body else None

    @property
    def build_time(self) -> int:
        """Build time in seconds since 1970."""
        return self.header.number(Tag.BUILD_TIME)


def read(path: Path) -> RpmFile:
    """Read the headers of the RPM at `path`. Raises `Refused` for any other file."""
    with rpm_lead.opened(path) as raw:
        return read_opened(raw, path)


def read_opened(raw: IO[bytes], path: Path) -> RpmFile:
    """Read the headers of an RPM that `rpm_lead.opened` has opened; as `read` does."""
    with os.fdopen(os.dup(raw.fileno()), "rb") as stream:
        try:
            stream.seek(rpm_lead.SIZE)
            signature = _header(stream)
            stream.read(-stream.tell() % 8)
            body_offset = stream.tell()
            header = _header(stream)
            found = RpmFile(signature, header, body_offset, stream.read(8))
            if not _is_name(found.file_name) or not all(
                header.text(tag) for tag in (Tag.NAME, Tag.VERSION, Tag.RELEASE, Tag.ARCH)
            ):
                raise ValueError(f"not a file's name: {found.nvra!a}")
        except (ValueError, struct.error) as error:
            raise Refused(f"not an RPM package: {error}", where=str(path)) from None
    return found


def _dependency(name: str, flags: int, version: str) -> str:
    senses = "".join(sign for sense, sign in _SENSES.items() if flags & sense)
    return " ".join(word for word in (name, senses, version) if word)


def body_sha256(path: Path, package: RpmFile) -> str:
    """Return the SHA-256 of header and payload, which signing must not change."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(package.body_offset)
        while piece := stream.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _is_name(name: str) -> bool:
    return _FILE_NAME.fullmatch(name) is not None


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("truncated")
    return data


def _header(stream: BinaryIO) -> Header:
    """Read the header at the stream's position."""
    magic, _, entries, size = struct.unpack(">4s4sII", _exactly(stream, 16))
    if magic != _HEADER_MAGIC or entries > _MOST_ENTRIES or size > _MOST_DATA:
        raise ValueError("a header without its magic number")
    index, data = _exactly(stream, 16 * entries), _exactly(stream, size)
    tags: dict[int, Value] = {}
    values = used = 0
    for tag, kind, offset, count in struct.iter_unpack(">IIII", index):
        if tag in tags:
            raise ValueError(f"tag {tag} is there twice")
        values += 1 if kind == _BINARY else count
        if values > _MOST_VALUES:
            raise ValueError(f"a header of more than {_MOST_VALUES} values")
        tags[tag], length = _value(data, kind, offset, count)
        used += length
        if used > size:
            raise ValueError("the entries of a header overlap")
    return Header(MappingProxyType(tags), entries, size)


def _value(data: bytes, kind: int, offset: int, count: int) -> tuple[Value, int]:
    """Return the value of an entry, and its length in bytes."""
    if offset > len(data) or count > len(data):
        raise ValueError("an entry lies behind its header's end")
    if kind in _NUMBERS:
        layout = f">{count}{_NUMBERS[kind]}"
        return struct.unpack_from(layout, data, offset), struct.calcsize(layout)
    if kind == _BINARY:
        return data[offset : offset + count], count
    if kind in _TEXTS:
        return _strings(data, offset, count)
    raise ValueError(f"an entry of the unknown type {kind}")


def _strings(data: bytes, offset: int, count: int) -> tuple[tuple[str, ...], int]:
    """Return texts that each end with a zero byte, and their length in bytes."""
    size = _TEXT_USUAL * count
    while len(found := data[offset : offset + size].split(b"\0", count)) <= count:
        if offset + size >= len(data):
            raise ValueError("a text that is not ended")
        size *= 2
    length = sum(map(len, found[:count])) + count
    texts = data[offset : offset + length - 1].decode(errors="backslashreplace").split("\0") if count else ()
    return tuple(texts), length
