"""Define the documents that the store keeps of sources, each about bytes that cannot change.

Apart from those that make them, which import what a run that has everything does not need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Proof:
    """Verified facts about an SRPM; `spec` and `members` map to SHA-256, `tree` is a git tree id.

    `expires` is the key's expiry in seconds since 1970; `accepted` means that the line accepts an expired key.
    """

    signer: str
    fingerprint: str
    signed: str
    sentence: str
    expires: float | None
    accepted: bool
    nevra: str
    spec: str
    members: Mapping[str, str]
    tree: str
    entries: int


@dataclass(frozen=True)
class Members:
    """The paths of the pinned members that an archive was found to hold."""

    members: tuple[str, ...]


@dataclass(frozen=True)
class KeptKey:
    """A public key, armored, and where it came from."""

    armor: str
    origin: str


@dataclass(frozen=True)
class Resolved:
    """The signed index's entry of a source package's upstream tarball. `size` in bytes."""

    package: str
    version: str
    file: str
    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class IndexDigests:
    """A signed index: its suite and date, and the SHA-256 of both its files."""

    suite: str
    date: str
    inrelease: str
    sources: str


@dataclass(frozen=True)
class Answer(Resolved):
    """An answer of Debian's indexes: the indexes, and the newer versions that were not available.

    `newer` is the newest version of the index where an older one was taken that the patches are made for.
    """

    indexes: tuple[IndexDigests, ...]
    passed: tuple[str, ...]
    newer: str = ""


@dataclass(frozen=True)
class SourceEvidence:
    """Facts about a source in the store, independent of the run. `how` is its proof; `size` in bytes."""

    name: str
    file: str
    sha256: str
    size: int
    origin: str
    version: str
    how: str


@dataclass(frozen=True)
class Verified:
    """A source in the store. `how` is the sentence about its proof; `size` in bytes.

    `new` when this run fetched it.
    """

    name: str
    file: str
    path: Path
    sha256: str
    size: int
    origin: str
    version: str
    how: str
    new: bool

    @property
    def upstream(self) -> str:
        """The upstream version in a Debian one: `1:1.31-1` is 1.31."""
        return self.version.partition(":")[2].rpartition("-")[0] or self.version.rpartition("-")[0]

    def evidence(self) -> SourceEvidence:
        """Return what is true of the source, whichever run looks."""
        return SourceEvidence(self.name, self.file, self.sha256, self.size, self.origin, self.version, self.how)
