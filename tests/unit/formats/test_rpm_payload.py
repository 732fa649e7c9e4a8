"""Packages read as streams: what is in them, and how hostile ones are refused in little memory and time."""

from __future__ import annotations

import gzip
import io
import random
import stat
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import Refused
from pipeline.formats import decompression, rpm_payload
from pipeline.formats.rpm_header import SignatureTag, Tag
from pipeline.formats.rpm_payload import Wanted
from tests.fixtures.rawrpms import COMPRESSIONS, Entry, cpio, entry, link, write

CONFIG, MODULE = entry("/boot/config-1", b"CONFIG_X=y\n"), entry("/lib/modules/1/a.ko", b"\x7fELF" + bytes(5000))
DIRECTORY = entry("/lib/modules/1", mode=stat.S_IFDIR | 0o755)
FILES = [CONFIG, DIRECTORY, MODULE, link("/lib/modules/1/build", "/usr/src")]
GIB = 1 << 30


def read(path: Path, *wanted: str, whole: bool = True, most: int = 1 << 20) -> tuple[dict[str, bytes], list[str]]:
    with rpm_payload.opened(path) as package:
        names = wanted or tuple(package.files)
        return dict(package.read({name: Wanted(most) for name in names}, whole=whole)), package.digests


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_files_of_every_compression_are_read(tmp_path: Path, compression: str) -> None:
    found, digests = read(write(tmp_path / "a.rpm", FILES, compression=compression))
    assert found == {CONFIG.path: CONFIG.data, MODULE.path: MODULE.data}
    assert digests == ["header sha256", "header sha1", "payload sha256"]


