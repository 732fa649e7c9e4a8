"""Find the first real error of a build log, not its tail, which only reports that an earlier command failed."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

CONTEXT_LINES = 6  # lines shown behind the first error
MAX_LINE = 4096  # bytes looked at of one line
_TAIL_LINES = 20  # lines shown where nothing looks like an error

# What says that something went wrong, in the words of the program that noticed it first.
_REAL = re.compile(
    r"""(?x)
    (^|\s)(fatal\ )?error(:|\ [A-Z]\d+:)      # compilers, linkers, rpmbuild
    | :\ undefined\ reference\ to
    | ^make(\[\d+\])?:\ \*\*\*\ No\ rule\ to\ make\ target
    | command\ not\ found$ | :\ not\ found$
    | No\ space\ left\ on\ device | Cannot\ allocate\ memory | Killed$ | File\ size\ limit\ exceeded
    | ^(patch|\d+\ out\ of\ \d+\ hunks?).*(FAILED|failed)
    | ^Hunk\ \#\d+\ FAILED | can't\ find\ file\ to\ patch
    | ^configure:\ error | \bSegmentation\ fault\b | ^FATAL\b
    | Network\ is\ unreachable | Temporary\ failure\ in\ name\ resolution
    | Could\ not\ resolve | Name\ or\ service\ not\ known | unable\ to\ resolve
    | [Cc]annot\ fork | virtual\ memory\ exhausted
    | File\ too\ large | [Oo]ut\ of\ memory | std::bad_alloc
    """
)
_SPLIT_PATTERNS = (
    ("assertion", "failed"),
    *((word, ": Resource temporarily unavailable") for word in ("fork", "Fork")),
)
# Later echoes of an error, and words that only look like one.
_ECHO = re.compile(
    r"^(make(\[\d+\])?: \*\*\* .*Error \d+|make: \*\*\* Waiting|error: Bad exit status|RPM build errors"
    r"|\s+Bad exit status)|-Werror|error(s)?: 0\b|/error\.o|warning:"
)


def first_error(log: Path) -> tuple[int, list[str]]:
    """Return the line number (from 1) of the first real error and the lines from there; without one, the tail."""
    numbered = enumerate(lines(log), 1)
    for number, line in numbered:
        if _is_error(line):
            return number, [line, *(below for _, below in itertools.islice(numbered, CONTEXT_LINES - 1))]
    return tail(log, _TAIL_LINES)


def tail(log: Path, count: int) -> tuple[int, list[str]]:
    """Return the line number (from 1) of the first of the last `count` lines, and those lines."""
    last = collections.deque(enumerate(lines(log), 1), maxlen=count)
    return (last[0][0] if last else 1), [line for _, line in last]


def lines(log: Path) -> Iterator[str]:
    """Yield the lines of a log, each cut off at `MAX_LINE` bytes: a build may print one line without end."""
    with log.open("rb") as stream:
        begins = True
        while piece := stream.readline(MAX_LINE):
            if begins:
                yield piece.rstrip(b"\r\n").decode(errors="backslashreplace")
            begins = piece.endswith(b"\n")


def matches(log: Path, pattern: re.Pattern[str], limit: int) -> list[re.Match[str]]:
    """Search each line of a log, and return the first `limit` matches."""
    matches = (pattern.search(line) for line in lines(log))
    return list(itertools.islice((match for match in matches if match), limit))


def _is_error(line: str) -> bool:
    # What comes behind its word by any distance is looked for once: a pattern would try it at each word.
    distant = any(text in line[line.find(word) :] for word, text in _SPLIT_PATTERNS if word in line)
    return (distant or _REAL.search(line) is not None) and not _ECHO.search(line)
