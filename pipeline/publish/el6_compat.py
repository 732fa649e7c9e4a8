"""Find what rpm 4.8 and yum 3.2 (RHEL and CentOS 6) cannot read, before publication.

The rules are rpm 4.8.0's own: rpmlibProvides of lib/rpmds.c, the limits of lib/signature.c and
lib/header_internal.h, the algorithms of rpmio/rpmpgp.c. Pure: from headers already read to texts.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import neutral
from pipeline.errors import Refused
from pipeline.formats import rpm_header
from pipeline.formats.rpm_header import RpmFile, SignatureTag, Tag

# rpm 4.8.0, lib/rpmds.c. What is not here cannot be installed: PayloadIsZstd, RichDependencies,
# TildeInVersions, CaretInVersions, LargeFiles, ScriptletExpansion, DynamicBuildRequires, ...
RPMLIB = {
    "VersionedDependencies": "3.0.3-1",
    "CompressedFileNames": "3.0.4-1",
    "PayloadIsBzip2": "3.0.5-1",
    "PayloadIsXz": "5.2-1",
    "PayloadFilesHavePrefix": "4.0-1",
    "ExplicitPackageProvide": "4.0-1",
    "HeaderLoadSortsTags": "4.0.1-1",
    "ScriptletInterpreterArgs": "4.0.3-1",
    "PartialHardlinkSets": "4.0.4-1",
    "ConcurrentAccess": "4.1-1",
    "BuiltinLuaScripts": "4.2.2-1",
    "FileDigests": "4.6.0-1",
    "FileCaps": "4.6.1-1",
}
COMPRESSORS = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0"}
FILE_DIGESTS = {1: "md5", 2: "sha1", 8: "sha256"}  # RFC 4880, 9.4
SIGNATURE_ENTRIES, SIGNATURE_BYTES = 32, 8192  # lib/signature.c, rpmReadSignature
HEADER_BYTES = 0xFFFFFF  # lib/header_internal.h, hdrchkData
_RSA, _SHA256, _BINARY_DOCUMENT = 1, 8, 0  # RFC 4880, 9.1, 9.4 and 5.2.1


@dataclass(frozen=True)
class SignaturePacket:
    """The fields of an OpenPGP signature that old readers evaluate; `issuer` is a long key id or empty."""

    version: int
    kind: int
    algorithm: int
    digest: int
    issuer: str


def check(path: Path, *, key_id: str | None = None) -> None:
    """Raise `Refused` for an RPM that rpm 4.8 could not install, with all reasons at once.

    With `key_id`, the long id of a primary key, the package must be signed by that key, readably for rpm 4.8.
    """
    package = rpm_header.read(path)
    wrong = list(problems(package))
    hint = "rebuild with `rpmbuild --define '_binary_payload w9.gzdio'` and without these properties"
    if key_id is not None:
        hint = hint if wrong else neutral.command(["rpmkeys", "--checksig", "-v", path])
        wrong += signature_problems(package, key_id)
    if wrong:
        what = f"{package.nvra}: not installable with rpm 4.8; expected a package that it reads"
        raise Refused(what, where=str(path), why="; ".join(wrong), hint=hint)


def problems(package: RpmFile) -> Iterator[str]:
    """Yield the package's properties that rpm 4.8 cannot read, one sentence each."""
    yield from _payload(package)
    yield from _dependencies(package)
    yield from _versions(package)
    header = package.header
    if header.number(Tag.RPM_FORMAT, 4) > 4:
        yield f"package format {header.number(Tag.RPM_FORMAT)}"
    algorithm = header.number(Tag.FILE_DIGEST_ALGORITHM, 1)
    if algorithm not in FILE_DIGESTS:
        yield f"file digests of algorithm {algorithm}; allowed: {', '.join(FILE_DIGESTS.values())}"
    if Tag.LONG_FILE_SIZES in header.tags:
        yield "a file of 4 GiB or more"
    if header.data_size > HEADER_BYTES:
        yield f"a header of {header.data_size} bytes; at most {HEADER_BYTES}"
    for tag in (Tag.FILE_TRIGGER_SCRIPTS, Tag.TRANSACTION_FILE_TRIGGER_SCRIPTS):
        if tag in header.tags:
            yield "file triggers, which it would silently never run"


def _payload(package: RpmFile) -> Iterator[str]:
    form = package.header.text(Tag.PAYLOAD_FORMAT, "cpio")
    if form != "cpio":
        yield f"a payload in the format {form}"
    compressor = package.header.text(Tag.PAYLOAD_COMPRESSOR, "gzip")
    if compressor not in COMPRESSORS:
        yield f"a payload compressed with {compressor}; allowed: {', '.join(COMPRESSORS)}"
    elif not package.payload_magic.startswith(COMPRESSORS[compressor]):
        yield f"a payload that is not what its header says, {compressor}"


