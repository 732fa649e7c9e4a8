"""Verify everything kept below the artifacts directory by reading it whole.

Changes nothing. Each kind is verified by the module that makes it; `_kinds` names them all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.context import RunContext
from pipeline.core import neutral
from pipeline.core.suggestion import unknown
from pipeline.errors import Refused
from pipeline.packaging import inventory, step_record
from pipeline.packaging.scheduler import check_stored

Problems = Iterator[tuple[Path, str]]


@dataclass(frozen=True)
class Kind:
    """A kind of kept files.

    `verify` yields path and problem of each difference, of one line where one is given and the kind has lines.
    `remedy` is the command that recreates the file: `{line}` stands for the options that name the line, `{name}` for
    the directory below the kind's own.
    """

    name: str
    verify: Callable[[Path, str], Problems]
    remedy: str


@dataclass(frozen=True)
class Differing:
    """A path that differs from its record: `kind` of kept files, the problem, and the next command."""

    kind: str
    path: Path
    problem: str
    next: str


def verify(context: RunContext, line: str = "") -> tuple[Differing, ...]:
    """Print the differences, of `line` only where one is given, and return them.

    Raises `UsageError` for a line without any files.
    """
    artifacts, console = context.settings.artifacts, context.console
    known = sorted(
        {path.name for path in inventory.lines(artifacts)}
        | {path.name for path in inventory.entries(artifacts / "repo")}
    )
    if line and line not in known:
        raise unknown("line with results", line, known, hint="./inv status")
    found = []
    for kind in _kinds(context.settings.shared_keys):
        console.note(f"reading every file of the {kind.name}")
        for path, problem in kind.verify(artifacts, line):
            parts = path.relative_to(artifacts).parts
            name = parts[1] if len(parts) > 1 else ""
            following = kind.remedy.format(name=neutral.word(name), line=_options(artifacts, name))
            found.append(Differing(kind.name, path, problem, console.commands(following)))
    for row in found:
        console.say(f"{row.path}: {row.problem}\n  next: {row.next}")
    console.say(f"{len(found)} of what was made differ" if found else "everything that was made is as it was made")
    return tuple(found)


def _options(artifacts: Path, name: str) -> str:
    """Return the options that select the line of a directory, as its builds recorded them."""
    line = name.removesuffix("-small")
    words: tuple[str, ...] = ("--line", line)
    for path in (artifacts / "steps" / line).glob(f"*/*/{step_record.FILE}"):
        with contextlib.suppress(step_record.Damaged):
            words = step_record.read(path.parent).options or words
    return neutral.command(words)


def _steps(artifacts: Path, line: str) -> Problems:
    """Yield the problems of every step's results, without damaged ones already set aside."""
    for place in inventory.lines(artifacts):
        for step in inventory.steps(place) if line in ("", place.name) else ():
            for path in inventory.entries(step):
                if path.is_dir() and not path.name.startswith(".") and (problem := _problem(path)):
                    yield path, problem


def _problem(path: Path) -> str:
    try:
        known = step_record.read(path).step
    except step_record.Damaged:
        known = ""
    line, step = path.parents[1].name, path.parent.name
    name = known if known.replace(":", "-") == step else step
    # Snapshots are verified by their own kind: the link of an older step leads to a newer snapshot by now.
    found = check_stored(path, line, name, path.name, content=True)
    return "" if found.elsewhere else found.problem


def _snapshots(artifacts: Path, line: str) -> Problems:
    from pipeline.publish import signers
    from pipeline.publish.verify import verify_snapshot

    for place in inventory.entries(artifacts / "repo"):
        if not place.is_dir() or line not in ("", place.name, place.name.removesuffix("-small")):
            continue
        found = [path for path in inventory.entries(place / "snapshots") if not path.name.startswith(".")]
        for path in found:
            try:
                fingerprint = signers.expected_fingerprint(artifacts, place.name, path)
                document = verify_snapshot(path, fingerprint or "unknown")
            except Refused as error:
                yield path, ": ".join(filter(None, (error.what, error.why)))
                continue
            if (document.id, path.is_symlink()) != (path.name, False):
                yield path, f"it is the snapshot {document.id}"
        latest = place / "latest"
        if not latest.is_symlink() or latest.resolve() not in [path.resolve() for path in found]:
            yield latest, "it leads to no snapshot of this directory"


def _snapshot_statements(artifacts: Path, line: str) -> Problems:
    from pipeline.audit import kept_statements

    return kept_statements.of_snapshots(artifacts, line)


def _step_statements(shared_keys: Path | None) -> Callable[[Path, str], Problems]:
    from pipeline.audit import kept_statements

    return lambda artifacts, line: kept_statements.of_steps(artifacts, line, shared_keys)


def _store(artifacts: Path, line: str) -> Problems:
    from pipeline.sources.store import Store

    return Store(artifacts / "store").problems()


def _trees(artifacts: Path, line: str) -> Problems:
    from pipeline.sources import kernel_tree

    return kernel_tree.problems(artifacts / "trees")


def _guests(artifacts: Path, line: str) -> Problems:
    from pipeline.core import cache

    return cache.problems(artifacts / "lab")


def _lab_runs(artifacts: Path, line: str) -> Problems:
    from pipeline.lab import run_record

    return run_record.problems(artifacts)


def _kvm(artifacts: Path, line: str) -> Problems:
    from pipeline.host import kvm

    return kvm.Probe(artifacts).problems()


def _images(artifacts: Path, line: str) -> Problems:
    from pipeline.sandbox import images

    return images.problems(artifacts / "images")


def _kinds(shared_keys: Path | None) -> tuple[Kind, ...]:
    """Return all kinds; `shared_keys` is the directory of the keys of hosts whose steps are taken."""
    return (
        Kind("steps", _steps, "./inv build-all --verify {line}"),
        Kind("snapshots", _snapshots, "./inv build-all --verify {line}"),
        Kind("statements of steps", _step_statements(shared_keys), "./inv build-all --verify {line}"),
        Kind("statements of snapshots", _snapshot_statements, "./inv build-all --verify {line}"),
        Kind("store", _store, "./inv store verify"),
        Kind("images", _images, "./inv image --image {name} --fresh"),
        Kind("kernel trees", _trees, "./inv patches"),
        Kind("guests of the lab", _guests, "./inv smoke"),
        Kind("runs of the lab that passed", _lab_runs, "./inv build-all"),
        Kind("answer about KVM", _kvm, "./inv doctor"),
    )
