"""Define the patterns of errors on a guest's console, with their meanings and where to look.

Each pattern is held against the beginning of a line, after the kernel's time stamp: so toa's own
`[DEBUG]` lines, and words in the middle of a line, match nothing. The texts are the kernel's, of
2.6.32 and of 6.1: kernel/panic.c, kernel/hung_task.c, kernel/watchdog.c, kernel/rcu/tree_stall.h,
mm/oom_kill.c, arch/x86/kernel/{dumpstack,traps,nmi}.c, arch/x86/mm/fault.c, init/main.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The kinds of findings."""

    PANIC = "panic"
    OOPS = "oops"
    BUG = "bug"
    WARNING = "warning"
    SOFT_LOCKUP = "soft lockup"
    HARD_LOCKUP = "hard lockup"
    HUNG_TASK = "hung task"
    MEMORY = "out of memory"
    STALL = "rcu stall"
    TOO_OLD = "kernel too old"
    NO_INIT = "no init"
    MODULE = "module refused"
    CHANNEL = "no channel"
    FAULT = "program fault"


# Not a reason to end a scenario at once: a check asks for them.
NONFATAL = frozenset({Kind.WARNING})


@dataclass(frozen=True)
class Pattern:
    """One row. `end` begins, or ends, the last line of its trace; None where it is a single line."""

    kind: Kind
    begin: re.Pattern[str]
    end: re.Pattern[str] | None
    meaning: str
    look: str


# <level>, the time stamp, and the caller (CONFIG_PRINTK_CALLER): all of them optional.
TIMESTAMP = re.compile(r"(?:<\d+>)?(?:\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?)?")
_FAULT_END = re.compile(r"---\[ end (?:trace|Kernel panic)")
TASK_END = re.compile(r" *</TASK>$")  # of a mere list of functions; 2.6.32 ends it by nothing
_PANIC_END = re.compile(r"---\[ end Kernel panic|Rebooting in \d+ seconds")


def _row(kind: Kind, begin: str, end: re.Pattern[str] | None, meaning: str, look: str) -> Pattern:
    return Pattern(kind, re.compile(begin), end, meaning, look)


_LOCKUP_ADVICE = "which function the trace names, and what it waits for; under emulation on a busy host also the load"
TABLE = (
    _row(
        Kind.NO_INIT,
        r"Kernel panic - not syncing: (?:No (?:working )?init found|VFS: Unable to mount root fs|"
        r"Requested init \S+ failed)|Failed to execute /init",
        _PANIC_END,
        "the kernel found no program to start as process 1",
        "whether the initramfs was unpacked ('Unpacking initramfs', 'Initramfs unpacking failed'), is compressed in a "
        "way this kernel knows, fits into the guest's memory, and has an executable static /init",
    ),
    _row(
        Kind.NO_INIT,
        r"Kernel panic - not syncing: Attempted to kill init!",
        _PANIC_END,
        "process 1 ended or was killed, which the kernel does not survive",
        "the lines before it: a fault of /init, 'kernel too old', or a killed process when memory ran out",
    ),
    _row(
        Kind.MEMORY,
        r"Kernel panic - not syncing: (?:System is deadlocked on memory|Out of memory)",
        _PANIC_END,
        "no memory was left, and nothing that could be killed for it",
        "the guest's memory in the line file: a director's table of 2^22 entries alone takes 64 MiB",
    ),
    _row(
        Kind.PANIC,
        r"Kernel panic - not syncing",
        _PANIC_END,
        "the kernel gave up",
        "the first function of the trace that belongs to a module or to a patched file",
    ),
    _row(
        Kind.SOFT_LOCKUP,
        r"(?:watchdog: )?BUG: soft lockup",
        TASK_END,
        "a processor ran kernel code for so long that nothing else could run on it",
        _LOCKUP_ADVICE,
    ),
    _row(
        Kind.HARD_LOCKUP,
        r"(?:NMI watchdog: |watchdog: )?(?:Watchdog detected hard LOCKUP|BUG: NMI Watchdog detected LOCKUP)|"
        r"(?:Uhhuh\. )?NMI received for unknown reason",
        TASK_END,
        "a processor answered no interrupts: its watchdog, or we by an NMI, asked what it was doing",
        _LOCKUP_ADVICE,
    ),
    _row(
        Kind.STALL,
        r"(?:rcu: )?INFO: (?:rcu_\w+|RCU) (?:self-)?detected ",
        TASK_END,
        "a processor did not pass through the scheduler for many seconds",
        _LOCKUP_ADVICE,
    ),
    _row(
        Kind.HUNG_TASK,
        r"INFO: task \S+ blocked for more than \d+ seconds",
        TASK_END,
        "a process waited in the kernel without end",
        "the last functions of its trace: the lock or the event that never came",
    ),
    _row(
        Kind.OOPS,
        r"BUG: unable to handle|BUG: kernel NULL pointer|Unable to handle kernel|Oops: |"
        r"(?:general protection fault|divide error|invalid opcode|stack segment|double fault|int3)(?:, |: [0-9a-f]{4})|"
        r"PANIC: double fault|kernel tried to execute",
        _FAULT_END,
        "kernel code touched what it may not: the machine may go on, but nothing it says counts any more",
        "the function that RIP names, and the patch that touches its file",
    ),
    _row(
        Kind.BUG,
        r"kernel BUG at |BUG: ",
        _FAULT_END,
        "the kernel found itself in a state that must not be",
        "the file and line it names, and the patch that touches that file",
    ),
    _row(
        Kind.MEMORY,
        r"\S+ invoked oom-killer|(?:Memory cgroup out|Out) of memory: Kill",
        re.compile(r"(?:(?:Memory cgroup out|Out) of memory: )?Killed process"),
        "memory ran out, and the kernel killed a process",
        "the guest's memory in the line file, and which process grew",
    ),
    _row(
        Kind.WARNING,
        r"WARNING: (?:at|CPU:) |WARNING: possible circular locking",
        _FAULT_END,
        "the kernel met what it did not expect, and went on",
        "the file and line it names, and the patch that touches that file",
    ),
    _row(
        Kind.TOO_OLD,
        r"FATAL: kernel too old",
        None,
        "a program was built for a newer kernel: its C library refuses this one",
        "that the guest's programs are static and of musl: no dynamic glibc of today starts on 2.6.32",
    ),
    _row(
        Kind.MODULE,
        r"fnat: module \S+ refused: ",
        None,
        "the kernel refused a module of the guest's list",
        "the kernel's own line before it: an unknown symbol, another kernel's version magic, a missing dependency; "
        "'No such file' means the guest's image lacks it",
    ),
    _row(
        Kind.CHANNEL,
        r"fnat: (?:no channel|channel broken): ",
        None,
        "the guest has no way to talk to the host",
        "that its kernel has the driver for virtio-serial or for the second serial port, built in or in the list",
    ),
    _row(
        Kind.FAULT,
        r"\S+\[\d+\]: segfault at |(?:traps: )?\S+\[\d+\] (?:general protection|trap )",
        None,
        "a program of the guest was killed by a fault of its own",
        "which program it was, and that it was built for this machine and kernel",
    ),
)


def match(line: str) -> Pattern | None:
    """Return the first row whose pattern begins the line."""
    text = line[stamp.end() :] if (stamp := TIMESTAMP.match(line)) else line
    return next((row for row in TABLE if row.begin.match(text)), None)
