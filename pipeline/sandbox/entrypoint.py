"""The first program of every job: gives up what it was given, sets the filter of system calls, and tries it.

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
from pipeline.sandbox.syscalls import RESULT, Call, Pointing, program

CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SETPCAP")
SUPERVISOR, KEPT = 3, 4  # descriptors of the next program: what tells it of our death, and the namespace to keep
FREE = 10  # descriptors given to us are at least this: below it are those of the next program
_ROOT, _HERE = 5, 6
_TIOCSCTTY = 0x540E  # asm-generic/ioctls.h
_AT_FDCWD = -100
_CLOEXEC, _PATH, _F_SETFD = 0o2000000, 0o10000000, 2  # asm-generic/fcntl.h
# linux/prctl.h and linux/seccomp.h
_GET_SECCOMP, _SET_SECCOMP, _FILTER, _CAPBSET_DROP, _GET_NO_NEW_PRIVS, _AMBIENT, _CLEAR_ALL = 21, 22, 2, 24, 39, 47, 4
_SET_DUMPABLE = 4
_MOST = 64  # capabilities that the interface has room for
_CAPSET_HEADER = struct.pack("<II", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3 and this process


def for_bubblewrap(itself: int, supervisor: int, *, terminal: bool) -> bytes:
    """The program, which is started from the descriptor `itself` and passes `supervisor` on as `SUPERVISOR`.

    With `terminal` its standard input becomes the terminal of its session, which it must lead.
    """
    calls = [*_descriptors(itself, supervisor), *_out_of_reach(), *_without_capabilities(), *_filtered()]
    return program([*(_led() if terminal else ()), *calls, *_closed()], execute=True, stay=True)


def for_engine() -> bytes:
    """The program for a container, whose engine has done all but the filter, and must have set one of its own."""
    why = "it has no filter of system calls that is the engine's own"
    return program([Call("prctl", (_GET_SECCOMP,), positive=True, why=why), *_filtered()], execute=True)


def _closed() -> Iterator[Call]:
    """Keeps other processes of the same user from this one: until it becomes another program, which one of it does."""
    yield Call("prctl", (_SET_DUMPABLE, 0))


def _led() -> Iterator[Call]:
    yield Call("ioctl", (0, _TIOCSCTTY, 0))


def _descriptors(itself: int, supervisor: int) -> Iterator[Call]:
    yield Call("close", (itself,))
    yield Call("dup2", (supervisor, SUPERVISOR))
    yield Call("close", (supervisor,))


def _out_of_reach() -> Iterator[Call]:
    for name, flags, number in ((b"/proc/self/ns/mnt", 0, KEPT), (b"/", _PATH, _ROOT), (b".", _PATH, _HERE)):
        yield Call("openat", (_AT_FDCWD, name, flags | _CLOEXEC))
        yield Call("dup2", (RESULT, number))
    yield Call("fcntl", (KEPT, _F_SETFD, 0))  # it may have come as this number, and would be closed
    why = "it may not take a namespace of mounts, and so cannot hide the host's paths"
    yield Call("unshare", (seccomp.CLONE_NEWNS,), why=why)  # takes root and working directory along into the copy
    yield Call("fchdir", (_ROOT,))
    yield Call("chroot", (b".",))
    yield Call("fchdir", (_HERE,))
    yield Call("close", (_ROOT,))
    yield Call("close", (_HERE,))


def _without_capabilities() -> Iterator[Call]:
    for number in range(_MOST):
        yield Call("prctl", (_CAPBSET_DROP, number), either=True)  # the kernel may know fewer; the probe looks
    yield Call("prctl", (_AMBIENT, _CLEAR_ALL, 0, 0, 0))
    yield Call("capset", (_CAPSET_HEADER, bytes(24)))


def _filtered() -> Iterator[Call]:
    """Sets the filter, beside any that is there already, and has the kernel show that it holds."""
    yield Call("prctl", (_GET_NO_NEW_PRIVS, 0, 0, 0, 0), positive=True, why="it has a way to new privileges")
    rows = seccomp.compiled()
    yield Call("prctl", (_SET_SECCOMP, _FILTER, Pointing(struct.pack("<H6x", len(rows) // 8), rows)))
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
        yield Call(call.name, call.arguments, call.refused, x32=call.x32, why=why)
