"""Read relocatable ELF-64 files, as kernel modules and BPF programs are: sections, symbols, and relocations.

Reads bytes and runs nothing; what points outside the file is refused. Must not know what modules are for. Format:
elf(5), and for relocations the System V ABI of x86-64.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pipeline.errors import Refused
from pipeline.formats import elf

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_SYMBOLS, _RELOCATIONS, _NO_CONTENT = 2, 4, 8  # SHT_SYMTAB, SHT_RELA, SHT_NOBITS
_FUNCTION, _SECTION_SYMBOL = 2, 3  # STT_FUNC, STT_SECTION
FILE_SYMBOL = 4  # STT_FILE: the name of a source
_RELATIVE = (2, 4)  # R_X86_64_PC32 and PLT32: the field's own place, 4 bytes before the next instruction, is subtracted
_SECTIONS_MOST, _ROWS_MOST = 20_000, 1_000_000  # the largest module of Debian's 6.1 has 300 and 60,000
_NAME_MOST = 4096  # bytes


@dataclass(frozen=True)
class Section:
    """A section by its number."""

    number: int
    name: str
    kind: int
    offset: int
    size: int
    link: int
    info: int


@dataclass(frozen=True)
class Symbol:
    """A symbol; `section` is the number of the section that it lies in."""

    name: str
    kind: int
    section: int
    value: int
    size: int


@dataclass(frozen=True)
class Target:
    """Where a relocation leads: a place in a section, or the symbol of another object."""

    section: int
    offset: int
    symbol: str


@dataclass(frozen=True)
class Object:
    """A relocatable file. Its methods raise `Refused` for one that is not whole."""

    data: bytes
    name: str
    _targets: dict[int, Mapping[int, Target]] = field(init=False, default_factory=dict)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All sections in order."""
        try:
            if not elf.is_elf(self.data):
                raise ValueError("not a 64-bit ELF file")
            *_, start, _, _, _, _, size, count, names = _HEADER.unpack_from(self.data)
            if count > _SECTIONS_MOST:
                raise ValueError(f"{count} sections")
            rows = [_SECTION.unpack_from(self.data, start + size * number) for number in range(count)]
            titles = self._piece(rows[names][4], rows[names][5]) if rows else b""
            return tuple(
                Section(number, _text(titles, row[0]), row[1], row[4], row[5], row[6], row[7])
                for number, row in enumerate(rows)
            )
        except (struct.error, IndexError, ValueError, OverflowError) as error:
            raise self._broken(error) from None

    @cached_property
    def symbols(self) -> tuple[Symbol, ...]:
        """All symbols in order; none in a stripped file."""
        try:
            table = next((section for section in self.sections if section.kind == _SYMBOLS), None)
            if table is None:
                return ()
            names = self.content(self.sections[table.link])
            rows = itertools.islice(_SYMBOL.iter_unpack(self._whole_rows(table, _SYMBOL.size)), _ROWS_MOST)
            return tuple(Symbol(_text(names, row[0]), row[1] & 0xF, row[3], row[4], row[5]) for row in rows)
        except (struct.error, IndexError, ValueError) as error:
            raise self._broken(error) from None

    def content(self, section: Section) -> bytes:
        """Return a section's bytes; none for one that has only a size."""
        try:
            return b"" if section.kind == _NO_CONTENT else self._piece(section.offset, section.size)
        except ValueError as error:
            raise self._broken(error) from None

    def named(self, name: str) -> Section | None:
        """Return the first section of a name."""
        return next((section for section in self.sections if section.name == name), None)

    def functions(self) -> list[tuple[Symbol, bytes]]:
        """Return the functions with their code, in the order of sections and places."""
        found = []
        for symbol in sorted(self.symbols, key=lambda symbol: (symbol.section, symbol.value)):
            if symbol.kind == _FUNCTION and 0 < symbol.section < len(self.sections) and symbol.size:
                code = self.content(self.sections[symbol.section])
                found.append((symbol, code[symbol.value : symbol.value + symbol.size]))
        return found

    def target(self, section: int, place: int) -> Target | None:
        """Return where the relocation leads that fills the bytes at `place` of a section."""
        if section not in self._targets:
            self._targets[section] = self._relocations(section)
        return self._targets[section].get(place)

    def bytes_at(self, target: Target | None, size: int) -> bytes:
        """Return the `size` bytes that a relocation leads to; fewer, or none, where there are not so many."""
        if target is None or not 0 < target.section < len(self.sections) or target.offset < 0:
            return b""
        section = self.sections[target.section]
        return self.content(section)[target.offset : target.offset + size]

    def _relocations(self, section: int) -> Mapping[int, Target]:
        found = {}
        try:
            for table in self.sections:
                if table.kind == _RELOCATIONS and table.info == section:
                    rows = itertools.islice(
                        _RELOCATION.iter_unpack(self._whole_rows(table, _RELOCATION.size)), _ROWS_MOST
                    )
                    for place, info, addend in rows:
                        symbol = self.symbols[info >> 32]
                        relative = 4 if info & 0xFFFFFFFF in _RELATIVE else 0
                        found[place] = Target(symbol.section, symbol.value + addend + relative, symbol.name)
        except (struct.error, IndexError) as error:
            raise self._broken(error) from None
        return found

    def _whole_rows(self, section: Section, size: int) -> bytes:
        content = self.content(section)
        return content[: len(content) // size * size]

    def _piece(self, offset: int, size: int) -> bytes:
        if offset + size > len(self.data):
            raise ValueError("truncated")
        return self.data[offset : offset + size]

    def _broken(self, error: Exception) -> Refused:
        return Refused(f"{self.name}: not a whole ELF file", where=self.name, why=str(error))


def _text(data: bytes, start: int) -> str:
    """Return the text at `start`; overlapping texts may add up to far more than the file, so each has a limit."""
    end = data.find(b"\0", start, start + _NAME_MOST)
    if end < 0:
        raise ValueError("a name that does not end")
    return data[start:end].decode(errors="backslashreplace")