def test_an_old_package_is_held_against_its_md5(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.rpm", FILES, old=True))[1] == ["header sha1", "header and payload md5"]


def test_a_ghost_is_listed_and_not_in_the_payload(tmp_path: Path) -> None:
    ghost = entry("/boot/initramfs-1", b"", flags=1 << 6)
    assert len(read(write(tmp_path / "a.rpm", [*FILES, ghost], payload=FILES))[0]) == 2


def test_hard_links_all_have_the_content_of_the_last(tmp_path: Path) -> None:
    listed = [entry(f"/lib/{name}", b"same") for name in "abc"]
    empty = [entry(item.path, b"", inode=9, links=3) for item in listed[:2]]
    path = write(tmp_path / "a.rpm", listed, payload=[*empty, entry("/lib/c", b"same", inode=9, links=3)])
    assert read(path)[0] == dict.fromkeys(("/lib/a", "/lib/b", "/lib/c"), b"same")


def test_the_members_of_large_packages_have_numbers_only(tmp_path: Path) -> None:
    member = b"07070X" + b"%08x" % 0 + bytes(2) + CONFIG.data + bytes(-len(CONFIG.data) % 4)
    assert read(write(tmp_path / "a.rpm", [CONFIG], payload=member + cpio([])))[0] == {CONFIG.path: CONFIG.data}


def test_only_the_beginning_is_read_where_that_will_do(tmp_path: Path) -> None:
    with rpm_payload.opened(write(tmp_path / "a.rpm", FILES)) as package:
        assert dict(package.read({MODULE.path: Wanted(4, part=True)})) == {MODULE.path: b"\x7fELF"}


def test_reading_ends_with_what_is_wanted_and_the_digest_is_checked_all_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rpm", FILES, payload=[CONFIG, entry("../b", b"x")])
    assert read(path, CONFIG.path, whole=False)[1][-1] == "payload sha256"
    path = write(tmp_path / "b.rpm", FILES, compression="none", damage=lambda data: data.replace(b"ELF", b"ELf"))
    with pytest.raises(Refused, match="content differs from its payload sha256"):
        read(path, CONFIG.path, whole=False)


def read_few(path: Path, wanted: str) -> tuple[dict[str, bytes], list[str]]:
    with rpm_payload.opened(path) as package:
        return dict(package.read_few({wanted: Wanted(1 << 20)})), package.digests


def test_few_files_are_proven_by_their_own_digests_and_nothing_behind_them_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rpm", FILES, compression="none", damage=lambda data: data.replace(b"ELF", b"ELf"))
    found, digests = read_few(path, CONFIG.path)
    assert found == {CONFIG.path: CONFIG.data} and digests == ["header sha256", "header sha1"]
    with pytest.raises(Refused, match=r"/lib/modules/1/a\.ko differs from its sha256"):
        read_few(path, MODULE.path)
    assert read_few(path, "/nowhere")[0] == {}


@pytest.mark.parametrize("digest", ["md5", "sha1"])
def test_few_files_without_good_digests_are_proven_by_that_of_the_payload(tmp_path: Path, digest: str) -> None:
    path = write(tmp_path / "a.rpm", FILES, digest=digest)
    assert read_few(path, CONFIG.path)[1][-1] == "payload sha256"

    def damage(data: bytes) -> bytes:
        return data.replace(b"ELF", b"ELf")

    path = write(tmp_path / "b.rpm", FILES, digest=digest, compression="none", damage=damage)
    with pytest.raises(Refused, match="content differs from its payload sha256"):
        read_few(path, CONFIG.path)


OTHER = entry("/boot/other", b"CONFIG_Y=n\n")


@pytest.mark.parametrize("digest", ["md5", "sha1", "sha256", "sha512"])
@pytest.mark.parametrize("most", [4, 1 << 20])
def test_a_file_that_differs_from_its_own_digest_is_refused(tmp_path: Path, digest: str, most: int) -> None:
    path = write(tmp_path / "a.rpm", [CONFIG], payload=[replace(CONFIG, data=OTHER.data)], digest=digest)
    with rpm_payload.opened(path) as package, pytest.raises(Refused, match=f"{CONFIG.path} differs from its {digest}"):
        list(package.read({CONFIG.path: Wanted(most, part=True)}))


def test_a_digest_of_files_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rpm", FILES, changed={Tag.FILE_DIGEST_ALGORITHM: (4, 1, struct.pack(">I", 99))})
    with pytest.raises(Refused, match="digests of files of an unknown algorithm, number 99"):
        read(path)


HOSTILE: dict[str, tuple[list[Entry], list[Entry] | bytes, str]] = {
    "a path upwards": (FILES, [*FILES, entry("", b"x", name="../../etc/passwd")], "leaves the tree"),
    "a path upwards inside": (FILES, [entry("", b"x", name="./boot/../../x")], "leaves the tree"),
    "an absolute path": (FILES, [entry("", b"x", name="/etc/passwd")], "absolute path"),
    "a control character": (FILES, [entry("/boot/\x1b[2J", b"x")], "cannot be printed"),
    "a file twice": (FILES, [CONFIG, CONFIG], "there twice"),
    "a hard link without its content": (
        FILES,
        [DIRECTORY, entry(MODULE.path, inode=9, links=2), CONFIG, link("/lib/modules/1/build", "/usr/src")],
        "/lib/modules/1/a.ko is a hard link to a file that is not in its payload",
    ),
    "a hard link to a file of another size": (
        [CONFIG, MODULE],
        [entry(MODULE.path, inode=9, links=2), replace(CONFIG, inode=9, links=2)],
        "/lib/modules/1/a.ko is a hard link to /boot/config-1, which has another size",
    ),
    "a file that is not listed": (FILES, [*FILES, entry("/boot/other", b"x")], "not in its header"),
    "a file that is missing": (FILES, FILES[:2], "not in its payload"),
    "a link for a file": (FILES, [link(CONFIG.path, "/etc/passwd")], "another type"),
    "another size": (FILES, [entry(CONFIG.path, b"longer than it is said to be")], "in its header"),
    "a gigabyte in the archive": (FILES, [entry(CONFIG.path, b"", size=GIB)], "bytes; expected at most"),
    "a gigabyte in the list": ([entry(CONFIG.path, b"", size=GIB)], [CONFIG], "bytes; expected at most"),
    "no archive": (FILES, b"x" * 5000, "no header of a cpio member"),
    "an archive that is cut off": (FILES, cpio(FILES)[:400], "truncated"),
    "much behind the archive": (FILES, cpio(FILES, bytes(1 << 20)), "behind its end"),
    "a long path": (FILES, [entry("/" + "a" * 5000)], "a path of 5003 bytes"),
    "too many members": (FILES, [*FILES, *FILES, *FILES], "there twice"),
    "a path upwards in the list": ([entry("/boot/../etc/x")], [], "no plain path"),
    "a file twice in the list": ([CONFIG, CONFIG], [CONFIG], "lists /boot/config-1 twice"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_package_is_refused(tmp_path: Path, case: str) -> None:
    listed, payload, problem = HOSTILE[case]
    path = write(tmp_path / "a.rpm", listed, payload=payload)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Refused, match=problem):
        read(path)
    assert sorted(tmp_path.rglob("*")) == before


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda data: data[:-20], "announce"),
    "longer": (lambda data: data + b"x", "announce"),
    "changed": (lambda data: data[:-8] + bytes([data[-8] ^ 1]) + data[-7:], "damaged or hostile"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_payload_that_differs_from_its_digest_is_refused(tmp_path: Path, compression: str, damage: str) -> None:
    change, problem = DAMAGES[damage]
    with pytest.raises(Refused, match=problem):
        read(write(tmp_path / "a.rpm", FILES, compression=compression, damage=change))


def test_a_changed_payload_of_an_old_package_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.rpm", FILES, old=True, compression="none", damage=lambda d: d.replace(b"CONFIG", b"xONFIG")
    )
    with pytest.raises(Refused, match="differs from its header and payload md5"), rpm_payload.opened(path) as package:
        list(package.read({}))


@pytest.mark.parametrize("tag", [SignatureTag.SHA256_HEADER, SignatureTag.SHA1_HEADER])
def test_a_header_that_differs_from_its_digest_is_refused(tmp_path: Path, tag: SignatureTag) -> None:
    path = write(tmp_path / "a.rpm", FILES, signature={tag: (6, 1, b"0" * 64 + b"\0")})
    with pytest.raises(Refused, match="header differs"):
        read(path)


def test_a_digest_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rpm", FILES, changed={Tag.PAYLOAD_DIGEST_ALGORITHM: (4, 1, struct.pack(">I", 99))})
    with pytest.raises(Refused, match="unknown algorithm"):
        read(path)


def test_bytes_behind_the_compressed_ones_are_refused(tmp_path: Path) -> None:
    packed = COMPRESSIONS["gzip"](cpio(FILES))
    path = write(tmp_path / "a.rpm", FILES, payload=packed + packed, compression="none")
    with pytest.raises(Refused, match="behind the compressed"):
        read(path)


def test_a_gigabyte_of_zeros_in_a_member_of_an_honest_size_is_refused_early(tmp_path: Path) -> None:
    zeros = entry("/boot/zeros", size=rpm_payload.MEMBER_MOST)
    packer = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    head = cpio([zeros])[:128]
    bomb = packer.compress(head) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(512)) + packer.flush()
    path = write(tmp_path / "a.rpm", [zeros], payload=bomb, compression="none")
    with pytest.raises(Refused, match="more than 250 times its size"):
        read(path, CONFIG.path)


