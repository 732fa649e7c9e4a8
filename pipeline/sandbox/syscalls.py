"""Linux system calls of x86-64 by number, and static programs that make a few of them in a row.

Such a program needs no compiler, and nothing of the image that it runs in: neither a library nor a
shell. Must not know what the calls are for.
"""

from __future__ import annotations

import platform
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import HostLacks
from pipeline.formats.static_program import CONTENT, executable

# Names and numbers: arch/x86/entry/syscalls/syscall_64.tbl of Linux 6.18, as far as it is needed here.
_TABLE = """
write 1  close 3  ioctl 16  shmget 29  dup2 33  getpid 39  socket 41  socketpair 53  clone 56  fcntl 72
fchdir 81  ptrace 101  syslog 103  capset 126
uselib 134  personality 135  ustat 136  sysfs 139  vhangup 153  modify_ldt 154  pivot_root 155  _sysctl 156
prctl 157  chroot 161  acct 163  settimeofday 164  mount 165  umount2 166  swapon 167  swapoff 168  reboot 169
sethostname 170  setdomainname 171  iopl 172  ioperm 173  create_module 174  init_module 175  delete_module 176
get_kernel_syms 177  query_module 178  quotactl 179  nfsservctl 180  lookup_dcookie 212  clock_settime 227
exit_group 231  kexec_load 246  add_key 248  request_key 249  keyctl 250  openat 257  unshare 272  utimensat 280
perf_event_open 298  fanotify_init 300  name_to_handle_at 303  open_by_handle_at 304  clock_adjtime 305  setns 308
process_vm_readv 310  process_vm_writev 311  kcmp 312  finit_module 313  memfd_create 319  kexec_file_load 320  bpf 321
userfaultfd 323  io_uring_setup 425  io_uring_enter 426  io_uring_register 427  open_tree 428  move_mount 429
fsopen 430  fsconfig 431  fsmount 432  fspick 433  clone3 435  pidfd_getfd 438  process_madvise 440
mount_setattr 442  quotactl_fd 443  memfd_secret 447  process_mrelease 448  statmount 457  listmount 458
open_tree_attr 467  file_setattr 469
"""
NUMBERS: Mapping[str, int] = {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", _TABLE)}
X32 = 0x40000000  # __X32_SYSCALL_BIT, asm/unistd.h: the same calls as programs with short pointers make them
FAILED = 125  # exit status of a program that could not go on, as of env(1) and its like

# The registers of a call's arguments: the machine code of `mov REGISTER, imm64` for rdi, rsi, rdx, r10, r8, r9.
_MOVES = tuple(map(bytes.fromhex, ("48bf", "48be", "48ba", "49ba", "49b8", "49b9")))
_MOVE_RESULT = bytes.fromhex("4889c7")  # mov rdi, rax
_SYSCALL = bytes.fromhex("0f05")
_EXECUTE = bytes.fromhex(  # execve(argv[1], argv + 1, environ), as the kernel put them on the stack
    "488b7c2410"  # mov rdi, [rsp + 16]
    "488d742410"  # lea rsi, [rsp + 16]
    "488b0c24"  # mov rcx, [rsp]
    "488d54cc10"  # lea rdx, [rsp + 8 * rcx + 16]
    "b83b000000"  # mov eax, 59        execve
)
# Its parent stays, out of reach of what it has begun: nothing but this machine code, which ends as its child does.
_BEGIN = bytes.fromhex(
    "b839000000 0f05"  # mov eax, 57       fork
    "85c0 74"  # test eax, eax; je behind all this, for the child
)
_STAY = bytes.fromhex(
    "89c3"  # mov ebx, eax
    "48c7c7ffffffff"  # again: mov rdi, -1
    "488d7424f0"  # lea rsi, [rsp - 16]
    "31d2 4531d2"  # xor edx, edx; xor r10d, r10d
    "b83d000000 0f05"  # mov eax, 61       wait4
    "39d8 75e4"  # cmp eax, ebx; jne again
    "8b7c24f0"  # mov edi, [rsp - 16]
    "89f8 83e07f 7408"  # mov eax, edi; and eax, 127; je exited
    "8db880000000 eb03"  # lea edi, [rax + 128]; jmp end      by a signal, as a shell tells it
    "c1ef08"  # exited: shr edi, 8
    "b8e7000000 0f05"  # end: mov eax, 231  exit_group
)


class Result:
    """Stands for the result of the call before, as the first argument of one."""


RESULT = Result()


@dataclass(frozen=True)
class Pointing:
    """Bytes of a structure whose last member is the address of others."""

    head: bytes
    target: bytes


@dataclass(frozen=True)
class Call:
    """One call; bytes are passed by their address. The program goes on when the result is not negative.

    With `refused` only when the call fails with that number of errno(3), with `positive` when the result is
    more than 0, and with `either` in any case. Where it does not go on it says `why`, or the call's name.
    `x32` makes it the call of the other kind.
    """

    name: str
    arguments: tuple[int | bytes | Result | Pointing, ...] = ()
    refused: int = 0
    positive: bool = False
    either: bool = False
    x32: bool = False
    why: str = ""


def require_machine(machine: str = platform.machine()) -> None:
    """Raises `HostLacks` on any machine but x86-64, whose calls have other numbers."""
    if machine != "x86_64":
        why = "the filter of system calls that every job runs behind is written for x86_64 alone"
        raise HostLacks(f"sandbox: wrong machine; expected x86_64, got {machine}", why=why)


def program(calls: Sequence[Call], *, execute: bool = False, stay: bool = False) -> bytes:
    """An executable file that makes `calls` and ends with 0, or with `execute` becomes the program in its arguments.

    With `stay` a child of it does that, and it ends as the child has.
    Where it cannot go on it says so on standard error and ends with `FAILED`. Raises as `require_machine` does.
    """
    require_machine()
    data = _Data()
    code = b"".join(_code(call, data) for call in calls)
    if stay:
        failure = _failure("the first program could not be begun", data)
        begun = b"\x79" + bytes([len(failure)]) + failure + _STAY  # jns behind the failure
        code += _BEGIN + bytes([len(begun)]) + begun
    if execute:
        code += _EXECUTE + _SYSCALL + _failure("the first program could not be executed", data)
    else:
        code += _made(Call("exit_group", (0,)), data)
    return executable(data.content + code, entry=len(data.content))


class _Data:
    """Bytes that a program refers to, before its code."""

    def __init__(self) -> None:
        self.content = b""

    def value(self, argument: int | bytes | Pointing) -> int:
        """What stands for the argument in a register: a number, or where bytes are, with a zero byte behind them."""
        if isinstance(argument, Pointing):
            argument = argument.head + struct.pack("<Q", self.value(argument.target))
        if isinstance(argument, int):
            return argument & (1 << 64) - 1
        self.content += argument + b"\0"
        return CONTENT + len(self.content) - len(argument) - 1


def _code(call: Call, data: _Data) -> bytes:
    if call.either:
        return _made(call, data)
    failure = _failure(call.why or f"the system call {call.name} failed", data)
    if call.refused:
        check = b"\x48\x3d" + struct.pack("<i", -call.refused) + b"\x74"  # cmp rax, -number; je behind the failure
    else:
        check = b"\x48\x85\xc0" + (b"\x7f" if call.positive else b"\x79")  # test rax, rax; jg or jns behind it
    return _made(call, data) + check + bytes([len(failure)]) + failure


def _made(call: Call, data: _Data) -> bytes:
    """The machine code of one call."""
    code = b""
    for move, argument in zip(_MOVES, call.arguments, strict=False):
        code += _MOVE_RESULT if isinstance(argument, Result) else move + struct.pack("<Q", data.value(argument))
    number = NUMBERS[call.name] | (X32 if call.x32 else 0)
    return code + b"\xb8" + struct.pack("<I", number) + _SYSCALL  # mov eax, number


def _failure(why: str, data: _Data) -> bytes:
    message = f"{why}\n".encode()
    return _made(Call("write", (2, message, len(message))), data) + _made(Call("exit_group", (FAILED,)), data)
