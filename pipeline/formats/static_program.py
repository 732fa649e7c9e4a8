"""Generate a static x86-64 program that prints one message, then powers the machine off.

Serves as /init of a probe's guest, so that neither a compiler nor a binary in the project is
needed. As anything but process 1 it only writes: started by mistake on a host, it powers nothing off.
"""

from __future__ import annotations

import struct

_BASE = 0x400000  # where the one segment is loaded: the usual address of static programs
_HEADERS = 64 + 56  # ELF header and one program header; the code follows
CONTENT = _BASE + _HEADERS  # where in memory what follows the headers is

# System call numbers: arch/x86/entry/syscalls/syscall_64.tbl; reboot's words: reboot(2).
_CODE = (
    "bf 01 00 00 00"  # mov  edi, 1            standard output: the console
    "48 8d 35 {message}"  # lea  rsi, [rip + message]
    "ba {length}"  # mov  edx, length
    "b8 01 00 00 00"  # mov  eax, 1            write
    "0f 05"  # syscall
    "bf 01 00 00 00"  # mov  edi, 1
    "be 09 54 00 00"  # mov  esi, 0x5409      TCSBRK with 1: wait until all is sent, as tcdrain(3)
    "ba 01 00 00 00"  # mov  edx, 1
    "b8 10 00 00 00"  # mov  eax, 16           ioctl
    "0f 05"  # syscall
    "b8 27 00 00 00"  # mov  eax, 39           getpid
    "0f 05"  # syscall
    "ff c8"  # dec  eax
    "75 16"  # jnz  pause                      not process 1: power nothing off
    "bf ad de e1 fe"  # mov  edi, 0xfee1dead   LINUX_REBOOT_MAGIC1
    "be 69 19 12 28"  # mov  esi, 672274793    LINUX_REBOOT_MAGIC2
    "ba dc fe 21 43"  # mov  edx, 0x4321fedc   LINUX_REBOOT_CMD_POWER_OFF
    "b8 a9 00 00 00"  # mov  eax, 169          reboot
    "0f 05"  # syscall
    "b8 22 00 00 00"  # pause: mov eax, 34     pause
    "0f 05"  # syscall
    "eb f7"  # jmp  pause
)
_AFTER_LEA = 12  # offset of the instruction after `lea`: rip counts from there


def elf(message: bytes) -> bytes:
    """Return an executable file that writes `message`."""
    length = struct.pack("<I", len(message)).hex()
    size = len(bytes.fromhex(_CODE.format(message="00000000", length=length)))
    code = bytes.fromhex(_CODE.format(message=struct.pack("<I", size - _AFTER_LEA).hex(), length=length)) + message
    return executable(code)


def executable(content: bytes, entry: int = 0) -> bytes:
    """Return a static program with `content` read-only at `CONTENT`, and its entry point `entry` bytes into it."""
    whole = _HEADERS + len(content)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)  # 64 bit, little-endian, version 1
    # type EXEC, machine x86-64, version, entry, program headers' offset, no sections, flags, sizes and counts
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, CONTENT + entry, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    # LOAD, readable and executable, the whole file at _BASE, aligned to a page
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, whole, whole, 0x1000)
    return identity + header + segment + content
