"""Verify an unsigned snapshot, wherever it was carried, before anything in it is signed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.audit import dsse, statement
from pipeline.audit.statement import Statement
from pipeline.core import documents
from pipeline.core.fs import read_limited, sha256_of
from pipeline.errors import Refused, difference
from pipeline.formats import rpm_header
from pipeline.packaging.graph import StatedExecution
from pipeline.publish import unsigned
from pipeline.publish.layout import HOST_KEYS, statement_name
from pipeline.publish.unsigned import Unsigned, UnsignedPackage

_WHY = "only packages that a step built, and stated with a known attestation key, are signed"


@dataclass(frozen=True)
class Verified:
    """A verified unsigned snapshot: contents.json, and by step the executions that its packages are of.

    `beside` are the files that a published one has beside it: statements, and the public keys they are signed with.
    """

    document: Unsigned
    stated: Mapping[str, StatedExecution]
    beside: Mapping[str, bytes]


def verify(path: Path, known: Mapping[str, bytes]) -> Verified:
    """Return what is in the unsigned snapshot `path`, verified by the steps' statements.

    `known` are the attestation keys, by id, that may have signed them. Raises `Refused` for a missing, added or changed
    file, another key, and a package that its step's statement is not about.
    """
    found = unsigned.read(path)
    _check_files(path, found)
    beside: dict[str, bytes] = {}
    stated: dict[str, StatedExecution] = {}
    for step in sorted({package.step for package in found.packages()}):
        file = path / unsigned.STATEMENTS / statement_name(step)
        envelope, key = _read(file, known)
        execution = _parsed(file, envelope, known[key])
        beside |= {file.name: envelope, f"{HOST_KEYS}/{key}.pem": known[key]}
        definition = execution.predicate.buildDefinition
        stated[step] = StatedExecution(definition.internalParameters.key, hashlib.sha256(envelope).hexdigest())
        for package in (package for package in found.packages() if package.step == step):
            _check_package(path, package, execution)
    return Verified(found, stated, beside)


def _refused(what: str, where: Path) -> Refused:
    return Refused(what, where=str(where), why=_WHY, hint=unsigned.HINT)


def _read(file: Path, known: Mapping[str, bytes]) -> tuple[bytes, str]:
    """Return a statement's envelope and the id of the known key that it names."""
    try:
        envelope = read_limited(file, documents.MOST)
        [key] = dsse.key_ids(envelope)
    except (OSError, ValueError) as error:
        raise _refused(f"{file.name}: {error}; expected a signed statement", file) from None
    if key not in known:
        raise Refused(
            f"{file.name}: signed with another key; expected {', '.join(known)}, got {key}",
            where=str(file),
            why=_WHY,
            hint="./inv sign UNSIGNED --shared-keys DIR",
        )
    return envelope, key


def _parsed(file: Path, envelope: bytes, pem: bytes) -> Statement:
    try:
        return statement.parse(dsse.verify(envelope, pem))
    except ValueError as error:
        raise _refused(f"{file.name}: {error}; expected a signed statement", file) from None


def _check_files(path: Path, found: Unsigned) -> None:
    """Raise `Refused` unless exactly the listed files are there, none of them a link; keys of other hosts may be."""
    wanted = {str(package.path(path).relative_to(path)) for package in found.packages()} | {unsigned.FILE}
    wanted |= {f"{unsigned.STATEMENTS}/{statement_name(package.step)}" for package in found.packages()}
    entries = [entry for entry in path.rglob("*") if entry.is_symlink() or not entry.is_dir()]
    if links := [entry for entry in entries if entry.is_symlink() or not entry.is_file()]:
        raise _refused(f"{links[0].name}: a link or special file; expected files and directories only", links[0])
    there = {str(entry.relative_to(path)) for entry in entries}
    there -= {name for name in there if Path(name).parent == Path(unsigned.STATEMENTS, HOST_KEYS)}
    if what := difference(wanted, there):
        raise _refused(f"the unsigned snapshot: other files than it lists; {what}", path)


def _check_package(path: Path, package: UnsignedPackage, stated: Statement) -> None:
    """Raise `Refused` unless the file is what its step's statement says: its digest, its body's, and the step's key."""
    file = package.path(path)
    digests = {resource.name: resource.digest.get("sha256") for resource in stated.subject}
    name = f"rpms/{package.file}"
    definition = stated.predicate.buildDefinition
    rows = {
        "SHA-256": (package.sha256, sha256_of(file)),
        "SHA-256 in the statement": (package.sha256, digests.get(name)),
        "body's SHA-256": (digests.get(f"{name}#body"), rpm_header.body_sha256(file, rpm_header.read(file))),
        "step in the statement": (package.step, definition.externalParameters.step),
        "key in the statement": (package.key, definition.internalParameters.key),
    }
    for what, (expected, got) in rows.items():
        if expected != got:
            raise _refused(f"{package.file}: another {what}; expected {expected}, got {got}", file)
