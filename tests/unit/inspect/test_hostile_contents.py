"""Files out of packages, and logs, that were made to take all time or memory: refused or read in little of either."""

from __future__ import annotations

import gzip
import re
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import Refused
from pipeline.formats import elf
from pipeline.inspect import kernel_files
from pipeline.packaging import log_errors
from pipeline.recipes import lvs_tools

MIB = 1 << 20


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """A process that gets 400 MiB more at most."""
    size = int(re.findall(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) << 10
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + 400 * MIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def bomb() -> Iterator[bytes]:
    """A gzip file of a gigabyte, piece by piece."""
    packer = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)
    yield from (packer.compress(bytes(MIB)) for _ in range(1024))
    yield packer.flush()


def program(headers: list[tuple[int, int, int, int]], body: bytes) -> bytes:
    """An ELF file with program headers kind, offset, address and size; the body begins at 4096."""
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, 0, 64, 0, 0, 64, 56, len(headers), 0, 0, 0)
    table = b"".join(
        struct.pack("<IIQQQQQQ", kind, 4, at, address, 0, size, size, 1) for kind, at, address, size in headers
    )
    return (head + table).ljust(4096, b"\0") + body


def test_a_list_of_symbols_that_unpacks_to_gigabytes_is_refused() -> None:
    with pytest.raises(Refused, match="more than 8388608 bytes"):
        kernel_files.parse_symvers(b"".join(bomb()), "symvers")


@pytest.mark.parametrize(
    "data", [b"\x1f\x8b\x08\0broken", gzip.compress(b"x" * 5000, mtime=0)[:-20], b"\x1f\x8b", b"\xff", b"x"]
)
def test_a_list_of_symbols_that_is_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, match="symvers"):
        kernel_files.parse_symvers(data, "symvers")


def test_a_program_that_needs_the_same_long_text_a_million_times_is_refused() -> None:
    rows = struct.pack("<qQ", 5, 0) + struct.pack("<qQ", 1, 0) * 500_000
    body = rows + b"x" * (20 * MIB) + b"\0"
    with pytest.raises(Refused, match="not a whole program"):
        elf.program(program([(1, 4096, 0, len(body)), (2, 4096, 0, len(rows))], body), "x")


def test_a_loader_without_end_is_refused() -> None:
    with pytest.raises(Refused, match="not a whole program"):
        elf.program(program([(3, 4096, 0, 30 * MIB)], b"x" * (30 * MIB)), "x")


@pytest.mark.parametrize("at", [1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_tables_that_begin_beyond_what_any_file_has_are_refused(at: int) -> None:
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, 0, at, at, 0, 64, 56, 1, 64, 1, 0)
    with pytest.raises(Refused, match="not a whole program"):
        elf.program(head, "x")
    with pytest.raises(Refused, match="not a whole ELF file"):
        elf.section(head, ".modinfo", "x")


def test_sections_whose_titles_are_all_long_are_looked_through() -> None:
    count, titles = 60_000, b"x" * (20 * MIB) + b"\0"
    start = 4096 + len(titles)
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 1, 62, 1, 0, 0, start, 0, 64, 0, 0, 64, count, 0)
    row = struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, 4096, len(titles), 0, 0, 1, 0)
    assert elf.section(head.ljust(4096, b"\0") + titles + row * count, ".modinfo", "x") == b""


def test_one_line_without_end_takes_no_memory_and_line_numbers_stay_those_of_a_pager(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out:
        out.write(b"begun\n")
        for _ in range(500):
            out.write(b"x" * MIB)
        out.write(b"\nform\x0cfeed\x85\ncc: error: it went wrong\nlast\n")
    number, lines = log_errors.first_error(log)
    assert (number, lines) == (4, ["cc: error: it went wrong", "last"])
    assert log_errors.tail(log, 1) == (5, ["last"])
    assert max(map(len, log_errors.lines(log))) <= log_errors.MAX_LINE


@pytest.mark.parametrize(
    "line",
    [
        *("assertion " * 400, "fork" * 1000, "a b :" + " " * 4000 + "x", "asked for " * 400),
        *("make: *** [" * 400, "\x1b]" * 2000, " " * 4096, " at no line" * 400),
    ],
)
def test_lines_that_a_pattern_could_try_at_each_word_cost_no_more_than_others(line: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("Keepalived configuration\n------------------------\n" + f"{line}\n" * 2000)
    assert log_errors.first_error(log)[0] == 2000 + 2 - 20 + 1
    lvs_tools.explain_summary(log, (), "")
