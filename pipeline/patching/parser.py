"""Parse unified diffs strictly: sections, headers and hunks, each with its line number.

Reads plain `diff -uprN` output and git's format, and refuses everything that git, GNU patch and
this reader might understand differently. Opens no file and starts no program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from pipeline.errors import Refused
from pipeline.patching import file_names
from pipeline.patching.file_names import BLANKS, DEV_NULL

FILE, EXECUTABLE, SYMLINK = "100644", "100755", "120000"
NOT_NEW = "the header says the file is new, its hunk changes existing lines"
NOT_DELETED = "the header says the file is deleted, its hunk leaves lines"
TRUNCATED = "a truncated download or a copy through a mail program"
CHOPPED = 3  # blank lines at a patch's end that GNU patch puts back: pch.c, "assume blank lines got chopped"

_HUNK = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@(?: .*)?")
_GIT_BLANKS = re.compile(rb"diff --git (?:[^/]*/)?(.* .*) (?:[^/]*/)?\1")  # one name twice, in no quotes
_GIT = re.compile(rb'diff --git ("(?:[^"\\]|\\.)*"|\S+) ("(?:[^"\\]|\\.)*"|\S+)')
_EXTENDED = re.compile(
    rb"(old mode|new mode|new file mode|deleted file mode|rename from|rename to|copy from|copy to|index"
    rb"|similarity index|dissimilarity index) (.*)"
)
_EPOCH = re.compile(
    rb"(1969-12-31|1970-01-01) (\d\d):(\d\d):00(?:\.0+)? ([-+])(\d\d):?(\d\d)|Thu Jan +1 00:00:00 1970( [-+]0000)?"
)
_BINARY = re.compile(rb"GIT binary patch|Binary files? .* (differ|has changed)")
# GNU patch takes these for a diff even when indented, quoted with "- " or marked with X; git does not.
_HIDDEN = re.compile(rb"[ \tX]*(?:- )*(?:\+\+\+ |@@ -\d|\*{15}|Prereq:|Index:|diff --git )")
_OTHER_KIND = re.compile(rb"[ \tX]*\d+(,\d+)?([acdis]$|[acd]\d)")


class Kind(StrEnum):
    """Kind of a file's change."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"
    RENAMED = "renamed"
    MODE_CHANGE = "mode-change"


@dataclass(frozen=True)
class Hunk:
    """One hunk: its number in the file, its header's line in the patch, its ranges, its lines with their sign."""

    number: int
    line: int
    old_start: int
    old_count: int
    new_start: int
    new_count: int
    body: tuple[bytes, ...]
    added: int
    removed: int


@dataclass(frozen=True)
class FileChange:
    """One file of a patch. Paths are after `-p1`; `new_mode` is None where the patch keeps the mode.

    `line` is where its header begins in the patch (from 1), `span` its bytes there. `link` tells
    that the content is the target of a symbolic link.
    """

    path: str
    old_path: str
    kind: Kind
    new_mode: str | None
    link: bool
    hunks: tuple[Hunk, ...]
    line: int
    span: tuple[int, int]

    @property
    def added(self) -> int:
        """Lines added."""
        return sum(hunk.added for hunk in self.hunks)

    @property
    def removed(self) -> int:
        """Lines removed."""
        return sum(hunk.removed for hunk in self.hunks)

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path of the change: two for a rename."""
        return (self.path,) if self.path == self.old_path else (self.old_path, self.path)

    def added_lines(self) -> Iterator[bytes]:
        """Yield the added lines in order, without their sign."""
        return (line[1:] for hunk in self.hunks for line in hunk.body if line[:1] == b"+")


@dataclass(frozen=True)
class Scan:
    """All files of a patch, and the number of blank lines missing at its very end."""

    files: tuple[FileChange, ...]
    restored: int


@dataclass
class _Header:
    """The lines before a file's first hunk."""

    first: int
    old: str = ""
    new: str = ""
    extended: dict[str, str] | None = None  # None for a plain diff
    old_epoch: bool = False
    new_epoch: bool = False

    @property
    def path(self) -> str:
        return self.old if self.new == DEV_NULL else self.new


