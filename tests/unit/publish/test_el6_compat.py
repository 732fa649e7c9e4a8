"""What rpm 4.8 cannot take, told from headers alone."""

from __future__ import annotations

import contextlib
import struct
import tempfile
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Refused
from pipeline.formats import rpm_header
from pipeline.formats.rpm_header import Header, RpmFile, SignatureTag, Tag, Value
from pipeline.publish import el6_compat
from pipeline.publish.el6_compat import SignaturePacket
from tests.fixtures.rpms import raw_rpm

KEY = "4331F4D9D8B0BFFD"
GOOD: dict[int, Value] = {
    Tag.NAME: ("ipvsadm",),
    Tag.VERSION: ("1.2.1",),
    Tag.RELEASE: ("fnat.0",),
    Tag.ARCH: ("noarch",),
    Tag.BUILD_TIME: (1_339_500_000,),
    Tag.REQUIRE_NAME: ("/bin/sh", "rpmlib(CompressedFileNames)", "rpmlib(FileDigests)"),
    Tag.REQUIRE_VERSION: ("", "3.0.4-1", "4.6.0-1"),
    Tag.PAYLOAD_FORMAT: ("cpio",),
    Tag.PAYLOAD_COMPRESSOR: ("gzip",),
    Tag.FILE_DIGEST_ALGORITHM: (8,),
}
MAGIC = {
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0",
    "xz": b"\xfd7zXZ\0\0\4",
    "bzip2": b"BZh91AY&",
    "zstd": b"(\xb5/\xfd\4\x88\0\0",
}


def package(tags: dict[int, Value] | None = None, magic: bytes = MAGIC["gzip"], **more: Any) -> RpmFile:
    """A package with what is given in place of what a good one has."""
    header = Header(MappingProxyType({**GOOD, **(tags or {})}), 20, more.get("data_size", 2000))
    return RpmFile(Header(MappingProxyType({}), 5, 4000), header, 4504, magic)


def found(tags: dict[int, Value] | None = None, magic: bytes = MAGIC["gzip"], **more: Any) -> list[str]:
    return list(el6_compat.problems(package(tags, magic, **more)))


def requiring(name: str, version: str = "") -> dict[int, Value]:
    return {Tag.REQUIRE_NAME: (name,), Tag.REQUIRE_VERSION: (version,)}


def test_nothing_is_said_of_a_good_package() -> None:
    assert found() == []


@pytest.mark.parametrize("name", ["gzip", "xz", "bzip2"])
def test_what_rpm_4_8_unpacks_is_taken(name: str) -> None:
    assert found({Tag.PAYLOAD_COMPRESSOR: (name,)}, MAGIC[name]) == []


def test_a_package_that_names_no_compressor_is_gzip() -> None:
    tags = {key: value for key, value in GOOD.items() if key not in (Tag.PAYLOAD_COMPRESSOR, Tag.PAYLOAD_FORMAT)}
    header = Header(MappingProxyType(tags), 10, 100)
    assert list(el6_compat.problems(RpmFile(header, header, 0, MAGIC["gzip"]))) == []


@pytest.mark.parametrize("name", ["zstd", "lzma", "none", ""])
def test_another_compressor_is_named_with_those_allowed(name: str) -> None:
    [said] = found({Tag.PAYLOAD_COMPRESSOR: (name,)}, MAGIC["zstd"])
    assert said == f"a payload compressed with {name}; allowed: gzip, bzip2, xz"


def test_the_payload_itself_is_looked_at_not_only_what_is_said_of_it() -> None:
    assert found(magic=MAGIC["zstd"]) == ["a payload that is not what its header says, gzip"]


def test_another_payload_format_is_refused() -> None:
    assert found({Tag.PAYLOAD_FORMAT: ("stripped-cpio",)}) == ["a payload in the format stripped-cpio"]


@pytest.mark.parametrize("feature", el6_compat.RPMLIB)
def test_the_features_rpm_4_8_has_are_taken(feature: str) -> None:
    assert found(requiring(f"rpmlib({feature})", el6_compat.RPMLIB[feature])) == []
    assert found(requiring(f"rpmlib({feature})")) == []


@pytest.mark.parametrize(
    ("feature", "version"),
    [
        ("PayloadIsZstd", "5.4.18-1"),
        ("RichDependencies", "4.12.0-1"),
        ("TildeInVersions", "4.10.0-1"),
        ("CaretInVersions", "4.15.0-1"),
        ("LargeFiles", "4.12.0-1"),
        ("ScriptletExpansion", "4.9.0-1"),
        ("DynamicBuildRequires", "4.15.0-1"),
        ("SomethingOfTomorrow", "9-1"),
    ],
)
def test_a_feature_of_later_rpm_is_refused_by_name(feature: str, version: str) -> None:
    assert found(requiring(f"rpmlib({feature})", version)) == [f"it requires rpmlib({feature}) {version}"]


