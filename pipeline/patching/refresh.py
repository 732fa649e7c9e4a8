"""Rebase a series of patches onto another tree: find where each hunk goes now, and make anew the patches that moved.

Writes into the directories it is given, and never to a patch. What it returns proves nothing: the refreshed series is
to be verified as any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

from pipeline.core import process
from pipeline.core.fs import write_atomic
from pipeline.errors import Refused
from pipeline.formats import git_tree
from pipeline.formats.git_tree import Listing
from pipeline.patching import apply, compare, patch_file
from pipeline.patching.apply import DELETED, LISTED, HunkResult
from pipeline.patching.patch_file import FileChange, Hunk, Kind, PatchFile

BESIDE = 5  # lines of a file shown above and below where a hunk may belong
FUZZ = 2  # lines at each end of a hunk that may differ: GNU patch's own default
_INDEX = re.compile(rb"^index ([0-9a-f]+)\.\.([0-9a-f]+)", re.MULTILINE)
_ABSENT = "0" * 40


@dataclass(frozen=True)
class MovedHunk:
    """A hunk that goes elsewhere than its patch says: its lines before and now, from 1 in the file it changes.

    `fuzz` counts the outer lines of context that differ; `context` are those the hunk expects, with `-`, and those
    that stand there, with `+`.
    """

    path: str
    number: int
    line: int
    new_line: int
    fuzz: int
    context: tuple[str, ...]


@dataclass(frozen=True)
class RefreshedPatch:
    """A patch as it is for the tree now. `effect` are the blobs that it leaves, 40 zeros for a deleted file.

    `same_lines`: it adds and removes the same lines as before.
    """

    old: PatchFile = field(repr=False)
    new: PatchFile = field(repr=False)
    moved: tuple[MovedHunk, ...]
    effect: Mapping[str, str]
    same_lines: bool

    @property
    def name(self) -> str:
        """Its name in the line file, or its file's."""
        return self.old.name

    @property
    def fuzzy(self) -> tuple[MovedHunk, ...]:
        """The hunks whose context changed."""
        return tuple(hunk for hunk in self.moved if hunk.fuzz)

    @property
    def state(self) -> str:
        """The outcome, in words."""
        if self.new.data == self.old.data:
            return "unchanged"
        if not self.moved:
            return "its index lines only"
        fuzz = f", {len(self.fuzzy)} with fuzz" if self.fuzzy else ""
        return f"{len(self.moved)} of {self.old.hunks} hunks moved{fuzz}"


@dataclass(frozen=True)
class Place:
    """The directories of one refresh, and the name of the source that the tree is out of.

    `pristine` holds every file the series touches. `scratch` must not exist; `rejects` is for hunks that do not apply.
    """

    pristine: Path
    scratch: Path
    rejects: Path
    source: str


def refresh(series: Sequence[tuple[str, bytes]], place: Place) -> list[RefreshedPatch]:
    """Apply (name, bytes) in order, with offsets and fuzz, and return each patch as it is for this tree.

    Raises `Refused` for the first patch with a hunk that does not apply, after the hunks were written to `rejects`.
    """
    parsed = [patch_file.parse(data, name) for name, data in series]
    touched = sorted({path for patch in parsed for change in patch.files for path in change.paths})
    tree = place.scratch / "tree"
    apply.copy_files(place.pristine, touched, tree)
    history = _History(tree, place.scratch / "history.git")
    before = history.record()
    found = []
    for number, patch in enumerate(parsed):
        moved = _apply(patch, tree, place, [item.name for item in parsed[:number]])
        after = history.record()
        found.append(_refreshed(patch, moved, history, (before, after)))
        before = after
    return found


@dataclass(frozen=True)
class _State:
    """A state of the tree: git's id, and its files."""

    tree: str
    listing: Listing