def _dependencies(package: RpmFile) -> Iterator[str]:
    header = package.header
    needs = zip(header.texts(Tag.REQUIRE_NAME), header.texts(Tag.REQUIRE_VERSION), strict=False)
    for name, version in needs:
        feature = re.fullmatch(r"rpmlib\((.+)\)", name)
        if feature and not _provided(feature[1], version):
            yield f"it requires {name} {version}".rstrip()
    tags = (Tag.REQUIRE_NAME, Tag.PROVIDE_NAME, Tag.CONFLICT_NAME, Tag.OBSOLETE_NAME)
    for name in dict.fromkeys(name for tag in tags for name in header.texts(tag)):
        if name.startswith("("):
            yield f"the rich dependency {name}"


def _provided(feature: str, wanted: str) -> bool:
    """Return whether rpm 4.8 has the feature `rpmlib(X) <= V`: the version it has must not be newer than V."""
    since = RPMLIB.get(feature)
    return since is not None and (not wanted or _numbers(since) <= _numbers(wanted))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _versions(package: RpmFile) -> Iterator[str]:
    """Yield versions with '~' or '^', which rpm 4.8 would sort wrongly."""
    header = package.header
    own = (Tag.VERSION, Tag.RELEASE)
    theirs = (Tag.REQUIRE_VERSION, Tag.PROVIDE_VERSION, Tag.CONFLICT_VERSION, Tag.OBSOLETE_VERSION)
    for version in dict.fromkeys(text for tag in own + theirs for text in header.texts(tag)):
        if "~" in version or "^" in version:
            yield f"the version {version}, with a character of later rpm"


def signature_problems(package: RpmFile, key_id: str) -> Iterator[str]:
    """Yield the signature properties that rpm 4.8 cannot check; both must be RSA with SHA-256, by `key_id`.

    The signature over header and payload is required too: without it rpm 4.8 checks the payload by MD5 only.
    """
    signature = package.signature
    if signature.entries > SIGNATURE_ENTRIES or signature.data_size > SIGNATURE_BYTES:
        size = f"{signature.entries} entries and {signature.data_size} bytes"
        yield f"a signature header of {size}; at most {SIGNATURE_ENTRIES} and {SIGNATURE_BYTES}"
    over = {SignatureTag.RSA_HEADER: "its header", SignatureTag.PGP: "its header and payload"}
    for tag, what in over.items():
        if not signature.binary(tag):
            yield f"no RSA signature over {what}"
            continue
        try:
            packet = signature_packet(signature.binary(tag))
        except ValueError as error:
            yield f"over {what}, {error}"
            continue
        if (packet.algorithm, packet.digest, packet.kind) != (_RSA, _SHA256, _BINARY_DOCUMENT):
            got = f"algorithm {packet.algorithm}, digest {packet.digest}"
            yield f"over {what}, a signature of {got}; it must be RSA ({_RSA}) with SHA-256 ({_SHA256})"
        if packet.version not in (3, 4):
            yield f"over {what}, a signature of version {packet.version}"
        if packet.issuer != key_id:  # rpm 4.8 keeps a primary key and does not know its subkeys
            yield f"over {what}, a signature by {packet.issuer or 'nobody named'}, not by the primary key {key_id}"


def signature_packet(data: bytes) -> SignaturePacket:
    """Parse the OpenPGP signature packet in `data` (RFC 4880, 4.2 and 5.2). Raises `ValueError`."""
    try:
        body = _packet_body(data)
        if body[0] == 3:  # 5.2.2: 5 octets hashed, kind, time, issuer, algorithms
            return SignaturePacket(3, body[2], body[15], body[16], body[7:15].hex().upper())
        kind, algorithm, digest = body[1], body[2], body[3]
        hashed_size = int.from_bytes(body[4:6])
        hashed = body[6 : 6 + hashed_size]
        rest = body[6 + hashed_size :]
        loose = rest[2 : 2 + int.from_bytes(rest[:2])]
        issuer = next((value for kind_, value in [*_subpackets(hashed), *_subpackets(loose)] if kind_ == 16), b"")
    except (IndexError, struct.error):
        raise ValueError("a damaged signature") from None
    return SignaturePacket(body[0], kind, algorithm, digest, issuer.hex().upper())


def _packet_body(data: bytes) -> bytes:
    """Return the body of the first packet, a signature; in both header formats of RFC 4880, 4.2."""
    first = data[0]
    if first & 0xC0 == 0xC0:
        tag, (size, start) = first & 0x3F, _new_length(data, 1)
    elif first & 0x80 and first & 3 != 3:
        octets = 1 << (first & 3)
        tag, size, start = first >> 2 & 0xF, int.from_bytes(data[1 : 1 + octets]), 1 + octets
    else:
        raise ValueError("what is no OpenPGP packet")
    if tag != 2 or start + size > len(data):
        raise ValueError("what is no whole OpenPGP signature")
    return data[start : start + size]


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    """Return a length of RFC 4880, 4.2.2 or 5.2.3.1, and the offset of the measured data."""
    if data[at] < 192:
        return data[at], at + 1
    if data[at] < 255:
        return ((data[at] - 192) << 8) + data[at + 1] + 192, at + 2
    return struct.unpack_from(">I", data, at + 1)[0], at + 5


def _subpackets(area: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and content of each signature subpacket."""
    at = 0
    while at < len(area):
        size, at = _new_length(area, at)
        yield area[at] & 0x7F, area[at + 1 : at + size]
        at += size
