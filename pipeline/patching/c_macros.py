"""Read the number that a patch gives a C macro, as a compiler would meet it in the patched files.

Comments and what `#if 0` leaves out are no code; a number may be written as an expression, by another macro of the
patch, as an enumerator or by `-D` in a Makefile. What is not understood is said as such: a guess would be worse than
nothing, since two hosts with different numbers lose the client's address silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from pipeline.patching import c_expressions
from pipeline.patching.patch_file import FileChange, PatchFile

_TEXT = "Documentation/"  # all else may be included, whatever its name ends in
_MAKE = re.compile(r"(?:Makefile|Kbuild).*|.*\.mk")
_DIRECTIVE = re.compile(r"\s*(?:#|%:)\s*(\w+)\s*(.*)", re.DOTALL)  # %: is a way to write # that gcc takes too
_BRANCHES = ("if", "ifdef", "ifndef", "elif", "elifdef", "elifndef", "else", "endif")
_DEFINE = re.compile(r"(\w+)(\(?)\s*(.*)", re.DOTALL)
_MARKS = re.compile(r"\"(?:\\.|[^\"\\])*\"?|'(?:\\.|[^'\\])*'?|/\*|\*/|//")


class Definition(NamedTuple):
    """A number given to the macro, with its place; None with the `text` of an unreadable one.

    `line` is the patch's, from 1; `condition` the directive that the definition depends on, or nothing.
    """

    path: str
    line: int
    number: int | None
    text: str = ""
    condition: str = ""


@dataclass(frozen=True)
class _Body:
    """A replacement text of a name somewhere in the patch."""

    path: str
    line: int
    text: str
    condition: str


def definitions(patch: PatchFile, macro: str) -> tuple[Definition, ...]:
    """Return every number that the patched files give `macro`, as far as the patch shows, in order.

    Lines are counted in the patch; in the patched file where the patch shows whole files.
    """
    if macro.encode() not in patch.data:
        return ()
    bodies: dict[str, list[_Body]] = {}
    for change in patch.files:
        for hunk in change.hunks:
            lines = _new_side(hunk.line, hunk.body)
            if patch.whole_files:
                lines = [(number, text) for number, (_, text) in enumerate(lines, hunk.new_start)]
            if _MAKE.fullmatch(PurePosixPath(change.path).name):
                _of_makefile(change.path, macro, lines, bodies)
            elif not change.path.startswith(_TEXT):
                _Reader(change, macro, bodies, hunk.new_start - 1 if patch.whole_files else hunk.line).read(lines)
    known = c_expressions.Macros({name: [body.text for body in found] for name, found in bodies.items()})
    return tuple(item for body in bodies.get(macro, ()) for item in _numbers(body, known))


def _numbers(body: _Body, known: c_expressions.Macros) -> Iterator[Definition]:
    for number in sorted(known.values(body.text), key=lambda value: (value is None, value)):
        yield Definition(body.path, body.line, number, " ".join(body.text.split()), body.condition)


def _new_side(header: int, body: Sequence[bytes]) -> list[tuple[int, str]]:
    """Yield the lines of the patched file in a hunk, each with its line number in the patch."""
    kept = ((header + at, line) for at, line in enumerate(body, 1) if line[:1] in (b"+", b" ", b""))
    return [(number, line[1:].decode("latin-1").rstrip("\r")) for number, line in kept]


def _of_makefile(path: str, macro: str, lines: Sequence[tuple[int, str]], bodies: dict[str, list[_Body]]) -> None:
    """Collect a macro set by the compiler's `-D` or `--define-macro`, or as `NAME=NUMBER` for a later `-D`."""
    name = re.escape(macro)
    given = re.compile(rf"-D[\s\"']*{name}(?!\w)(?:=(\S*))?|(?<!\w){name}=(\S*)")
    for number, line in _spliced(lines):
        for found in given.finditer(line.partition("#")[0]):
            text = found[1] or found[2] or "1"
            bodies.setdefault(macro, []).append(_Body(path, number, text.strip("'\""), ""))