def scan(data: bytes, name: str) -> Scan:
    """Parse a whole patch. Raises `Refused` with patch, file and line for everything ambiguous."""
    return _Reader(data, name).read()


class _Reader:
    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.lines = data.split(b"\n")
        self.whole = self.lines[-1] == b""
        if self.whole:
            self.lines.pop()
        self.starts = [0, *accumulate(len(line) + 1 for line in self.lines)]
        self.at = 0  # the next line, from 0
        self.file = ""  # the file being read, for messages
        self.text_from = 0  # where the text since the last section begins
        self.restored = 0
        if b"\0" in data:
            self.at = data.count(b"\n", 0, data.index(b"\0"))
            raise self.refuse("it holds NUL bytes: not a text patch")

    def refuse(self, what: str, *, line: int | None = None, why: str = "", hint: str = "") -> Refused:
        """Return the error for the current line, or for `line` (from 0)."""
        where = f"{self.name}:{(self.at if line is None else line) + 1}"
        return Refused(
            f"patch {self.name}{f', file {self.file}' if self.file else ''}: {what}",
            where=where,
            why=why,
            hint=hint or f"look at {where}; a patch is taken whole from its source, never edited",
        )

    def peek(self, ahead: int = 0) -> bytes:
        return self.lines[self.at + ahead] if self.at + ahead < len(self.lines) else b""

    def read(self) -> Scan:
        files = []
        while self.at < len(self.lines):
            line = self.peek()
            if line.startswith(b"diff --git "):
                files.append(self.section(self.git_header()))
            elif line.startswith(b"--- ") and self.peek(1).startswith(b"+++ "):
                header = _Header(self.preamble())
                self.file_lines(header)
                files.append(self.section(header))
            else:
                self.text(line)
        if not files:
            self.at = 0
            raise self.refuse("it is not a patch: no file header is in it" if self.lines else "it is empty")
        return Scan(tuple(files), self.restored)

    def text(self, line: bytes) -> None:
        """Skip a line between sections: free text, unless some program would take it for a diff."""
        if _BINARY.match(line):
            raise self.refuse("it holds a binary change", why="what it does cannot be read or proven line by line")
        if line.startswith(b"Only in "):
            raise self.refuse("it was made without -N: a file is missing from it", why=line.decode(errors="replace"))
        # `Index:` stands before many plain diffs; check_index() compares its name with theirs.
        if _HIDDEN.match(line) and not line.startswith(b"Index: "):
            raise self.refuse("it holds a diff header or hunk outside a file's section", why="GNU patch would apply it")
        if _OTHER_KIND.match(line):
            raise self.refuse(
                "it holds an ed script or a normal diff", why="GNU patch would run it; only unified diffs are read"
            )
        self.at += 1

    def preamble(self) -> int:
        """Return the first line of the next section: `diff`, `Index:` and `====` before `---` belong to it."""
        first = self.at
        while first > self.text_from and re.match(rb"diff -|Index: |={20}", self.lines[first - 1]):
            first -= 1
        return first

    def git_header(self) -> _Header:
        found = _GIT.fullmatch(self.peek())
        if found is None:
            blanks = _GIT_BLANKS.fullmatch(self.peek())
            if blanks is not None:
                raise self.refuse(f"the file name {blanks[1].decode(errors='replace')!r} holds blanks", why=BLANKS)
            raise self.refuse("the 'diff --git' line does not name two files")
        old, new = (file_names.checked(raw, self.refuse) for raw in found.groups())
        header_lines: dict[str, str] = {}
        header = _Header(self.at, old, new, header_lines)
        self.file = new
        self.check_index(old)
        self.at += 1
        while (extended := _EXTENDED.fullmatch(self.peek())) is not None:
            self.extended(header_lines, extended[1].decode(), extended[2])
            self.at += 1
        self.check_extended(header)
        if self.peek().startswith(b"--- ") and self.peek(1).startswith(b"+++ "):
            self.file_lines(header)
        elif self.peek().startswith((b"--- ", b"+++ ", b"@@ ")):
            raise self.refuse("the header lacks its '---' or '+++' line")
        return header

    def extended(self, header_lines: dict[str, str], key: str, raw: bytes) -> None:
        if key in header_lines:
            raise self.refuse(f"the header says {key!r} twice")
        if key.startswith("copy"):
            raise self.refuse("it copies a file", why="only git understands this; have the patch made without -C")
        if key.startswith("rename"):
            header_lines[key] = file_names.checked(raw, self.refuse, strip=0)
            return
        value = raw.decode("ascii", "replace").strip()
        if key == "index":
            value = value.partition(" ")[2]
        is_mode = key.endswith("mode") or (key == "index" and value != "")
        if is_mode and value not in (FILE, EXECUTABLE, SYMLINK):
            raise self.refuse(f"the file mode {value!r} is none of {FILE}, {EXECUTABLE}, {SYMLINK}")
        header_lines[key] = value

    def check_extended(self, header: _Header) -> None:
        """Check the extended header lines against each other and the `diff --git` line."""
        extended = header.extended or {}
        for one, other in (("old mode", "new mode"), ("rename from", "rename to")):
            if (one in extended) != (other in extended):
                raise self.refuse(f"the header says only one of {one!r} and {other!r}")
        if len(extended.keys() & {"new file mode", "deleted file mode", "rename from"}) > 1:
            raise self.refuse("the header makes, deletes or renames the file at once")
        if (extended.get("rename from", header.old), extended.get("rename to", header.new)) != (header.old, header.new):
            raise self.refuse("the rename names other files than the 'diff --git' line")
        if header.old != header.new and "rename from" not in extended:
            raise self.refuse(f"the 'diff --git' line names two files, {header.old} and {header.new}, without a rename")
        if SYMLINK in (extended.get("old mode"), extended.get("new mode")):
            raise self.refuse("it turns a file into a symbolic link or back by a mode change")

    def file_lines(self, header: _Header) -> None:
        """Parse the `---` and `+++` lines, which must name the same file, or the header's."""
        found = []
        for sign in (b"--- ", b"+++ "):
            raw, _, stamp = self.peek().removeprefix(sign).partition(b"\t")
            if stamp.endswith(b"\r"):
                raise self.refuse("the header has DOS line ends", why="GNU patch drops them silently and git does not")
            found.append((file_names.checked(raw, self.refuse), _is_epoch(stamp)))
            self.at += 1
        (old, header.old_epoch), (new, header.new_epoch) = found
        self.at -= 2
        if header.extended is None:
            self.plain_names(header, old, new)
        else:
            want_old = DEV_NULL if "new file mode" in header.extended else header.old
            want_new = DEV_NULL if "deleted file mode" in header.extended else header.new
            if (old, new) != (want_old, want_new):
                raise self.refuse(
                    f"the header says {want_old} and {want_new}, the '---' and '+++' lines {old} and {new}"
                )
        self.at += 2

    def plain_names(self, header: _Header, old: str, new: str) -> None:
        if old == new == DEV_NULL:
            raise self.refuse("both sides are /dev/null")
        if old != new and DEV_NULL not in (old, new):
            raise self.refuse(
                f"the '---' and '+++' lines name two files: {old} and {new}",
                why="GNU patch picks one of them by what happens to exist",
            )
        header.old, header.new = old, new
        self.file = header.path
        header.old_epoch |= old == DEV_NULL
        header.new_epoch |= new == DEV_NULL
        self.check_index(header.path)

    def check_index(self, path: str) -> None:
        """Check `Index:` lines before a header: GNU patch prefers the shortest name that exists."""
        for number in range(self.text_from, self.at):
            line = self.lines[number]
            if line.startswith(b"Index: ") and file_names.checked(line[7:].strip(), self.refuse) != path:
                raise self.refuse(f"the 'Index:' line names another file than {path}", line=number)

    def section(self, header: _Header) -> FileChange:
        self.file = header.path
        if _BINARY.match(self.peek()):
            raise self.refuse("it holds a binary change", why="what it does cannot be read or proven line by line")
        hunks = tuple(self.hunks())
        if self.at == len(self.lines) and not self.whole:
            self.at -= 1
            raise self.refuse("it is cut short: the patch ends in the middle of a line")
        self.text_from = self.at
        extended = header.extended
        kind = self.plain_kind(header, hunks) if extended is None else self.git_kind(header, hunks)
        new_mode = None if extended is None else extended.get("new file mode", extended.get("new mode"))
        link = extended is not None and SYMLINK in (new_mode, extended.get("index"), extended.get("deleted file mode"))
        old_path = header.path if header.old == DEV_NULL else header.old
        span = (self.starts[header.first], self.starts[self.at])
        change = FileChange(header.path, old_path, kind, new_mode, link, hunks, header.first + 1, span)
        self.check_link(change)
        self.file = ""
        return change

    def check_link(self, change: FileChange) -> None:
        if change.link and change.kind is not Kind.DELETED and change.hunks:
            self.at = change.hunks[0].line
            lines = list(change.added_lines())
            if len(lines) != 1 or change.hunks[-1].body[-1][:1] != b"\\":
                raise self.refuse("a symbolic link must have one target, without a line end")
            file_names.check_link(change.path, lines[0], self.refuse)
            self.at = self.text_from

    def plain_kind(self, header: _Header, hunks: tuple[Hunk, ...]) -> Kind:
        """Detect added and deleted files in `diff -N`: an epoch date or /dev/null, and one one-sided hunk."""
        if not hunks:
            raise self.refuse("the header is followed by no hunk")
        from_nothing, to_nothing = _one_sided(hunks)
        if header.old_epoch and not from_nothing:
            raise self.refuse(NOT_NEW, line=hunks[0].line - 1)
        if header.new_epoch and not to_nothing:
            raise self.refuse(NOT_DELETED, line=hunks[0].line - 1)
        if to_nothing and not header.new_epoch:
            raise self.refuse(
                "it cannot be told whether the file is deleted or emptied",
                line=hunks[0].line - 1,
                why="the date in the header is not the epoch: GNU patch leaves an empty file, git deletes it",
            )
        return Kind.DELETED if to_nothing else Kind.ADDED if from_nothing else Kind.MODIFIED

    def git_kind(self, header: _Header, hunks: tuple[Hunk, ...]) -> Kind:
        extended = header.extended or {}
        from_nothing, to_nothing = _one_sided(hunks)
        if "new file mode" in extended:
            if hunks and not from_nothing:
                raise self.refuse(NOT_NEW, line=hunks[0].line - 1)
            return Kind.ADDED
        if "deleted file mode" in extended:
            if hunks and not to_nothing:
                raise self.refuse(NOT_DELETED, line=hunks[0].line - 1)
            return Kind.DELETED
        if "rename from" in extended:
            if header.old == header.new:
                raise self.refuse("it renames the file to itself", line=header.first)
            return Kind.RENAMED
        if not hunks and "new mode" not in extended:
            raise self.refuse("the header is followed by no hunk")
        return Kind.MODIFIED if hunks else Kind.MODE_CHANGE

    def hunks(self) -> Iterator[Hunk]:
        number, end = 0, 0
        while self.peek().startswith(b"@@"):
            number += 1
            hunk = self.hunk(number)
            start = hunk.old_start + (hunk.old_count == 0)
            if start < end:
                raise self.refuse(f"hunk #{number} lies before the end of the one above", line=hunk.line - 1)
            end = start + hunk.old_count
            yield hunk

    def hunk(self, number: int) -> Hunk:
        found = _HUNK.fullmatch(self.peek())
        if self.at == len(self.lines) - 1 and not self.whole:
            raise self.refuse("it is cut short: the patch ends in the middle of a line", why=TRUNCATED)
        if found is None:
            raise self.refuse(f"the header of hunk #{number} is malformed")
        old_start, new_start = int(found[1]), int(found[3])
        old_count, new_count = (1 if text is None else int(text) for text in (found[2], found[4]))
        if (old_count and not old_start) or (new_count and not new_start) or not (old_count or new_count):
            raise self.refuse(f"the header of hunk #{number} makes no sense: {found[0].decode(errors='replace')}")
        first = self.at
        self.at += 1
        added, removed = self.body(number, first, old_count, new_count)
        body = (*self.lines[first + 1 : self.at], *[b" "] * self.restored)
        self.after(number, first)
        return Hunk(number, first + 1, old_start, old_count, new_start, new_count, body, added, removed)

    def body(self, number: int, first: int, old: int, new: int) -> tuple[int, int]:
        """Read as many lines as the hunk's header counts; return added and removed lines."""
        lines, at, added, removed = self.lines, self.at, 0, 0
        while old > 0 or new > 0:
            if at == len(lines):
                self.at = at
                self.chopped(number, first, old, new)
                return added, removed
            sign = lines[at][:1]
            if sign == b"+":
                added, new = added + 1, new - 1
            elif sign == b"-":
                removed, old = removed + 1, old - 1
            elif sign in (b" ", b""):  # an editor may have taken the blank off an empty line
                old, new = old - 1, new - 1
            elif sign != b"\\" or at == first + 1:
                self.at = at
                raise self.cut_short(number, first, old, new)
            at += 1
        self.at = at
        if old < 0 or new < 0:
            self.at = at - 1
            raise self.refuse(f"hunk #{number} is longer than its header at line {first + 1} says")
        if self.peek().startswith(b"\\ "):
            self.at += 1
        return added, removed

    def chopped(self, number: int, first: int, old: int, new: int) -> None:
        """Accept missing blank context lines at the patch's end, as GNU patch does; refuse any other cut."""
        if old != new or old > CHOPPED or not self.whole or self.at == first + 1:
            raise self.cut_short(number, first, old, new)
        self.restored = old

    def cut_short(self, number: int, first: int, old: int, new: int) -> Refused:
        return self.refuse(
            f"hunk #{number} is cut short: its header at line {first + 1} promises {max(old, 0)} more old"
            f" and {max(new, 0)} more new lines",
            why=TRUNCATED,
        )

    def after(self, number: int, first: int) -> None:
        """Refuse lines after a hunk that look like more of it."""
        line = self.peek()
        signature = line in (b"--", b"-- ") or (line.startswith(b"--- ") and self.peek(1).startswith(b"+++ "))
        if line[:1] in (b"+", b"-", b" ", b"\\") and line and not signature:
            raise self.refuse(f"hunk #{number} is longer than its header at line {first + 1} says")


def _one_sided(hunks: tuple[Hunk, ...]) -> tuple[bool, bool]:
    """Return whether the change is one hunk from nothing or to nothing."""
    if len(hunks) != 1:
        return False, False
    only = hunks[0]
    return (only.old_start, only.old_count) == (0, 0), (only.new_start, only.new_count) == (0, 0)


def _is_epoch(stamp: bytes) -> bool:
    """Return whether a header's date is 1970-01-01 00:00:00 UTC, which `diff -N` writes for a missing file."""
    found = _EPOCH.fullmatch(stamp.strip())
    if found is None:
        return False
    if found[1] is None:
        return True
    minutes = int(found[2]) * 60 + int(found[3]) - (1440 if found[1] == b"1969-12-31" else 0)
    zone = int(found[5]) * 60 + int(found[6])
    return minutes == (zone if found[4] == b"+" else -zone)
