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
from pipeline.formats import elf, rpm_header
from pipeline.formats.rpm_header import Tag
from pipeline.inspect import bpf_toa, kernel_files, module_facts
from pipeline.inspect.toa_code import OptionReading
from pipeline.packaging import log_errors
from pipeline.recipes import lvs_tools
from tests.fixtures.rawrpms import write
from tests.fixtures.rpms import Rows

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


def module(code: bytes, names: bytes, symbols: bytes = b"", machine: int = elf.X86_64) -> bytes:
    """A kernel's module: sections .text, .symtab, .strtab and .modinfo; `symbols` are rows of its table."""
    titles = b"\0.text\0.symtab\0.strtab\0.modinfo\0"
    pieces = [code, bytes(24) + symbols, titles + names, b"vermagic=6.1.0 SMP\0"]
    rows, at = [bytes(64)], 64
    for title, kind, link, piece in zip((1, 7, 15, 23), (1, 2, 3, 1), (0, 3, 0, 0), pieces, strict=True):
        rows.append(struct.pack("<IIQQQQIIQQ", title, kind, 0, 0, at, len(piece), link, 0, 1, 0))
        at += len(piece)
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 1, machine, 1, 0, 0, at, 0, 64, 0, 0, 64, 5, 3)
    return head + b"".join(pieces) + b"".join(rows)


FIRST = 32  # the place of the first of the `names`


def function(size: int, section: int = 1) -> bytes:
    return struct.pack("<IBBHQQ", FIRST, 2, 0, section, 0, size)


READER, SERVER = b"get_toa_data\0", "/lib/modules/6.1.0/extra/toa.ko"


def test_a_word_of_megabytes_is_looked_through_once() -> None:
    word = module(b"", b"a" * (8 * MIB) + b"\0")
    assert module_facts.read(word, "/lib/modules/6.1.0/extra/ip_vs.ko").fullnat == ""
    found = module_facts.read(word + b"IP_VS_FullNat_x" + b"a" * MIB, "/lib/modules/6.1.0/extra/ip_vs.ko")
    assert found.fullnat == "IP_VS_FullNat_x" + "a" * 62


@pytest.mark.parametrize(("functions", "size"), [(1, MIB), (2000, 20 << 10), (1500, 30 * MIB), (0, 0)])
def test_more_code_than_any_reader_of_toa_has_is_not_decoded(functions: int, size: int) -> None:
    data = module(b"\x90" * max(size, MIB), READER, function(size) * functions)
    found = module_facts.read(data, SERVER)
    assert (found.toa, found.option) == ("get_toa_data", OptionReading((), ()))


def test_symbols_whose_names_are_all_the_same_long_one_are_refused() -> None:
    data = module(b"", b"n" * 4000 + b"\0", function(1) * 300_000)
    with pytest.raises(Refused, match="not a whole ELF file") as error:
        module_facts.read(data + b"\0get_toa_data\0", SERVER)
    assert error.value.why == "names of more than 33554432 bytes"


def test_more_symbols_than_any_module_has_are_refused() -> None:
    data = module(b"", READER, function(1) * 600_000)
    with pytest.raises(Refused, match="not a whole ELF file") as error:
        module_facts.read(data, SERVER)
    assert error.value.why == "a table of 600001 rows; expected at most 500000"


def test_programs_inside_a_program_are_not_copied_to_its_end_each_time() -> None:
    header = b"\x7fELF\2\1\1" + bytes(11) + struct.pack("<H", 247) + bytes(44)
    found = bpf_toa.bpf_objects(header[:18] + bytes(46) + header * 16 + bytes(60 * MIB))
    assert len(found) == 16 and max(map(len, found)) == 4 * MIB


def test_a_directory_whose_long_name_all_files_share_is_refused(tmp_path: Path) -> None:
    count, name = 20_000, b"/" + b"a" * (400 << 10) + b"/\0"
    rows: Rows = {
        Tag.BASE_NAMES: (8, count, b"f\0" * count),
        Tag.DIRECTORY_NAMES: (8, 1, name),
        Tag.DIRECTORY_INDEXES: (4, count, bytes(4 * count)),
    }
    with pytest.raises(Refused, match="paths of more than 67108864 characters"):
        rpm_header.read(write(tmp_path / "a.rpm", [], changed=rows)).files()


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
