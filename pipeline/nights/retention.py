"""Keep what nights refer to: snapshots, the steps they were made of, their sources; remove the oldest nights' records.

Whoever removes results asks here first. What no record names is no concern of this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.core import fs
from pipeline.nights import record
from pipeline.nights.record import Night


@dataclass(frozen=True)
class Kept:
    """The results that must stay: snapshots by directory and id, steps by line and key, sources by SHA-256."""

    snapshots: frozenset[tuple[str, str]]
    steps: frozenset[tuple[str, str]]
    sources: frozenset[str]


def kept(artifacts: Path) -> Kept:
    """Return what the recorded nights refer to."""
    lines = [line for night in record.load(record.root(artifacts)) for line in night.lines if line.snapshot]
    return Kept(
        frozenset((line.directory, line.snapshot) for line in lines),
        frozenset((line.line, step.key) for line in lines for step in line.steps.values()),
        frozenset(digest for line in lines for digest in line.sources),
    )


def prune(nights: Path, most: int) -> list[int]:
    """Remove the records of all but the last `most` nights and of each line's last release; return their numbers."""
    known = {night.number: night for night in record.load(nights)}
    released = _last_releases(list(known.values()))
    removed = []
    for number, place in record.places(nights)[:-most]:
        if number not in released:
            fs.remove(place)
            removed.append(number)
    return removed


def _last_releases(nights: list[Night]) -> set[int]:
    """Return the number of the newest night in which each line was released."""
    newest: dict[str, int] = {}
    for night in nights:
        newest |= {line.directory: night.number for line in night.lines if line.released}
    return set(newest.values())
