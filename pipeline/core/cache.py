"""Keep directories that are made once: named by a key, recorded, published by one rename.

What is kept is held against its record (`manifest`) whenever it is asked for; what is not as it was made, is
made anew. Knows nothing of what is in one.
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


def once(place: Path, fill: Callable[[Path], None], note: Callable[[str], object] = lambda _: None) -> Path:
    """Return the directory `place`; have `fill` make it first where it is missing or changed, one writer at a time.

    `note` is told where what was there is not what was made.
    """
    if _differences(place):
        with locked(place.parent / LOCK):
            if problems := _differences(place):  # another run may have made it meanwhile
                if os.path.lexists(place):
                    note(f"{place}: changed since it was made, making it anew: {problems[0]}")
                with fs.scratch(place.parent, ".new-") as scratch, disk_space.writing(place.parent):
                    made = scratch / "made"
                    made.mkdir()
                    fill(made)
                    manifest.record(made, _about(place))
                    if os.path.lexists(place):
                        fs.remove(place)
                    made.rename(place)
    return place


def verified(root: Path) -> Iterator[tuple[Path, str]]:
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
