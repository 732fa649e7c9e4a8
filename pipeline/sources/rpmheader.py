"""What an RPM file says of itself: its two headers, read without rpm and without running anything.

The layout is that of RPM's docs/manual/format_v4.md (lead, signature header padded to 8 bytes,
header, payload) and format_header.md (16 bytes of intro, 16 per entry, data); tag numbers are those
of include/rpm/rpmtag.h. Proves nothing: digests and signatures are `pipeline.sources.openpgp`'s.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from pipeline.errors import Refused
from pipeline.files import CHUNK

LEAD_SIZE = 96
_LEAD_MAGIC = b"\xed\xab\xee\xdb"
_HEADER_MAGIC = b"\x8e\xad\xe8\x01"
_MOST_ENTRIES, _MOST_DATA = 0xFFFF, 256 << 20  # what rpm itself takes, lib/header_internal.hh


class SignatureTag(IntEnum):
    """Tags of the signature header that are read here."""

    RSA_HEADER = 268  # RPMSIGTAG_RSA: over the header alone
    PGP = 1002  # RPMSIGTAG_PGP: over header and payload, rpm's v3 signature


class Tag(IntEnum):
    """Tags of the header that are read here."""

    NAME = 1000
    VERSION = 1001
    RELEASE = 1002
    EPOCH = 1003
    BUILD_TIME = 1006
    ARCH = 1022
    PROVIDE_NAME = 1047
    REQUIRE_NAME = 1049
    REQUIRE_VERSION = 1050
    CONFLICT_NAME = 1054
    CONFLICT_VERSION = 1055
    OBSOLETE_NAME = 1090
    SOURCE_PACKAGE = 1106
    PROVIDE_VERSION = 1113
    OBSOLETE_VERSION = 1115
    PAYLOAD_FORMAT = 1124
    PAYLOAD_COMPRESSOR = 1125
    LONG_FILE_SIZES = 5008
    FILE_DIGEST_ALGORITHM = 5011
    FILE_TRIGGER_SCRIPTS = 5066
    TRANSACTION_FILE_TRIGGER_SCRIPTS = 5076
    RPM_FORMAT = 5114


Value = bytes | tuple[int, ...] | tuple[str, ...]
# Entry types of format_header.md: whole numbers by width, then texts; 7 is binary.
_NUMBERS = {1: "B", 2: "B", 3: "H", 4: "I", 5: "Q"}
_TEXTS, _BINARY = (6, 8, 9), 7


@dataclass(frozen=True)
class Header:
    """One header: its tags, the number of its entries and the bytes of its data."""

    tags: Mapping[int, Value]
    entries: int
    data_size: int

    def texts(self, tag: int) -> tuple[str, ...]:
        """The texts of a tag, none when it is absent."""
        value = self.tags.get(tag, ())
        return tuple(item for item in value if isinstance(item, str)) if isinstance(value, tuple) else ()

    def numbers(self, tag: int) -> tuple[int, ...]:
        """The numbers of a tag, none when it is absent."""
        value = self.tags.get(tag, ())
        return tuple(item for item in value if isinstance(item, int)) if isinstance(value, tuple) else ()

    def text(self, tag: int, default: str = "") -> str:
        """The one text of a tag."""
        return next(iter(self.texts(tag)), default)

    def number(self, tag: int, default: int = 0) -> int:
        """The one number of a tag."""
        return next(iter(self.numbers(tag)), default)

    def binary(self, tag: int) -> bytes:
        """The bytes of a tag, none when it is absent."""
        value = self.tags.get(tag, b"")
        return value if isinstance(value, bytes) else b""


@dataclass(frozen=True)
class RpmFile:
    """The headers of one RPM file, where what is signed begins, and the payload's first bytes."""

    signature: Header
    header: Header
    body_offset: int
    payload_magic: bytes

    @property
    def name(self) -> str:
        """The package's name."""
        return self.header.text(Tag.NAME)

    @property
    def arch(self) -> str:
        """The architecture; `src` for a source package, which bears that of its builder."""
        return "src" if Tag.SOURCE_PACKAGE in self.header.tags else self.header.text(Tag.ARCH)

    @property
    def nvra(self) -> str:
        """name-version-release.arch, which is what the file is called."""
        version, release = self.header.text(Tag.VERSION), self.header.text(Tag.RELEASE)
        return f"{self.name}-{version}-{release}.{self.arch}"

    @property
    def nevra(self) -> str:
        """The same with the epoch, 0 when it has none."""
        version, release = self.header.text(Tag.VERSION), self.header.text(Tag.RELEASE)
        return f"{self.name}-{self.header.number(Tag.EPOCH)}:{version}-{release}.{self.arch}"

    @property
    def file_name(self) -> str:
        """What the file is called in a repository, whatever it was called where it came from."""
        return f"{self.nvra}.rpm"

    @property
    def build_time(self) -> int:
        """Seconds since 1970."""
        return self.header.number(Tag.BUILD_TIME)


def read(path: Path) -> RpmFile:
    """The headers of the RPM at `path`. Raises `Refused` when it is none."""
    with path.open("rb") as stream:
        try:
            if _exactly(stream, LEAD_SIZE)[:4] != _LEAD_MAGIC:
                raise ValueError("it does not begin as an RPM does")
            signature = _header(stream)
            stream.read(-stream.tell() % 8)
            body_offset = stream.tell()
            header = _header(stream)
            found = RpmFile(signature, header, body_offset, stream.read(8))
            if not _is_name(found.file_name) or not all(
                header.text(tag) for tag in (Tag.NAME, Tag.VERSION, Tag.RELEASE, Tag.ARCH)
            ):
                raise ValueError(f"its name is not one a file can have: {found.nvra!a}")
        except (ValueError, struct.error) as error:
            raise Refused(f"not an RPM package: {error}", where=str(path)) from None
    return found


def body_sha256(path: Path, package: RpmFile) -> str:
    """SHA-256 of header and payload: all but the signatures, which signing must not change."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(package.body_offset)
        while piece := stream.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _is_name(name: str) -> bool:
    return "/" not in name and not name.startswith(".") and name.isprintable() and " " not in name


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("it ends too early")
    return data


def _header(stream: BinaryIO) -> Header:
    """The header that begins here."""
    magic, _, entries, size = struct.unpack(">4s4sII", _exactly(stream, 16))
    if magic != _HEADER_MAGIC or entries > _MOST_ENTRIES or size > _MOST_DATA:
        raise ValueError("one of its headers does not begin as such")
    index, data = _exactly(stream, 16 * entries), _exactly(stream, size)
    tags = {tag: _value(data, kind, offset, count) for tag, kind, offset, count in struct.iter_unpack(">IIII", index)}
    return Header(MappingProxyType(tags), entries, size)


def _value(data: bytes, kind: int, offset: int, count: int) -> Value:
    if offset > len(data) or count > len(data):
        raise ValueError("an entry lies behind its header's end")
    if kind in _NUMBERS:
        return struct.unpack_from(f">{count}{_NUMBERS[kind]}", data, offset)
    if kind == _BINARY:
        return data[offset : offset + count]
    if kind in _TEXTS:
        return _strings(data, offset, count)
    raise ValueError(f"an entry of the unknown type {kind}")


def _strings(data: bytes, offset: int, count: int) -> tuple[str, ...]:
    found = []
    for _ in range(count):
        end = data.index(b"\0", offset)  # ValueError when it is not ended
        found.append(data[offset:end].decode(errors="backslashreplace"))
        offset = end + 1
    return tuple(found)
