"""The table of console patterns: forms of every kind, wherever on a line they stand, and what only looks like one."""

from __future__ import annotations

import pytest

from pipeline.lab.vm import console_lines
from pipeline.lab.vm.console_lines import MAX_RAW_LINE
from pipeline.lab.vm.console_patterns import TABLE, Kind, match
from pipeline.lab.vm.console_watcher import MAX_LEAD, ConsoleWatcher
from tests.fixtures import consoles
from tests.unit.lab.vm.test_console_watcher import CASES

TROUBLE = tuple(consoles.trouble())
ONE_OF_EACH = tuple({kind: text for kind, text in reversed(TROUBLE) if "\n" not in text.strip()}.items())


def fed(text: str) -> ConsoleWatcher:
    watcher = ConsoleWatcher("director")
    watcher.feed(text.encode(), 1.0)
    return watcher


def stamped(text: str) -> str:
    return "".join(f"[{number:5}.{123456 + number}] {line}\n" for number, line in enumerate(text.splitlines(), 7))


@pytest.mark.parametrize(("kind", "text"), TROUBLE, ids=lambda value: value.strip()[:40])
def test_each_text_is_of_one_kind_with_and_without_time_stamps(kind: str, text: str) -> None:
    for console in (text, stamped(text), text.replace("\n", "\r\n"), text.replace("\n", "\r\r\n")):
        assert [found.kind for found in fed("before\n" + console).findings()] == [kind]


@pytest.mark.parametrize("text", consoles.HARMLESS)
def test_what_only_looks_like_trouble_is_none(text: str) -> None:
    for console in (text + "\n", stamped(text)):
        assert fed(console).findings() == ()


@pytest.mark.parametrize("place", consoles.PLACES, ids=repr)
@pytest.mark.parametrize(("kind", "text"), ONE_OF_EACH, ids=lambda value: value.strip()[:20])
def test_a_text_is_found_where_it_begins_no_line(place: str, kind: str, text: str) -> None:
    (found,) = fed("before\n" + place + text).findings()
    assert (found.kind, found.line) == (kind, 2)
    assert found.trace.endswith(text.rstrip("\n"))


@pytest.mark.parametrize("place", consoles.PLACES, ids=repr)
def test_no_place_makes_trouble_of_what_is_none(place: str) -> None:
    for text in consoles.HARMLESS:
        assert fed(place + text + "\n").findings() == ()


def test_what_nothing_but_a_kernel_says_is_found_behind_an_unfinished_line() -> None:
    for text in (
        "BUG: unable to handle kernel NULL pointer dereference at (null)",
        "kernel BUG at net/core/skbuff.c:127!",
        "BUG: scheduling while atomic: ipvsadm/812/0x10000100",
        "general protection fault: 0000 [#1] SMP",
        "WARNING: at net/core/dev.c:1594 skb_gso_segment+0x226/0x2d0()",
    ):
        found = match("Registering the hooks" + text)
        assert found is not None and found[1].endswith(text)
        assert match(f"the line '{text}' is one to look for") is None


def test_every_row_of_the_table_is_met_by_a_text() -> None:
    texts = [*(text for _, text in TROUBLE), *(case.text for case in CASES)]
    met = {found[0] for text in texts for line in text.splitlines() if (found := match(line))}
    assert [row.begin.pattern for row in TABLE if row not in met] == []


def test_what_leads_to_a_panic_is_its_beginning_and_stands_for_itself_without_one() -> None:
    line = "mce: [Hardware Error]: CPU 1: Machine Check Exception: 4 Bank 2: b200000000000175\n"
    (found,) = fed(line + "TSC 1\nKernel panic - not syncing: Fatal machine check\n").findings()
    assert (found.kind, found.line, len(found.trace.splitlines())) == (Kind.PANIC, 1, 3)
    apart = fed(line + "news\n" * MAX_LEAD + "Kernel panic - not syncing: Fatal machine check\n").findings()
    assert [found.kind for found in apart] == [Kind.WARNING, Kind.PANIC]
    refused = fed("refcount_t: saturated\ntoa: Unknown symbol x\nafter\nFATAL: kernel too old\n").findings()
    assert [(found.kind, found.trace[-1]) for found in refused] == [(Kind.MODULE, "x"), (Kind.TOO_OLD, "d")]


def test_a_warning_hides_no_death_after_it() -> None:
    for warning in ("WARNING: possible circular locking dependency detected\n", "WARNING: at a.c:1 f+0x1/0x2()\n"):
        watcher = fed(warning + "Call Trace:\nBUG: unable to handle kernel paging request at 0000000000000008\n")
        fatal = watcher.fatal_finding()
        assert fatal is not None and (fatal.kind, fatal.line) == (Kind.OOPS, 3)


def test_what_other_traces_have_too_is_no_finding_of_its_own_inside_one() -> None:
    watcher = fed("INFO: task ip:71 blocked for more than 120 seconds.\nCall Trace:\nCode: Bad RIP value.\n")
    assert [found.kind for found in watcher.findings()] == [Kind.HUNG_TASK]


def test_a_line_is_counted_as_the_report_counts_it_whatever_returns_are_in_it() -> None:
    console = b"one\rtwo\r\nthree\r\r\n\rfour\rFATAL: kernel too old\r\n"
    watcher = fed(console.decode())
    (found,) = watcher.findings()
    assert (watcher.lines, found.line) == (3, 3)
    assert found.trace == "FATAL: kernel too old"
    assert console_lines.whole(console).split("\n")[found.line - 1].endswith(found.trace)


def test_a_text_behind_a_line_that_returns_without_end_is_found_and_little_is_kept() -> None:
    watcher = ConsoleWatcher("director")
    for number in range(5000):
        watcher.feed(f"\runpacking {number}".encode(), 1.0)
    watcher.feed(b"\r" * 100_000 + b"\rKernel panic - not syncing: x\r\n", 1.0)
    (found,) = watcher.findings()
    assert (found.kind, found.line, len(watcher._rest)) == (Kind.PANIC, 1, 0)
    watcher.feed(b"\x1b" * 100_000, 1.0)
    assert len(watcher._rest) == MAX_RAW_LINE
