"""Apply a series of patches beside a pristine tree and prove the changes.

Two programs apply it independently: GNU patch with the options of the kernel's spec file, and git.
Both work in directories that hold only the files the series names, so nothing else can change; the
results must be the same blob for blob. Knows nothing of roles and never writes to the tree itself.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.core import neutral, process
from pipeline.errors import PipelineError, Refused
from pipeline.formats import git_tree
from pipeline.formats.git_tree import FILE, SYMLINK, Difference, Entry, Listing
from pipeline.patching import file_names
from pipeline.patching.patch_file import FileChange, Kind, PatchFile, between, git_environment, parse

DELETED = "0" * 40
_BEFORE = "pristine"
LISTED = 20  # differences shown in one message
_MOVED = "Where the source moved on, `./inv patches LINE --refresh` rebases the project's own patches"
# As ApplyPatch of kernel.spec: -p1 -F1. The rest asks no questions and leaves no other files behind;
# the patch was read as a unified diff, so it is taken as nothing else.
GNU_PATCH = (
    *("patch", "-p1", "-F1", "--no-backup-if-mismatch", "--verbose"),
    *("--force", "--unified", "--reject-file=-"),
)
GIT_APPLY = ("git", "apply", "-p1", "--whitespace=nowarn", "-")
_FILE = re.compile(r"patching (?:file|symbolic link) ")
_HUNK = re.compile(
    r"Hunk #(?P<number>\d+) (?:succeeded at \d+(?: with fuzz (?P<fuzz>\d+))?(?: \(offset (?P<offset>-?\d+) lines?\))?"
    r"|(?P<failed>[A-Za-z ]+?)(?: at \d+.*)?)\.?"
)


@dataclass(frozen=True)
class HunkReport:
    """How one hunk applied: its number in the file, its line in the patch, and its offset in lines."""

    number: int
    line: int
    offset: int


@dataclass(frozen=True)
class HunkResult:
    """GNU patch's word on one hunk: lines of context that differ, offset in lines, and why it failed if it did."""

    fuzz: int
    offset: int
    failed: str


@dataclass(frozen=True)
class FileReport:
    """A patch's result on one file. `new_mode` is the mode that the patch sets, None without one."""

    path: str
    old_path: str
    status: Kind
    new_mode: str | None
    hunks: tuple[HunkReport, ...]
    before: Entry | None
    after: Entry | None

    @property
    def offsets(self) -> int:
        """Hunks that applied at another line than the patch gives."""
        return sum(hunk.offset != 0 for hunk in self.hunks)


@dataclass(frozen=True)
class PatchReport:
    """How one patch of the series applied: every hunk exactly, or at an offset.

    `combined` is what the series changes up to and including this patch; None in a series of one.
    """

    name: str
    sha256: str
    files: tuple[FileReport, ...]
    combined: PatchFile | None = None


@dataclass(frozen=True)
class SeriesReport:
    """How a series applied. `before` are the touched files of the pristine tree.

    `changed` maps every path that is different afterwards to its new entry, None for deleted ones.
    """

    patches: tuple[PatchReport, ...]
    before: Mapping[str, Entry]
    changed: Mapping[str, Entry | None]

    @property
    def hunks(self) -> int:
        """Hunks of all patches."""
        return sum(len(file.hunks) for patch in self.patches for file in patch.files)

    @property
    def offsets(self) -> int:
        """Hunks of all patches that applied at an offset."""
        return sum(file.offsets for patch in self.patches for file in patch.files)


@dataclass(frozen=True)
class Proof:
    """The tree after a series: its git tree id and listing, and the number of paths unlike the pristine tree's."""

    tree: str
    listing: Listing
    changed: int


