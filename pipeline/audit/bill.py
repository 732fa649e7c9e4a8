"""Describe the content of a bill of materials: packages with licences, sources, patches and compiled files.

Reads no file: what it knows is in the packages' headers and in the statements of the steps that made them.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

from pipeline.audit import statement
from pipeline.audit.statement import Kind, PatchFacts, Provenance, Resource
from pipeline.core import documents
from pipeline.packaging.compiled_sources import CompiledSources

_OLD_LICENSES = {"GPLv2": "GPL-2.0-only", "GPLv2+": "GPL-2.0-or-later"}  # as RHEL 6 writes them
_EXPRESSION = re.compile(r"[A-Za-z0-9.+-]*\d[A-Za-z0-9.+-]*( (WITH|AND|OR) [A-Za-z0-9.+-]+)*")
# What compiles into these packages: nothing, or programs of the build.
_WITHOUT_CODE, _WITH_PROGRAMS = ("-headers", "-firmware"), "-devel"


@dataclass(frozen=True)
class Ingredient:
    """A source or a patch: its name, SHA-256, version, address and package URL; what is not known is empty."""

    name: str
    sha256: str
    version: str = ""
    address: str = ""
    purl: str = ""


@dataclass(frozen=True)
class Packaged:
    """A published package, and the statement of the execution that made it; None where there is none."""

    name: str
    version: str
    arch: str
    summary: str
    declared: str
    file: str
    sha256: str
    step: str
    key: str
    made: Provenance | None

    @property
    def purl(self) -> str:
        """The package URL."""
        epoch, colon, version = self.version.rpartition(":")
        more = f"&epoch={epoch}" if colon else ""
        return f"pkg:rpm/lvs-fullnat/{self.name}@{quote(version, safe='')}?arch={self.arch}{more}"

    @property
    def license(self) -> str:
        """The declared licence as an SPDX expression; empty where it is none."""
        known = _OLD_LICENSES.get(self.declared, self.declared)
        return known if _EXPRESSION.fullmatch(known) else ""

    @cached_property
    def sources(self) -> tuple[Ingredient, ...]:
        """The sources whose digests the step's key covers; an archive that only patches were taken from is none."""
        covered = "\n".join(self.made.buildDefinition.internalParameters.inputs.values()) if self.made else ""
        found = self.made.found(Kind.SOURCE) if self.made else []
        return tuple(_source(row) for row in found if row.digest["sha256"] in covered)

    @cached_property
    def patches(self) -> tuple[Ingredient, ...]:
        """The patches, in order; the address of a member names its archive's and the member."""
        if self.made is None:
            return ()
        archives = {row.name: row.downloadLocation for row in self.made.found(Kind.SOURCE)}
        return tuple(_patch(row, archives) for row in self.made.found(Kind.PATCH))

    @cached_property
    def compiled(self) -> dict[str, str]:
        """The SHA-256 of each file that was compiled or included for what the package has, by path."""
        found = self.made.found(Kind.COMPILED) if self.made else []
        if not found or self.arch == "noarch" or self.name.endswith(_WITHOUT_CODE):
            return {}
        trees = documents.parse(CompiledSources, base64.b64decode(found[0].content)).trees
        only_programs = self.name.endswith(_WITH_PROGRAMS)
        return {
            f"{tree}/{path}": digest
            for tree, content in sorted(trees.items())
            for path, digest in sorted((content.build_programs if only_programs else content.files).items())
        }


@dataclass(frozen=True)
class Bill:
    """The content of one bill: its name, an id that follows from it, the snapshot's time, and its packages."""

    name: str
    version: str
    uuid: str
    time: str
    packages: tuple[Packaged, ...]


def _source(row: Resource) -> Ingredient:
    facts = row.facts(statement.SourceFacts)
    package = row.name.partition("_")[0]  # Debian's tarballs are called PACKAGE_VERSION.orig.tar.*
    purl = f"pkg:deb/debian/{package}@{quote(facts.version, safe='')}?arch=source" if facts.pin.indexes else ""
    return Ingredient(row.name, row.digest["sha256"], facts.version, row.downloadLocation, purl)


def _patch(row: Resource, archives: dict[str, str]) -> Ingredient:
    facts = row.facts(PatchFacts)
    archive = next((address for name, address in archives.items() if facts.origin.startswith(f"{name} ")), "")
    return Ingredient(row.name, row.digest["sha256"], "", f"{archive}#{facts.path}" if archive else facts.path)
