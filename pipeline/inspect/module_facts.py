"""Read what a kernel module states and does: its kernel, FULLNAT, TOA and its option, the connection table's size.

Everything is read from its content; its file's name only says what to look for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from pipeline.formats import elf
from pipeline.formats.elf_object import Object
from pipeline.inspect import toa_code
from pipeline.inspect.toa_code import OptionReading

_ELF = b"\x7fELF"
NETLINK_FAMILY = b"IPVS_FULLNAT\0"  # of the project's own modules, and of the tools that speak with them
_FULLNAT = re.compile(rb"fullnat\w{0,64}", re.IGNORECASE)
_WORD_BEFORE = re.compile(rb"[\w.]*\Z")
# Names of functions and of statistics that the original's toa.c has, and all that came of it.
_TOA = re.compile(rb"\0(get_toa_data|syn_recv_sock_toa|getname_toa_ok|inet_getname_toa|toa_stats)[\0.]")
_PARAMETER_SIZE, _NAME_AT, _ARGUMENT_AT = 40, 0, 32  # struct kernel_param: include/linux/moduleparam.h, 2.6.32 and 6.1
_MODULE_NAME = re.compile(r"/([^/]+)\.ko(?:\.(?:gz|xz|zst|bz2|lzma))?$")
_TAB_BITS = "conn_tab_bits"
TAB_BITS_RANGE = range(8, 28)  # net/netfilter/ipvs/Kconfig: 8 to 20, with FULLNAT to 22, and to 27 from 6.3 on


class Interface(StrEnum):
    """The interface by which tools configure FULLNAT in a kernel."""

    NONE = "none"
    SOCKOPT = "sockopt"  # of the original patch: new numbers of setsockopt, and other structures
    NETLINK = "netlink"  # of the project's own modules: a netlink family beside an unchanged IPVS


@dataclass(frozen=True)
class ModuleFacts:
    """The facts of one module. `fullnat` and `toa` are texts that prove them, empty where it has none.

    `foreign`: it is for another machine than x86-64, and neither option nor table size is read out of its code.
    """

    path: str
    kernel: str
    source_version: str
    interface: Interface
    fullnat: str
    toa: str
    option: OptionReading
    tab_bits: int | None
    foreign: bool


def normalized(path: str) -> str:
    """Return the name of the module at a path, as the kernel writes it; empty for other files."""
    match = _MODULE_NAME.search(path)
    return match[1].replace("-", "_") if match else ""


def read(data: bytes, path: str) -> ModuleFacts:
    """Read an uncompressed module. Raises `Refused` for one that is not whole."""
    module = Object(data, path)
    foreign = data.startswith(_ELF) and (not elf.is_elf(data) or module.machine != elf.X86_64)
    info = data if foreign else _modinfo(module)
    name = normalized(path)
    fullnat = _fullnat(data) if name == "ip_vs" else b""
    toa = _TOA.search(data) if name != "ip_vs" else None
    interface = Interface.NONE
    if fullnat:
        interface = Interface.NETLINK if NETLINK_FAMILY in data else Interface.SOCKOPT
    sign = NETLINK_FAMILY[:-1] if interface is Interface.NETLINK else fullnat
    option = OptionReading((), ())
    if foreign:
        pass
    elif interface is Interface.SOCKOPT:
        option = toa_code.written_by_directors(module)
    elif interface is Interface.NETLINK:
        option = toa_code.default_of_sysctl(module)
    elif toa:
        option = toa_code.read_by_servers(module)
    return ModuleFacts(
        path=path,
        kernel=_stated(info, b"vermagic"),
        source_version=_stated(info, b"srcversion"),
        interface=interface,
        fullnat=sign.decode(),
        toa=toa[1].decode() if toa else "",
        option=option,
        tab_bits=_tab_bits(module) if name == "ip_vs" and not foreign else None,
        foreign=foreign,
    )


def _fullnat(data: bytes) -> bytes:
    """Return the first word with FULLNAT in it; empty without one. In a time that grows as the file does."""
    if (match := _FULLNAT.search(data)) is None:
        return b""
    before = _WORD_BEFORE.search(data[max(match.start() - 64, 0) : match.start()])
    return (before[0] if before else b"") + match[0]


def _modinfo(module: Object) -> bytes:
    section = module.named(".modinfo")
    return b"\0" + module.content(section) if section else b""


def _stated(info: bytes, name: bytes) -> str:
    """Return the first word of what a module's .modinfo states."""
    match = re.search(rb"\0" + name + rb"=([^\0 ]*)", info)
    return match[1].decode(errors="backslashreplace") if match else ""


def _tab_bits(module: Object) -> int | None:
    """Return the default of the parameter conn_tab_bits, from the place that the parameter's entry leads to."""
    table = module.named("__param")
    if table is None:
        return None
    for at in range(0, table.size - _PARAMETER_SIZE + 1, _PARAMETER_SIZE):
        name = module.bytes_at(module.target(table.number, at + _NAME_AT), 64).partition(b"\0")[0].decode("latin-1")
        if name.rpartition(".")[2] == _TAB_BITS:
            value = module.bytes_at(module.target(table.number, at + _ARGUMENT_AT), 4)
            bits = int.from_bytes(value, "little")
            return bits if len(value) == 4 and bits in TAB_BITS_RANGE else None
    return None
