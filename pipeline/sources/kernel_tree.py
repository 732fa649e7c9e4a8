"""Extract from the pristine kernel tree of a line its listing, and the files that patches touch.

Both come out of the verified source in one pass and are kept under artifacts/trees/, with a record
(`pipeline.core.manifest`) of what came out of which source.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.line_model import SrpmSource
from pipeline.core import disk_space, faults, manifest
from pipeline.core.fs import scratch
from pipeline.errors import HostLacks
from pipeline.formats import archive, git_tree
from pipeline.sources import tree_difference

if TYPE_CHECKING:
    from pipeline.sources.records import Verified
    from pipeline.sources.resolver import Sources


@dataclass(frozen=True)
class Pristine:
    """An unpatched tree: id and listing of all of it, and a directory with the requested files."""

    tree: str
    listing: git_tree.Listing
    files: Path


def pristine(sources: Sources, source: Verified, wanted: Collection[str]) -> Pristine:
    """Return the tree inside the verified `source`, with those of `wanted` that it has as files."""
    key = hashlib.sha256("\0".join([source.sha256, *sorted(wanted)]).encode()).hexdigest()[:24]
    place = sources.settings.artifacts / "trees" / key
    known = _kept(place, source, wanted)
    if known is not None:
        return known
    sources.console.note(f"{source.file}: reading the kernel tree")
    place.parent.mkdir(parents=True, exist_ok=True)
    with sources.store.object_lock(f"tree-{key}"), scratch(place.parent, ".new-") as new:
        fresh = new / "tree"
        try:
            listing = _read(sources, source, wanted, fresh / "files", new)
            rows = "".join(f"{entry.mode} {entry.blob} {path}\n" for path, entry in sorted(listing.items()))
            (fresh / "listing.xz").write_bytes(lzma.compress(rows.encode(), preset=1))
            manifest.record(fresh, _about(source, wanted))
            shutil.rmtree(place, ignore_errors=True)
            place.unlink(missing_ok=True)  # anything else in its place
            faults.point("tree.before-rename")
            fresh.replace(place)
        except OSError as error:
            other = HostLacks(f"the kernel tree cannot be unpacked: {error}", where=str(place))
            raise disk_space.host_error(error, sources.settings.artifacts) or other from None
    return Pristine(git_tree.tree_id(listing), listing, place / "files")


def _about(source: Verified, wanted: Collection[str]) -> dict[str, object]:
    """Return the identity of a cached tree."""
    return {"source": source.sha256, "wanted": sorted(wanted)}


def _kept(place: Path, source: Verified, wanted: Collection[str]) -> Pristine | None:
    """Return the cached tree if it comes from this source."""
    if place.is_symlink() or manifest.check(place, _about(source, wanted)):
        return None
    listing = git_tree.read_manifest(place / "listing.xz")
    return Pristine(git_tree.tree_id(listing), listing, place / "files")


def problems(root: Path) -> Iterator[tuple[Path, str]]:
    """Read every cached tree below `root` whole and yield each problem: its path and a text."""
    for place in sorted(root.glob("[!.]*")):
        yield from ((place / problem.path, problem.problem) for problem in manifest.check(place, {}, content=True))


def _read(
    sources: Sources, source: Verified, wanted: Collection[str], into: Path, directory: Path
) -> dict[str, git_tree.Entry]:
    into.mkdir(parents=True)
    model = sources.line.data.sources[source.name]
    tarball = source.path
    if isinstance(model, SrpmSource):
        with archive.opened(source.path) as stream:
            archive.listing(stream, source.file, keep={model.tree.archive}, into=directory)
        tarball = directory / model.tree.archive
    with archive.opened(tarball) as stream:
        found = archive.listing(stream, tarball.name, strip=1, keep=frozenset(wanted), into=into)
    if isinstance(model, SrpmSource) and git_tree.tree_id(found) != model.tree.git_tree:
        raise tree_difference.refusal(model, git_tree.tree_id(found), found, None)
    return found
