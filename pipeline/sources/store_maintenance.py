"""Clean and verify the store; sources of each line's last fetch are kept."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.settings import Settings
from pipeline.core.console import Console
from pipeline.core.units import human_bytes
from pipeline.sources.line_sources import LineSources
from pipeline.sources.store import Damaged, Store


@dataclass(frozen=True)
class Cleaned:
    """The files that were removed from the store, and their `bytes`; `kept`: the digests that are in use."""

    removed: tuple[Path, ...]
    bytes: int
    kept: tuple[str, ...]


@dataclass(frozen=True)
class Checked:
    """The files of the store that are not what their names say."""

    damaged: tuple[Damaged, ...]


def gc(settings: Settings, console: Console, kept: Collection[str] = ()) -> Cleaned:
    """Remove objects that no line's last fetch used and `kept` does not name, and stale downloads. Raises `Locked`."""
    store = Store(settings.store)
    lines = store.records("line-", LineSources)
    used = {source.sha256 for record in lines.values() for source in record.sources}
    collected = store.gc(used | set(kept))
    console.say(f"{len(collected.removed)} files removed, {human_bytes(collected.freed)} freed")
    console.say(f"kept: what {', '.join(r.line for r in lines.values()) or 'no line'} last used, {len(used)} files")
    if others := set(kept) - used:
        console.say(f"kept for recorded nights: {len(others)} files")
    return Cleaned(tuple(collected.removed), collected.freed, tuple(sorted(used | set(kept))))


def verify(settings: Settings, console: Console) -> Checked:
    """Hash every object."""
    store = Store(settings.store)
    damaged = tuple(store.verify())
    rows = [(item.sha256, item.actual, str(item.kept)) for item in damaged]
    if rows:
        console.table(("should be", "is", "moved to"), rows, "damaged files")
        console.say("next: `./inv fetch LINE` fetches them anew")
    else:
        console.say("every file of the store is what its name says")
    return Checked(damaged)