class _History:
    """Repository of the states of a tree, for git's own format of the changes between them."""

    def __init__(self, tree: Path, repository: Path) -> None:
        self.tree = tree
        self.environment = {
            **patch_file.git_environment(),
            "GIT_DIR": str(repository.absolute()),
            "GIT_WORK_TREE": str(tree.absolute()),
        }
        self._git("init", "--quiet", "--template=")
        (repository / "info").mkdir(exist_ok=True)
        (repository / "info" / "attributes").write_text("* !diff -text !filter !ident !working-tree-encoding\n")

    def record(self) -> _State:
        """Record the tree as it is now."""
        self._git("add", "--all", "--force", ".")
        return _State(self._git("write-tree").decode().strip(), git_tree.of_directory(self.tree))

    def changes(self, before: _State, after: _State, *options: str) -> bytes:
        """Return what changes between two states, in git's format."""
        fixed = ("--no-ext-diff", "--no-textconv", "--no-color", "--text")
        return self._git("diff-tree", "-p", *fixed, *options, before.tree, after.tree)

    def _git(self, *words: str) -> bytes:
        return process.run(("git", *words), cwd=self.tree, env=self.environment).out


def _apply(patch: PatchFile, tree: Path, place: Place, applied: Sequence[str]) -> tuple[MovedHunk, ...]:
    """Apply one patch to the tree. Raises `Refused` for hunks that do not apply."""
    apply.check_parents(tree, patch)
    apply.check_presence(patch, git_tree.of_directory(tree))
    lines = {change.old_path: _lines(tree / change.old_path) for change in patch.files}

    def check(patch: PatchFile, found: Sequence[Sequence[HunkResult]]) -> None:
        rejects = list(_rejects(patch, found, lines))
        if rejects:
            raise _refusal(patch, rejects, place, applied)

    found = apply.gnu_patch(patch, tree, f"-F{FUZZ}", check=check)
    return tuple(
        _moved(change, hunk, result, lines[change.old_path])
        for change, results in zip(patch.files, found, strict=True)
        for hunk, result in zip(change.hunks, results, strict=True)
        if result.offset or result.fuzz
    )


def _lines(path: Path) -> list[bytes]:
    """Return the lines of a regular file; none of anything else."""
    if path.is_symlink() or not path.is_file():
        return []
    return path.read_bytes().removesuffix(b"\n").split(b"\n")


def _moved(change: FileChange, hunk: Hunk, result: HunkResult, lines: Sequence[bytes]) -> MovedHunk:
    at = hunk.old_start + result.offset
    context = tuple(_differences(_old(hunk), lines[max(at - 1, 0) :][: hunk.old_count])) if result.fuzz else ()
    return MovedHunk(change.path, hunk.number, hunk.old_start, at, result.fuzz, context)


def _old(hunk: Hunk) -> list[bytes]:
    """Return the lines that a hunk expects in the file."""
    return [line[1:] for line in hunk.body if line[:1] in (b" ", b"-")]


def _differences(expected: Sequence[bytes], found: Sequence[bytes]) -> Iterator[str]:
    for tag, a_from, a_to, b_from, b_to in SequenceMatcher(None, expected, found, autojunk=False).get_opcodes():
        if tag != "equal":
            yield from (f"-{_text(line)}" for line in expected[a_from:a_to])
            yield from (f"+{_text(line)}" for line in found[b_from:b_to])


def _text(line: bytes) -> str:
    return line.decode(errors="backslashreplace")


def _refreshed(
    patch: PatchFile, moved: tuple[MovedHunk, ...], history: _History, states: tuple[_State, _State]
) -> RefreshedPatch:
    """Return the patch, made anew where hunks moved or where its index lines name other blobs than there are."""
    before, after = (state.listing for state in states)
    effect = {item.path: item.actual.blob if item.actual else DELETED for item in git_tree.compare(before, after)}
    if not moved and not any(_is_stale(patch, change, before, after) for change in patch.files):
        return RefreshedPatch(patch, patch, (), effect, same_lines=True)
    first, last = patch.files[0].span[0], patch.files[-1].span[1]
    if any(one.span[1] != other.span[0] for one, other in zip(patch.files, patch.files[1:], strict=False)):
        raise Refused(
            f"patch {patch.name}: there is text between its files; expected one header above all of them",
            where=patch.name,
            why="it would be lost where the patch is made anew",
            hint="put the text above the first file, and pin the digest in series.toml",
        )
    index = _INDEX.search(patch.data, first, last)
    width = f"--abbrev={len(index[1])}" if index else "--full-index"
    renames = "--find-renames" if any(change.kind is Kind.RENAMED for change in patch.files) else "--no-renames"
    data = patch.data[:first] + history.changes(*states, width, renames) + patch.data[last:]
    new = patch_file.parse(data, patch.name)
    return RefreshedPatch(patch, new, moved, effect, same_lines=compare.compare(patch, new, {}).same_effect)