def apply_series(pristine: Path, series: Sequence[tuple[str, bytes]], scratch: Path) -> SeriesReport:
    """Apply (name, bytes) in order to copies in `scratch`, which must be empty or not exist.

    Raises `Refused` for a hunk that needs fuzz or does not apply, for a file that is not as the patch
    assumes, and when GNU patch and git do not leave the same.
    """
    if scratch.is_dir() and any(scratch.iterdir()):
        raise PipelineError("the scratch directory is not empty", where=str(scratch))
    parsed = [parse(data, name) for name, data in series]
    touched = sorted({path for patch in parsed for change in patch.files for path in change.paths})
    sides = (scratch / "patch", scratch / "git")
    for patch in parsed:
        check_parents(pristine, patch)
    for side in (*sides, *([scratch / _BEFORE] if len(parsed) > 1 else [])):
        copy_files(pristine, touched, side)
    before = git_tree.of_directory(sides[0])
    reports = tuple(_apply_in_turn(parsed, number, *sides) for number in range(len(parsed)))
    after = git_tree.of_directory(sides[0])
    changed = {item.path: item.actual for item in git_tree.compare(before, after)}
    return SeriesReport(reports, before, changed)


def prove(report: SeriesReport, pristine: Listing, effect: Mapping[str, str]) -> Proof:
    """Prove that the series leaves the pristine tree with exactly the blobs of `effect`.

    `effect` maps paths to blob ids, 40 zeros for a deleted file. Raises `Refused` with every path
    that is missing, extra or different.
    """
    touched = {path for patch in report.patches for file in patch.files for path in (file.old_path, file.path)}
    foreign = git_tree.compare({path: pristine[path] for path in touched if path in pristine}, report.before)
    if foreign:
        raise _refuse_paths("the tree is not the pristine one", foreign)
    actual = dict(pristine)
    for path, entry in report.changed.items():
        actual.pop(path, None)
        if entry is not None:
            actual[path] = entry
    differences = git_tree.compare(_expected(report, pristine, effect), actual)
    if differences:
        raise _refuse_paths("the series leaves another tree than recorded", differences)
    return Proof(git_tree.tree_id(actual), actual, len(report.changed))


def prove_series(report: SeriesReport, pristine: Listing, effects: Mapping[str, Mapping[str, str]]) -> Proof:
    """Prove that each patch leaves the blobs of its own effect, and the series those of all, the later one's first.

    `effects` maps each patch's name to its effect, in order. Raises `Refused` as `prove` does.
    """
    for patch in report.patches[:-1]:  # what the last one leaves is what the series leaves
        _check_effect(patch, effects[patch.name])
    whole: dict[str, str] = {}
    for effect in effects.values():
        whole |= effect
    return prove(report, pristine, whole)


def _check_effect(patch: PatchReport, effect: Mapping[str, str]) -> None:
    """Compare the blobs after one patch of several; modes are compared at the end of the series."""
    before = {file.old_path: file.before for file in patch.files if file.before}
    after = {file.path: file.after for file in patch.files if file.after}
    expected = {}
    for path, blob in {**{path: entry.blob for path, entry in before.items()}, **effect}.items():
        if blob != DELETED:
            expected[path] = Entry(after[path].mode if path in after else FILE, blob)
    differences = git_tree.compare(expected, after)
    if differences:
        raise _refuse_paths(f"patch {patch.name} leaves other files than recorded", differences)


def _expected(report: SeriesReport, pristine: Listing, effect: Mapping[str, str]) -> dict[str, Entry]:
    """Return the listing that `effect` describes; modes are the pristine ones and those the patches set."""
    modes = {path: entry.mode for path, entry in report.before.items()}
    for file in (file for patch in report.patches for file in patch.files):
        if file.status is Kind.RENAMED:
            modes[file.path] = modes.get(file.old_path, FILE)
        modes[file.path] = file.new_mode or modes.get(file.path, FILE)
    expected = dict(pristine)
    for path, blob in effect.items():
        expected.pop(path, None)
        if blob != DELETED:
            expected[path] = Entry(modes.get(path, FILE), blob)
    return expected


def _refuse_paths(what: str, differences: Sequence[Difference]) -> Refused:
    def text(entry: Entry | None) -> str:
        return f"{entry.mode} {entry.blob}" if entry else "not there"

    rows = [f"  {d.kind} {d.path}: expected {text(d.expected)}, found {text(d.actual)}" for d in differences[:LISTED]]
    more = [f"  and {len(differences) - LISTED} more"] if len(differences) > LISTED else []
    return Refused(
        "\n".join([f"{what}: {len(differences)} path(s) differ", *rows, *more]),
        where=differences[0].path,
        why="what is built would not be of the sources that were examined",
        hint=f"compare the patch with the pinned one; a new patch needs its own effect table in series.toml. {_MOVED}",
    )


