"""The header of a package that somebody made to mislead or to fill the memory: refused, and never an error of ours."""

from __future__ import annotations

import resource
import struct
from pathlib import Path

import pytest

from pipeline.core.process import run
from pipeline.errors import Refused
from pipeline.formats import rpm_header
from pipeline.formats.rpm_header import Tag
from pipeline.inspect import package_contents
from pipeline.packaging import rpmbuild
from tests.fixtures.rpms import LEAD, Rows, of_files, raw_header, raw_rpm, rpm


def texts(*values: str) -> tuple[int, int, bytes]:
    return 8, len(values), b"".join(value.encode() + b"\0" for value in values)


def numbers(*values: int) -> tuple[int, int, bytes]:
    return 4, len(values), struct.pack(f">{len(values)}I", *values)


def files(*names: str, directory: str = "/usr/bin/") -> dict[int, tuple[int, int, bytes]]:
    """The entries of a header that lists these files."""
    count = len(names)
    return {
        Tag.BASE_NAMES: texts(*names),
        Tag.DIRECTORY_NAMES: texts(directory),
        Tag.DIRECTORY_INDEXES: numbers(*[0] * count),
        Tag.FILE_FLAGS: numbers(*[0] * count),
        Tag.FILE_MODES: (3, count, struct.pack(f">{count}H", *[0o100755] * count)),
        Tag.FILE_LINK_TARGETS: texts(*[""] * count),
        Tag.FILE_DIGESTS: texts(*["ab"] * count),
        Tag.REQUIRE_NAME: (8, 0, b""), Tag.REQUIRE_VERSION: (8, 0, b""), Tag.REQUIRE_FLAGS: (4, 0, b""),
    }  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "a.rpm"


HOSTILE: dict[str, Rows] = {
    "a newline that forges a row": files("a\n\t/boot/vmlinuz\t\tcafe"),
    "a tab": files("a\tb"),
    "an escape": files("\x1b[2J"),
    "a direction of writing": files("a\u202eb"),
    "a directory with a newline": files("a", directory="/usr\n/"),
    "fewer digests than files": {**files("a", "b"), Tag.FILE_DIGESTS: texts("ab")},
    "a directory that is not there": {**files("a"), Tag.DIRECTORY_INDEXES: numbers(7)},
    "a requirement with a newline": {
        **files("a"), Tag.REQUIRE_NAME: texts("libc.so.6\nb"), Tag.REQUIRE_VERSION: texts(""),
        Tag.REQUIRE_FLAGS: numbers(0),
    },
    "requirements without versions": {**files("a"), Tag.REQUIRE_NAME: texts("b")},
    "a name that is a macro": {Tag.NAME: texts("%{lua:x}")},
    "a name that is an option": {Tag.NAME: texts("-e")},
    "a name that is a pattern": {Tag.NAME: texts("[a-z]*")},
}  # fmt: skip


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_what_could_not_be_shown_or_contradicts_itself_is_refused(kind: str, place: Path) -> None:
    place.write_bytes(raw_rpm(HOSTILE[kind]))
    with pytest.raises(Refused) as refused:
        rpmbuild.read_package(place)
        package_contents.read_metadata(place)
    assert refused.value.what.isprintable() and refused.value.what.isascii()


def test_a_good_header_of_the_same_make_is_read(place: Path) -> None:
    place.write_bytes(raw_rpm(files("a", "b c")))
    assert list(rpmbuild.read_package(place).files.items()) == [("/usr/bin/a", "ab"), ("/usr/bin/b c", "ab")]
    assert package_contents.read_metadata(place).modes == {"/usr/bin/a": 0o755, "/usr/bin/b c": 0o755}


def overlapping() -> bytes:
    """60,000 entries that all are the same 30 MiB of texts: 1.7 TiB of them."""
    data = b"x" * (30 << 20) + b"\0"
    index = b"".join(struct.pack(">IIII", 5000 + tag, 8, 0, 1) for tag in range(60_000))
    return b"\x8e\xad\xe8\x01\0\0\0\0" + struct.pack(">II", 60_000, len(data)) + index + data


def many_texts() -> bytes:
    return raw_header({Tag.BASE_NAMES: (8, 20 << 20, bytes(20 << 20))})


def twice() -> bytes:
    entry = struct.pack(">IIII", Tag.NAME, 6, 0, 1)
    return b"\x8e\xad\xe8\x01\0\0\0\0" + struct.pack(">II", 2, 2) + entry * 2 + b"a\0"


BOMBS = {
    "says 4 GiB": (
        b"\x8e\xad\xe8\x01\0\0\0\0" + struct.pack(">II", 1, 0xFFFFFFFF),
        "a header without its magic number",
    ),
    "overlaps": (overlapping(), "overlap"),
    "20 million texts": (many_texts(), "more than 2000000 values"),
    "has a tag twice": (twice(), "twice"),
}


@pytest.mark.parametrize("kind", list(BOMBS))
def test_a_header_that_would_fill_the_memory_is_refused_in_little_of_it(kind: str, place: Path) -> None:
    header, said = BOMBS[kind]
    place.write_bytes(raw_rpm(header=header))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused, match=said):
        rpm_header.read(place)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10, "KiB"


@pytest.mark.parametrize("data", [b"", b"http://127.0.0.1/a.rpm\n", LEAD[:95], b"\xed\xab\xee\xdb" + bytes(200)])
def test_what_rpm_would_take_for_a_manifest_is_no_package(data: bytes, place: Path) -> None:
    place.write_bytes(data)
    with pytest.raises(Refused, match="not an RPM package"):
        rpm_header.read(place)


def test_our_reader_and_rpm_agree_on_what_a_package_promises(tmp_path: Path) -> None:
    lines = ("Epoch: 2", "Requires: other >= 1:2-3, plain, exact = 5", "Provides: more = 7")
    data = {"/etc/a.conf": b"a", "/usr/bin/b": b"b"}
    for path in (of_files("agreed", "1", "2", data, *lines, config="/etc/a.conf"), rpm("epochless")):
        query = (
            "%{NAME}-%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}.%{ARCH}\n[%{PROVIDENEVRS}\n]--\n[%{REQUIRENEVRS}\n]"
            "--\n[%{FILEFLAGS:fflags} %{FILEMODES:octal} %{FILENAMES} %{FILEDIGESTS}\n]"
        )
        with path.open("rb") as stream:
            words = ["rpm", "--dbpath", str(tmp_path / "db"), "--nosignature", "-qp", "--qf", query, "-"]
            head, requires, rows = run(words, stdin=stream).text.split("--\n")
        package, promised = rpmbuild.read_package(path), package_contents.read_metadata(path)
        assert [package.nevra, *package.provides] == head.splitlines()
        assert promised.requires == tuple(sorted({r for r in requires.splitlines() if not r.startswith("rpmlib(")}))
        split = [row.split(" ") for row in rows.splitlines()]
        assert package.files == {row[2]: row[3] for row in split}
        assert promised.kept == tuple(row[2] for row in split if row[0] == "cn")
        assert promised.modes == {row[2]: int(row[1], 8) & 0o7777 for row in split}
