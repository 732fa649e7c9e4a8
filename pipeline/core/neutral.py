r"""Neutralise untrusted text before it reaches a terminal, a page or a command line.

All text of servers, patches, logs and guests, and every file name, passes through here before output: by `console`,
the error texts, `cli`'s own streams, and the lab's page and JUnit file. Invisible characters become Python escapes:
`\x1b`, `\u202e`. JSON documents keep their data as it came; `json` escapes it.

Must not know the meaning of a text. Templates escape HTML's special characters.
"""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections.abc import Iterable
from typing import Any, TextIO, cast

LINE_MOST = 1 << 14  # characters of a line: more than any command shown here has; the rest is counted, not shown
MARKS_MOST = 3  # combining marks on one letter: no script in use has more, and a pile of them covers other lines

# Printable to `str.isprintable`, and yet not to be seen: Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties)
# beyond the category Cf, and the blank pattern of Braille.
_IGNORED = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)


def text(raw: str) -> str:
    """Return `raw` with invisible characters escaped; keep lines and tabs, and cut overlong lines."""
    return "\n".join(_cut(_visible(line, keep="\t")) for line in raw.replace("\r\n", "\n").split("\n"))


def line(raw: str) -> str:
    """Return `raw` as `text` does, on one line: a table's cell, a value in a file of lines."""
    return _cut(_visible(raw))


def word(raw: str | os.PathLike[str]) -> str:
    """Quote `raw` as one word of a command to copy; a shell reads back exactly `raw`.

    Quoted as POSIX has it; with `$'...'` (bash, ksh, zsh, and POSIX since 2024) where something cannot be seen.
    """
    plain = os.fspath(raw)
    if _visible(plain) == plain:
        return shlex.quote(plain)
    return f"$'{''.join(_quoted(letter) for letter in plain)}'"


def command(argv: Iterable[str | os.PathLike[str]]) -> str:
    """Format `argv` as a command line to copy and paste."""
    return " ".join(map(word, argv))


def document(value: Any) -> Any:
    """Return `value`, of mappings, lists, tuples and plain values, with each text and key neutral as by `text`."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {document(key): document(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(document(item) for item in value)
    return value


class _Stream:
    """A text stream that neutralises; only `bare` gives access to the stream behind it.

    For what is written past the console: a traceback, a library's warning, the help. Nothing is cut here, since
    a JSON document may have long lines.
    """

    def __init__(self, to: TextIO) -> None:
        self.to = to

    def write(self, raw: str) -> int:
        self.to.write("\n".join(_visible(part, keep="\t") for part in raw.split("\n")))
        return len(raw)

    def writelines(self, lines: Iterable[str]) -> None:
        for each in lines:
            self.write(each)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.to, name)


def stream(to: TextIO) -> TextIO:
    """Return `to` as a neutral stream."""
    return to if isinstance(to, _Stream) else cast(TextIO, _Stream(to))


def bare(of: TextIO) -> TextIO:
    """Return the stream behind a neutral one, for text that is neutral already."""
    return of.to if isinstance(of, _Stream) else of


def _visible(raw: str, keep: str = "") -> str:
    if raw.isascii() and raw.isprintable():  # almost everything
        return raw
    shown, marks = [], 0
    for letter in raw:
        marks = marks + 1 if unicodedata.category(letter).startswith("M") else 0
        seen = letter in keep or (letter.isprintable() and letter not in _IGNORED and marks <= MARKS_MOST)
        shown.append(letter if seen else _escaped(letter))
    return "".join(shown)


def _escaped(letter: str) -> str:
    byte = ord(letter) - 0xDC00
    if 0x80 <= byte <= 0xFF:  # what `surrogateescape` makes of a byte that is no UTF-8
        return f"\\x{byte:02x}"
    return letter.encode("unicode_escape").decode()


def _quoted(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    if _visible(letter) == letter and not unicodedata.category(letter).startswith("M"):
        return letter
    try:
        data = os.fsencode(letter)
    except UnicodeEncodeError:  # half of a pair that no file name can have
        data = letter.encode(errors="surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in data)


def _cut(whole: str) -> str:
    if len(whole) <= LINE_MOST:
        return whole
    kept = LINE_MOST - 40
    return f"{whole[:kept]}[... and {len(whole) - kept} characters more]"
