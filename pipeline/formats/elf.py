"""Read ELF-64 files: machine, program interpreter, needed libraries, and the texts of a section.

Reads bytes and runs nothing. Must not know what programs or kernel modules are for. Format: elf(5).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.errors import Refused

X86_64 = 62  # EM_X86_64
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC_ROW = struct.Struct("<qQ")
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29
_TEXT_MOST, _TEXTS_MOST = 4096, 1000  # bytes of a text, and texts: no program of ours needs more libraries
_BROKEN = (struct.error, IndexError, OverflowError, ValueError)  # what is no UTF-8 is a ValueError


@dataclass(frozen=True)
class Program:
    """A program or library. `loader` is empty for a static one; `paths` are DT_RUNPATH's and DT_RPATH's.

    `dynamic`: something is to be done by a loader, or by the program itself, before it can run.
    """

    machine: int
    dynamic: bool
    loader: str
    needed: tuple[str, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def is_elf(data: bytes) -> bool:
    """Return whether `data` begins as a little-endian ELF-64 file."""
    return data[:6] == b"\x7fELF\x02\x01"


def program(data: bytes, name: str) -> Program:
    """Read the headers of a program or library. Raises `Refused` for anything else, and for a truncated file."""
    try:
        machine, segments = _segments(data)
        loader = next((_text_at(_piece(data, s.offset, s.size), 0) for s in segments if s.kind == _PT_INTERP), "")
        table = next((s for s in segments if s.kind == _PT_DYNAMIC), None)
        found = _dynamic(data, segments, table) if table else {}
    except _BROKEN as error:
        raise Refused(f"{name}: not a whole program or library", where=name, why=str(error)) from None
    if not segments:
        raise Refused(f"{name}: not a program or library", where=name, why="no program headers")
    paths = tuple(path for kind in (_DT_RUNPATH, _DT_RPATH) for row in found.get(kind, ()) for path in row.split(":"))
    dynamic = any(segment.kind in (_PT_DYNAMIC, _PT_INTERP) for segment in segments)
    return Program(machine, dynamic, loader, tuple(found.get(_DT_NEEDED, ())), paths)


def section(data: bytes, wanted: str, name: str) -> bytes:
    """Return the content of the section `wanted`, empty without one. Raises `Refused` for anything but ELF."""
    try:
        _check(data)
        *_, start, _, _, _, _, size, count, names = _HEADER.unpack_from(data)
        rows = [_SECTION.unpack_from(data, start + size * number) for number in range(count)]
        titles = _piece(data, rows[names][4], rows[names][5]) if rows else b""
        for row in rows:
            if titles.startswith(wanted.encode() + b"\0", row[0]):
                return _piece(data, row[4], row[5])
    except _BROKEN as error:
        raise Refused(f"{name}: not a whole ELF file", where=name, why=str(error)) from None
    return b""


def _check(data: bytes) -> None:
    if not is_elf(data):
        raise ValueError("not a 64-bit ELF file")


def _piece(data: bytes, offset: int, size: int) -> bytes:
    if offset + size > len(data):
        raise ValueError("truncated")
    return data[offset : offset + size]


def _segments(data: bytes) -> tuple[int, list[_Segment]]:
    _check(data)
    _, _, machine, _, _, start, _, _, _, size, count, *_ = _HEADER.unpack_from(data)
    if count > _TEXTS_MOST:
        raise ValueError(f"{count} program headers")
    rows = [_SEGMENT.unpack_from(data, start + size * number) for number in range(count)]
    return machine, [_Segment(row[0], row[2], row[3], row[5]) for row in rows]


def _text_at(data: bytes, start: int) -> str:
    """Return the text at `start`, up to a limit: overlapping texts may add up to far more than the file."""
    return data[start : data.index(b"\0", start, start + _TEXT_MOST)].decode()


def _dynamic(data: bytes, segments: list[_Segment], table: _Segment) -> Mapping[int, list[str]]:
    """Return the texts of the dynamic section by tag, from offsets into its string table."""
    rows = list(itertools.islice(_rows(_piece(data, table.offset, table.size)), 10 * _TEXTS_MOST))
    address = dict(rows).get(_DT_STRTAB)
    found: dict[int, list[str]] = {}
    for kind, value in rows:
        if address is not None and kind in (_DT_NEEDED, _DT_RPATH, _DT_RUNPATH):
            start = _offset(segments, address) + value
            found.setdefault(kind, []).append(_text_at(data, start))
            if len(found[kind]) > _TEXTS_MOST:
                raise ValueError(f"more than {_TEXTS_MOST} libraries")
    return found


def _rows(table: bytes) -> Iterator[tuple[int, int]]:
    for kind, value in _DYNAMIC_ROW.iter_unpack(table):
        if kind == 0:
            return
        yield kind, value


def _offset(segments: list[_Segment], address: int) -> int:
    """Return the file offset of the byte that is loaded at `address`."""
    for segment in segments:
        if segment.kind == _PT_LOAD and segment.address <= address < segment.address + segment.size:
            return address - segment.address + segment.offset
    raise ValueError("the string table is in no segment")
