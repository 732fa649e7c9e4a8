"""Read the number of TCP option TOA out of machine code: a strict reading of a few instructions.

In the kernels of the original patches the number is nowhere but in instructions. A server's module compares the kind
of each option with it and the length with 8; a director's stores it with the 8 behind it. Either pair, in a function
that is known for it, is the number; where functions contradict each other, or none has such a pair, it is unknown.
Nothing is executed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.formats.elf_object import Object, Symbol

if TYPE_CHECKING:
    from capstone import Cs

LENGTH = 8  # bytes of the option: kind, length, port, IPv4 address
_READERS = re.compile(r"(?:get_toa_data|\w+_toa)(?:\.\w+)*")  # of the original's toa.c and of those made after it
_WRITERS = re.compile(r"(?:tcp_opt_add_toa|tcp_fnat_in_handler)(?:\.\w+)*")  # of the original's ip_vs_proto_tcp.c
_KINDS = range(3, 256)  # what is no padding; the 8 of a timestamp is the length here, and never a kind of ours
_APART = 4  # instructions from one comparison of a pair to the other: a jump between, and a load
# Bytes of one function or of a whole small module's code, and of all functions of a module: the original's have 4 KiB,
# and a decoded instruction takes 5 KiB of memory.
_CODE_MOST, _ALL_CODE_MOST = 24 << 10, 256 << 10
# struct ctl_table and the project's own addition to it: include/linux/sysctl.h of 6.1, and the series
# of directors that have modules of their own.
_TABLE, _SYSCTL, _FILLS = "vs_vars", b"fullnat_toa_option\0", re.compile("ip_vs_control_net_init")
_TABLE_MOST = 64 << 10  # bytes
_SYSCTL_SIZE, _SYSCTL_DATA = 64, 8
_JUMP, _CALL = 1, 2  # capstone's groups, CS_GRP_*
# System V ABI of x86-64, 3.2.1; named as `_whole` does.
_NOT_KEPT = ("a", "c", "d", "si", "di", "r8", "r9", "r10", "r11")
_CONSTANTS = re.compile(r"\.rodata(?:\.|$)")


@dataclass(frozen=True)
class OptionReading:
    """Numbers read out of code, in order, with the functions that have them; empty when nothing was found."""

    numbers: tuple[int, ...]
    functions: tuple[str, ...]


def read_by_servers(module: Object) -> OptionReading:
    """Return the number that a module for servers compares the kind of options with.

    In a module without names of functions all of its code is read, since it has no other purpose.
    """
    found: dict[int, list[str]] = {}
    known = [(symbol.name, code) for symbol, code in _functions(module, _READERS)]
    if not module.functions(_READERS):
        text = module.named(".text")
        known = [("the whole code", module.content(text))] if text and text.size <= _CODE_MOST else []
    for name, code in known:
        for number in _compared(code):
            found.setdefault(number, []).append(name)
    return _reading(found)


def written_by_directors(module: Object) -> OptionReading:
    """Return the number that a director's ip_vs stores into packets."""
    found: dict[int, list[str]] = {}
    for symbol, code in _functions(module, _WRITERS):
        for number in _stored(module, symbol.section, symbol.value, code):
            found.setdefault(number, []).append(symbol.name)
    return _reading(found)


def default_of_sysctl(module: Object) -> OptionReading:
    """Return the number that the project's own ip_vs sets fullnat_toa_option to when it is loaded.

    The table of settings says which entry that is, the function that fills the table which field the entry points at,
    and the same function stores the number there.
    """
    entry = _sysctl_entry(module)
    found: dict[int, list[str]] = {}
    for symbol, code in _functions(module, _FILLS) if entry is not None else ():
        for number in _stored_where(code, _SYSCTL_SIZE * (entry or 0) + _SYSCTL_DATA):
            found.setdefault(number, []).append(symbol.name)
    return _reading(found)


def _functions(module: Object, named: re.Pattern[str]) -> list[tuple[Symbol, bytes]]:
    """Return the functions with their code; none where one, or all of them, have more code than can be read."""
    found = module.functions(named)
    if any(symbol.size > _CODE_MOST for symbol in found) or sum(symbol.size for symbol in found) > _ALL_CODE_MOST:
        return []
    return [(symbol, module.code(symbol)) for symbol in found]


