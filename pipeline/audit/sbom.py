"""Make bills of materials of a published snapshot: for each package and for the whole, in CycloneDX and SPDX.

Made of the published files alone: the packages, snapshot.json, and the statements of the steps beside it. They name the
step's sources as ancestors, its patches, the files that were compiled, and licences as the packages declare them. They
tell no time but the snapshot's own: the same content gives the same bytes, given the same addresses.

    <root>/<line>/sboms/<id>/<package or `snapshot`>.{cdx,spdx}.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from pipeline.audit import cyclonedx, dsse, spdx, statement
from pipeline.audit.bill import Bill, Packaged
from pipeline.audit.statement import Provenance
from pipeline.core import documents, fs
from pipeline.core.fs import read_limited, scratch, write_atomic
from pipeline.formats import rpm_header
from pipeline.formats.rpm_header import Tag
from pipeline.publish import verify
from pipeline.publish.snapshot import bills_of_materials
from pipeline.publish.snapshot_contents import Document

WHOLE = "snapshot"


def publish(snapshot: Path, statements: Path) -> Path:
    """Write all bills of the snapshot, whose statements lie in the directory `statements`; return their directory."""
    into = bills_of_materials(snapshot)
    into.parent.mkdir(exist_ok=True)
    with scratch(into.parent, ".making-") as work:
        staging = work / snapshot.name
        staging.mkdir()
        for bill in _bills(verify.read_document(snapshot), snapshot, statements):
            write_atomic(staging / f"{bill.name}.cdx.json", _text(cyclonedx.document(bill)))
            write_atomic(staging / f"{bill.name}.spdx.json", _text(spdx.document(bill)))
        if into.exists():
            fs.remove(into)
        staging.rename(into)
    return into


def _text(document: object) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n"


def _bills(document: Document, snapshot: Path, statements: Path) -> Iterator[Bill]:
    time = datetime.fromtimestamp(document.timestamp, UTC).isoformat().replace("+00:00", "Z")
    found = tuple(_packages(document, snapshot, statements))
    for package in found:
        name = package.file.removesuffix(".rpm")
        yield Bill(name, package.version, str(uuid5(NAMESPACE_URL, f"{document.id}/{name}")), time, (package,))
    yield Bill(WHOLE, document.id, str(uuid5(NAMESPACE_URL, document.id)), time, found)


def _packages(document: Document, snapshot: Path, statements: Path) -> Iterator[Packaged]:
    places = {file: snapshot / name / file for name, files in document.sets.items() for file in files}
    for file, row in sorted(document.packages.items()):
        header = rpm_header.read(places[file]).header
        epoch = f"{header.number(Tag.EPOCH)}:" if Tag.EPOCH in header.tags else ""
        yield Packaged(
            name=header.text(Tag.NAME),
            version=f"{epoch}{header.text(Tag.VERSION)}-{header.text(Tag.RELEASE)}",
            arch=header.text(Tag.ARCH),
            summary=header.text(Tag.SUMMARY),
            declared=header.text(Tag.LICENSE),
            file=file,
            sha256=row.sha256,
            step=row.steps[0],
            key=row.keys[0],
            made=_statement(statements, row.steps[0]),
        )


def _statement(statements: Path, step: str) -> Provenance | None:
    """Return what the step's statement tells; its signature is for those who got it from elsewhere."""
    place = statements / f"{step.replace(':', '-')}.intoto.json"
    if not place.exists():
        return None
    return statement.parse(dsse.payload(read_limited(place, documents.MOST))).predicate
