"""Read which interface a director's tool speaks, and what lvs-toa reads, from the programs' content."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.inspect import bpf_toa
from pipeline.inspect.module_facts import NETLINK_FAMILY, Interface

# By the tool: a text without which it is none, and texts of the original's own additions.
_TEXTS = {
    "ipvsadm": (b"add-service\0", (b"get-laddr\0", b"FullNat")),
    "keepalived": (b"virtual_server\0", (b"laddr_group_name\0",)),
}
_STATED = re.compile(r"TCP option (\d{1,3})")


@dataclass(frozen=True)
class ToolFacts:
    """A director's tool, and the interface of FULLNAT that it speaks."""

    path: str
    name: str
    interface: Interface


@dataclass(frozen=True)
class ReaderFacts:
    """The program lvs-toa, and the option that its BPF programs are made for; None when it does not say so."""

    path: str
    option: int | None


def read_tool(data: bytes, path: str) -> ToolFacts | None:
    """Read a program called ipvsadm or keepalived; None for what is neither by its content."""
    name = path.rpartition("/")[2]
    sign, additions = _TEXTS[name]
    if not data.startswith(b"\x7fELF") or sign not in data:
        return None
    interface = Interface.SOCKOPT if all(text in data for text in additions) else Interface.NONE
    return ToolFacts(path, name, Interface.NETLINK if NETLINK_FAMILY in data else interface)


def read_reader(data: bytes, path: str) -> ReaderFacts | None:
    """Read a program called lvs-toa; None for one without BPF programs. Raises `Refused` for a damaged one."""
    stated = [match for found in bpf_toa.bpf_objects(data) if (match := _stated(found, path))]
    if not stated:
        return ReaderFacts(path, None) if bpf_toa.bpf_objects(data) else None
    return ReaderFacts(path, int(stated[0]) if len(set(stated)) == 1 else None)


def configured(text: str) -> list[str]:
    """Return all words of the settings `option` in the text of lvs-toa.conf; specs/lvs-toa/config.c."""
    rows = (row.partition("#")[0].partition("=") for row in text.splitlines())
    return [word for name, _, words in rows if name.strip() == "option" for word in words.split()]


def _stated(data: bytes, path: str) -> str:
    match = _STATED.fullmatch(bpf_toa.stated_option(data, path))
    return match[1] if match else ""
