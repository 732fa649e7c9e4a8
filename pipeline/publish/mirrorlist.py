"""Write what leads yum and dnf to one whole snapshot: mirrorlists, and the keys that .repo files name.

    <root>/<line>/mirrorlist-<set>            the address of the set in the latest snapshot, then in those before it
    <root>/<line>/keys/RPM-GPG-KEY-<name>     each key that ever signed a snapshot here

Clients resolve `latest` anew with each request, so that what they read through it may be of two snapshots. They read a
mirrorlist once for repomd.xml and what that names; dnf reads it again before packages, which belong to metadata that
can be as old as its `metadata_expire`. Those are found in the snapshots before the latest: clients take the next
address where a file is missing or has another digest. So a snapshot leaves the list before it is removed.

A list is replaced by one rename, and points to whole snapshots before and after it. It is not signed: repomd.xml is.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.core import faults
from pipeline.core.fs import read_limited, write_atomic
from pipeline.publish import snapshot_contents, verify
from pipeline.publish.snapshot_contents import Document
from pipeline.sources import openpgp

PREFIX = snapshot_contents.MIRRORLIST_PREFIX
MOST = 20  # addresses of a list: clients try them all for a file that is nowhere
_MOST_BYTES = 1 << 16
_ID = re.compile(rf"/snapshots/([0-9a-f]{{{snapshot_contents.ID_DIGITS}}})/")


def add_key(place: Path, path: Path) -> None:
    """Write the key of the snapshot `path` beside those of earlier ones, before anything leads to it."""
    name = snapshot_contents.key_file(verify.read_document(path))
    _replace(place / snapshot_contents.KEYS / name, read_limited(path / name, openpgp.MOST).decode())


def changes(place: Path, path: Path) -> dict[Path, str | None]:
    """Return the mirrorlists of a line's directory that differ once the snapshot `path` is its latest, with their text.

    None is for the mirrorlist of a set that the snapshot lacks, which is to be removed: its readers get an error
    instead of packages that nobody builds any more. Raises `Refused` for an unreadable snapshot.
    """
    document = verify.read_document(path)
    files = {place / f"{PREFIX}{name}": name for name in document.sets}
    wanted: dict[Path, str | None] = {
        file: text(document, name, [path.name, *_with_set(place, ids(file), name)]) for file, name in files.items()
    }
    stale = dict.fromkeys(file for file in sorted(place.glob(f"{PREFIX}*")) if file not in wanted)
    return {file: new for file, new in {**wanted, **stale}.items() if new is None or not _has(file, new)}


def change(file: Path, wanted: str | None) -> None:
    """Replace a mirrorlist by one rename, or remove one; for the holder of the directory's lock."""
    faults.point("mirrorlist.before-rename")
    if wanted is None:
        file.unlink()
    else:
        write_atomic(file, wanted)


def leads(place: Path) -> dict[str, str]:
    """Return the snapshot that readers of a line's directory are led to, by the name of `latest` and each mirrorlist.

    Empty text is for what leads nowhere.
    """
    found = {}
    with contextlib.suppress(OSError):
        found["latest"] = (place / "latest").readlink().name
    for file in sorted(place.glob(f"{PREFIX}*")):
        found[file.name] = next(iter(ids(file)), "")
    return found


def text(document: Document, name: str, snapshots: Iterable[str]) -> str:
    """Return the mirrorlist of a set: one address a line, for snapshots by their ids, the latest first."""
    base = f"{document.baseurl}/{document.directory}/snapshots"
    return "".join(f"{base}/{identity}/{name}/\n" for identity in list(dict.fromkeys(snapshots))[:MOST])


def ids(file: Path) -> list[str]:
    """Return the ids of the snapshots in a mirrorlist, the latest first; none without a readable one."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _ID.findall(read_limited(file, _MOST_BYTES).decode())
    return []


def forget(place: Path, identity: str) -> None:
    """Remove a snapshot from the mirrorlists of a line's directory, before its files are; for the lock's holder."""
    for file in place.glob(f"{PREFIX}*"):
        if identity in ids(file):
            lines = file.read_text().splitlines(keepends=True)
            _replace(file, "".join(line for line in lines if f"/snapshots/{identity}/" not in line))


def _with_set(place: Path, known: Iterable[str], name: str) -> list[str]:
    return [identity for identity in known if (place / "snapshots" / identity / name).is_dir()]


def _replace(file: Path, wanted: str) -> None:
    """Write a file by one rename unless it is right."""
    if not _has(file, wanted):
        write_atomic(file, wanted)


def _has(file: Path, wanted: str) -> bool:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return read_limited(file, openpgp.MOST).decode() == wanted
    return False
