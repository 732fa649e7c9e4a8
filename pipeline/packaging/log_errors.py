"""Find the cause in a build log: what the failed job printed first, not the summaries behind it.

Looks back from the first summary (`make: *** [a.o] Error 1`, `error: Bad exit status`) to the nearest cause that
belongs to the failed job. Must not know what the programs print; `log_patterns` does.
"""

from __future__ import annotations

import collections
import itertools
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.packaging import log_patterns
from pipeline.packaging.log_patterns import Cause, Kind

CONTEXT_LINES = 6  # lines shown from the cause on
MAX_LINE = 4096  # bytes looked at of one line
_TAIL_LINES = 20  # lines shown where nothing looks like an error
_NEAR = 100  # lines before a summary within which a line counts that a probe could have printed
_PREFACE = 3  # lines from "In file included from" to the error
_MOST_GROUPS = 256  # groups remembered at once

# What compilers print for a terminal: colours (ECMA-48) and links (OSC 8). Whatever else acts on one stays to be seen.
_COLOURS = re.compile(r"\x1b(\[[0-9;:]*[mK]|\]8;[^\x07\x1b]*(\x07|\x1b\\))")
_MAKE = re.compile(r"g?make(\[\d+\])?$")
_STATUS = re.compile(r"Error (\d+)$|(Killed|Segmentation fault|Bus error|Aborted|Illegal instruction|Terminated)\b")
_RPM_SUMMARY = re.compile(r"error: Bad exit status from |RPM build errors:")
_CANNOT_RUN = (126, 127)  # a shell's statuses for a command that it cannot run or find
_INCLUDED = re.compile(r"(In file included|\s+) from ([^\s:]+):\d+")
_EXCEPTION = re.compile(r"(\w+\.)*([A-Z]\w*|\w*error)(:? |:?$)")


def first_error(log: Path) -> tuple[int, list[str]]:
    """Return the line number (from 1) of a failed build's cause, and the lines from there.

    Without anything like a cause: the lines before the first summary; without a summary, the tail.
    """
    search = _Search()
    for number, line in enumerate(lines(log), 1):
        if search.read(number, line):
            break
    found = search.result()
    if found is None:
        return tail(log, _TAIL_LINES)
    return found, list(itertools.islice(lines(log), found - 1, found - 1 + CONTEXT_LINES))


def tail(log: Path, count: int) -> tuple[int, list[str]]:
    """Return the line number (from 1) of the first of the last `count` lines, and those lines."""
    last = collections.deque(enumerate(lines(log), 1), maxlen=count)
    return (last[0][0] if last else 1), [line for _, line in last]


def lines(log: Path) -> Iterator[str]:
    """Yield the lines of a log as a terminal would leave them: without colours, behind the last carriage return.

    Each is cut off at `MAX_LINE` bytes, as a build may print one line without end. Only LF ends a line, as in a pager.
    """
    kept = b""
    with log.open("rb") as stream:
        while piece := stream.readline(MAX_LINE):
            ended = piece.endswith(b"\n")
            if not ended and len(kept) == MAX_LINE and b"\r" not in piece:
                continue
            kept += piece.rstrip(b"\r\n") if ended else piece
            kept = kept[kept.rfind(b"\r") + 1 :][:MAX_LINE]
            if ended:
                yield _plain(kept)
                kept = b""
    if kept:
        yield _plain(kept)


def matches(log: Path, pattern: re.Pattern[str], limit: int) -> list[re.Match[str]]:
    """Search each line of a log, and return the first `limit` matches."""
    matches = (pattern.search(line) for line in lines(log))
    return list(itertools.islice((match for match in matches if match), limit))


def _plain(line: bytes) -> str:
    text = line.decode(errors="backslashreplace")
    return (_COLOURS.sub("", text) if "\x1b" in text else text)[:MAX_LINE]


@dataclass(frozen=True)
class _Summary:
    """A line that reports the failure of an earlier command."""

    target: str = ""  # make's, without its place in the makefile
    status: int = 0
    outermost: bool = False  # of the make that no other make started
    final: bool = False  # rpmbuild's: nothing is run after it


@dataclass
class _Group:
    """Lines that report one failure: the first is the cause, the last says how near it is to a summary."""

    cause: Cause
    first: int
    last: int


