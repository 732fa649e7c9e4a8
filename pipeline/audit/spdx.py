"""Format a bill of materials as SPDX 3.0.1, JSON-LD: packages, builds, sources, patches and compiled files.

Reads no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.audit.statement import BUILD_TYPE

if TYPE_CHECKING:
    from pipeline.audit.bill import Bill, Ingredient, Packaged

CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
_CREATION = "_:creation"
_Element = dict[str, Any]


def document(bill: Bill) -> dict[str, Any]:
    """Return the document of a bill."""
    return {"@context": CONTEXT, "@graph": _Graph(f"urn:uuid:{bill.uuid}#").of(bill)}


class _Graph:
    """The elements of one document, each once; ids are `base` and a name."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.elements: dict[str, _Element] = {}
        self.files: dict[tuple[str, str], int] = {}  # the number of each compiled file of a step

    def of(self, bill: Bill) -> list[_Element]:
        agent = self._add("agent", "SoftwareAgent", name="lvs-fullnat-pipeline")
        roots = [self._package(package) for package in bill.packages]
        builds: dict[str, list[Packaged]] = {}
        for package in bill.packages:
            builds.setdefault(package.step, []).append(package)
        for step, packages in builds.items():
            self._build(step, packages)
        sbom = self._add("sbom", "software_Sbom", name=bill.name, software_sbomType=["build"], rootElement=roots)
        profiles = ["core", "software", "simpleLicensing", "build"]
        self._add("document", "SpdxDocument", name=bill.name, profileConformance=profiles, rootElement=[sbom])
        creation = {
            "@id": _CREATION,
            "type": "CreationInfo",
            "specVersion": "3.0.1",
            "created": bill.time,
            "createdBy": [agent],
        }
        return [creation, *self.elements.values()]

    def _add(self, ident: str, kind: str, **more: object) -> str:
        """Add an element where it is not there yet, and return its id."""
        spdx_id = f"{self.base}{ident}"
        if spdx_id not in self.elements:
            self.elements[spdx_id] = {"spdxId": spdx_id, "type": kind, "creationInfo": _CREATION, **more}
        return spdx_id

    def _relate(self, source: str, kind: str, targets: Sequence[str]) -> None:
        if targets:
            name = f"{kind}-{source.removeprefix(self.base)}"
            self._add(name, "Relationship", **{"from": source}, relationshipType=kind, to=list(targets))

    def _package(self, package: Packaged) -> str:
        own = self._add(
            f"package-{package.file}",
            "software_Package",
            name=package.name,
            summary=package.summary,
            software_packageVersion=package.version,
            software_packageUrl=package.purl,
            software_primaryPurpose="install",
            verifiedUsing=_hash(package.sha256),
        )
        self._relate(own, "hasDeclaredLicense", [self._license(package)])
        sources = [self._source(source) for source in package.sources]
        self._relate(own, "descendantOf", sources)
        self._relate(own, "patchedBy", [self._file(patch, "patch") for patch in package.patches])
        return own

    def _license(self, package: Packaged) -> str:
        name = f"license-{package.declared.replace(' ', '-')}"
        if package.license:
            expression = {"simplelicensing_licenseExpression": package.license}
            return self._add(name, "simplelicensing_LicenseExpression", **expression)
        text = {"simplelicensing_licenseText": package.declared}
        return self._add(name, "simplelicensing_SimpleLicensingText", **text)

    def _source(self, source: Ingredient) -> str:
        more: dict[str, object] = {"software_packageVersion": source.version} if source.version else {}
        more |= {"software_packageUrl": source.purl} if source.purl else {}
        more |= {"software_downloadLocation": source.address} if source.address.partition(":")[1] else {}
        return self._add(
            f"source-{source.sha256}",
            "software_Package",
            name=source.name,
            software_primaryPurpose="source",
            verifiedUsing=_hash(source.sha256),
            **more,
        )

    def _file(self, ingredient: Ingredient, purpose: str) -> str:
        return self._add(
            f"{purpose}-{ingredient.sha256}",
            "software_File",
            name=ingredient.name,
            software_primaryPurpose=purpose,
            verifiedUsing=_hash(ingredient.sha256),
        )

    def _build(self, step: str, packages: Sequence[Packaged]) -> None:
        """Add the build of a step: its packages as output, its sources, patches and compiled files as input."""
        build = self._add(
            f"build-{step}", "build_Build", name=step, build_buildType=BUILD_TYPE, build_buildId=packages[0].key
        )
        outputs = [f"{self.base}package-{package.file}" for package in packages]
        self._relate(build, "hasOutput", outputs)
        self._relate(build, "hasInput", list(dict.fromkeys(self._inputs(step, packages))))

    def _inputs(self, step: str, packages: Sequence[Packaged]) -> Iterator[str]:
        for package in packages:
            yield from (self._source(source) for source in package.sources)
            yield from (self._file(patch, "patch") for patch in package.patches)
            for path, digest in package.compiled.items():  # 12,000 of a kernel: ids are short
                number = self.files.setdefault((step, path), len(self.files) + 1)
                more = {"software_primaryPurpose": "source", "verifiedUsing": _hash(digest)}
                yield self._add(f"compiled-{number}", "software_File", name=path, **more)


def _hash(sha256: str) -> list[dict[str, str]]:
    return [{"type": "Hash", "algorithm": "sha256", "hashValue": sha256}]
