"""The console watcher: what it finds in texts as kernels write them, what it leaves alone, how far a boot got."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest

from pipeline.lab.vm import console_watcher as watcher_module
from pipeline.lab.vm.console_lines import MAX_RAW_LINE
from pipeline.lab.vm.console_patterns import Kind
from pipeline.lab.vm.console_watcher import LOOP_LINES, MAX_TRACE_LINES, ConsoleWatcher

AFTER = "br0: port 1 entered forwarding state\n"


@dataclasses.dataclass(frozen=True)
class Case:
    """What the kernel `of` writes. `ends` says whether its last line is known to be the trace's last."""

    kind: Kind
    of: str
    text: str
    ends: bool = True


# One console each: kind, whose kernel writes it, and "open" where nothing tells the trace's last line.
CONSOLES = """
== panic / 6.1
Kernel panic - not syncing: sysrq triggered crash
CPU: 0 PID: 72 Comm: sh
Call Trace:
---[ end Kernel panic - not syncing: sysrq triggered crash ]---
== panic / 6.1
Kernel panic - not syncing: Fatal exception
Kernel Offset: 0x1
Rebooting in 1 seconds..
== no init / 2.6.32 / open
Kernel panic - not syncing: No init found.  Try passing init= option to kernel.
== no init / 6.1 / open
Kernel panic - not syncing: No working init found.  Try passing init= option.
== no init / 6.1
Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
---[ end Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0) ]---
== no init / 6.1 / open
Failed to execute /init (error -8)
== no init / 2.6.32 / open
Kernel panic - not syncing: Attempted to kill init!
== out of memory / 6.1 / open
Kernel panic - not syncing: System is deadlocked on memory
== oops / 2.6.32
BUG: unable to handle kernel NULL pointer dereference at (null)
IP: [<ffffffff8118d38d>] x+0xd/0x20
PGD 73a1067
Oops: 0002 [#1] SMP
Stack:
Call Trace:
 [<ffffffff81237a35>] ? y+0x4b/0x113
---[ end trace 6562e396152812d4 ]---
== oops / 6.1
BUG: kernel NULL pointer dereference, address: 0000000000000000
#PF: supervisor write access
Oops: 0002 [#1] PREEMPT SMP
 <TASK>
 </TASK>
Modules linked in: ip_vs
---[ end trace 0000000000000000 ]---
== oops / 6.1
general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1] SMP
RIP: 0010:z
---[ end trace 0000000000000000 ]---
== oops / 2.6.32
general protection fault: 0000 [#1] SMP
---[ end trace 1 ]---
== oops / 2.6.32
divide error: 0000 [#1] SMP
---[ end trace 1 ]---
== bug / 6.1
------------[ cut here ]------------
kernel BUG at net/netfilter/ipvs/ip_vs_conn.c:120!
invalid opcode: 0000 [#1] SMP
RIP: 0010:ip_vs_conn_new
---[ end trace 0000000000000000 ]---
== bug / 2.6.32 / open
BUG: scheduling while atomic: ipvsadm/812/0x10000100
== bug / 6.1 / open
BUG: Bad page state in process ipvsadm  pfn:02a1f
== soft lockup / 2.6.32 / open
BUG: soft lockup - CPU#0 stuck for 67s! [events/0:4]
== soft lockup / 6.1
watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [kworker:11]
CPU: 0 PID: 11 Comm: kworker Not tainted 6.1.187
Call Trace:
 <TASK>
 ip_vs_conn_new+0x1/0x2 [ip_vs]
 </TASK>
== hard lockup / 6.1
NMI watchdog: Watchdog detected hard LOCKUP on cpu 0
CPU: 0 PID: 11 Comm: kworker Not tainted 6.1.187
Call Trace:
 <TASK>
 ip_vs_conn_new+0x1/0x2 [ip_vs]
 </TASK>
== hard lockup / 2.6.32 / open
BUG: NMI Watchdog detected LOCKUP on CPU0, ip ffffffff812, registers:
== hard lockup / 6.1
Uhhuh. NMI received for unknown reason 30 on CPU 0.
Kernel panic - not syncing: NMI: Not continuing
Call Trace:
 <NMI>
 </NMI>
 <TASK>
 </TASK>
Rebooting in 1 seconds..
== hung task / 2.6.32 / open
INFO: task ipvsadm:812 blocked for more than 120 seconds.
"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.
ipvsadm       D 0000000000000000     0   812
Call Trace:
== hung task / 6.1
INFO: task ip:71 blocked for more than 122 seconds.
      Not tainted
CPU: 0 PID: 11 Comm: kworker Not tainted 6.1.187
Call Trace:
 <TASK>
 ip_vs_conn_new+0x1/0x2 [ip_vs]
 </TASK>
== rcu stall / 2.6.32 / open
INFO: rcu_sched_state detected stall on CPU 0 (t=60000 jiffies)
== rcu stall / 2.6.32 / open
INFO: RCU detected CPU 0 stall (t=4294967296 jiffies)
== rcu stall / 6.1
rcu: INFO: rcu_sched self-detected stall on CPU
rcu:  0-....: (5249 ticks)
CPU: 0 PID: 11 Comm: kworker Not tainted 6.1.187
Call Trace:
 <TASK>
 ip_vs_conn_new+0x1/0x2 [ip_vs]
 </TASK>
== rcu stall / 6.1
rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
CPU: 0 PID: 11 Comm: kworker Not tainted 6.1.187
Call Trace:
 <TASK>
 ip_vs_conn_new+0x1/0x2 [ip_vs]
 </TASK>
== out of memory / 6.1
cat invoked oom-killer: gfp_mask=0x1100cca
Mem-Info:
Out of memory: Killed process 71 (cat) total-vm:1234kB
== out of memory / 2.6.32
cat invoked oom-killer: gfp_mask=0x201da
Out of memory: Kill process 71 (cat) score 9
Killed process 71, UID 0, (cat) total-vm:1234kB
== warning / 2.6.32
------------[ cut here ]------------
WARNING: at net/core/dev.c:1594 skb_gso_segment+0x226/0x2d0()
Call Trace:
---[ end trace 9ae7 ]---
== warning / 6.1
------------[ cut here ]------------
WARNING: CPU: 0 PID: 1 at kernel/softirq.c:376 x+0x1/0x2
 </TASK>
---[ end trace 0000000000000000 ]---
== kernel too old / 2.6.32
FATAL: kernel too old
== module refused / 6.1
fnat: module /lib/modules/x/toa.ko refused: Exec format error
== no channel / 6.1
fnat: no channel: No such device
== program fault / 2.6.32
keepalived[812]: segfault at 0 ip 0000000000401 sp 00007fff error 4 in keepalived
== program fault / 6.1
traps: ipvsadm[71] general protection fault ip:401 sp:7ff error:0 in ipvsadm[400000]
"""


