"""The pristine kernel tree of a line: its listing, and the few files that patches touch.

Both come out of the verified source in one pass and are kept under artifacts/trees/. What is kept
proves itself: the listing by its git tree id, each file by its blob id.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pipeline import trace
from pipeline.console import Console
from pipeline.errors import HostLacks
from pipeline.files import scratch
from pipeline.lines import SrpmSource
from pipeline.sources import archive, gittree
from pipeline.sources.fetching import Sources, Verified


@dataclass(frozen=True)
class Pristine:
    """An unpatched tree: the id and listing of all of it, and a directory with the files asked for."""

    tree: str
    listing: gittree.Listing
    files: Path


def pristine(sources: Sources, source: Verified, wanted: Collection[str], console: Console) -> Pristine:
    """The tree inside the verified `source`, with those of `wanted` that it has as files."""
    key = hashlib.sha256("\0".join([source.sha256, *sorted(wanted)]).encode()).hexdigest()[:24]
    place = sources.settings.artifacts / "trees" / key
    known = _kept(place, wanted)
    if known is not None:
        return known
    console.note(f"{source.file}: reading the kernel tree")
    place.parent.mkdir(parents=True, exist_ok=True)
    with sources.store.object_lock(f"tree-{key}"), scratch(place.parent, ".new-") as new:
        fresh = new / "tree"
        try:
            listing = _read(sources, source, wanted, fresh / "files", new)
            rows = "".join(f"{entry.mode} {entry.blob} {path}\n" for path, entry in sorted(listing.items()))
            (fresh / "listing.xz").write_bytes(lzma.compress(rows.encode(), preset=1))
            shutil.rmtree(place, ignore_errors=True)
            trace.point("tree.before-rename")
            fresh.replace(place)
        except OSError as error:
            raise HostLacks(f"the kernel tree cannot be unpacked: {error}", where=str(place)) from None
    return Pristine(gittree.tree_id(listing), listing, place / "files")


def _kept(place: Path, wanted: Collection[str]) -> Pristine | None:
    """What an earlier run left, if every file in it still is what the listing says."""
    if not (place / "listing.xz").is_file():
        return None
    try:
        listing = gittree.read_manifest(place / "listing.xz")
    except (lzma.LZMAError, EOFError, ValueError):  # damaged: it is read anew
        return None
    expected = {path: listing[path] for path in wanted if path in listing}
    if gittree.compare(expected, gittree.of_directory(place / "files")):
        return None
    return Pristine(gittree.tree_id(listing), listing, place / "files")


def _read(
    sources: Sources, source: Verified, wanted: Collection[str], into: Path, room: Path
) -> dict[str, gittree.Entry]:
    into.mkdir(parents=True)
    model = sources.line.data.sources[source.name]
    tarball = source.path
    if isinstance(model, SrpmSource):
        with archive.opened(source.path) as stream:
            archive.listing(stream, source.file, keep={model.tree.archive}, into=room)
        tarball = room / model.tree.archive
    with archive.opened(tarball) as stream:
        found = archive.listing(stream, tarball.name, strip=1, keep=frozenset(wanted), into=into)
    if isinstance(model, SrpmSource) and gittree.tree_id(found) != model.tree.git_tree:
        from pipeline.sources import srpm

        raise srpm.tree_refusal(model, gittree.tree_id(found), found, None)
    return found