def test_reading_ends_when_the_time_is_over(tmp_path: Path) -> None:
    with (
        rpm_payload.opened(write(tmp_path / "a.rpm", FILES), seconds=-1) as package,
        pytest.raises(Refused, match="too long"),
    ):
        list(package.read({}))
    with (
        rpm_payload.opened(write(tmp_path / "a.rpm", FILES), seconds=-1) as package,
        pytest.raises(Refused, match="too long"),
    ):
        package.verify()


def test_a_file_beyond_what_its_kind_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="expected at most 5"):
        read(write(tmp_path / "a.rpm", FILES), CONFIG.path, most=5)


def test_a_compressed_file_is_unpacked_and_others_are_as_they_are() -> None:
    limits = decompression.soon(100)
    for pack in COMPRESSIONS.values():
        assert decompression.unpacked(pack(b"text"), "a", limits) == b"text"
    with pytest.raises(Refused, match="more than 100 bytes"):
        decompression.unpacked(COMPRESSIONS["xz"](bytes(1000)), "a", limits)
    with pytest.raises(Refused, match="truncated"):
        decompression.unpacked(COMPRESSIONS["zstd"](bytes(1000))[:-3], "a", limits)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_hostile_member_far_behind_all_that_is_wanted_is_refused(tmp_path: Path, compression: str) -> None:
    long = entry("/lib/modules/1/b.ko", random.Random(1).randbytes(9 << 20))  # more than is decoded ahead at a time
    files = [CONFIG, long]
    path = write(tmp_path / "a.rpm", files, payload=[*files, entry("", b"x", name="../x")], compression=compression)
    with pytest.raises(Refused, match="leaves the tree"):
        read(path, CONFIG.path)


def test_decoding_ahead_gives_the_same_bytes_in_another_thread_and_stops() -> None:
    data = random.Random(1).randbytes(40 << 20)
    source = io.BytesIO(gzip.compress(data, 1))
    pulled: list[int] = []

    def pull() -> bytes:
        pulled.append(threading.get_ident())
        return source.read(1 << 16)

    stream = decompression.Stream(pull, "a", decompression.soon(1 << 30))
    with stream.ahead():
        assert stream.exactly(6 << 20) == data[: 6 << 20]
    assert threading.get_ident() not in pulled
    assert source.tell() < len(data)  # what is left is not pulled


def test_what_is_damaged_behind_much_that_is_whole_is_refused_when_it_is_reached() -> None:
    data = random.Random(1).randbytes(9 << 20)
    source = io.BytesIO(gzip.compress(data, 1)[:-20])
    stream = decompression.Stream(lambda: source.read(1 << 16), "a", decompression.soon(1 << 30))
    with stream.ahead(), pytest.raises(Refused, match="truncated"):
        stream.end(1 << 30)