def cases() -> Iterator[Case]:
    for part in CONSOLES.split("== ")[1:]:
        title, _, text = part.partition("\n")
        kind, of, *is_open = title.split(" / ")
        yield Case(Kind(kind), of, text, not is_open)


CASES = tuple(cases())
PANIC = next(case.text for case in CASES if case.kind is Kind.PANIC)
OOPS = next(case.text for case in CASES if case.kind is Kind.OOPS)
HARMLESS = (
    "[DEBUG] TOA: BUG: this is toa's own",
    "TOA: [DEBUG]toa: get_toa_data called, skb = 0xffff: BUG: no",
    "TOA: toa loaded",
    "IPVS: BUG: unable to handle it, says a user's text",
    "Kernel command line: panic=1 oops=panic softlockup_panic=1",
    "NMI watchdog: Perf NMI watchdog permanently disabled",
    "rcu: INFO: hierarchical RCU implementation.",
    "INFO: lockdep is turned off",
    "fnat: module list read",
    "echo WARNING: at noon",
    "oops: all is well",
    "A program said: Kernel panic - not syncing",
    "Out of memory is not what this is",
    "spurious segfault at 3",
)


def fed(text: str, name: str = "director") -> ConsoleWatcher:
    watcher = ConsoleWatcher(name)
    watcher.feed(text.encode(), 1.0)
    return watcher


Stamp = Callable[[str], str]


def stamped(text: str) -> str:
    return "".join(f"[{number:5}.{123456 + number}] {line}\n" for number, line in enumerate(text.splitlines(), 7))


@pytest.mark.parametrize("stamp", [str, stamped], ids=["plain", "stamped"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.of}-{case.text.split(':')[0][-24:]}")
def test_each_death_is_found_with_its_trace_to_its_end(case: Case, stamp: Stamp) -> None:
    text = "before\n" + case.text + AFTER
    watcher = fed(stamp(text))
    found = watcher.findings()[0]
    assert (found.kind, found.guest, found.line) == (case.kind, "director", 2)
    lines = stamp(text).splitlines()[1:]
    assert found.trace.splitlines() == (lines[:-1] if case.ends else lines)
    assert found.meaning and found.look


@pytest.mark.parametrize("stamp", [str, stamped], ids=["plain", "stamped"])
@pytest.mark.parametrize("line", HARMLESS)
def test_a_line_that_only_mentions_it_is_left_alone(line: str, stamp: Stamp) -> None:
    assert fed(stamp(line + "\n")).findings() == ()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64])
