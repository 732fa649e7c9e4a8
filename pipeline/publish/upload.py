"""Copy a line's latest snapshot to where clients read it: whole and verified first, then switched to, then retention.

    <target>/.lvs-fullnat-repository     marks a target as ours
    <target>/<line>/publications.json    the snapshots that were the latest there, and since when
    <target>/<line>/...                  as below <artifacts>/repo/<line>

Nothing leads to a snapshot before all of it is on the target. Then mirrorlists, statement and `latest` change by one
rename each. A killed run leaves the old or the new one; the next run copies what is missing and removes what is left.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pipeline.core import documents, faults, temporary
from pipeline.core.decoder import Mismatch
from pipeline.core.fs import write_atomic
from pipeline.core.locks import locked
from pipeline.core.rsync import Target
from pipeline.errors import UsageError
from pipeline.publish import mirrorlist, snapshot_contents
from pipeline.publish.snapshot_contents import Document
from pipeline.publish.verify import verify_snapshot

MARKER = ".lvs-fullnat-repository"
FILE = "publications.json"
LATEST_STATEMENT = "attestations/latest.intoto.json"
KEPT = 5  # snapshots on a target
# Seconds for which a snapshot stays after it was the latest: a client may have read the list, later the metadata, and
# then downloads for up to an hour.
KEPT_FOR = 2 * snapshot_contents.METADATA_EXPIRE + 3600
_BESIDE = ("attestations", "sboms")
_MOST = 1 << 20  # bytes of publications.json
Id = Annotated[str, re.compile(rf"[0-9a-f]{{{snapshot_contents.ID_DIGITS}}}")]


@dataclass(frozen=True)
class Publication:
    """A snapshot that became the latest at a time, in seconds since 1970 by the publisher's clock."""

    id: Id
    at: int
    sets: tuple[snapshot_contents.FileName, ...]


@dataclass(frozen=True)
class Publications:
    """The snapshots that were published to a target, the oldest first."""

    format: Literal[1]
    publications: tuple[Publication, ...]


@dataclass(frozen=True)
class Uploaded:
    """A publication to a target: the snapshots there, the latest first, and those that were removed."""

    line: str
    target: str
    snapshot: str
    kept: tuple[str, ...]
    removed: tuple[str, ...]


def check_target(target: Target) -> None:
    """Raise `UsageError` for a target that is neither empty nor missing, and not marked as ours."""
    names = target.names()
    if names and MARKER not in names:
        shown = ", ".join(sorted(names)[:3])
        raise UsageError(
            f"the target: not ours; expected an empty directory, or one with {MARKER}, got {shown}",
            where=target.name,
            why="a publication removes old snapshots, and must not remove anything else",
            hint="./inv publish --to an-empty-directory",
        )


def upload(place: Path, fingerprint: str, target: Target, keep: int) -> Uploaded:
    """Publish the latest snapshot of a line's directory to `target`; keep the last `keep` snapshots there.

    `fingerprint` is that of the key that must have signed it. Raises `Refused` for a damaged snapshot, and as
    `Target` does.
    """
    with locked(place / ".upload.lock"), locked(place / ".lock", shared=True):
        path = (place / "latest").resolve()
        document = verify_snapshot(path, fingerprint)
        check_target(target)
        before = _publications(target, place.name)
        _mark(target, place.name)
        faults.point("upload.marked")
        target.copy_exactly(place, f"snapshots/{path.name}", place.name)
        beside = [f"{name}/{path.name}" for name in _BESIDE if (place / name / path.name).is_dir()]
        target.copy(place, ["keys", *beside], place.name)
        faults.point("upload.copied")
        now = _with(before, document)
        kept = _kept(now, keep)
        _switch(place, document, target, Publications(1, tuple(row for row in now if row.id in kept)))
        removed = _remove_others(target, place.name, kept)
        faults.point("upload.removed")
    return Uploaded(document.line, target.name, path.name, kept, removed)


def _publications(target: Target, line: str) -> tuple[Publication, ...]:
    data = target.read(f"{line}/{FILE}", _MOST)
    if data is None:
        return ()
    try:
        return documents.parse(Publications, data).publications
    except (Mismatch, ValueError) as error:
        hint = f"remove {line}/{FILE} there: old snapshots are then kept no longer"
        raise documents.damaged(Path(FILE), "the publications of this line", str(error), hint) from None


def _with(before: tuple[Publication, ...], document: Document) -> tuple[Publication, ...]:
    """Return the publications with a new latest one; no snapshot is listed twice."""
    if before and before[-1].id == document.id:
        return before
    new = Publication(document.id, int(time.time()), tuple(document.sets))
    return (*(row for row in before if row.id != document.id), new)


def _kept(publications: tuple[Publication, ...], keep: int) -> tuple[str, ...]:
    """Return the ids that stay, the latest first: the last ones, and those that clients may still use."""
    now = int(time.time())
    followed = [later.at for later in publications[1:]]
    young = {row.id for row, until in zip(publications, followed, strict=False) if now - until < KEPT_FOR}
    last = {row.id for row in publications[-max(keep, 1) :]}
    return tuple(row.id for row in reversed(publications) if row.id in last | young)


def _mark(target: Target, line: str) -> None:
    if (directory := target.directory) is not None:
        directory.mkdir(parents=True, exist_ok=True)
    with temporary.scratch("upload-") as staged:
        write_atomic(
            staged / MARKER, "Snapshots of this directory are published and removed by `./inv publish --to TARGET`.\n"
        )
        (staged / line / "snapshots").mkdir(parents=True)
        target.copy(staged, [MARKER, f"{line}/snapshots"], "")


def _switch(place: Path, document: Document, target: Target, publications: Publications) -> None:
    """Record the publication on the target, and lead readers to its last snapshot."""
    line, newest_first = place.name, publications.publications[::-1]
    with temporary.scratch("upload-") as staged:
        write_atomic(staged / FILE, documents.to_json(publications))
        target.mirror(staged, line, [f"+ /{FILE}", "- *"])
    faults.point("upload.recorded")
    with temporary.scratch("upload-") as staged:
        for name in document.sets:
            ids = [row.id for row in newest_first if name in row.sets]
            write_atomic(staged / f"{mirrorlist.PREFIX}{name}", mirrorlist.text(document, name, ids))
        (staged / "latest").symlink_to(f"snapshots/{document.id}")
        rules = [f"+ /{mirrorlist.PREFIX}*", "+ /latest"]
        if (statement := place / LATEST_STATEMENT).is_file():
            write_atomic(staged / LATEST_STATEMENT, statement.read_bytes())
            rules += ["+ /attestations/", f"+ /{LATEST_STATEMENT}"]
        target.mirror(staged, line, [*rules, "- *"])
    faults.point("upload.switched")


def _remove_others(target: Target, line: str, kept: tuple[str, ...]) -> tuple[str, ...]:
    """Remove the snapshots that are not kept, and what a killed run left; return their names."""
    there = {name: set(target.names(f"{line}/{name}") or ()) for name in ("snapshots", *_BESIDE)}
    beside = {Path(LATEST_STATEMENT).name}
    old = sorted({name for names in there.values() for name in names} - set(kept) - beside)
    if old:
        with temporary.scratch("upload-") as staged:
            for name in there:
                if there[name]:
                    (staged / name).mkdir()
            rules = [f"- /{name}/{one}" for name in there for one in (*kept, *beside)]
            rules += [rule for name in there for rule in (f"+ /{name}/", f"+ /{name}/**")]
            target.mirror(staged, line, [*rules, "- *"])
    return tuple(old)
