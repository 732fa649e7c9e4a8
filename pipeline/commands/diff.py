"""Run `inv diff`: print what differs between two published snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.audit import evidence, snapshot_diff
from pipeline.audit.snapshot_diff import Change, FileChange, PackageChange, SnapshotDiff
from pipeline.config.context import RunContext
from pipeline.core.console import Console
from pipeline.core.units import human_bytes

SHOWN = 12  # rows of one kind and package in the text; the JSON has all
EMPTY = "(empty)"


def diff(context: RunContext, before: str, after: str) -> SnapshotDiff:
    """Compare two snapshots and print the differences. Raises `UsageError` and `Refused`."""
    artifacts, console = context.settings.artifacts, context.console
    places = evidence.find_snapshots((before, after), artifacts)
    found = snapshot_diff.compare(*places, artifacts)
    for name, path in zip(("before", "after"), places, strict=True):
        console.say(f"{name}: {path}")
    _say_changes(console, "snapshot", found.facts)
    for step in found.steps:
        _say_changes(console, f"inputs of {step.step}", step.inputs)
        _say_changes(console, f"sources compiled in {step.step}", step.compiled)
    if found.packages:
        headings = ("package", "sets", "before", "after", "size", "files", "requires", "provides", "configuration")
        console.table(headings, [_row(row) for row in found.packages])
    for row in found.packages:
        _say_package(console, row)
    for text in found.unsigned:
        console.say(f"not signed: {text}; read from records of this machine")
    for text in found.unknown:
        console.say(f"not known: {text}")
    if found.is_same:
        console.say("nothing differs")
    console.say(
        "compared as it lies there, with the signatures of statements alone; `./inv audit SNAPSHOT` checks the rest"
    )
    return found


def _row(row: PackageChange) -> tuple[str, ...]:
    name, sets = row.name, ", ".join(row.sets)
    versions = [(nevra or "-").removeprefix(f"{name}-") for nevra in (row.before, row.after)]
    if row.same_content:
        return (name, sets, *versions, _sizes(row), "the same content, signed by another key", "", "", "")
    counts = [_count(each) for each in (row.files, row.requires, row.provides, row.configuration)]
    return (name, sets, *versions, _sizes(row), *counts)


def _sizes(row: PackageChange) -> str:
    if row.size_before is None or row.size_after is None:
        return human_bytes(row.size_before or row.size_after or 0)
    return f"{human_bytes(row.size_after)} ({row.size_after - row.size_before:+,} B)"


def _count(rows: Sequence[FileChange] | Sequence[Change]) -> str:
    """Return the numbers of what came, went and changed, such as `+1 -2 ~30`."""
    came, went = sum(row.before is None for row in rows), sum(row.after is None for row in rows)
    numbers = (("+", came), ("-", went), ("~", len(rows) - came - went))
    return " ".join(f"{sign}{number}" for sign, number in numbers if number) or "-"


def _say_package(console: Console, row: PackageChange) -> None:
    _say_rows(console, f"{row.name}: files", [_file(change) for change in row.files])
    for kind, rows in (("requires", row.requires), ("provides", row.provides), ("configuration", row.configuration)):
        _say_changes(console, f"{row.name}: {kind}", rows)


def _file(change: FileChange) -> str:
    before, after = change.before, change.after
    if before is None or after is None:
        return f"{'+' if before is None else '-'} {change.path}"
    about = []
    if before.mode != after.mode:
        about.append(f"mode {before.mode} -> {after.mode}")
    if before.size != after.size:
        about.append(f"{_bytes(before.size)} -> {_bytes(after.size)}")
    if before.content != after.content and not about:
        about.append("content")
    return f"~ {change.path}: {', '.join(about)}"


def _bytes(size: int | None) -> str:
    return "unknown size" if size is None else f"{size:,} B"


def _say_changes(console: Console, title: str, rows: Iterable[Change]) -> None:
    texts = []
    for row in rows:
        if row.before is None or row.after is None:
            value = row.after if row.before is None else row.before
            shown = "" if value == snapshot_diff.PRESENT else f" {value}"
            texts.append(f"{'+' if row.before is None else '-'} {row.name}{shown}")
        else:
            texts.append(f"~ {row.name}: {row.before or EMPTY} -> {row.after or EMPTY}")
    _say_rows(console, title, texts)


def _say_rows(console: Console, title: str, texts: Sequence[str]) -> None:
    if texts:
        more = [f"and {len(texts) - SHOWN} more, all of them with --json"] if len(texts) > SHOWN else []
        console.say("\n".join([f"{title}:", *texts[:SHOWN], *more]))
