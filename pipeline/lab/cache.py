"""Directories that are made once and kept: named by a key, published by one rename. Knows nothing of what is in one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from pipeline import files, room
from pipeline.build.plan import KEY_DIGITS
from pipeline.locks import locked

LOCK = "lock"


def key(*inputs: object) -> str:
    """The name of what is made from `inputs`, which must be all that can change it."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def once(place: Path, fill: Callable[[Path], None]) -> Path:
    """The directory `place`, whole: `fill` fills it where it is not there yet, one at a time of those in its parent."""
    if not place.is_dir():
        with locked(place.parent / LOCK):
            if not place.is_dir():  # another run may have made it meanwhile
                with files.scratch(place.parent, ".new-") as scratch, room.writing(place.parent):
                    made = scratch / "made"
                    made.mkdir()
                    fill(made)
                    made.rename(place)
    return place
