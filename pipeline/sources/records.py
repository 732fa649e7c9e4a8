"""Define the documents that the store keeps of sources, each about bytes that cannot change.

Apart from those that make them, which import what a run that has everything does not need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config.line_model import LineIdentity


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
    """An answer of Debian's indexes: the indexes, and the newer versions that were not available."""

    indexes: tuple[IndexDigests, ...]
    passed: tuple[str, ...]


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
class LineSources(LineIdentity):
    """The sources that a fetch of a line used."""

    sources: tuple[SourceEvidence, ...]
