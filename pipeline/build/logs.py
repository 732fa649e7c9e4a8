"""The first real error of a build log: not its tail, which only says that something failed before."""

from __future__ import annotations

import re
from pathlib import Path

AROUND = 6  # lines shown behind the first error
_TAIL = 20  # lines shown where nothing looks like an error

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
    | ^configure:\ error | \bSegmentation\ fault\b | ^FATAL\b | assertion.*failed
    | Network\ is\ unreachable | Temporary\ failure\ in\ name\ resolution
    | Could\ not\ resolve | Name\ or\ service\ not\ known | unable\ to\ resolve
    | [Ff]ork.*:\ Resource\ temporarily\ unavailable | [Cc]annot\ fork | virtual\ memory\ exhausted
    | File\ too\ large | [Oo]ut\ of\ memory | std::bad_alloc
    """
)
# Later echoes of an error, and words that only look like one.
_ECHO = re.compile(
    r"^(make(\[\d+\])?: \*\*\* .*Error \d+|make: \*\*\* Waiting|error: Bad exit status|RPM build errors"
    r"|\s+Bad exit status)|-Werror|error(s)?: 0\b|/error\.o|warning:"
)


def first_error(log: Path) -> tuple[int, list[str]]:
    """The line number (from 1) of the first real error and the lines from there; the tail when there is none."""
    lines = _lines(log)
    for index, line in enumerate(lines):
        if _REAL.search(line) and not _ECHO.search(line):
            return index + 1, lines[index : index + AROUND]
    return tail(log, _TAIL)


def tail(log: Path, count: int) -> tuple[int, list[str]]:
    """The last `count` lines, and the line number (from 1) of the first of them."""
    lines = _lines(log)
    start = max(0, len(lines) - count)
    return start + 1, lines[start:]


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="backslashreplace").splitlines()
