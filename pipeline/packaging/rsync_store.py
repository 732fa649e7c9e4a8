"""Keep a shared store on another host, reached with rsync: a server of its own protocol, or ssh.

rsync writes a file under a temporary name and renames it over whatever is there by then, so that of two hosts the last
one's file would stay. But a symbolic link that it saw none of it makes by symlink(2), which one host alone succeeds
in. So a record is decided by a link beside it, and written after that:

packs/<two digits>/<sha256>         1. the record, as an object by its digest, until it has its name
results/<line>/<step>/<key>.first   2. a link that says <sha256>: the first record, for good
results/<line>/<step>/<key>.json    3. that record, written by the host of the link, or by another where that was killed
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

from pipeline.core import documents, faults, manifest, neutral, temporary
from pipeline.core.fs import read_limited
from pipeline.core.rsync import Target
from pipeline.errors import Refused
from pipeline.packaging import shared_store

FIRST = ".first"
_DIGEST = re.compile(r"(?:.*/)?([0-9a-f]{64})")  # of a link; a server may have put a directory before what it says


class RsyncStore:
    """A store at `HOST:DIRECTORY` or `rsync://HOST/MODULE`."""

    is_writable = True

    def __init__(self, address: str) -> None:
        self.target = Target(address, "the shared store")

    @property
    def address(self) -> str:
        """The address as rsync takes it."""
        return self.target.name

    def check(self) -> None:
        """Raise `UsageError` for a directory that is missing, and `Unreachable` for a host that is."""
        if self.target.names() is None:
            raise shared_store.not_there(self.address, neutral.command(["rsync", f"{self.address}/"]))

    def read(self, name: str, most: int) -> bytes | None:
        """Return an object; None where there is none."""
        return self.target.read(name, most)

    def copy(self, name: str, target: Path, size: int) -> None:
        """Copy an object of `size` bytes to the new file `target`."""
        if not self.target.fetch(name, target, size):
            raise shared_store.missing(self.address, name)
        shared_store.check_size(self.address, name, target, size)

    def add(self, name: str, source: Path) -> bool:
        """Store a file by a name that ends in its SHA-256, compared whole when it is there."""
        with temporary.scratch("shared-") as place:
            _link(place / name, source)
            added = self.target.add(place, name, "--copy-links")
            if not self.target.is_same(place, name, "--copy-links"):
                raise shared_store.other_bytes(self.address, name)
        return added

    def create(self, name: str, source: Path) -> bool:
        """Create an object from a file, or the first one of its name where another host has decided that."""
        data = read_limited(source, documents.MOST)
        own = hashlib.sha256(data).hexdigest()
        self.add(_object(own), source)
        faults.point("store.offered")
        first = self._first(name, own)
        faults.point("store.decided")
        if first != own:
            self.remove(_object(own))
        self._complete(name, first)
        self.remove(_object(first))
        return first == own and self.read(name, documents.MOST) == data

    def _first(self, name: str, own: str) -> str:
        """Return the SHA-256 of the first object of a name: `own` unless there is one already."""
        link = f"{PurePosixPath(name).with_suffix(FIRST)}"
        with temporary.scratch("shared-") as place:
            _link(place / link, Path(own))
            if self.target.add(place, link):
                return own
        content = self.target.link(link) or ""
        if found := _DIGEST.fullmatch(content):
            return found[1]
        raise Refused(
            f"{link} in the shared store: {content!r}; expected a link that says a SHA-256", where=self.address
        )

    def _complete(self, name: str, digest: str) -> None:
        """Give the decided object its name, unless the host that has decided it was as fast."""
        with temporary.scratch("shared-") as place:
            copy = place / name
            copy.parent.mkdir(parents=True)
            if self.target.fetch(_object(digest), copy, documents.MOST):
                if manifest.sha256_at(copy)[0] != digest:
                    raise shared_store.other_bytes(self.address, _object(digest))
                self.target.add(place, name)
            elif self.read(name, documents.MOST) is None:
                what = f"{PurePosixPath(name).with_suffix(FIRST)} in the shared store: neither its object nor a record"
                raise Refused(f"{what}; expected one of both", where=self.address, why="somebody removed them")

    def remove(self, name: str) -> None:
        """Remove an object."""
        path = PurePosixPath(name)
        with temporary.scratch("shared-") as place:
            self.target.mirror(place, str(path.parent), [f"+ /{path.name}", "- *"])


def _object(digest: str) -> str:
    return f"packs/{digest[:2]}/{digest}"


def _link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True)
    place.symlink_to(target.absolute() if target.exists() else target)