@dataclass
class _Search:
    """State of a search, of bounded size whatever a log holds."""

    number: int = 0
    groups: dict[str, _Group] = field(default_factory=dict)  # the latest at the end
    found: int | None = None  # line of the cause
    unexplained: int = 0  # first of the lines before the first summary that has no cause
    block: int = 1  # first of the lines since the last progress
    unknown: int = 1  # first of those since the last progress or warning
    traced: int = 0  # last line at which a shell printed a command
    echoed: int = 0  # line at which it printed that it echoes something
    failed: bool = False  # an outermost make failed
    settled: bool = False  # the current run has its cause
    traceback: bool = False
    includer: str = ""  # source file into which a header with errors was included
    header: str = ""
    included: int = -_NEAR  # last line that said so

    def read(self, number: int, line: str) -> bool:
        """Take the next line; return True at the last that can matter."""
        self.number = number
        before, summary = _summary(line)
        self._read_words(before)
        if summary is None:
            if line.endswith("(ignored)") and ": [" in line:
                self._forget_ignored()
            return False
        self._conclude(summary)
        return summary.final

    def result(self) -> int | None:
        """Return the line number of the cause, or of the lines before a summary that has none."""
        if not self.found and (group := self._best(_Summary())):
            self.found = group.first
        return self.found or self.unexplained or None

    def _read_words(self, line: str) -> None:
        if log_patterns.is_trace(line):
            self._read_trace(line)
        if log_patterns.is_progress(line):
            self.block = self.unknown = self.number + 1
            if not line.startswith("checking "):
                return
        elif not line and self.block == self.number:
            self.block = self.unknown = self.number + 1
        elif log_patterns.is_warning(line):
            self.unknown = self.number + 1
        if included := _INCLUDED.match(line):
            self.includer, self.header, self.included = included[2], "", self.number
        cause = self._raised(line) or log_patterns.cause(line)
        if cause and not (self.found and self.echoed == self.number - 1):
            self._add(self._in_unit(cause))

    def _read_trace(self, line: str) -> None:
        self.traced = self.number
        if re.match(r"\++ (echo|printf) ", line):
            self.echoed = self.number
        if self.failed:  # the shell went on: what failed was tolerated, and another failure counts more
            self.failed, self.settled = False, False
            self.groups.clear()

    def _raised(self, line: str) -> Cause | None:
        """Return the exception that ends a traceback of Python."""
        if re.match(r'Traceback \(most recent call last\)|\s+File ".*", line \d+', line):
            self.traceback = True
        elif self.traceback and line[:1].strip():
            self.traceback = False
            if _EXCEPTION.match(line):
                return Cause(Kind.OTHER, "exit status" not in line, "")
        return None

    def _in_unit(self, cause: Cause) -> Cause:
        """Return the cause as one of the source file that is compiled, which may have included the file it names."""
        if not cause.file:
            return cause
        if not self.header and self.number - self.included <= _PREFACE:
            self.header = cause.file
        unit = self.includer if cause.file == self.header else cause.file
        return Cause(cause.kind, cause.sure, unit, unit)

    def _add(self, cause: Cause) -> None:
        key = cause.group or f"\0{self.number}"
        group = self.groups.pop(key, None)
        widest = _NEAR if cause.sure else CONTEXT_LINES
        if group is None or self.number - group.last > widest:
            group = _Group(cause, self.number, self.number)
        group.last = self.number
        self.groups[key] = group
        if len(self.groups) > _MOST_GROUPS:
            del self.groups[next(iter(self.groups))]

    def _conclude(self, summary: _Summary) -> None:
        if not self.settled:
            first = max(min(self.block, self.number), self.number - CONTEXT_LINES + 1)
            if group := self._best(summary):
                self.found = first if self._is_doubtful(group, summary) else group.first
                self.settled = True
            elif not self.found and not self.unexplained:
                self.unexplained = first
        self.failed = self.failed or summary.outermost

    def _is_doubtful(self, group: _Group, summary: _Summary) -> bool:
        """Return whether unknown words are nearer to a summary than a line that a probe could have printed."""
        certain = group.cause.sure or _is_lack(group.cause, summary)
        return not certain and group.last < self.unknown < self.number

    def _best(self, summary: _Summary) -> _Group | None:
        """Return the group that explains a summary best."""
        eligible = [group for group in self.groups.values() if group.cause.sure or self._is_near(group)]
        return max(eligible, key=lambda group: self._rank(group, summary), default=None)

    def _rank(self, group: _Group, summary: _Summary) -> tuple[bool, bool, bool, bool, bool, int]:
        cause, near = group.cause, self._is_near(group)
        named = _is_source(cause.file, summary.target)
        return (
            summary.final and group.last > self.traced,  # rpmbuild's shell ends at the first command that fails
            near and cause.sure and cause.kind in log_patterns.RESOURCES,
            named or (near and _is_lack(cause, summary)),
            near,
            cause.sure,
            group.last,
        )

    def _is_near(self, group: _Group) -> bool:
        return self.number - group.last <= _NEAR

    def _forget_ignored(self) -> None:
        self.block = self.unknown = self.number + 1
        if group := self._best(_Summary()):
            self.groups = {key: each for key, each in self.groups.items() if each is not group}


def _summary(line: str) -> tuple[str, _Summary | None]:
    """Return the part of a line before a summary, and the summary; a program may leave its line unended."""
    if _RPM_SUMMARY.match(line):
        return "", _Summary(final=True)
    place = line.find(": *** [")
    speaker = _MAKE.search(line[max(0, place - 20) : place]) if place > 0 else None
    if speaker is None:
        return line, None
    target, _, how = line[place + len(": *** [") :].rpartition("] ")
    status = _STATUS.match(how)
    if status is None:
        return line, None
    # A signal is worth a look of its own: no program may have said anything.
    before = line if status[2] else line[: place - len(speaker[0])]
    target = target.rpartition(": ")[2]
    return before, _Summary(target, int(status[1] or 0), outermost=not speaker[1])


def _is_lack(cause: Cause, summary: _Summary) -> bool:
    """Return whether a program that could not be run explains the status of a summary."""
    return cause.kind is Kind.COMMAND and summary.status in _CANNOT_RUN


def _is_source(file: str, target: str) -> bool:
    """Return whether a target of make is named like a source file: `net/toa/toa.o` of `toa.c`."""
    one, other = (posixpath.splitext(path)[0].split("/") for path in (file, target))
    shorter = min(len(one), len(other))
    return bool(file) and one[-shorter:] == other[-shorter:]
