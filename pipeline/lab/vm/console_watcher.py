"""Watch a guest's growing console: errors on it, the boot's progress, and whether it goes on.

Consumes bytes without blocking. `console_patterns` has the patterns.
"""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from dataclasses import dataclass, field

from pipeline.lab.report.results import Finding
from pipeline.lab.vm.console_lines import MAX_RAW_LINE, message, plain, printable
from pipeline.lab.vm.console_patterns import NONFATAL, TASK_END, Kind, Pattern, match

CUT_HERE = "------------[ cut here ]------------"  # stands before the line that says what it is about
MAX_TRACE_LINES = 120  # lines of a trace that has no end marker
MAX_LEAD = 12  # lines after which a text that leads to another one stands for itself
MAX_FINDINGS = 100  # of one console: the first shows the cause, and a guest may repeat it for ever
MAX_MARKS = 20  # moments of a boot
MAX_LAST_LINES = 12  # lines shown as a guest's last output
LOOP_LINES = 400  # lines without anything new among them: no boot says so much and nothing new
LOOP_TEXTS = 12  # different texts at most among them, whatever their numbers
_NUMBER = re.compile(r"\d+|0x[0-9a-f]+")
_BANNER = re.compile(r"Linux version (\S+)")
_LINE_PARTS = re.compile(rb"([\r\n])")


@dataclass
class _OpenTrace:
    """A finding whose trace is incomplete."""

    row: Pattern
    line: int
    trace: list[str]

    @property
    def leads(self) -> bool:
        """Whether the next lines may say what it was."""
        return self.row.leads and len(self.trace) < MAX_LEAD


@dataclass
class ConsoleWatcher:
    """A watcher of one guest's console. `marks` are seconds since its start, in order."""

    guest: str
    marks: dict[str, float] = field(default_factory=dict)
    lines: int = 0
    last_output: float | None = None  # time of its last output, in seconds since its start
    _closed: list[Finding] = field(default_factory=list)
    _open: _OpenTrace | None = None
    _rest: bytes = b""
    _returned: bool = False  # whether a carriage return stands before `_rest`
    _recent: deque[str] = field(default_factory=lambda: deque(maxlen=LOOP_LINES))

    def feed(self, data: bytes, at: float) -> None:
        """Process the console's new bytes, read at `at` seconds since the guest's start.

        What follows a carriage return is held against the patterns by itself, and is of the same line.
        """
        if not data:
            return
        self.last_output = at
        self.marks.setdefault("first byte", at)
        for part in _LINE_PARTS.split(data):
            if part not in (b"\r", b"\n"):
                self._rest = (self._rest + part[:MAX_RAW_LINE])[:MAX_RAW_LINE]
                continue
            if self._rest or (part == b"\n" and not self._returned):
                self._add_line(self._rest, at)
            self._rest, self._returned = b"", part == b"\r"
            self.lines += part == b"\n"

    def findings(self) -> tuple[Finding, ...]:
        """Return all findings so far; an incomplete trace as far as it goes."""
        return (*self._closed, *([self._finding(self._open)] if self._open else []))

    def fatal_finding(self) -> Finding | None:
        """Return the first finding that ends a scenario: later ones are mostly its consequence."""
        return next((found for found in self.findings() if Kind(found.kind) not in NONFATAL), None)

    @property
    def is_trace_complete(self) -> bool:
        """Whether the trace of the first fatal finding is whole. The kernel's very last line stays without an end."""
        if self._open is None or any(Kind(found.kind) not in NONFATAL for found in self._closed):
            return True
        end = self._open.row.end
        return end is not None and end.match(message(plain(self._rest))) is not None

    @property
    def is_looping(self) -> bool:
        """Whether the last lines repeat, apart from their numbers."""
        if len(self._recent) < LOOP_LINES:
            return False
        return len({_NUMBER.sub("#", message(line)) for line in self._recent}) <= LOOP_TEXTS

    def last_lines(self) -> tuple[str, ...]:
        """Return the console's last lines that are not empty, the unfinished one included."""
        lines = [*self._recent, printable(self._rest)]
        return tuple(line for line in lines if line.strip())[-MAX_LAST_LINES:]

    def _add_line(self, raw: bytes, at: float) -> None:
        shown, text = printable(raw), plain(raw)
        before = self._recent[-1] if self._recent else ""
        self._recent.append(shown)
        self._mark(message(text), at)
        row, begun = match(text) or (None, message(text))
        if self._open is not None and self._extends(self._open, row, begun):
            self._extend_trace(self._open, shown, begun, row)
        elif row is not None:
            self._close_trace()
            cut = message(before) == CUT_HERE
            self._open = _OpenTrace(row, self.lines + 1 - cut, [before, shown] if cut else [shown])
            if not row.leads and (row.end is None or row.end.match(begun)):
                self._close_trace()

    @staticmethod
    def _extends(found: _OpenTrace, row: Pattern | None, begun: str) -> bool:
        """Return whether a line belongs to the trace of an earlier finding."""
        if row is None or row.detail or found.leads:
            return True
        if found.row.kind in NONFATAL and row.kind not in NONFATAL:
            return False  # a warning may not hide what ends the guest
        return found.row.end is not TASK_END or "Kernel panic" in begun  # which is how many traces end

    def _extend_trace(self, found: _OpenTrace, shown: str, begun: str, row: Pattern | None) -> None:
        """Add a line to a trace. A panic in it is its end, and extends the trace to the panic's own end."""
        leads = found.leads and row is not None and not row.detail
        found.trace.append(shown)
        if row is not None and leads:
            found.row = row
        elif row is not None and "Kernel panic" in begun:
            found.row = dataclasses.replace(found.row, end=row.end)
        end = found.row.end
        single = end is None and not found.leads
        if single or (end is not None and end.match(begun)) or len(found.trace) >= MAX_TRACE_LINES:
            self._close_trace()

    def _close_trace(self) -> None:
        if self._open is not None and len(self._closed) < MAX_FINDINGS:
            self._closed.append(self._finding(self._open))
        self._open = None

    def _finding(self, found: _OpenTrace) -> Finding:
        trace = "\n".join(found.trace).rstrip()
        row = found.row
        return Finding(
            guest=self.guest, kind=row.kind, line=found.line, trace=trace, meaning=row.meaning, look=row.look
        )

    def _mark(self, text: str, at: float) -> None:
        if len(self.marks) >= MAX_MARKS:
            return
        if banner := _BANNER.match(text):
            self.marks.setdefault(f"kernel {banner[1]}", at)
        elif text == "fnat: init runs":
            self.marks.setdefault("init", at)
        elif text == "fnat: guest ready":
            self.marks.setdefault("ready", at)