def _is_stale(patch: PatchFile, change: FileChange, before: Listing, after: Listing) -> bool:
    """Tell whether the file's index line names other blobs than there are; no such line is not."""
    index = _INDEX.search(patch.data, *change.span)
    if index is None:
        return False
    old, new = before.get(change.old_path), after.get(change.path)
    blobs = (old.blob if old and change.kind is not Kind.ADDED else _ABSENT, new.blob if new else _ABSENT)
    return any(not blob.startswith(named.decode()) for named, blob in zip(index.groups(), blobs, strict=True))


@dataclass(frozen=True)
class _Reject:
    """A hunk that does not apply, the file's lines, and the one, from 1, where it is most like what is expected."""

    change: FileChange
    hunk: Hunk
    at: int
    lines: Sequence[bytes]

    @property
    def title(self) -> str:
        hunk, path = self.hunk, self.change.path
        place = f"expected at line {hunk.old_start}, the most alike is at line {self.at}"
        return f"{path}: hunk #{hunk.number} (line {hunk.line} of the patch) does not apply; {place}"

    @property
    def differences(self) -> list[str]:
        return list(_differences(_old(self.hunk), self.lines[self.at - 1 :][: self.hunk.old_count]))


def _rejects(
    patch: PatchFile, found: Sequence[Sequence[HunkResult]], lines: Mapping[str, Sequence[bytes]]
) -> Iterator[_Reject]:
    for change, results in zip(patch.files, found, strict=False):
        for hunk, result in zip(change.hunks, results, strict=False):
            if result.failed:
                there = lines[change.old_path]
                at = _most_alike(_old(hunk), there, hunk.old_start)
                yield _Reject(change, hunk, at, there)


def _most_alike(expected: Sequence[bytes], lines: Sequence[bytes], at: int) -> int:
    """Return the line, from 1, from which most lines are as expected; of equals the one nearest to `at`."""
    counts = [0] * (len(lines) + 1)
    places: dict[bytes, list[int]] = {}
    for number, line in enumerate(lines):
        places.setdefault(line, []).append(number)
    for number, line in enumerate(expected):
        for place in places.get(line, ()):
            if line.strip() and place >= number:
                counts[place - number] += 1
    return max(range(1, len(counts) + 1), key=lambda line: (counts[line - 1], -abs(line - at)))


def _refusal(patch: PatchFile, rejects: Sequence[_Reject], place: Place, applied: Sequence[str]) -> Refused:
    """Write the hunks that do not apply to a file, and return the error that names it."""
    file = place.rejects / f"{patch.name.removesuffix('.patch')}.rej"
    write_atomic(file, b"\n".join(_report(reject) for reject in rejects))
    rows = []
    for reject in rejects:
        rows.append(reject.title)
        rows += [f"  {line}" for line in reject.differences[:LISTED]]
        if len(reject.differences) > LISTED:
            rows.append(f"  and {len(reject.differences) - LISTED} lines more")
    count = f"{len(rejects)} of {patch.hunks} hunks {'does' if len(rejects) == 1 else 'do'} not apply"
    after = f"after {', '.join(applied)}" if applied else "the first of its series"
    return Refused(
        "\n  ".join([f"patch {patch.name}: {count} to {place.source}, {after}", *rows]),
        where=str(file),
        why="what the hunk expects (-) is not there (+), and where else it belongs is for a person to say; no patch was"
        " changed",
        hint=f"change the patch by hand, pin its SHA-256 in series.toml, and repeat the command; {file} has the hunks",
    )


def _report(reject: _Reject) -> bytes:
    """Return a hunk as GNU patch's files of rejects have it, and below it the lines that stand there."""
    hunk, change = reject.hunk, reject.change
    ranges = f"@@ -{hunk.old_start},{hunk.old_count} +{hunk.new_start},{hunk.new_count} @@"
    head = f"# {reject.title}\n--- a/{change.old_path}\n+++ b/{change.path}\n{ranges}\n"
    first, last = max(reject.at - BESIDE, 1), reject.at + hunk.old_count + BESIDE
    rows = enumerate(reject.lines[first - 1 : last - 1], first)
    there = b"".join(b"# %6d  %s\n" % (number, line) for number, line in rows)
    return head.encode() + b"".join(line + b"\n" for line in hunk.body) + b"# the file there:\n" + there
