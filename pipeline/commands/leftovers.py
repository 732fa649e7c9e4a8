"""Remove what killed runs left below the artifacts, before the next one builds or boots.

A running maker holds a lock on its directory or its step, which the kernel releases at its death: an unlocked
directory is a leftover. Must not know the content.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from pipeline.core import fs
from pipeline.core.locks import locked
from pipeline.errors import PipelineError
from pipeline.packaging.scheduler import LOCK
from pipeline.publish import keys

# Directories, as patterns below the artifacts, and how the names of what is being made in them begin.
_MADE_IN = {
    "images/*": (".new-",),
    "lab/*": (".new-",),
    "trees": (".new-",),
    "repo/*": (".making-",),
    "keys": (".making-",),
    "scratch": ("series-", "scratch-"),
}
_REMOVED_IN = ("images/*", "lab/*", "lab", "ccache", "repo/*/snapshots")  # by renaming to `.old-` first


def remove(artifacts: Path) -> None:
    """Remove leftovers; those in use or not removable stay for `inv clean`, which reports them."""
    for pattern, prefixes in _MADE_IN.items():
        for place in artifacts.glob(pattern):
            for prefix in prefixes:
                fs.remove_leftovers(place, prefix)
    keys.remove_leftovers(artifacts / "keys")
    for step in artifacts.glob("steps/*/*"):
        works = [*step.glob(".work-*"), *step.glob(".old-*")]  # whoever works on the step removes them as well
        if works:
            with contextlib.suppress(OSError, PipelineError), locked(step / LOCK, wait=False):
                for work in works:
                    fs.remove(work)
    for pattern in _REMOVED_IN:
        for old in artifacts.glob(f"{pattern}/.old-*"):
            with contextlib.suppress(OSError):
                fs.remove(old)