@dataclass
class _Reader:
    """A reader of one hunk's C. Code around the hunk is unknown and counts as compiled."""

    change: FileChange
    macro: str
    bodies: dict[str, list[_Body]]
    header: int  # the line before the hunk's first
    latest: int = 0  # the line of the last code so far
    stack: list[list[bool | None]] = field(default_factory=list)  # each `#if`: of every branch so far, whether it holds
    conditions: list[str] = field(default_factory=list)  # each open branch as it is written
    code: list[tuple[int, str, str]] = field(default_factory=list)  # line, condition, text

    def read(self, lines: Sequence[tuple[int, str]]) -> None:
        """Add the hunk's definitions to `bodies`."""
        logical = list(_uncommented(lines))
        for at, (number, text) in enumerate(logical):
            found = _DIRECTIVE.fullmatch(text)
            if found is None:
                if self.compiled() is not False:
                    self.code.append((number, self.condition(), text))
                    self.latest = number if text.strip() else self.latest
            elif found[1] in _BRANCHES:
                self.branch(found[1], found[2].strip(), logical[at + 1 :])
            elif self.compiled() is not False:
                self.define(number, found[1], found[2])
        self.assigned()

    def compiled(self) -> bool | None:
        """Return whether the current line is compiled; None where the patch does not tell."""
        holds = [branches[-1] for branches in self.stack]
        return False if False in holds else None if None in holds else True

    def condition(self) -> str:
        """Return the innermost condition of the current line."""
        open_ones = zip(self.stack, self.conditions, strict=True)
        return next((conditions for branches, conditions in reversed(list(open_ones)) if branches[-1] is None), "")

    def branch(self, word: str, condition: str, rest: Sequence[tuple[int, str]]) -> None:
        if word == "endif":
            if self.stack:
                self.stack.pop()
                self.conditions.pop()
            return
        opens = word.startswith("if")
        if opens or not self.stack:  # an #else whose #if is above the hunk depends on something unknown
            self.stack.append([] if opens else [None])
            self.conditions.append("")
        before = self.stack[-1]
        held: bool | None
        if True in before:
            held = False
        elif word == "else":
            held = None if None in before else True
        else:
            held = self.holds(word, condition, rest)
            held = None if held and None in before else held
        before.append(held)
        self.conditions[-1] = f"#{word} {condition}".strip()

    def holds(self, word: str, condition: str, rest: Sequence[tuple[int, str]]) -> bool | None:
        if word in ("ifdef", "ifndef", "elifdef", "elifndef"):
            guard = re.compile(rf"\s*(?:#|%:)\s*define\s+{re.escape(condition)}\b")
            following = next((text for _, text in rest if text.strip()), "")
            return True if word == "ifndef" and guard.match(following) else None
        (value,) = c_expressions.Macros({}).values(condition)
        return None if value is None else bool(value)

    def define(self, number: int, word: str, rest: str) -> None:
        found = _DEFINE.fullmatch(rest)
        if found is None:
            return
        name, call, text = found.groups()
        if word == "undef" and self.compiled():  # what code may have met before stays
            seen = max(self.header, self.latest)
            self.bodies[name] = [body for body in self.bodies.get(name, ()) if body.line < seen]
        elif word == "define":
            self.add(name, number, f"({text}" if call else text, self.condition())

    def add(self, name: str, number: int, text: str, condition: str) -> None:
        self.bodies.setdefault(name, []).append(_Body(self.change.path, number, text.strip(), condition))

    def assigned(self) -> None:
        """Yield enumerators and constants in the hunk's code."""
        tokens = [(n, c, token) for n, c, text in self.code for token in c_expressions.TOKEN.findall(text)]
        at, counted, since = 0, "", -1  # in an enum: the last given value, and how many followed; -1 outside
        while at < len(tokens):
            number, condition, token = tokens[at]
            words = [word for _, _, word in tokens[at : at + 3]]
            if token == "enum" and "{" in words:
                at += words.index("{") + 1
                counted, since = "0", 0
                continue
            if token == "}":
                since = -1
            elif token.isidentifier() and (words[1:2] == ["="] or (since >= 0 and words[1:2] in ([","], ["}"]))):
                inside, at = since >= 0, at + 1
                if words[1:2] == ["="]:
                    (counted, at), since = _until_end(tokens, at + 1), 0
                if inside or token == self.macro:
                    self.add(token, number, f"({counted})+{since}" if since else counted, condition)
                since = since + 1 if inside else -1
                continue
            at += 1


def _until_end(tokens: Sequence[tuple[int, str, str]], at: int) -> tuple[str, int]:
    """Return an expression up to the `,`, `;` or `}` behind it, and its end."""
    end = at
    while end < len(tokens) and tokens[end][2] not in (",", ";", "}"):
        end += 1
    return " ".join(token for _, _, token in tokens[at:end]), end


def _uncommented(lines: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Yield logical lines without comments; an unopened comment's end means that the hunk began inside it."""
    found: list[tuple[int, str]] = []
    inside = False
    for number, line in _spliced(lines):
        text, at = "", 0
        while at < len(line):
            mark = re.compile(r"\*/").search(line, at) if inside else _MARKS.search(line, at)
            text += "" if inside else line[at : mark.start() if mark else None]
            if mark is None or (mark[0] == "//" and not inside):
                break
            at = mark.end()
            if mark[0] == "*/":
                if not inside:
                    found, text = [], ""
                inside, text = False, f"{text} "
            elif mark[0] == "/*":
                inside = True
            else:
                text += mark[0]
        found.append((number, text))
    return found


def _spliced(lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Join lines that a backslash continues; gcc accepts blanks behind it."""
    first, text = 0, ""
    for number, line in lines:
        first = first or number
        bare = line.rstrip(" \t\f\v")
        text += bare[:-1] if bare.endswith("\\") else line
        if not bare.endswith("\\"):
            yield first, text
            first, text = 0, ""
    if first:
        yield first, text