def check_parents(root: Path, patch: PatchFile) -> None:
    """Refuse a path of the patch that leads through a symbolic link, or is an undeclared one."""
    for change in patch.files:
        for path in change.paths:
            parts = path.split("/")
            above = ("/".join(parts[:count]) for count in range(1, len(parts)))
            link = next((directory for directory in above if (root / directory).is_symlink()), None)
            if link is not None:
                raise _refuse(
                    patch, change, f"{path} lies beyond the symbolic link {link}", "it would change another file"
                )
            if (root / path).is_symlink() and not change.link:
                raise _refuse(patch, change, f"{path} is a symbolic link in the tree", "the patch means a plain file")


def copy_files(pristine: Path, touched: Iterable[str], side: Path) -> None:
    """Copy the touched files that exist, with git's modes; share nothing with the tree."""
    side.mkdir(parents=True)
    for path in touched:
        source, copy = pristine / path, side / path
        if source.is_symlink() or source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            copy.symlink_to(os.readlink(source))  # noqa: PTH115 - pathlib would tidy the target
        elif source.is_file():
            shutil.copyfile(source, copy)
            copy.chmod(int(git_tree.file_mode(source.stat().st_mode), 8) & 0o777)
        elif source.exists():
            raise Refused(f"the patch names {path}, which is no file in the tree", where=path)


def _apply_in_turn(series: Sequence[PatchFile], number: int, side: Path, other: Path) -> PatchReport:
    """Apply one patch of the series; a refusal names the patches applied before it."""
    patch, names = series[number], [item.name for item in series]
    if len(series) == 1:
        return _apply(patch, side, other)
    try:
        report = _apply(patch, side, other)
    except Refused as error:
        before = f"after {', '.join(names[:number])}" if number else "first"
        place = f"it is patch {number + 1} of {len(series)} of its series and applied {before}"
        raise Refused(
            error.what,
            where=error.where,
            why="; ".join(filter(None, (error.why, place))),
            hint=f"check the order of the series, {', '.join(names)}; then: {error.hint}",
        ) from error
    return replace(report, combined=between(side.parent, _BEFORE, side.name, " + ".join(names[: number + 1])))


def _apply(patch: PatchFile, side: Path, other: Path) -> PatchReport:
    """Apply one patch with both programs and compare the results."""
    check_parents(side, patch)
    before = git_tree.of_directory(side)
    check_presence(patch, before)
    hunks = _gnu_patch(patch, side)
    _git_apply(patch, other)
    after = git_tree.of_directory(side)
    _check_results(patch, before, after, git_tree.of_directory(other), side)
    files = tuple(
        FileReport(c.path, c.old_path, c.kind, c.new_mode, reports, before.get(c.old_path), after.get(c.path))
        for c, reports in zip(patch.files, hunks, strict=True)
    )
    return PatchReport(patch.name, patch.sha256, files)


def check_presence(patch: PatchFile, before: Listing) -> None:
    """Check that added files are absent and changed files present."""
    for change in patch.files:
        new = change.path if change.kind in (Kind.ADDED, Kind.RENAMED) else None
        if new is not None and new in before:
            raise _refuse(patch, change, f"{new} is in the tree already", "the patch creates it")
        if change.kind is not Kind.ADDED and change.old_path not in before:
            raise _refuse(
                patch,
                change,
                f"{change.old_path} is not in the tree",
                "the patch changes it; a file that only exists later (.config) must be left out by a rule in"
                " series.toml",
            )


def _gnu_patch(patch: PatchFile, side: Path) -> list[tuple[HunkReport, ...]]:
    """Apply with GNU patch and refuse hunks that do not apply as they are, but for their line numbers."""
    found = gnu_patch(patch, side, check=_check_rejects)
    return [
        tuple(
            HunkReport(hunk.number, hunk.line, result.offset)
            for hunk, result in zip(change.hunks, results, strict=True)
        )
        for change, results in zip(patch.files, found, strict=True)
    ]