def test_a_feature_wanted_older_than_it_is_had_is_refused() -> None:
    assert found(requiring("rpmlib(FileDigests)", "4.5.9-1")) == ["it requires rpmlib(FileDigests) 4.5.9-1"]


@pytest.mark.parametrize("tag", [Tag.REQUIRE_NAME, Tag.PROVIDE_NAME, Tag.CONFLICT_NAME, Tag.OBSOLETE_NAME])
def test_a_rich_dependency_is_refused_wherever_it_stands(tag: Tag) -> None:
    assert found({tag: ("(a if b)",)}) == ["the rich dependency (a if b)"]


@pytest.mark.parametrize("version", ["1.0~rc1", "1.0^git1"])
@pytest.mark.parametrize("tag", [Tag.VERSION, Tag.RELEASE, Tag.PROVIDE_VERSION, Tag.OBSOLETE_VERSION])
def test_characters_that_rpm_4_8_would_sort_otherwise_are_refused(tag: Tag, version: str) -> None:
    assert found({tag: (version,)}) == [f"the version {version}, with a character of later rpm"]


@pytest.mark.parametrize(("number", "taken"), [(1, True), (2, True), (8, True), (9, False), (10, False), (12, False)])
def test_file_digests_go_up_to_sha256(number: int, taken: bool) -> None:
    said = [] if taken else [f"file digests of algorithm {number}; allowed: md5, sha1, sha256"]
    assert found({Tag.FILE_DIGEST_ALGORITHM: (number,)}) == said


def test_large_files_new_formats_big_headers_and_file_triggers_are_refused() -> None:
    assert found({Tag.LONG_FILE_SIZES: (5 << 30,)}) == ["a file of 4 GiB or more"]
    assert found({Tag.RPM_FORMAT: (6,)}) == ["package format 6"]
    assert found({Tag.RPM_FORMAT: (4,)}) == []
    assert found(data_size=0xFFFFFF) == []
    assert found(data_size=0x1000000) == ["a header of 16777216 bytes; at most 16777215"]
    triggers = found({Tag.FILE_TRIGGER_SCRIPTS: ("true",), Tag.TRANSACTION_FILE_TRIGGER_SCRIPTS: ("true",)})
    assert triggers == ["file triggers, which it would silently never run"] * 2


def test_every_reason_is_given_at_once() -> None:
    assert (
        len(found({Tag.PAYLOAD_COMPRESSOR: ("zstd",), Tag.FILE_DIGEST_ALGORITHM: (10,), **requiring("(a or b)")})) == 3
    )


# --- Signatures ----------------------------------------------------------------------------------------


def packet(algorithm: int = 1, digest: int = 8, kind: int = 0, version: int = 4, issuer: str = KEY) -> bytes:
    """A signature as gpg writes one: the old packet format, the issuer among the subpackets that are not hashed."""
    key = bytes.fromhex(issuer)
    if version == 3:
        body = struct.pack(">BBBI8sBB", 3, 5, kind, 1_339_500_000, key, algorithm, digest)
    else:
        hashed = struct.pack(">BBI", 5, 2, 1_339_500_000)
        loose = struct.pack(">BB", 9, 16) + key if key else b""
        body = struct.pack(">BBBB", version, kind, algorithm, digest)
        body += struct.pack(">H", len(hashed)) + hashed + struct.pack(">H", len(loose)) + loose
    body += b"\xab\xcd" + struct.pack(">H", 2047) + bytes(256)
    return struct.pack(">BH", 0x89, len(body)) + body


def signed(header: bytes = b"", both: bytes = b"", entries: int = 9, size: int = 4244) -> RpmFile:
    tags: dict[int, Value] = {SignatureTag.RSA_HEADER: header or packet(), SignatureTag.PGP: both or packet()}
    good = package()
    return RpmFile(Header(MappingProxyType(tags), entries, size), good.header, 4504, good.payload_magic)


def said_of(file: RpmFile) -> list[str]:
    return list(el6_compat.signature_problems(file, KEY))


@pytest.mark.parametrize("version", [3, 4])
def test_two_rsa_signatures_with_sha256_by_the_key_are_good(version: int) -> None:
    assert said_of(signed(packet(version=version), packet(version=version))) == []


def test_without_signatures_both_are_missed() -> None:
    missed = ["no RSA signature over its header", "no RSA signature over its header and payload"]
    assert said_of(package()) == missed


