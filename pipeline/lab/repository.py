"""Describe the snapshot that guests are made of: its packages by set and name. Reads no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import Refused
from pipeline.publish.snapshot_contents import Document


@dataclass(frozen=True)
class Package:
    """A package of the snapshot. `release` is RPM's version and release, `1.2.1-fnat.0`."""

    path: Path
    nevra: str
    sha256: str
    release: str


@dataclass(frozen=True)
class Repository:
    """A verified snapshot. `sets`: for each role its packages by name."""

    path: Path
    document: Document
    sets: Mapping[str, Mapping[str, Package]]

    @property
    def id(self) -> str:
        """The snapshot's id."""
        return self.document.id

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the signing key."""
        return self.document.key.fingerprint

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles with a kernel in the snapshot."""
        return tuple(name for name, packages in self.sets.items() if "kernel" in packages)

    def nearest(self, role: str, name: str) -> Package:
        """Return a package of a role's set, or of another set where that one lacks it. Raises `Refused` if none has it.

        So a role's package runs on the stock kernel too, whose set does not have what the package requires.
        """
        having = next((other for other, packages in self.sets.items() if name in packages), role)
        return self.package(role if name in self.sets.get(role, {}) else having, name)

    def package(self, role: str, name: str) -> Package:
        """Return a package of a role's set. Raises `Refused` for one that the snapshot does not have."""
        found = self.sets.get(role, {}).get(name)
        if found is None:
            raise Refused(
                f"the snapshot has no {name} for the role {role}",
                where=str(self.path),
                why=f"it has: {', '.join(self.sets.get(role, {})) or 'nothing for that role'}",
                hint="`./inv build-all` publishes whole snapshots",
            )
        return found
