"""Read relocatable ELF-64 files, as kernel modules and BPF programs are: sections, symbols, and relocations.

Reads bytes and runs nothing; what points outside the file is refused. Must not know what modules are for. Format:
elf(5), and for relocations the System V ABI of x86-64.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pipeline.errors import Refused
from pipeline.formats import elf

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_MACHINE = 18  # its place in the header
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_SYMBOLS, _RELOCATIONS, _NO_CONTENT = 2, 4, 8  # SHT_SYMTAB, SHT_RELA, SHT_NOBITS
_FUNCTION, _SECTION_SYMBOL = 2, 3  # STT_FUNC, STT_SECTION
FILE_SYMBOL = 4  # STT_FILE: the name of a source
_RELATIVE = (2, 4)  # R_X86_64_PC32 and PLT32: the field's own place, 4 bytes before the next instruction, is subtracted
_SECTIONS_MOST, _ROWS_MOST = 20_000, 500_000  # the largest module of Debian's 6.1 has 300 and 60,000
# Bytes of a name, and of all names of a file: they may overlap, and add up to far more than the file has.
_NAME_MOST, _NAMES_MOST = 4096, 32 << 20
_TABLES_MOST = 16  # tables of relocations for one section; compilers write one


@dataclass(frozen=True, slots=True)
class Section:
    """A section by its number."""

    number: int
    name: str
    kind: int
    offset: int
    size: int
    link: int
    info: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol; `section` is the number of the section that it lies in."""

    name: str
    kind: int
    section: int
    value: int
    size: int


@dataclass(frozen=True, slots=True)
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

    @property
    def machine(self) -> int:
        """The machine that the code is for: EM_X86_64 is `elf.X86_64`."""
        return int.from_bytes(self.data[_MACHINE : _MACHINE + 2], "little")

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
            titles = _Names(self._piece(rows[names][4], rows[names][5]) if rows else b"")
            return tuple(
                Section(number, titles.text(row[0]), row[1], row[4], row[5], row[6], row[7])
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
            names = _Names(self.content(self.sections[table.link]))
            rows = _SYMBOL.iter_unpack(self._rows(table, _SYMBOL.size))
            return tuple(Symbol(names.text(row[0]), row[1] & 0xF, row[3], row[4], row[5]) for row in rows)
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

    def functions(self, named: re.Pattern[str]) -> list[Symbol]:
        """Return the functions whose whole names match, in the order of sections and places."""
        rows = (symbol for symbol in self.symbols if symbol.kind == _FUNCTION and named.fullmatch(symbol.name))
        found = [symbol for symbol in rows if 0 < symbol.section < len(self.sections) and symbol.size]
        return sorted(found, key=lambda symbol: (symbol.section, symbol.value))

    def code(self, function: Symbol) -> bytes:
        """Return the code of a function."""
        return self.bytes_at(Target(function.section, function.value, ""), function.size)

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
        if section.kind == _NO_CONTENT:
            return b""
        end = min(section.offset + section.size, len(self.data))
        return self.data[section.offset + target.offset : min(section.offset + target.offset + size, end)]

    def _relocations(self, section: int) -> Mapping[int, Target]:
        found: dict[int, Target] = {}
        tables = [each for each in self.sections if each.kind == _RELOCATIONS and each.info == section]
        try:
            for table in tables[:_TABLES_MOST]:
                for place, info, addend in _RELOCATION.iter_unpack(self._rows(table, _RELOCATION.size)):
                    symbol = self.symbols[info >> 32]
                    relative = 4 if info & 0xFFFFFFFF in _RELATIVE else 0
                    found[place] = Target(symbol.section, symbol.value + addend + relative, symbol.name)
        except (struct.error, IndexError, ValueError) as error:
            raise self._broken(error) from None
        return found

    def _rows(self, section: Section, size: int) -> bytes:
        """Return the whole rows of a table. Raises `ValueError` for more than any module has."""
        count = section.size // size
        if count > _ROWS_MOST:
            raise ValueError(f"a table of {count} rows; expected at most {_ROWS_MOST}")
        return self.content(section)[: count * size]

    def _piece(self, offset: int, size: int) -> bytes:
        if offset + size > len(self.data):
            raise ValueError("truncated")
        return self.data[offset : offset + size]

    def _broken(self, error: Exception) -> Refused:
        return Refused(f"{self.name}: not a whole ELF file", where=self.name, why=str(error))


@dataclass
class _Names:
    """A table of names. Raises `ValueError` for names that are longer, alone or together, than any module has."""

    data: bytes
    left: int = _NAMES_MOST

    def text(self, start: int) -> str:
        """Return the text at `start`."""
        end = self.data.find(b"\0", start, start + _NAME_MOST)
        if end < 0:
            raise ValueError("a name that does not end")
        self.left -= end - start
        if self.left < 0:
            raise ValueError(f"names of more than {_NAMES_MOST} bytes")
        return self.data[start:end].decode(errors="backslashreplace")
