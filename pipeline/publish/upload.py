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
_STATEMENT = re.escape(Path(LATEST_STATEMENT).name)
_MOST = 1 << 20  # bytes of publications.json
_ID = re.compile(rf"[0-9a-f]{{{snapshot_contents.ID_DIGITS}}}")
Id = Annotated[str, _ID]
# The statement; rsync's names for it before the rename, and for the directory where that waits.
_OWN_FILE = re.compile(rf"{_STATEMENT}|\.{_STATEMENT}\.[A-Za-z0-9]{{6}}|\.~tmp~")
_FILE, _DIRECTORY, _LINK = "-", "d", "l"
_KINDS = {_FILE: "a file", _DIRECTORY: "a directory", _LINK: "a symbolic link"}


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
    """A publication to a target: the snapshots there, the latest first, and those that were removed.

    `foreign` are the paths of what lies among them and is not ours: it was left.
    """

    line: str
    target: str
    snapshot: str
    kept: tuple[str, ...]
    removed: tuple[str, ...]
    foreign: tuple[str, ...] = ()


def check_target(target: Target, line: str) -> None:
    """Raise `UsageError` for a target that is not ours, that is no directory, or where links are in the way.

    A target that is empty or missing becomes ours. rsync replaces a link by a directory wherever it copies one, and a
    server of its own protocol follows none: what the owner moved to another disk would be published to no longer.
    """
    rules = [f"- /{line}/*/*/*", f"+ /{line}/**", "- /*/*"]
    there = target.entries("", rules)
    if there is None:
        if led := target.link():
            what = f"the target: a link to {led}, where nothing is; expected a directory, or nothing at all"
            raise UsageError(what, where=target.name, hint="./inv publish --to an-existing-directory")
        return
    names = [name for name in there if "/" not in name]
    if names and MARKER not in names:
        shown = ", ".join(sorted(names)[:3])
        raise UsageError(
            f"the target: not ours; expected an empty directory, or one with {MARKER}, got {shown}",
            where=target.name,
            why="a publication removes old snapshots, and must not remove anything else",
            hint="./inv publish --to an-empty-directory",
        )
    for path, kind in there.items():
        expected = _kind_of_ours(path.split("/")[1:]) if path.split("/")[0] == line else ""
        if expected and kind != expected:
            raise UsageError(
                f"{path} on the target: {_KINDS.get(kind, 'a special file')}; expected {_KINDS[expected]}",
                where=target.name,
                why="a publication would put its own in its place, and what it leads to or holds would be lost",
                hint="move it away, and have another disk mounted there (`mount -o bind`) where it led to one",
            )


def _kind_of_ours(names: list[str]) -> str:
    """Return the kind of what a publication writes by a path below a line's directory; empty where it writes none."""
    match names:
        case [] | ["snapshots" | "keys" | "attestations" | "sboms"]:
            return _DIRECTORY
        case ["snapshots" | "attestations" | "sboms", name] if _ID.fullmatch(name):
            return _DIRECTORY
        case ["latest"]:
            return _LINK
        case [name] if name == FILE or name.startswith(mirrorlist.PREFIX):
            return _FILE
        case ["attestations", name] if name == Path(LATEST_STATEMENT).name:
            return _FILE
    return ""


def upload(place: Path, fingerprint: str, target: Target, keep: int) -> Uploaded:
    """Publish the latest snapshot of a line's directory to `target`; keep the last `keep` snapshots there.

    `fingerprint` is that of the key that must have signed it. Raises `Refused` for a damaged snapshot, and as
    `check_target` and `Target` do.
    """
    with locked(place / ".upload.lock"), locked(place / ".lock", shared=True):
        path = (place / "latest").resolve()
        document = verify_snapshot(path, fingerprint)
        check_target(target, place.name)
        before = publications(target, place.name)
        _mark(target, place.name)
        faults.point("upload.marked")
        target.copy_exactly(place, f"snapshots/{path.name}", place.name)
        beside = [f"{name}/{path.name}" for name in _BESIDE if (place / name / path.name).is_dir()]
        target.copy(place, ["keys", *beside], place.name)
        faults.point("upload.copied")
        now = _with(before, document)
        kept = _kept(now, keep)
        _switch(place, document, target, Publications(1, tuple(row for row in now if row.id in kept)))
        removed, foreign = _remove_others(target, place.name, kept)
        faults.point("upload.removed")
    return Uploaded(document.line, target.name, path.name, kept, removed, foreign)


def publications(target: Target, line: str) -> tuple[Publication, ...]:
    """Return the publications of a line to a target, the oldest first. Raises `Refused` for a damaged list."""
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


def _remove_others(target: Target, line: str, kept: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Remove the snapshots that are not kept, and what a killed run left; return their names, and what is not ours."""
    there = {name: target.entries(f"{line}/{name}") or {} for name in ("snapshots", *_BESIDE)}
    found = {(name, one): _is_ours(one, kind) for name, names in there.items() for one, kind in names.items()}
    statement = tuple(LATEST_STATEMENT.split("/"))
    old = [path for path, ours in found.items() if ours and path[1] not in kept and path != statement]
    if old:
        with temporary.scratch("upload-") as staged:
            for name in dict.fromkeys(name for name, _ in old):
                (staged / name).mkdir()
            rules = [rule for name, one in old for rule in (f"+ /{name}/", f"+ /{name}/{one}", f"+ /{name}/{one}/**")]
            target.mirror(staged, line, [*dict.fromkeys(rules), "- *"])
    foreign = sorted(f"{line}/{name}/{one}" for (name, one), ours in found.items() if not ours)
    return tuple(sorted({one for _, one in old})), tuple(foreign)


def _is_ours(name: str, kind: str) -> bool:
    """Return whether a publication, or one that was killed, made what has a name in the directories of snapshots."""
    return bool(_ID.fullmatch(name) and kind == _DIRECTORY) or bool(_OWN_FILE.fullmatch(name))