@pytest.mark.parametrize(("algorithm", "digest"), [(22, 8), (17, 8), (1, 2), (1, 10), (1, 11)])
def test_another_algorithm_or_digest_is_refused(algorithm: int, digest: int) -> None:
    [said] = said_of(signed(header=packet(algorithm, digest)))
    assert f"algorithm {algorithm}, digest {digest}" in said and said.startswith("over its header,")


def test_a_signature_by_a_subkey_another_key_or_nobody_is_refused() -> None:
    [said] = said_of(signed(both=packet(issuer="0123456789ABCDEF")))
    assert "by 0123456789ABCDEF, not by the primary key" in said
    [said] = said_of(signed(both=packet(issuer="")))
    assert "by nobody named" in said


def test_a_signature_of_a_new_version_is_refused() -> None:
    assert "over its header, a signature of version 6" in said_of(signed(packet(version=6)))


def test_a_signature_header_beyond_the_limits_of_rpm_4_8_is_refused() -> None:
    assert said_of(signed(entries=32, size=8192)) == []
    assert said_of(signed(entries=33)) == ["a signature header of 33 entries and 4244 bytes; at most 32 and 8192"]
    assert said_of(signed(size=8193)) == ["a signature header of 9 entries and 8193 bytes; at most 32 and 8192"]


def test_a_packet_is_read_in_both_header_formats() -> None:
    wanted = SignaturePacket(4, 0, 1, 8, KEY)
    old = packet()
    body = old[3:]
    assert el6_compat.signature_packet(old) == wanted
    assert el6_compat.signature_packet(struct.pack(">BBI", 0xC2, 255, len(body)) + body) == wanted
    assert (
        el6_compat.signature_packet(bytes([0xC2, (len(body) - 192 >> 8) + 192, (len(body) - 192) & 0xFF]) + body)
        == wanted
    )


@pytest.mark.parametrize("data", [b"", b"\0", b"\x89", packet()[:40], b"\x99" + packet()[1:], b"\x8b" + packet()[1:]])
def test_what_is_no_signature_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"signature|packet"):
        el6_compat.signature_packet(data)


@given(st.binary(max_size=200) | st.binary(max_size=30).map(lambda tail: packet()[:30] + tail))
def test_no_bytes_break_the_reader_of_signatures(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        el6_compat.signature_packet(data)


# --- Reading the file ------------------------------------------------------------------------------------


def test_a_file_is_read_down_to_the_payloads_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "called-otherwise.rpm"
    path.write_bytes(raw_rpm())
    read = rpm_header.read(path)
    assert (read.nevra, read.file_name) == ("ipvsadm-2:1.2.1-fnat.0.noarch", "ipvsadm-1.2.1-fnat.0.noarch.rpm")
    assert read.signature.binary(SignatureTag.PGP) == b"abc"
    assert read.header.texts(Tag.REQUIRE_NAME) == ("a", "b")
    assert (read.header.number(Tag.LONG_FILE_SIZES), read.header.numbers(1028)) == (5 << 30, (1, 2))
    assert (read.payload_magic, read.build_time) == (MAGIC["gzip"], 0)
    assert (read.header.text(9999, "none"), read.header.binary(9999), read.header.numbers(9999)) == ("none", b"", ())
    assert path.read_bytes()[read.body_offset :].startswith(b"\x8e\xad\xe8\x01")


@pytest.mark.parametrize("name", [b"../etc/passwd", b".hidden", b"a/b", b"", b"a\nb", b"a b"])
def test_a_name_that_no_file_may_have_is_refused(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "f.rpm"
    path.write_bytes(raw_rpm({Tag.NAME: (6, 1, name + b"\0")}))
    with pytest.raises(Refused, match="not an RPM package"):
        rpm_header.read(path)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8), st.integers(0, 500))
def test_no_damage_breaks_the_reader_of_headers(at: int, damage: bytes, length: int) -> None:
    good = raw_rpm()
    with tempfile.NamedTemporaryFile() as file:
        file.write((good[:at] + damage + good[at + len(damage) :])[:length])
        file.flush()
        try:
            rpm_header.read(Path(file.name))
        except Refused as error:
            assert error.where == file.name


def test_a_refusal_names_package_reasons_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "f.rpm"
    path.write_bytes(raw_rpm())
    with pytest.raises(Refused) as refused:
        el6_compat.check(path, key_id=KEY)
    assert (
        refused.value.what
        == "ipvsadm-1.2.1-fnat.0.noarch: not installable with rpm 4.8; expected a package that it reads"
    )
    assert refused.value.where == str(path)
    assert "a file of 4 GiB or more" in refused.value.why and "no RSA signature over its header" in refused.value.why
    assert "_binary_payload w9.gzdio" in refused.value.hint
