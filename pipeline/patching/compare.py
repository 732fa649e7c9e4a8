"""Compare two versions of a patch by their effect, regardless of line numbers and context.

Line numbers and context may move between versions; the lines removed and added, the modes and the
names may not. Needs no kernel tree and decides nothing: it shows.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pipeline.config.line_model import RoleName, Rule
from pipeline.patching.patch_file import FileChange, PatchFile
from pipeline.patching.role_rules import Classification, classify

SHOWN = 40  # differing lines shown per file


class Verdict(StrEnum):
    """How two versions of a patch relate on one file."""

    ONLY_A = "only in A"
    ONLY_B = "only in B"
    SAME = "same effect"
    DIFFERENT = "differs"


@dataclass(frozen=True)
class FileComparison:
    """One file. `lines` begin with `A` or `B`, then the line with its sign; at most `SHOWN`.

    `left_out` counts further ones; `about` says what else differs: kind, mode or old name.
    """

    path: str
    verdict: Verdict
    about: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    left_out: int = 0

    def to_json(self) -> dict[str, object]:
        """Return it as `--json` prints it."""
        return {name: getattr(self, name) for name in ("path", "verdict", "about", "lines")}


@dataclass(frozen=True)
class Side:
    """One version: its digests, its role by content (None if not proven), its option numbers per macro."""

    name: str
    sha256: str
    patch_id: str | None
    role: RoleName | None
    by: str
    options: Mapping[str, tuple[int, ...]]

    def to_json(self) -> dict[str, object]:
        """Return it as `--json` prints it."""
        return {name: getattr(self, name) for name in ("name", "sha256", "role", "options")}


@dataclass(frozen=True)
class Comparison:
    """Two versions of a patch, file by file in order of path."""

    a: Side
    b: Side
    files: tuple[FileComparison, ...]

    @property
    def same_effect(self) -> bool:
        """Whether both have the same effect, line numbers and context aside."""
        return all(file.verdict is Verdict.SAME for file in self.files)

    @property
    def differing(self) -> tuple[FileComparison, ...]:
        """The files with different effects."""
        return tuple(file for file in self.files if file.verdict is not Verdict.SAME)

    def to_json(self) -> dict[str, object]:
        """Return it as `--json` prints it."""
        return {"same_effect": self.same_effect, **vars(self)}


def compare(a: PatchFile, b: PatchFile, rules: Mapping[RoleName, Rule]) -> Comparison:
    """Compare two patches by effect; `rules` give the role and the option number of each."""
    ours, theirs = ({change.path: change for change in patch.files} for patch in (a, b))
    files = tuple(_file(path, ours.get(path), theirs.get(path)) for path in sorted(ours.keys() | theirs.keys()))
    return Comparison(_side(a, classify(a, rules)), _side(b, classify(b, rules)), files)


def _side(patch: PatchFile, found: Classification) -> Side:
    options = {option.define: option.numbers if not option.unread else () for option in found.options.values()}
    seen = {option.define for role, option in found.options.items() if option.found or role is found.role}
    options = {define: numbers for define, numbers in options.items() if define in seen}
    return Side(patch.name, patch.sha256, patch.patch_id, found.role, found.by, options)


def _file(path: str, a: FileChange | None, b: FileChange | None) -> FileComparison:
    if a is None or b is None:
        return FileComparison(path, Verdict.ONLY_B if a is None else Verdict.ONLY_A)
    about = tuple(_about(a, b))
    ours, theirs = list(_effect(a)), list(_effect(b))
    if ours == theirs:
        return FileComparison(path, Verdict.DIFFERENT if about else Verdict.SAME, about)
    lines = list(_differing(_flat(ours), _flat(theirs)))
    if not lines:
        about = (*about, "the same lines, grouped around other unchanged lines")
    return FileComparison(path, Verdict.DIFFERENT, about, tuple(lines[:SHOWN]), max(0, len(lines) - SHOWN))


def _about(a: FileChange, b: FileChange) -> Iterator[str]:
    for what, one, other in (
        ("kind", a.kind, b.kind),
        ("mode", a.new_mode, b.new_mode),
        ("old name", a.old_path, b.old_path),
        ("symbolic link", a.link, b.link),
    ):
        if one != other:
            yield f"{what}: {one} in A, {other} in B"


_Group = tuple[tuple[bytes, ...], tuple[bytes, ...]]


def _effect(change: FileChange) -> Iterator[_Group]:
    """Return each run of changed lines as (removed, added), independent of context and line numbers."""
    for hunk in change.hunks:
        removed: list[bytes] = []
        added: list[bytes] = []
        for line in (*hunk.body, b" "):
            if line[:1] == b"-":
                removed.append(line)
            elif line[:1] == b"+":
                added.append(line)
            elif line[:1] == b"\\":
                _mark(removed, added)
            elif removed or added:
                yield tuple(removed), tuple(added)
                removed, added = [], []


def _mark(removed: list[bytes], added: list[bytes]) -> None:
    """Append the mark of a missing line end to the line above."""
    last = added or removed
    if last:
        last[-1] += b" (no newline at end of file)"


def _flat(groups: list[_Group]) -> list[bytes]:
    return [line for removed, added in groups for line in (*removed, *added)]


def _differing(ours: list[bytes], theirs: list[bytes]) -> Iterator[str]:
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=len(ours) + len(theirs) > 2000)
    for tag, a_from, a_to, b_from, b_to in matcher.get_opcodes():
        if tag != "equal":
            yield from (f"A {line.decode(errors='backslashreplace')}" for line in ours[a_from:a_to])
            yield from (f"B {line.decode(errors='backslashreplace')}" for line in theirs[b_from:b_to])
