"""Assemble static programs out of Linux system calls of x86-64.

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
# The parent stays, out of the child's reach: this machine code alone, which exits with the child's status.
_FORK = bytes.fromhex(
    "b839000000 0f05"  # mov eax, 57       fork
    "85c0 74"  # test eax, eax; je behind all this, for the child
)
_WAIT_FOR_CHILD = bytes.fromhex(
    "89c3"  # mov ebx, eax
    "48c7c7ffffffff"  # again: mov rdi, -1
    "488d7424f0"  # lea rsi, [rsp - 16]
    "31d2 4531d2"  # xor edx, edx; xor r10d, r10d
    "b83d000000 0f05"  # mov eax, 61       wait4
    "39d8 75e4"  # cmp eax, ebx; jne again
    "8b7c24f0"  # mov edi, [rsp - 16]
    "89f8 83e07f 7408"  # mov eax, edi; and eax, 127; je exited
    "8db880000000 eb03"  # lea edi, [rax + 128]; jmp end      by a signal, as a shell reports
    "c1ef08"  # exited: shr edi, 8
    "b8e7000000 0f05"  # end: mov eax, 231  exit_group
)


class Result:
    """A placeholder for the result of the previous call, as the first argument of the next."""


RESULT = Result()


@dataclass(frozen=True)
class StructWithPointer:
    """Bytes of a structure whose last member is the address of `target`."""

    head: bytes
    target: bytes


@dataclass(frozen=True)
class Call:
    """One call; bytes are passed by their address. The program continues when the result is not negative.

    With `expected_errno` only when the call fails with that number of errno(3), with `positive` when the result is
    more than 0, and with `any_result` in any case. Where the program stops it prints `failure`, or the call's name.
    `x32` makes the call by the x32 ABI.
    """

    name: str
    arguments: tuple[int | bytes | Result | StructWithPointer, ...] = ()
    expected_errno: int = 0
    positive: bool = False
    any_result: bool = False
    x32: bool = False
    failure: str = ""


def require_machine(machine: str = platform.machine()) -> None:
    """Raise `HostLacks` on machines other than x86-64, whose calls have other numbers."""
    if machine != "x86_64":
        why = "the filter of system calls that every job runs behind is written for x86_64 alone"
        raise HostLacks(f"sandbox: wrong machine; expected x86_64, got {machine}", why=why)


def static_program(calls: Sequence[Call], *, execute: bool = False, fork: bool = False) -> bytes:
    """Return an executable that makes `calls` and exits with 0, or with `execute` executes its arguments.

    With `fork` a child does so, and the parent exits with the child's status.
    A program that cannot continue says so on standard error and exits with `FAILED`. Raises as `require_machine`.
    """
    require_machine()
    data = _Data()
    code = b"".join(_checked_call_code(call, data) for call in calls)
    if fork:
        failure = _failure_code("the first program could not be forked", data)
        begun = b"\x79" + bytes([len(failure)]) + failure + _WAIT_FOR_CHILD  # jns behind the failure
        code += _FORK + bytes([len(begun)]) + begun
    if execute:
        code += _EXECUTE + _SYSCALL + _failure_code("the first program could not be executed", data)
    else:
        code += _call_code(Call("exit_group", (0,)), data)
    return executable(data.content + code, entry=len(data.content))


class _Data:
    """The data that a program refers to, stored before its code."""

    def __init__(self) -> None:
        self.content = b""

    def operand(self, argument: int | bytes | StructWithPointer) -> int:
        """Return the register operand of an argument: a number, or the address of zero-terminated bytes."""
        if isinstance(argument, StructWithPointer):
            argument = argument.head + struct.pack("<Q", self.operand(argument.target))
        if isinstance(argument, int):
            return argument & (1 << 64) - 1
        self.content += argument + b"\0"
        return CONTENT + len(self.content) - len(argument) - 1


def _checked_call_code(call: Call, data: _Data) -> bytes:
    if call.any_result:
        return _call_code(call, data)
    failure = _failure_code(call.failure or f"the system call {call.name} failed", data)
    if call.expected_errno:
        check = (
            b"\x48\x3d" + struct.pack("<i", -call.expected_errno) + b"\x74"
        )  # cmp rax, -number; je behind the failure
    else:
        check = b"\x48\x85\xc0" + (b"\x7f" if call.positive else b"\x79")  # test rax, rax; jg or jns behind it
    return _call_code(call, data) + check + bytes([len(failure)]) + failure


def _call_code(call: Call, data: _Data) -> bytes:
    """Return the machine code of one call."""
    code = b""
    for move, argument in zip(_MOVES, call.arguments, strict=False):
        code += _MOVE_RESULT if isinstance(argument, Result) else move + struct.pack("<Q", data.operand(argument))
    number = NUMBERS[call.name] | (X32 if call.x32 else 0)
    return code + b"\xb8" + struct.pack("<I", number) + _SYSCALL  # mov eax, number


def _failure_code(why: str, data: _Data) -> bytes:
    message = f"{why}\n".encode()
    return _call_code(Call("write", (2, message, len(message))), data) + _call_code(Call("exit_group", (FAILED,)), data)
