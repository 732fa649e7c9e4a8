"""The cpio writer: what the real cpio reads back, and what it refuses to write."""

from __future__ import annotations

import itertools
import stat
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.formats import cpio

TREE = (
    cpio.directory("dev", 0o750),
    cpio.device("dev/console", "c", 5, 1),
    cpio.device("dev/vda", "b", 254, 0, 0o640),
    cpio.file("init", b"\x7fELF rest", 0o755),
    cpio.file("empty", b""),
    cpio.directory("lib"),
    cpio.directory("lib/deep"),
    cpio.file("lib/deep/odd name", b"12345"),
    cpio.file("lib-sibling", b"sorts between lib and lib/deep as plain text"),
    cpio.symlink("bin", "lib/deep"),
)


def test_the_real_cpio_lists_what_was_put_in() -> None:
    listing = process.run(["cpio", "-itv", "--numeric-uid-gid"], stdin=cpio.archive(TREE)).text.splitlines()
    kinds = {line.split()[0]: line for line in listing}
    assert len(listing) == len(TREE)
    assert "5,   1" in kinds["crw-------"] and "dev/console" in kinds["crw-------"]
    assert "254,   0" in kinds["brw-r-----"] and "dev/vda" in kinds["brw-r-----"]
    assert kinds["lrwxrwxrwx"].endswith("bin -> lib/deep")
    assert all(line.split()[2:4] == ["0", "0"] for line in listing), "everything belongs to root"


def test_the_real_cpio_unpacks_the_same_contents_and_modes(tmp_path: Path) -> None:
    plain = [entry for entry in TREE if not entry.path.startswith("dev/")]  # nodes want root
    process.run(["cpio", "-i", "--no-preserve-owner"], stdin=cpio.archive(plain), cwd=tmp_path)
    for entry in plain:
        there = tmp_path / entry.path
        assert there.lstat().st_mode == entry.mode, entry.path
        if stat.S_ISREG(entry.mode):
            assert there.read_bytes() == entry.data
    assert (tmp_path / "bin").readlink() == Path("lib/deep")
    assert len(list(tmp_path.rglob("*"))) == len(plain)


def test_any_order_of_entries_gives_the_same_bytes() -> None:
    few = TREE[3:7]
    assert len({cpio.archive(order) for order in itertools.permutations(few)}) == 1


def test_the_archive_is_whole_blocks_and_ends_with_the_trailer() -> None:
    data = cpio.archive(TREE)
    assert len(data) % cpio.BLOCK == 0
    assert data.rstrip(b"\0").endswith(b"TRAILER!!!")


def test_an_empty_archive_is_readable() -> None:
    assert process.run(["cpio", "-it"], stdin=cpio.archive([])).text == ""


@pytest.mark.parametrize("path", ["", "/init", "a//b", "a/", "../etc", "a/../b", ".", "a\0b", "TRAILER!!!"])
def test_a_path_that_is_not_inside_is_refused(path: str) -> None:
    with pytest.raises(cpio.CpioError, match="not a path inside"):
        cpio.archive([cpio.directory("a"), cpio.file(path, b"")])


def test_a_file_whose_directory_is_missing_is_refused() -> None:
    with pytest.raises(cpio.CpioError, match="its directory is not in the archive"):
        cpio.archive([cpio.file("lib/x", b"")])


def test_a_file_below_a_file_is_refused() -> None:
    with pytest.raises(cpio.CpioError, match="its directory is not in the archive"):
        cpio.archive([cpio.file("lib", b""), cpio.file("lib/x", b"")])


def test_one_path_twice_is_refused() -> None:
    with pytest.raises(cpio.CpioError, match="twice"):
        cpio.archive([cpio.directory("lib"), cpio.file("lib", b"")])


@pytest.mark.parametrize("target", ["", "a\0b"])
def test_a_link_that_cannot_be_is_refused(target: str) -> None:
    with pytest.raises(cpio.CpioError, match="not a target"):
        cpio.archive([cpio.symlink("bin", target)])


def test_the_longest_path_and_target_of_the_kernel_fit_and_one_more_byte_does_not() -> None:
    longest = cpio.PATH_LIMIT - 1  # one byte is for NUL
    cpio.archive([cpio.file("x" * longest, b""), cpio.symlink("y", "x" * longest)])
    for entry in (cpio.file("x" * (longest + 1), b""), cpio.symlink("y", "x" * (longest + 1))):
        with pytest.raises(cpio.CpioError, match="takes no path"):
            cpio.archive([entry])


@pytest.mark.parametrize("number", [(4096, 0), (0, 1 << 20), (-1, 0)])
def test_a_device_number_beyond_linux_is_refused(number: tuple[int, int]) -> None:
    with pytest.raises(cpio.CpioError, match="no device number"):
        cpio.archive([cpio.device("null", "c", *number)])


def test_an_archive_above_the_limit_is_refused() -> None:
    small = [cpio.file("x", b"x" * 1000)]
    assert len(cpio.archive(small, limit=2000)) <= 2000
    with pytest.raises(cpio.CpioError, match="larger than 1000 bytes"):
        cpio.archive(small, limit=1000)


def test_a_file_that_no_header_can_hold_is_refused() -> None:
    class Huge(bytes):
        """Says it is 4 GiB without being so."""

        def __len__(self) -> int:
            return 1 << 32

    with pytest.raises(cpio.CpioError, match="4 GiB"):
        cpio.archive([cpio.file("x", Huge(b"x"))], limit=1 << 40)
