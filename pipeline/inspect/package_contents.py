"""Read a built package's metadata besides its files: requirements and configuration files.

Recipes compare these with their plan. Must not know any recipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import fs, neutral
from pipeline.errors import Refused, difference
from pipeline.formats import rpm_header
from pipeline.packaging import rpmbuild


@dataclass(frozen=True)
class PackageMetadata:
    """Metadata of a package: `kept` configuration files survive an update, `replaced` ones do not.

    `requires` leaves out what rpm itself provides.
    """

    requires: tuple[str, ...]
    kept: tuple[str, ...]
    replaced: tuple[str, ...]
    modes: dict[str, int]


def read_metadata(rpm: Path) -> PackageMetadata:
    """Read the metadata of an RPM's header. Raises `Refused` for other files."""
    package = rpm_header.read(rpm)
    rows = package.files()
    config = [row for row in rows if row.is_config]
    return PackageMetadata(
        requires=tuple(sorted({row for row in package.dependencies("REQUIRE") if not row.startswith("rpmlib(")})),
        kept=tuple(row.path for row in config if row.is_kept),
        replaced=tuple(row.path for row in config if not row.is_kept),
        modes={row.path: row.mode & 0o7777 for row in rows},
    )


def require_packages(rpms: Path, nevras: Collection[str]) -> dict[str, rpmbuild.Package]:
    """Return the packages below `rpms` by name, without source packages.

    Raises `Refused` for a missing, duplicate or unexpected package.
    """
    paths = [path for path in sorted(rpms.rglob("*.rpm")) if not path.name.endswith(".src.rpm")]
    packages = [rpmbuild.read_package(path) for path in paths]
    actual = Counter(package.nevra for package in packages)
    if actual != Counter(set(nevras)):
        twice = ", ".join(nevra for nevra, count in actual.items() if count > 1)
        raise Refused(
            f"the packages of the build: not as planned; {difference(nevras, actual) or f'expected one {twice}'}",
            where=str(rpms),
            why="only the planned packages are checked and published",
            hint=neutral.command(["ls", "-R", rpms]),
        )
    return {package.name: package for package in packages}


def require_files(package: rpmbuild.Package, wanted: Collection[str]) -> None:
    """Raise `Refused` for files that are missing from a package."""
    if missing := sorted(set(wanted) - set(package.files)):
        raise Refused(
            f"{package.path.name}: files missing; expected {', '.join(missing)}",
            where=str(package.path),
            why="the package could not do what its role needs",
            hint=neutral.command(["rpm", "-qlp", package.path]),
        )


def require_config_files(package: rpmbuild.Package, metadata: PackageMetadata, wanted: Collection[str]) -> None:
    """Raise `Refused` unless `wanted` are exactly the configuration files, and all are kept at updates."""
    if set(metadata.kept) != set(wanted) or metadata.replaced:
        marked = ", ".join(sorted(wanted))
        kept, replaced = ", ".join(metadata.kept) or "none", ", ".join(metadata.replaced) or "none"
        raise Refused(
            f"{package.name}: wrong configuration files; expected %config(noreplace) for {marked}, "
            f"got kept {kept}, replaced {replaced}",
            where=str(package.path),
            why="an update must not replace a file that an administrator changed",
            hint=f"{neutral.command(['rpm', '-qp', '--configfiles', package.path])}; then correct %files of the spec",
        )


@dataclass(frozen=True)
class PackageEvidence:
    """The content of a package that was proven. `size` in bytes."""

    file: str
    nevra: str
    sha256: str
    size: int
    payload: str
    requires: tuple[str, ...]


def evidence(package: rpmbuild.Package, metadata: PackageMetadata) -> PackageEvidence:
    """Return a package's evidence."""
    path = package.path
    digest, size = fs.sha256_of(path), path.stat().st_size
    return PackageEvidence(path.name, package.nevra, digest, size, package.payload, tuple(metadata.requires))
