"""Find the BPF programs of lvs-toa inside a program, and read which option they are made for."""

from __future__ import annotations

import re
import struct

from pipeline.formats import elf

OPTION_SECTION = "toa.option"
_EM_BPF = struct.pack("<H", 247)  # of an ELF header, at _MACHINE
_MAGIC, _MACHINE = b"\x7fELF\x02\x01\x01", 18
_OBJECTS_MOST, _OBJECT_MOST = 16, 4 << 20  # bytes; those of lvs-toa have 20 KiB
_SETTING = re.compile(r"^option *= *(.*?) *$", re.MULTILINE)


def bpf_objects(program: bytes) -> list[bytes]:
    """Return the BPF objects inside a program, each from its beginning on, with what comes behind."""
    found: list[bytes] = []
    at = program.find(_MAGIC, 1)
    while at > 0 and len(found) < _OBJECTS_MOST:
        if program[at + _MACHINE : at + _MACHINE + len(_EM_BPF)] == _EM_BPF:
            found.append(program[at : at + _OBJECT_MOST])
        at = program.find(_MAGIC, at + 1)
    return found


def stated_option(data: bytes, name: str) -> str:
    """Return the text that a BPF object states of its option; empty without one. Raises `Refused` for a damaged one."""
    return elf.section(data, OPTION_SECTION, name).rstrip(b"\0").decode(errors="replace")


def configured_options(text: str) -> list[str]:
    """Return the values of the setting `option` in the text of lvs-toa.conf."""
    return [match[1] for match in _SETTING.finditer(text)]
