"""Watch a guest's growing console: errors on it, the boot's progress, and whether it goes on.

Fed with bytes, asks nobody, waits for nothing. What it looks for is the table of `patterns`.
"""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from dataclasses import dataclass, field

from pipeline.core import neutral
from pipeline.lab.report.results import Finding
from pipeline.lab.vm.console_patterns import NONFATAL, TASK_END, TIMESTAMP, Kind, Pattern, match

CUT_HERE = "------------[ cut here ]------------"  # stands before the line that says what it is about
MAX_TRACE_LINES = 120  # lines of a trace that has no end marker
MAX_LINE = 1000  # characters kept of a line
MAX_RAW_LINE = 4 * MAX_LINE  # bytes kept of a line: no letter has more in UTF-8
MAX_FINDINGS = 100  # told of one console: the first says what went wrong, and a guest may repeat it for ever
MAX_MARKS = 20  # moments of a boot
MAX_LAST_LINES = 12  # lines told as a guest's last words
LOOP_LINES = 400  # lines without anything new among them: no boot says so much and nothing new
LOOP_TEXTS = 12  # different texts at most among them, whatever their numbers
_NUMBER = re.compile(r"\d+|0x[0-9a-f]+")
_BANNER = re.compile(r"Linux version (\S+)")


@dataclass
class _OpenTrace:
    """A finding whose trace is incomplete."""

    row: Pattern
    line: int
    trace: list[str]


@dataclass
class ConsoleWatcher:
    """A watcher of one guest's console. `marks` are seconds since its start, in order."""

    guest: str
    marks: dict[str, float] = field(default_factory=dict)
    lines: int = 0
    last_output: float | None = None  # when it last said anything, in seconds since its start
    _closed: list[Finding] = field(default_factory=list)
    _open: _OpenTrace | None = None
    _rest: bytes = b""
    _recent: deque[str] = field(default_factory=lambda: deque(maxlen=LOOP_LINES))

    def feed(self, data: bytes, at: float) -> None:
        """Process the console's new bytes, read at `at` seconds since the guest's start."""
        if not data:
            return
        self.last_output = at
        self.marks.setdefault("first byte", at)
        *whole, rest = data.split(b"\n")
        for line in whole:
            self._add_line(printable((self._rest + line[:MAX_RAW_LINE])[:MAX_RAW_LINE]), at)
            self._rest = b""
        self._rest = (self._rest + rest[:MAX_RAW_LINE])[:MAX_RAW_LINE]

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
        return end is not None and end.match(_without_timestamp(printable(self._rest))) is not None

    @property
    def is_looping(self) -> bool:
        """Whether the last lines repeat, apart from their numbers."""
        if len(self._recent) < LOOP_LINES:
            return False
        return len({_NUMBER.sub("#", _without_timestamp(line)) for line in self._recent}) <= LOOP_TEXTS

    def last_lines(self) -> tuple[str, ...]:
        """Return the console's last lines that are not empty, the unfinished one included."""
        lines = [*self._recent, printable(self._rest)]
        return tuple(line for line in lines if line.strip())[-MAX_LAST_LINES:]

    def _add_line(self, line: str, at: float) -> None:
        before = self._recent[-1] if self._recent else ""
        self.lines += 1
        self._recent.append(line)
        self._mark(line, at)
        row = match(line)
        another = row is not None and "Kernel panic" not in line  # which is how many traces end
        if self._open is not None and not (another and self._open.row.end is TASK_END):
            self._extend_trace(self._open, line, row)
        elif row is not None:
            self._close_trace()
            cut = _without_timestamp(before) == CUT_HERE
            self._open = _OpenTrace(row, self.lines - cut, [before, line] if cut else [line])
            if row.end is None:
                self._close_trace()

    def _extend_trace(self, found: _OpenTrace, line: str, row: Pattern | None) -> None:
        """Add a line to a trace. A panic in it is its end, and extends the trace to the panic's own end."""
        found.trace.append(line)
        if row is not None and "Kernel panic" in line:
            found.row = dataclasses.replace(found.row, end=row.end)
        if (found.row.end and found.row.end.match(_without_timestamp(line))) or len(found.trace) >= MAX_TRACE_LINES:
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

    def _mark(self, line: str, at: float) -> None:
        text = _without_timestamp(line)
        if len(self.marks) >= MAX_MARKS:
            return
        if banner := _BANNER.match(text):
            self.marks.setdefault(f"kernel {banner[1]}", at)
        elif text == "fnat: init runs":
            self.marks.setdefault("init", at)
        elif text == "fnat: guest ready":
            self.marks.setdefault("ready", at)


def printable(line: bytes) -> str:
    """Return a console's line as text without control characters."""
    return neutral.line(line.decode(errors="backslashreplace").rstrip("\r")[:MAX_LINE].expandtabs())


def _without_timestamp(line: str) -> str:
    stamp = TIMESTAMP.match(line)
    return line[stamp.end() :] if stamp else line
