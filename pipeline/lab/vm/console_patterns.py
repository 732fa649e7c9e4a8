"""Define the patterns of errors on a guest's console, with their meanings and where to look.

A row has forms, not examples: `NAME: hhhh [#n]` is how x86 tells of any fault. A form is held against the places
where a text of the kernel may begin (`console_lines.starts`): so toa's own `[DEBUG]` lines, and words in the middle of
a line, match nothing, except for a few that nothing else says (`UNMISTAKABLE`). The texts are the kernel's, of 2.6.32
to 6.12: kernel/{panic,hung_task,watchdog,module}.c, kernel/rcu/tree_stall.h, kernel/locking/lockdep.c,
mm/{oom_kill,page_alloc,slub,slab}.c, lib/{list_debug,refcount,ubsan}.c, arch/x86/kernel/{dumpstack,traps,nmi}.c,
arch/x86/kernel/cpu/mce, arch/x86/mm/fault.c, init/main.c; and those of kmod, dracut, busybox and initramfs-tools.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from pipeline.lab.vm import console_lines


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
    """One row. `end` begins, or ends, the last line of its trace; None where it is a single line.

    `leads`: the next lines may say what it was, as a panic does after a machine check; theirs is the kind.
    `detail`: other traces have it too, and inside one it says nothing new.
    """

    kind: Kind
    begin: re.Pattern[str]
    end: re.Pattern[str] | None
    meaning: str
    look: str
    leads: bool = False
    detail: bool = False


TASK_END = re.compile(r" *</TASK>$")  # of a mere list of functions; 2.6.32 ends it by nothing
_FAULT_END = re.compile(r"---\[ end (?:trace|Kernel panic)")
_PANIC_END = re.compile(r"---\[ end Kernel panic|Rebooting in \d+ seconds")
_KILL_END = re.compile(r"(?:(?:Memory cgroup out|Out) of memory: )?Killed process")
_RULER_END = re.compile(r"={40,}$|---\[ end ")  # of reports between two rulers


def _row(
    kind: Kind,
    *forms: str,
    end: re.Pattern[str] | None,
    meaning: str,
    look: str,
    leads: bool = False,
    detail: bool = False,
) -> Pattern:
    return Pattern(kind, re.compile("|".join(forms)), end, meaning, look, leads, detail)


_TASK = r".{1,64}"  # a task's name: the kernel's own have blanks, colons and slashes
_MODULE = r"(?:module: )?[\w-]{1,64}: "
_TRAP = (  # arch/x86/kernel/traps.c; `debug` and `overflow` are words of others too, and need the number of the fault
    r"(?:general protection fault|divide error|invalid opcode|stack segment|double fault|int3|bounds"
    r"|device not available|coprocessor segment overrun|invalid TSS|segment not present|page fault|fpu exception"
    r"|alignment check|simd exception|iret exception|Bad pagetable)"
)
_LOCKDEP = (  # kernel/locking/lockdep.c, in brackets until 4.10
    r"(?:possible (?:circular|recursive) locking|possible irq lock inversion|inconsistent lock state"
    r"|bad (?:un)?lock balance|possible bad unlock balance|bad contention|suspicious (?:RCU|rcu_)"
    r"|\S{1,16}-safe -> \S{1,16}-unsafe lock order|lock(?:\(s\))? held"
    r"|held lock freed|Nested lock was not taken|.{1,64} (?:still has locks held|lock held)"
    r"|possible reason: unannotated irqs|Invalid wait context|possible deadlock)"
)
_LOCKUP_ADVICE = "which function the trace names, and what it waits for; under emulation on a busy host also the load"
_PATCH_ADVICE = "the file and line it names, and the patch that touches that file"
_MEMORY_ADVICE = "what pipeline/lab/topology.py gives the guest: a director's table of 2^22 entries alone takes 64 MiB"
_INITRAMFS_ADVICE = (
    "whether the initramfs was unpacked ('Unpacking initramfs', 'Initramfs unpacking failed'), is compressed in a way "
    "this kernel knows, fits into the guest's memory, and has an executable static /init"
)
TABLE = (
    _row(
        Kind.NO_INIT,
        r"Kernel panic(?: - not syncing)?: (?:No (?:working )?init found|VFS: Unable to mount root fs)",
        r"Kernel panic(?: - not syncing)?: Requested init \S+ failed",
        r"Failed to execute /(?:init\b|\S{1,200} \(error|\S{1,200}  Attempting)",
        r"Starting init: \S+ exists but couldn't execute it",
        r"VFS: Cannot open root device|No filesystem could mount root",
        end=_PANIC_END,
        meaning="the kernel found no program to start as process 1",
        look=_INITRAMFS_ADVICE,
    ),
    _row(
        Kind.NO_INIT,
        r"(?:ALERT! .{0,200}|.{0,200} does not exist\. +|\*+ )?Dropping (?:you )?to (?:a|an|debug)\b.{0,16}shell",
        r"Gave up waiting for (?:the )?root (?:file system )?device",
        r"No init found\. Try passing init= bootarg",
        r"(?:run-init|switch_root): .{0,200}(?:No such file|can't execute|not found)",
        r"Target filesystem doesn't have requested",
        r"(?:Entering|You are in|Welcome to) (?:the )?emergency mode",
        r"dracut(?:-initqueue)?(?:\[\d+\])?:? Warning: (?:Could not boot|Boot has failed)",
        end=None,
        meaning="the initramfs found no root file system, or nothing to start on it, and waits at a shell",
        look="which device or file it names, and whether the driver for it is built in or in the initramfs",
    ),
    _row(
        Kind.NO_INIT,
        r"Kernel panic(?: - not syncing)?: Attempted to kill init!",
        end=_PANIC_END,
        meaning="process 1 ended or was killed, which the kernel does not survive",
        look="the lines before it: a fault of /init, 'kernel too old', or a killed process when memory ran out",
    ),
    _row(
        Kind.MEMORY,
        r"Kernel panic(?: - not syncing)?: (?:System is deadlocked on memory|[Oo]ut of memory)",
        end=_PANIC_END,
        meaning="no memory was left, and nothing that could be killed for it",
        look=_MEMORY_ADVICE,
    ),
    _row(
        Kind.PANIC,
        r"Kernel panic(?: - not syncing|: )",
        r"PANIC: early exception",
        end=_PANIC_END,
        meaning="the kernel gave up",
        look="the first function of the trace that belongs to a module or to a patched file",
    ),
    _row(
        Kind.SOFT_LOCKUP,
        r"(?:(?:NMI )?watchdog: )?BUG: soft lockup",
        end=TASK_END,
        meaning="a processor ran kernel code for so long that nothing else could run on it",
        look=_LOCKUP_ADVICE,
    ),
    _row(
        Kind.HARD_LOCKUP,
        r"(?:(?:NMI )?watchdog: )?(?:CPU ?\d+:? )?(?:Watchdog |self-)?detected hard LOCKUP",
        r"(?:NMI watchdog: )?BUG: NMI Watchdog detected LOCKUP",
        r"(?:Uhhuh\. )?NMI received for unknown reason",
        end=TASK_END,
        meaning="a processor answered no interrupts: its watchdog, or we by an NMI, asked what it was doing",
        look=_LOCKUP_ADVICE,
    ),
    _row(
        Kind.STALL,
        r"(?:rcu: )?INFO: (?:\w*rcu\w*|RCU) (?:self-)?detected ",
        r"(?:rcu: )?\w*rcu\w* (?:grace-period )?kthread (?:starved|timer wakeup didn't happen) for ",
        r"(?:rcu: )?Unless \w+ kthread gets sufficient CPU time",
        end=TASK_END,
        meaning="a processor did not pass through the scheduler for many seconds",
        look=_LOCKUP_ADVICE,
    ),
    _row(
        Kind.HUNG_TASK,
        rf"INFO: task {_TASK} (?:is )?blocked (?:for more than|in I/O wait|on )",
        end=TASK_END,
        meaning="a process waited in the kernel without end",
        look="the last functions of its trace: the lock or the event that never came",
    ),
    _row(
        Kind.OOPS,
        r"BUG: unable to handle|BUG: kernel NULL pointer|(?:BUG: )?[Uu]nable to handle kernel",
        r"Oops: [0-9a-f]{4}\b|Oops: Kernel access of",
        r"""[^\["'`]{1,120}: [0-9a-f]{2,16} \[#\d+\]""",
        rf"{_TRAP}(?:, |: [0-9a-f]{{4}}\b)",
        r"(?:traps: )?PANIC: double fault",
        r"kernel tried to execute|kernel stack overflow",
        rf"{_TASK}: Corrupted page table at address",
        r"(?:KASAN: (?:null-ptr-deref|maybe wild|probably user)|kasan: GPF could be)",
        end=_FAULT_END,
        meaning="kernel code touched what it may not: the machine may go on, but nothing it says counts any more",
        look="the function that RIP names, and the patch that touches its file",
    ),
    _row(
        Kind.OOPS,
        r"(?:Code: *)?Bad [ER]IP value",
        end=None,
        meaning="kernel code jumped to where no code is",
        look="who called it: a function pointer that was never set, or of a module that is gone",
        detail=True,
    ),
    _row(
        Kind.BUG,
        r"BUG: K(?:ASAN|CSAN|FENCE|MSAN): ",
        rf"BUG {_TASK} \((?:Not tainted|Tainted: ).{{0,40}}\): ",
        end=_RULER_END,
        meaning="memory of the kernel was used after it was freed, beyond its end, or by two at once",
        look="the functions that allocated, freed and used it, and the patch that touches their files",
    ),
    _row(
        Kind.BUG,
        r"[Ss]lab corruption\b|slab error in \w+\(\): ",
        end=TASK_END,
        meaning="memory of the kernel was used after it was freed, or beyond its end",
        look="the functions it names as last users, and the patch that touches their files",
    ),
    _row(
        Kind.BUG,
        r"[Kk]ernel BUG at |BUG: |Bad page state in process|Bad page state at ",
        end=_FAULT_END,
        meaning="the kernel found itself in a state that must not be",
        look=_PATCH_ADVICE,
    ),
    _row(
        Kind.MEMORY,
        rf"{_TASK} invoked oom-killer: ?|oom-kill:constraint=",
        r"(?:Memory cgroup out|Out) of memory(?: \(\w+\))?: (?:Kill|system-wide|compulsory)",
        r"Task in \S+ killed as a result of limit of |Killed process \d+",
        end=_KILL_END,
        meaning="memory ran out, and the kernel killed a process",
        look="which process grew, and the memory that pipeline/lab/topology.py gives the guest",
    ),
    _row(
        Kind.MEMORY,
        rf"{_TASK}: page allocation (?:failure|stalls)",
        rf"(?:{_TASK}: )?vmalloc(?:: allocation failure| error: size)|vmap allocation for size \d+ failed",
        r"SL[AUO]B: Unable to allocate memory",
        r"Out of memory and no killable|TCP: out of memory -- ",
        r"Initramfs unpacking failed: (?:write error|no memory)",
        end=TASK_END,
        meaning="the kernel asked for memory and got none, or none in one piece",
        look=_MEMORY_ADVICE,
    ),
    _row(
        Kind.WARNING,
        r"WARNING: (?:at |CPU: ?\d|\S{1,200}:\d+ at )",
        end=_FAULT_END,
        meaning="the kernel met what it did not expect, and went on",
        look=_PATCH_ADVICE,
    ),
    _row(
        Kind.WARNING,
        rf"(?:WARNING: |INFO: |\[ (?:INFO|BUG): ){_LOCKDEP}",
        r"INFO: trying to register non-static key",
        end=TASK_END,
        meaning="locks are taken in an order, or in a context, that can end in a deadlock",
        look="the locks it names, and where each of them was taken",
    ),
    _row(
        Kind.WARNING,
        r"UBSAN: .{1,80} in \S",
        end=_RULER_END,
        meaning="the kernel calculated what C does not define, such as beyond an array's end",
        look=_PATCH_ADVICE,
    ),
    _row(
        Kind.WARNING,
        r"refcount_t: |list_(?:add|del) (?:corruption|double add|attempted)",
        r"(?:\S{1,64} ){0,3}NETDEV WATCHDOG: ",
        end=TASK_END,
        meaning="a counter of references, a list, or a network card's queue is not as it must be",
        look="who changed it last: the functions of the trace, and the patch that touches their files",
        leads=True,
    ),
    _row(
        Kind.WARNING,
        r"(?:mce: )?(?:\[Hardware Error\]|HARDWARE ERROR)(?::|\. ?|$)",
        r"(?:MCE: )?CPU ?#?\d+: Machine [Cc]heck(?: Exception)?: ",
        end=None,
        meaning="the processor, or QEMU for it, told of an error of the hardware",
        look="the host's own log: an emulated machine has no hardware that could fail",
        leads=True,
    ),
    _row(
        Kind.WARNING,
        r"\S{1,32}: hw csum failure",
        r"unregister_netdevice: waiting for \S+ to become free",
        end=TASK_END,
        meaning="a packet's checksum, or the count of a network device's users, is not what it should be",
        look="what changes packets without their checksum, or keeps a device: the hooks of the patch",
    ),
    _row(
        Kind.WARNING,
        r"kmemleak: [1-9]\d* new suspected memory leaks|unreferenced object 0x[0-9a-f]+ ",
        end=None,
        meaning="memory of the kernel is in use, and nothing points to it",
        look="/sys/kernel/debug/kmemleak: which function allocated it",
    ),
    _row(
        Kind.TOO_OLD,
        r"(?:\S{1,64}: )?FATAL: kernel too old",
        end=None,
        meaning="a program was built for a newer kernel: its C library refuses this one",
        look="that the guest's programs are static and of musl: no dynamic glibc of today starts on 2.6.32",
    ),
    _row(
        Kind.MODULE,
        r"fnat: module \S+ refused: ",
        rf"{_MODULE}version magic '.{{0,200}}' should be '",
        rf"{_MODULE}(?:Unknown symbol |disagrees about version of symbol |exports duplicate symbol )",
        rf"{_MODULE}(?:Unknown parameter |[Uu]nknown reloc|gave up waiting for init of module)",
        rf"(?:{_MODULE})?Loading of (?:unsigned )?module .{{0,64}}rejected",
        r"(?:BPF: )?failed to validate module \[",
        r"(?:modprobe|insmod): (?:ERROR|FATAL|WARNING|[Ee]rror|can't (?:load|insert)|could not|module )",
        r"(?:FATAL|WARNING|[Ee]rror|ERROR): (?:Error inserting|Module \S+ not found|[Cc]ould not (?:insert|load) )",
        end=None,
        meaning="the kernel refused a module of the guest's list",
        look="the kernel's own line: an unknown symbol, another kernel's version magic, a missing dependency; "
        "'No such file' means the guest's image lacks it",
    ),
    _row(
        Kind.CHANNEL,
        r"fnat: (?:no channel|channel broken): ",
        end=None,
        meaning="the guest has no way to talk to the host",
        look="that its kernel has the driver for virtio-serial or for the second serial port, built in or in the list",
    ),
    _row(
        Kind.FAULT,
        rf"{_TASK}\[\d+\]: segfault at ",
        rf"(?:traps: )?{_TASK}\[\d+\]:? (?:general protection|trap )",
        end=None,
        meaning="a program of the guest was killed by a fault of its own",
        look="which program it was, and that it was built for this machine and kernel",
    ),
)
# Texts that nothing but the kernel says, with their numbers, wherever they stand; not after a quotation mark.
UNMISTAKABLE = re.compile(
    r"""(?<!["'`])(?:BUG: unable to handle (?:kernel )?[\w ]{1,32}(?: at|:|for address) ?(?:\(null\)|[0-9a-f]{8})"""
    r"|BUG: kernel NULL pointer dereference, address: [0-9a-f]{8}|[Kk]ernel BUG at \S{1,200}:\d+! *$"
    r"|BUG: soft lockup - CPU#\d+ stuck for \d|BUG: scheduling while atomic: .{1,32}/\d+/0x"
    r"|BUG: sleeping function called from invalid context at \S{1,200}:\d"
    r"|INFO: task .{1,64}:\d+ blocked for more than \d"
    rf"|WARNING: (?:CPU: \d+ PID: \d+ )?at \S{{1,200}}:\d+ \S+\+0x|(?:Oops|{_TRAP}): [0-9a-f]{{4}} \[#\d)"
)


def match(text: str) -> tuple[Pattern, str] | None:
    """Return the row for a plain line, with the line from where its text begins."""
    places = [*console_lines.starts(text)]
    if found := UNMISTAKABLE.search(text):
        places.append(found.start())
    for at in places:
        for row in TABLE:
            if row.begin.match(text, at):
                return row, text[at:]
    return None