def gnu_patch(
    patch: PatchFile, side: Path, *options: str, check: Callable[[PatchFile, Sequence[Sequence[HunkResult]]], None]
) -> list[list[HunkResult]]:
    """Apply with GNU patch and return what its output says of each file's hunks.

    `check` raises for those that are not to be accepted. Raises `Refused` for a patch that GNU patch reads otherwise,
    and for hunks that failed and `check` let pass.
    """
    result = process.run((*GNU_PATCH, *options), cwd=side, stdin=patch.data, accept=(0, 1, 2))
    found: list[list[HunkResult]] = []
    for line in result.text.splitlines():
        if _FILE.match(line):
            found.append([])
        elif found and (match := _HUNK.fullmatch(line)) is not None:
            found[-1].append(HunkResult(int(match["fuzz"] or 0), int(match["offset"] or 0), match["failed"] or ""))
    check(patch, found)
    same = [len(change.hunks) for change in patch.files] == [len(results) for results in found]
    if result.status or not same:
        output = "; ".join((result.error_text or result.text).strip().splitlines()[-3:])
        raise Refused(
            f"patch {patch.name}: GNU patch does not apply it as it was read (exit status {result.status}): {output}",
            where=patch.name,
            hint=process.reproducer(result.argv, side) + f" < {neutral.word(patch.name)}",
        )
    return found


def _check_rejects(patch: PatchFile, found: Sequence[Sequence[HunkResult]]) -> None:
    """Refuse hunks that needed fuzz or were rejected: the patch was made for another tree."""
    rows, first = [], 0
    for change, results in zip(patch.files, found, strict=False):
        for hunk, result in zip(change.hunks, results, strict=False):
            if result.fuzz or result.failed:
                how = f"applies only with fuzz {result.fuzz}" if result.fuzz else "does not apply"
                rows.append(f"{change.path}: hunk #{hunk.number} (line {hunk.line} of the patch) {how}")
                first = first or hunk.line
    if rows:
        more = f"\n  and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
        raise Refused(
            f"patch {patch.name} needs rebase: " + "\n  ".join(rows[:LISTED]) + more,
            where=f"{patch.name}:{first}",
            why="with fuzz a hunk may land in the wrong place and still compile",
            hint=f"is this the tree the patch was made for? Compare the pins of the sources of this line. {_MOVED}",
        )


def _git_apply(patch: PatchFile, side: Path) -> None:
    result = process.run(GIT_APPLY, cwd=side, env=git_environment(), stdin=patch.complete, accept=(0, 1, 128))
    if result.status:
        output = "; ".join(result.error_text.strip().splitlines()[:3])
        raise Refused(
            f"patch {patch.name}: GNU patch applies it, git does not: {output}",
            where=patch.name,
            why="a patch that two programs apply differently leaves no certain tree",
            hint=process.reproducer(result.argv, side) + f" < {neutral.word(patch.name)}",
        )


def _check_results(patch: PatchFile, before: Listing, after: Listing, other: Listing, side: Path) -> None:
    """Check that only named files changed, that both programs agree, and that no link leaves the tree."""
    named = {path: change for change in patch.files for path in change.paths}
    strange = [item for item in git_tree.compare(before, after) if item.path not in named]
    if strange:
        raise _refuse_paths(f"patch {patch.name}: GNU patch changed what the patch does not name", strange)
    differences = git_tree.compare(after, other)
    if differences:
        raise _refuse_paths(f"patch {patch.name}: git (found) and GNU patch (expected) differ", differences)
    for path, change in named.items():
        if path in after and after[path].mode == SYMLINK:
            target = os.fsencode(os.readlink(side / path))  # noqa: PTH115 - as above
            file_names.check_link(path, target, lambda what, change=change, **_: _refuse(patch, change, what, ""))


def _refuse(patch: PatchFile, change: FileChange, what: str, why: str) -> Refused:
    where = f"{patch.name}:{change.line}"
    return Refused(f"patch {patch.name}, file {change.path}: {what}", where=where, why=why, hint=f"look at {where}")