def test_it_does_not_matter_how_the_console_is_cut(step: int) -> None:
    data = stamped("before\r\n" + OOPS + AFTER + PANIC).encode()
    watcher = ConsoleWatcher("director")
    for at in range(0, len(data), step):
        watcher.feed(data[at : at + step], at / 1000)
    assert watcher.findings() == fed(data.decode()).findings()
    assert [found.kind for found in watcher.findings()] == [Kind.OOPS, Kind.PANIC]


def test_a_trace_is_found_while_it_still_grows_and_settled_when_it_is_whole() -> None:
    watcher = fed("Kernel panic - not syncing: x\nCall Trace:\n")
    fatal = watcher.fatal_finding()
    assert fatal is not None and fatal.trace.endswith("Call Trace:") and not watcher.is_trace_complete
    watcher.feed(b"Rebooting in 1 seconds..", 1.1)  # the kernel writes no end to this line
    assert watcher.is_trace_complete


def test_a_trace_without_an_end_is_cut_at_some_length() -> None:
    watcher = fed("BUG: soft lockup - CPU#0 stuck for 67s!\n" + "Call Trace\n" * 1000)
    (found,) = watcher.findings()
    assert found.trace.count("\n") + 1 == MAX_TRACE_LINES


def test_what_begins_within_a_list_of_functions_is_a_finding_of_its_own() -> None:
    watcher = fed("INFO: task a:1 blocked for more than 120 seconds.\nCall Trace:\n x\nBUG: soft lockup - CPU#0\n y\n")
    assert [(found.kind, found.line, found.trace[-1]) for found in watcher.findings()] == [
        (Kind.HUNG_TASK, 1, "x"),
        (Kind.SOFT_LOCKUP, 4, "y"),
    ]


def test_the_first_death_counts_and_a_warning_is_none() -> None:
    warning = next(case.text for case in CASES if case.kind is Kind.WARNING)
    assert fed(warning).fatal_finding() is None and len(fed(warning).findings()) == 1
    both = fed(warning + OOPS + PANIC).fatal_finding()
    assert both is not None and both.kind == Kind.OOPS


def test_control_characters_of_a_console_reach_nobody() -> None:
    (found,) = fed("\x1b[2Jx\nFATAL: kernel too old\x1b]0;title\x07\r\n").findings()
    assert found.trace == r"FATAL: kernel too old\x1b]0;title\x07"


BOOT = """[    0.000000] Linux version 6.1.187-1.lts61.x86_64 (x@y) (gcc) #1 SMP
[    0.812345] Run /init as init process
fnat: init runs
fnat: guest ready
"""


def test_the_marks_of_a_boot_are_when_they_were_first_seen() -> None:
    watcher = ConsoleWatcher("client")
    for number, line in enumerate((BOOT + BOOT).splitlines(keepends=True), 1):
        watcher.feed(line.encode(), float(number))
    assert watcher.marks == {"first byte": 1.0, "kernel 6.1.187-1.lts61.x86_64": 1.0, "init": 3.0, "ready": 4.0}
    assert watcher.last_output == 8.0


def test_a_boot_that_never_says_anything_new_is_looping() -> None:
    texts = "".join(f"[{number}.000001] ata1: link is slow to respond, try {number}\n" for number in range(LOOP_LINES))
    assert fed(texts).is_looping
    assert not fed("".join(texts.splitlines(keepends=True)[1:])).is_looping, "not before there are enough of them"


def test_a_boot_with_much_to_say_is_not_looping() -> None:
    assert not fed("".join(f"device of kind {chr(97 + number % 26)} found\n" for number in range(5000))).is_looping


def test_the_last_words_are_what_was_said_last_even_without_an_end() -> None:
    watcher = fed("one\n\ntwo\nthree")
    assert watcher.last_lines() == ("one", "two", "three")
    assert ConsoleWatcher("client").last_lines() == ()


# --- What has no end -------------------------------------------------------------------------------------


def test_a_line_without_end_is_kept_to_its_first_part() -> None:
    watcher = ConsoleWatcher("director")
    for _ in range(1000):
        watcher.feed(b"x" * 10_000, 1.0)
    assert len(watcher._rest) <= MAX_RAW_LINE
    watcher.feed(b"\nFATAL: kernel too old\n", 2.0)
    assert watcher.lines == 2 and [found.line for found in watcher.findings()] == [2]


def test_a_guest_that_dies_for_ever_is_told_of_a_hundred_times() -> None:
    watcher = fed("FATAL: kernel too old\n" * 5000)
    assert len(watcher.findings()) <= watcher_module.MAX_FINDINGS and watcher.lines == 5000


def test_a_guest_that_boots_for_ever_leaves_few_marks() -> None:
    watcher = fed("".join(f"Linux version {number}\n" for number in range(5000)))
    assert len(watcher.marks) == watcher_module.MAX_MARKS