def _sysctl_entry(module: Object) -> int | None:
    """Return the place of fullnat_toa_option in the table of settings."""
    table = next((symbol for symbol in module.symbols if symbol.name == _TABLE), None)
    if table is None or table.size > _TABLE_MOST:
        return None
    for entry in range(table.size // _SYSCTL_SIZE):
        name = module.target(table.section, table.value + _SYSCTL_SIZE * entry)
        if module.bytes_at(name, len(_SYSCTL)) == _SYSCTL:
            return entry
    return None


def _stored_where(code: bytes, displacement: int) -> set[int]:
    """Return the numbers stored in the field whose address is stored at `displacement` of a table."""
    from capstone.x86 import X86_OP_MEM

    state = _Constants()
    versions: Counter[str] = Counter()  # how often a register has been written: a field is one of the same base
    addresses: dict[str, tuple[str, int, int]] = {}  # of fields: base register, its version, displacement
    fields: set[tuple[str, int, int]] = set()
    stored: dict[tuple[str, int, int], set[int]] = {}  # bytes
    for instruction in state.follow(code):
        if place := _store(instruction):
            base, at, register, _ = place
            if at == displacement and register in addresses:
                fields.add(addresses[register])
            for offset, byte in enumerate(state.stored_bytes(instruction) or b""):
                stored.setdefault((base, versions[base], at + offset), set()).add(byte)
        changed = _changed(instruction)
        addresses = {name: addresses[name] for name in addresses.keys() - changed}
        operands = instruction.operands
        if instruction.mnemonic == "lea" and operands[1].type == X86_OP_MEM and not operands[1].mem.index:
            base = _whole(instruction.reg_name(operands[1].mem.base) or "")
            address = base, versions[base], operands[1].mem.disp
            addresses[_whole(instruction.reg_name(operands[0].reg))] = address
        versions.update(changed)
    numbers = (_number(stored, *place) for place in fields)
    return _kinds(number for number in numbers if number is not None)


def _number(stored: dict[tuple[str, int, int], set[int]], base: str, version: int, at: int) -> int | None:
    """Return the 32 bits of a field; None where a byte of it was not stored, or was stored twice and differs."""
    found = [stored.get((base, version, at + number), set()) for number in range(4)]
    if any(len(choices) != 1 for choices in found):
        return None
    return int.from_bytes(bytes(byte for choices in found for byte in choices), "little")


def _reading(found: dict[int, list[str]]) -> OptionReading:
    names = dict.fromkeys(name for functions in found.values() for name in functions)
    return OptionReading(tuple(sorted(found)), tuple(names))


def _decoder() -> Cs:
    import capstone

    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    return decoder


def _instructions(code: bytes) -> Iterator[Any]:
    """Yield the instructions of a function, up to the first bytes that are none."""
    yield from _decoder().disasm(code, 0)


def _compared(code: bytes) -> set[int]:
    """Return the kinds that are compared beside a comparison with the length, or where that leads when it is equal."""
    found: set[int] = set()
    last: tuple[int, int] | None = None  # number of the instruction, and its value
    instructions = list(_instructions(code))
    places = {instruction.address: number for number, instruction in enumerate(instructions)}
    for number, instruction in enumerate(instructions):
        if (compared := _compared_with(instruction)) is None:
            continue
        size, value = compared
        if size == 2 and value >> 8 == LENGTH:  # both at once, as neighbours in memory
            found |= _kinds([value & 0xFF])
        elif last and number - last[0] <= _APART and LENGTH in (value, last[1]):
            found |= _kinds([value, last[1]])
        there = _next_compared(instructions, places.get(_target_of_je(instructions, number + 1), len(instructions)))
        if there is not None and LENGTH in (value, there):
            found |= _kinds([value, there])
        last = number, value
    return found


def _compared_with(instruction: Any) -> tuple[int, int] | None:
    """Return size and value of the number that an instruction compares something with; else None."""
    from capstone.x86 import X86_OP_IMM

    if instruction.mnemonic != "cmp" or instruction.operands[1].type != X86_OP_IMM:
        return None
    size = instruction.operands[0].size
    return size, instruction.operands[1].imm & ((1 << 8 * size) - 1)


def _target_of_je(instructions: Sequence[Any], number: int) -> int | None:
    """Return where an instruction jumps to when the comparison before it was equal; None for any other one."""
    from capstone.x86 import X86_OP_IMM

    if number >= len(instructions) or instructions[number].mnemonic != "je":
        return None
    operand = instructions[number].operands[0]
    return int(operand.imm) if operand.type == X86_OP_IMM else None


def _next_compared(instructions: Sequence[Any], start: int) -> int | None:
    """Return the first number that is compared within `_APART` instructions; None where a path ends before."""
    for instruction in instructions[start : start + _APART]:
        if found := _compared_with(instruction):
            return found[1]
        if instruction.group(_JUMP) or instruction.group(_CALL):
            return None
    return None


def _kinds(values: Iterable[int]) -> set[int]:
    return {value for value in values if value in _KINDS and value != LENGTH}


def _stored(module: Object, section: int, start: int, code: bytes) -> set[int]:
    """Return the kinds that are stored with the length behind them."""
    found: set[int] = set()
    state = _Constants(module, section, start)
    for instruction in state.follow(code):
        place, content = _store(instruction), state.stored_bytes(instruction)
        if place is None or content is None or len(content) > 2:
            continue
        base, at, _, _ = place
        state.written |= {(base, at + number): byte for number, byte in enumerate(content)}
        for first in (at - 1, at):
            if state.written.get((base, first + 1)) == LENGTH and (base, first) in state.written:
                found |= _kinds([state.written[base, first]])
    return found


def _store(instruction: Any) -> tuple[str, int, str, int] | None:
    """Return base register, displacement, stored register and size of an instruction that stores; else None."""
    from capstone.x86 import X86_OP_MEM, X86_OP_REG

    if instruction.mnemonic not in ("mov", "movabs") or instruction.operands[0].type != X86_OP_MEM:
        return None
    to, what = instruction.operands
    if to.mem.index or not to.mem.base:
        return None
    register = _whole(instruction.reg_name(what.reg)) if what.type == X86_OP_REG else ""
    return _whole(instruction.reg_name(to.mem.base)), to.mem.disp, register, to.size


def _changed(instruction: Any) -> set[str]:
    """Return the registers that an instruction writes; a call writes all that a function need not keep."""
    if instruction.group(_CALL):
        return set(_NOT_KEPT)
    return {_whole(instruction.reg_name(number)) for number in instruction.regs_access()[1]}


def _jump_targets(instructions: Iterable[Any]) -> set[int]:
    """Return the addresses where paths of a function meet; behind a jump that is always taken, all before is over."""
    from capstone.x86 import X86_OP_IMM

    found = set()
    for instruction in instructions:
        if instruction.group(_JUMP):
            found |= {operand.imm for operand in instruction.operands if operand.type == X86_OP_IMM}
        if instruction.mnemonic in ("jmp", "ret"):
            found.add(instruction.address + instruction.size)
    return found


@dataclass
class _Constants:
    """Constants in registers, from where they are loaded to the next place where paths meet, call or other write.

    `module`, `section` and `start` say where the code lies, for constants that are loaded from read-only data.
    `written` is the caller's: bytes by base register and displacement, forgotten in the same places.
    """

    module: Object | None = None
    section: int = 0
    start: int = 0
    registers: dict[str, int] = field(default_factory=dict)
    written: dict[tuple[str, int], int] = field(default_factory=dict)

    def follow(self, code: bytes) -> Iterator[Any]:
        """Yield each instruction before its effect is known."""
        instructions = list(_instructions(code))
        joins = _jump_targets(instructions)
        for instruction in instructions:
            if instruction.address in joins:
                self.registers.clear()
                self.written.clear()
            yield instruction
            self._apply(instruction)

    def stored_bytes(self, instruction: Any) -> bytes | None:
        """Return the bytes of an instruction that stores a constant; else None."""
        place = _store(instruction)
        if place is None:
            return None
        _, _, register, size = place
        value = self.registers.get(register) if register else instruction.operands[1].imm
        return None if value is None else (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")

    def _apply(self, instruction: Any) -> None:
        from capstone.x86 import X86_OP_IMM, X86_OP_REG

        for name in _changed(instruction):
            self.registers.pop(name, None)
            self.written = {key: value for key, value in self.written.items() if key[0] != name}
        operands = instruction.operands
        if not operands or operands[0].type != X86_OP_REG or instruction.mnemonic not in ("mov", "movzx", "movabs"):
            return
        register = _whole(instruction.reg_name(operands[0].reg))
        if operands[1].type == X86_OP_IMM and operands[0].size >= 4:
            self.registers[register] = operands[1].imm
        elif (value := self._loaded(instruction)) is not None:
            self.registers[register] = value

    def _loaded(self, instruction: Any) -> int | None:
        """Return the constant that an instruction loads from read-only data."""
        from capstone.x86 import X86_OP_MEM, X86_REG_RIP

        operand = instruction.operands[1]
        if (
            operand.type != X86_OP_MEM
            or operand.mem.base != X86_REG_RIP
            or not instruction.disp_offset
            or not self.module
        ):
            return None
        target = self.module.target(self.section, self.start + instruction.address + instruction.disp_offset)
        if target is None or not 0 < target.section < len(self.module.sections):
            return None
        if not _CONSTANTS.match(self.module.sections[target.section].name):
            return None
        data = self.module.bytes_at(target, operand.size)
        return int.from_bytes(data, "little") if len(data) == operand.size else None


_WIDTHS = re.compile(r"(?:[re])?([abcd])[xhl]|(?:[re])?(si|di|bp|sp)l?|(r\d+)[dwb]?")


def _whole(register: str) -> str:
    """Return one name for a register and its parts."""
    match = _WIDTHS.fullmatch(register)
    return next((part for part in match.groups() if part), register) if match else register
