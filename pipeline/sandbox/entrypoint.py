"""Compile the first program of all jobs: drops capabilities, installs the seccomp filter, and tests the filter.

Under bubblewrap it also hides the host's paths. /proc/PID/mountinfo names for every mount the directory
of the host that it shows. The kernel leaves out mounts that cannot be reached from the process's root
(fs/proc_namespace.c, SEQ_SKIP), and it looks for them in the process's own namespace of mounts. So the
program takes a new namespace, a copy, and then goes back to the root that it had: all of the copy is out
of reach, and nothing is told. The first namespace would end, and its mounts vanish, with its last process:
a descriptor of it, which the sandbox's first process holds, keeps it.

For this it has three capabilities in the sandbox's user namespace. It reads nothing that a job could
have written, and has none when it becomes the next program. It needs nothing of the image.

There it stays as the first process, which the kernel ends when bubblewrap does, and with which all others end. A job
could write into the memory of a shell in its place, and so outlive us: this one the kernel lets no job look into.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

from pipeline.sandbox import seccomp
from pipeline.sandbox.syscalls import RESULT, Call, StructWithPointer, static_program

CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SETPCAP")
SUPERVISOR, MOUNT_NAMESPACE = (
    3,
    4,
)  # descriptors of the next program: what tells it of our death, and the namespace to keep
FIRST_FREE = 10  # descriptors given to us are at least this: below it are those of the next program
_ROOT, _WORKING_DIRECTORY = 5, 6
_TIOCSCTTY = 0x540E  # asm-generic/ioctls.h
_AT_FDCWD = -100
_CLOEXEC, _PATH, _F_SETFD = 0o2000000, 0o10000000, 2  # asm-generic/fcntl.h
# linux/prctl.h and linux/seccomp.h
_GET_SECCOMP, _SET_SECCOMP, _FILTER, _CAPBSET_DROP, _GET_NO_NEW_PRIVS, _AMBIENT, _CLEAR_ALL = 21, 22, 2, 24, 39, 47, 4
_SET_DUMPABLE = 4
_MAX_CAPABILITIES = 64  # capabilities that the interface has room for
_CAPSET_HEADER = struct.pack("<II", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3 and this process


def for_bubblewrap(itself: int, supervisor: int, *, terminal: bool) -> bytes:
    """Compile the program, started from descriptor `itself`, which passes `supervisor` on as `SUPERVISOR`.

    With `terminal` its standard input becomes the terminal of its session, which it must lead.
    """
    calls = [*_descriptors(itself, supervisor), *_hidden_mounts(), *_without_capabilities(), *_seccomp_filter()]
    return static_program(
        [*(_controlling_terminal() if terminal else ()), *calls, *_undumpable()], execute=True, fork=True
    )


def for_engine() -> bytes:
    """Compile the program for a container; all but the filter, and a filter of its own, are the engine's part."""
    why = "it has no filter of system calls that is the engine's own"
    return static_program(
        [Call("prctl", (_GET_SECCOMP,), positive=True, failure=why), *_seccomp_filter()], execute=True
    )


def _undumpable() -> Iterator[Call]:
    """Deny other processes of the same user access to this one, until it executes another program."""
    yield Call("prctl", (_SET_DUMPABLE, 0))


def _controlling_terminal() -> Iterator[Call]:
    yield Call("ioctl", (0, _TIOCSCTTY, 0))


def _descriptors(itself: int, supervisor: int) -> Iterator[Call]:
    yield Call("close", (itself,))
    yield Call("dup2", (supervisor, SUPERVISOR))
    yield Call("close", (supervisor,))


def _hidden_mounts() -> Iterator[Call]:
    for name, flags, number in (
        (b"/proc/self/ns/mnt", 0, MOUNT_NAMESPACE),
        (b"/", _PATH, _ROOT),
        (b".", _PATH, _WORKING_DIRECTORY),
    ):
        yield Call("openat", (_AT_FDCWD, name, flags | _CLOEXEC))
        yield Call("dup2", (RESULT, number))
    yield Call("fcntl", (MOUNT_NAMESPACE, _F_SETFD, 0))  # it may have come as this number, and would be closed
    why = "it may not take a namespace of mounts, and so cannot hide the host's paths"
    yield Call("unshare", (seccomp.CLONE_NEWNS,), failure=why)  # takes root and working directory along into the copy
    yield Call("fchdir", (_ROOT,))
    yield Call("chroot", (b".",))
    yield Call("fchdir", (_WORKING_DIRECTORY,))
    yield Call("close", (_ROOT,))
    yield Call("close", (_WORKING_DIRECTORY,))


def _without_capabilities() -> Iterator[Call]:
    for number in range(_MAX_CAPABILITIES):
        yield Call("prctl", (_CAPBSET_DROP, number), any_result=True)  # the kernel may know fewer; the probe looks
    yield Call("prctl", (_AMBIENT, _CLEAR_ALL, 0, 0, 0))
    yield Call("capset", (_CAPSET_HEADER, bytes(24)))


def _seccomp_filter() -> Iterator[Call]:
    """Install the filter, in addition to existing ones, and try forbidden calls to prove that the filter holds."""
    yield Call("prctl", (_GET_NO_NEW_PRIVS, 0, 0, 0, 0), positive=True, failure="it has a way to new privileges")
    rows = seccomp.compile_filter()
    yield Call("prctl", (_SET_SECCOMP, _FILTER, StructWithPointer(struct.pack("<H6x", len(rows) // 8), rows)))
    tries = (
        ("it can type into terminals", Call("ioctl", (-1, seccomp.TIOCSTI), errno.EPERM)),
        ("it can type into terminals", Call("ioctl", (-1, seccomp.TIOCSTI | 1 << 63), errno.EPERM)),
        ("it can make user namespaces", Call("unshare", (seccomp.CLONE_NEWUSER,), errno.EPERM)),
        ("it can make user namespaces", Call("clone3", (0, 0), errno.ENOSYS)),
        ("it can use keys", Call("keyctl", (), errno.EPERM)),
        ("it can mount", Call("mount", (0, 0, 0, 0, 0), errno.EPERM)),
        ("it can load programs into the kernel", Call("bpf", (), errno.EPERM)),
        ("it can make system calls of x32", Call("getpid", (), errno.ENOSYS, x32=True)),
        # Looks at the mount before it looks at permissions; succeeds at worst in setting a time.
        ("it has a root that can be written to", Call("utimensat", (_AT_FDCWD, b"/", 0, 0), errno.EROFS)),
    )
    for why, call in tries:
        yield Call(call.name, call.arguments, call.expected_errno, x32=call.x32, failure=why)
