r"""Read a console's bytes as the texts that stand on it: without control characters, colours and time stamps.

A text of the kernel does not always begin a line. It follows a shell's prompt, the unfinished line of another text
(`Testing the thing... BUG: `), a carriage return, or what a log daemon puts before it. `starts` gives these places.
Everything here takes time in proportion to the line, whatever is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from pipeline.core import neutral

MAX_LINE = 1000  # characters kept of a line
MAX_RAW_LINE = 4 * MAX_LINE  # bytes kept of a line: no letter has more in UTF-8
MAX_STARTS = 32  # places in one line where a text may begin: more stamps than that are no log

_STAMP = r"\[ *\d+\.\d*\](?:\[ *[TC]\d+\])?"  # with the caller, of CONFIG_PRINTK_CALLER
_DATE = r"\[\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}\]"  # of `dmesg -T`
_LEVEL = r"<\d{1,4}>|kern *:(?:emerg|alert|crit|err|warn|notice|info|debug) *:"  # of `dmesg -r` and `dmesg -x`
_DAEMON = r"(?:(?:\w{3} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\d[T ][\d:.,+Z-]{8,32}) \S{1,64} )?kernel:"
_PREFIX = re.compile(rf"(?: (?=kernel:))?(?:(?:{_STAMP}|{_DATE}|{_LEVEL}|{_DAEMON}) ?)*")
_PROMPT = re.compile(
    r"(?:[~/]\S{0,64} ?[#$]|\[?\w[^\s@]{0,32}@[^\s\]]{1,64}(?: [^\s\]]{1,64})?\]? ?[#$]|(?:ba|da|a)?sh-[\d.]{1,8}[#$]"
    r"|\(initramfs\)|[\w.-]{1,64} login:) +"
)
_RESUMED = re.compile(rf"{_STAMP} ?|\.\.\. *")
_CONTROL = re.compile(
    r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-Z]|[=>78cDEHM])|[\0-\x08\x0b-\x1f\x7f]"
)


def printable(line: bytes) -> str:
    """Return a console's line as text without control characters, to be shown."""
    return neutral.line(line.decode(errors="backslashreplace").rstrip("\r")[:MAX_LINE].expandtabs())


def plain(line: bytes) -> str:
    """Return a console's line as a terminal shows it, to be held against patterns: colours and controls are gone."""
    return _CONTROL.sub("", line.decode(errors="backslashreplace"))[:MAX_RAW_LINE].expandtabs(8)


def whole(console: bytes) -> str:
    """Return a whole console as text whose lines are counted as its findings count them."""
    return "\n".join(line.rstrip("\r") for line in console.decode(errors="replace").split("\n"))


def message(text: str) -> str:
    """Return a plain line without its level, time stamp and caller."""
    return text[_end_of_prefix(text, 0) :]


def starts(text: str) -> Iterator[int]:
    """Yield the places of a plain line where a text of the kernel may begin, from left to right."""
    return islice(_starts(text), MAX_STARTS)


def _starts(text: str) -> Iterator[int]:
    first = _end_of_prefix(text, 0)
    yield first
    if prompt := _PROMPT.match(text, first):
        yield _end_of_prefix(text, prompt.end())
    for found in _RESUMED.finditer(text, first):
        yield _end_of_prefix(text, found.end())


def _end_of_prefix(text: str, at: int) -> int:
    found = _PREFIX.match(text, at)
    return found.end() if found else at
