"""Compile the seccomp filter of all jobs, a classic BPF program.

What is refused is what no build needs and what has led out of sandboxes: typing into a terminal, new
user namespaces, mounts, keys, other processes' memory, and parts of the kernel that are known for
their faults. seccomp(2) tells what a filter sees, and linux/filter.h how one is written. Knows no runtime.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence

from pipeline.sandbox.syscalls import NUMBERS, X32

# Operations: linux/bpf_common.h.
_LOAD, _IS, _ABOVE, _AT_LEAST, _HAS, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument has 8 bytes, low end first
_X86_64 = 0xC000003E  # AUDIT_ARCH_X86_64: linux/audit.h
_ALLOW, _ERRNO, _KILL = (
    0x7FFF0000,
    0x00050000,
    0x80000000,
)  # SECCOMP_RET_*, the last of a process: linux/seccomp.h
_LAST = NUMBERS["file_setattr"]  # later calls do not exist in here: they were not reviewed

# Typing into a terminal, selecting and pasting on a console, another line discipline: asm-generic/ioctls.h.
TIOCSTI, TIOCLINUX, TIOCSETD = 0x5412, 0x541C, 0x5423
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000  # linux/sched.h
_NAMESPACES = 0x7E020000  # the flags for one of mounts, CGROUP, UTS, IPC, USER, PID and NET
_CLONE_NEWTIME = 0x80  # for unshare; in clone's flags the bit is part of a signal's number
# Linux and its 32-bit face, each also as 2.6, with and without random addresses, and the question; no other system's
# rules, which weaken the protection of memory: linux/personality.h.
_PERSONALITIES = (0, 0x8, 0x20000, 0x20008, 0x40000, 0x40008, 0xFFFFFFFF)
# AF_UNIX, INET, INET6, NETLINK. A namespace of networks does not hold back AF_VSOCK, which reaches the host of a
# virtual machine, and the others have only had faults for a build.
_FAMILIES = (1, 2, 10, 16)

_REFUSED = (
    *("add_key", "request_key", "keyctl"),
    *("setns", "chroot", "mount", "umount2", "pivot_root"),
    *("open_tree", "open_tree_attr", "move_mount", "mount_setattr"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "name_to_handle_at", "open_by_handle_at"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "pidfd_getfd", "kcmp"),
    *("bpf", "perf_event_open", "userfaultfd", "fanotify_init", "lookup_dcookie", "syslog", "vhangup", "modify_ldt"),
    *("init_module", "finit_module", "delete_module", "create_module", "query_module", "get_kernel_syms"),
    *("kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd"),
    *("settimeofday", "clock_settime", "clock_adjtime", "sethostname", "setdomainname", "iopl", "ioperm"),
    *("nfsservctl", "uselib", "_sysctl", "sysfs", "ustat"),
)
# Programs have another way where these are not there. clone3 passes its flags in memory, where no filter sees them.
# The last three make files in memory that no limit of a process and no size of a mount bounds.
_ABSENT = (
    *("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "statmount", "listmount"),
    *("memfd_create", "memfd_secret", "shmget"),
)


def compile_filter() -> bytes:
    """Return the filter, an array of struct sock_filter."""
    rows = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        *_unless(_IS, _X86_64, _KILL),  # as libseccomp does: what a program of 32 bits takes an error for is unknown
        (_LOAD, 0, 0, _NUMBER),
        *_if(_AT_LEAST, X32, _ERRNO | errno.ENOSYS),
        *_if(_ABOVE, _LAST, _ERRNO | errno.ENOSYS),
        # Of an argument only what the kernel takes of it, the low half: high bits change nothing of a command.
        *_argument_rule("ioctl", 1, _any_of((TIOCSTI, TIOCLINUX, TIOCSETD), errno.EPERM)),
        *_argument_rule("clone", 0, _if(_HAS, _NAMESPACES, _ERRNO | errno.EPERM)),
        *_argument_rule("unshare", 0, _if(_HAS, _NAMESPACES | _CLONE_NEWTIME, _ERRNO | errno.EPERM)),
        *_argument_rule("personality", 0, _none_of(_PERSONALITIES, errno.EPERM)),
        *_argument_rule("socket", 0, _none_of(_FAMILIES, errno.EAFNOSUPPORT)),
        *_argument_rule("socketpair", 0, _none_of(_FAMILIES, errno.EAFNOSUPPORT)),
        *(row for name in _REFUSED for row in _if(_IS, NUMBERS[name], _ERRNO | errno.EPERM)),
        *(row for name in _ABSENT for row in _if(_IS, NUMBERS[name], _ERRNO | errno.ENOSYS)),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *row) for row in rows)


_Row = tuple[int, int, int, int]  # operation, rows to jump over when true and when false, operand


def _if(test: int, operand: int, result: int) -> list[_Row]:
    return [(test, 0, 1, operand), (_RETURN, 0, 0, result)]


def _unless(test: int, operand: int, result: int) -> list[_Row]:
    return [(test, 1, 0, operand), (_RETURN, 0, 0, result)]


def _any_of(values: Iterable[int], number: int) -> list[_Row]:
    return [row for value in values for row in _if(_IS, value, _ERRNO | number)]


def _none_of(values: Iterable[int], number: int) -> list[_Row]:
    allowed = [row for value in values for row in _if(_IS, value, _ALLOW)]
    return [*allowed, (_RETURN, 0, 0, _ERRNO | number)]


def _argument_rule(name: str, argument: int, rows: Sequence[_Row]) -> list[_Row]:
    """Return the rows that apply `rows` to the low half of an argument of the call `name`; other values are allowed."""
    rows = [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument), *rows, (_RETURN, 0, 0, _ALLOW)]
    return [(_IS, 0, len(rows), NUMBERS[name]), *rows]
