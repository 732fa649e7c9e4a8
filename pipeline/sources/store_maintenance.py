"""Clean and verify the store; sources of each line's last fetch are kept."""

from __future__ import annotations

from typing import Any

from pipeline.config.settings import Settings
from pipeline.core.console import Console, human_bytes
from pipeline.sources.records import LineSources
from pipeline.sources.store import Store


def gc(settings: Settings, console: Console) -> dict[str, Any]:
    """Remove objects that no line's last fetch used, and stale downloads. Raises `Locked`."""
    store = Store(settings.store)
    lines = store.records("line-", LineSources)
    used = {source.sha256 for record in lines.values() for source in record.sources}
    collected = store.gc(used)
    console.say(f"{len(collected.removed)} files removed, {human_bytes(collected.freed)} freed")
    console.say(f"kept: what {', '.join(r.line for r in lines.values()) or 'no line'} last used, {len(used)} files")
    return {"removed": [str(path) for path in collected.removed], "bytes": collected.freed, "kept": sorted(used)}


def verify(settings: Settings, console: Console) -> tuple[dict[str, Any], bool]:
    """Hash every object; return the result, and whether anything was damaged."""
    store = Store(settings.store)
    damaged = store.verify()
    rows = [(item.sha256, item.actual, str(item.kept)) for item in damaged]
    if rows:
        console.table(("should be", "is", "moved to"), rows, "damaged files")
        console.say("next: ./inv fetch LINE has them again")
    else:
        console.say("every file of the store is what its name says")
    return {"damaged": [dict(zip(("sha256", "actual", "kept"), row, strict=True)) for row in rows]}, bool(damaged)
