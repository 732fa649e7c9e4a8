"""Keep what nights refer to: snapshots, the steps they were made of, their sources; remove the oldest nights' records.

Whoever removes results asks here first. What no record names is no concern of this module, unless a record cannot be
read: that one may name anything, so that all is kept until a person has removed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.core import fs, neutral
from pipeline.errors import Refused
from pipeline.nights import record
from pipeline.nights.record import Night, Unreadable


@dataclass(frozen=True)
class Kept:
    """The results that must stay: snapshots by directory and id, steps by line and key, sources by SHA-256.

    Everything, where there is an `unreadable` record.
    """

    snapshots: frozenset[tuple[str, str]]
    steps: frozenset[tuple[str, str]]
    sources: frozenset[str]
    unreadable: tuple[Unreadable, ...] = ()

    def has_snapshot(self, directory: str, identity: str) -> bool:
        """Return whether a snapshot must stay."""
        return bool(self.unreadable) or (directory, identity) in self.snapshots

    def has_step(self, line: str, key: str) -> bool:
        """Return whether the result of a step must stay."""
        return bool(self.unreadable) or (line, key) in self.steps


def kept(artifacts: Path) -> Kept:
    """Return what the recorded nights refer to."""
    nights = record.root(artifacts)
    lines = [line for night in record.load(nights) for line in night.lines if line.snapshot]
    return Kept(
        frozenset((line.directory, line.snapshot) for line in lines),
        frozenset((line.line, step.key) for line in lines for step in line.steps.values()),
        frozenset(digest for line in lines for digest in line.sources),
        tuple(record.unreadable(nights)),
    )


def sources(artifacts: Path) -> frozenset[str]:
    """Return the sources that must stay. Raises `Refused` where a record that cannot be read may name any other."""
    found = kept(artifacts)
    if found.unreadable:
        first = found.unreadable[0]
        raise Refused(
            f"night {first.number}: its record cannot be read; expected one with its sources, got {first.problem}",
            where=str(first.file),
            why="no source is removed that a night may refer to",
            hint=f"rm -r {neutral.word(first.file.parent)}, after a look at it",
        )
    return found.sources


def prune(nights: Path, most: int) -> list[int]:
    """Remove the records of all but the last `most` nights and of each line's last release; return their numbers.

    One that cannot be read stays: it may be of a last release.
    """
    known = {night.number: night for night in record.load(nights)}
    released = _last_releases(list(known.values()))
    removed = []
    for number, place in record.places(nights)[:-most]:
        if number in known and number not in released:
            fs.remove(place)
            removed.append(number)
    return removed


def _last_releases(nights: list[Night]) -> set[int]:
    """Return the number of the newest night in which each line was released."""
    newest: dict[str, int] = {}
    for night in nights:
        newest |= {line.directory: night.number for line in night.lines if line.released}
    return set(newest.values())
