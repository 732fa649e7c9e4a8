"""Cache directories: each named by a key, recorded, and published by one rename.

A cache entry is compared with its record (`manifest`) at each use, and rebuilt when it differs. Knows nothing of the
content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.core import disk_space, fs, manifest
from pipeline.core.locks import locked

LOCK = "lock"
KEY_DIGITS = 20  # of a SHA-256 in hex; directories bear it


def key(*inputs: object) -> str:
    """Return the name of a cache entry made from `inputs`, which must be all that can change its content."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def ensure(place: Path, fill: Callable[[Path], None], note: Callable[[str], object] = lambda _: None) -> Path:
    """Return the directory `place`, after filling it by `fill` where it is missing or changed; one writer at a time.

    `note` gets a message about a changed entry.
    """
    if _differences(place):
        with locked(place.parent / LOCK):
            if differences := _differences(place):  # another run may have filled it meanwhile
                if os.path.lexists(place):
                    note(f"{place}: changed since it was made, making it anew: {differences[0]}")
                with fs.scratch(place.parent, ".new-") as scratch, disk_space.writing(place.parent):
                    staging = scratch / "made"
                    staging.mkdir()
                    fill(staging)
                    manifest.record(staging, _about(place))
                    if os.path.lexists(place):
                        fs.remove(place)
                    staging.rename(place)
    return place


def problems(root: Path) -> Iterator[tuple[Path, str]]:
    """Read every cache entry below `root` whole and yield each problem: its path and a text."""
    for place in sorted(root.glob("*/[!.]*")):
        if place.name != LOCK:
            yield from ((place / problem.path, problem.problem) for problem in _differences(place, content=True))


def _differences(place: Path, *, content: bool = False) -> tuple[manifest.Difference, ...]:
    if place.is_symlink():
        return (manifest.Difference(".", "a link; expected a directory"),)
    return manifest.check(place, _about(place), content=content)


def _about(place: Path) -> dict[str, str]:
    """Return the identity in a directory's record, so that no entry passes for another."""
    return {"kind": place.parent.name, "key": place.name}
