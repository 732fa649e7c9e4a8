"""Format a bill of materials as CycloneDX 1.6: components with pedigree. Reads no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline import __version__

if TYPE_CHECKING:
    from pipeline.audit.bill import Bill, Ingredient, Packaged

_URL = "/:?#[]@!$&'()*+,;=%~"  # what a URL may have besides letters, digits and -._


def document(bill: Bill) -> dict[str, Any]:
    """Return the document of a bill: of one package, or of a snapshot whose components are the packages."""
    components = [_component(package) for package in bill.packages]
    whole = len(bill.packages) != 1 or bill.name == "snapshot"
    own: dict[str, Any] = (
        {"type": "platform", "bom-ref": f"urn:uuid:{bill.uuid}", "name": bill.name, "version": bill.version}
        if whole
        else components[0]
    )
    found: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{bill.uuid}",
        "version": 1,
        "metadata": {
            "timestamp": bill.time,
            "tools": {"components": [{"type": "application", "name": "lvs-fullnat-pipeline", "version": __version__}]},
            "component": own,
        },
        "components": components if whole else [],
        "dependencies": [
            {"ref": own["bom-ref"], "dependsOn": [each["bom-ref"] for each in components] if whole else []}
        ],
    }
    return found


def _component(package: Packaged) -> dict[str, Any]:
    licence = {"expression": package.license} if package.license else {"license": {"name": package.declared}}
    return {
        "type": _type(package.name),
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "description": package.summary,
        "purl": package.purl,
        "hashes": _hashes(package.sha256),
        "licenses": [licence],
        "pedigree": {
            "ancestors": [_ancestor(source) for source in package.sources],
            "patches": [
                {"type": "unofficial", "diff": {"url": quote(patch.address, _URL)}} for patch in package.patches
            ],
        },
        "properties": [
            {"name": "lvs-fullnat:step", "value": package.step},
            {"name": "lvs-fullnat:step:key", "value": package.key},
            *_digests(package.patches),
        ],
    }


def _type(name: str) -> str:
    if name == "kernel":
        return "operating-system"
    return "device-driver" if name.startswith("kmod-") else "application"


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _digests(patches: Sequence[Ingredient]) -> list[dict[str, str]]:
    """Return the digest of each patch in its order: CycloneDX has no place for one in a patch."""
    return [
        {"name": f"lvs-fullnat:patch:{number}:sha256:{patch.name}", "value": patch.sha256}
        for number, patch in enumerate(patches, 1)
    ]


def _ancestor(source: Ingredient) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "application", "name": source.name, "hashes": _hashes(source.sha256)}
    if source.version:
        found["version"] = source.version
    if source.purl:
        found["purl"] = source.purl
    if source.address:
        reference = {"type": "distribution", "url": quote(source.address, _URL), "hashes": _hashes(source.sha256)}
        found["externalReferences"] = [reference]
    return found
