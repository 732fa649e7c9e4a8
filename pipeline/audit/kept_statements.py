"""Verify the statements kept below the artifacts directory: each signature, and that they are about what lies there.

Those of a snapshot are verified with the key in it, as an auditor does; those of steps with the keys that this machine
signed with, and those of hosts whose results it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.audit import dsse, freshness, policy, statement_checks
from pipeline.audit.findings import Findings, Result
from pipeline.audit.snapshot_checks import Audited
from pipeline.core import documents
from pipeline.core.fs import read_limited
from pipeline.errors import PipelineError
from pipeline.packaging import inventory, step_record
from pipeline.publish import attestation_key, verify
from pipeline.publish.snapshot import attestations

Problems = Iterator[tuple[Path, str]]


def of_snapshots(artifacts: Path, line: str) -> Problems:
    """Yield what is wrong with the statements about snapshots, of a line or all, and about which one is the latest."""
    for place in inventory.entries(artifacts / "repo"):
        if not place.is_dir() or line not in ("", place.name, place.name.removesuffix("-small")):
            continue
        for path in inventory.entries(place / "snapshots"):
            if not path.name.startswith("."):
                yield from _of_snapshot(path, is_latest=path.resolve() == (place / "latest").resolve())


def _of_snapshot(path: Path, *, is_latest: bool) -> Problems:
    try:
        document = verify.read_document(path)
        verify.check_attestation_key(path, document)
    except PipelineError:
        return  # the snapshot's own problem, which is found where snapshots are verified
    if document.attestation is None:
        return
    pem, findings = document.attestation.pem.encode(), Findings()
    statement_checks.check(Audited(path, document, pem), policy.load(None), findings)
    for row in findings.rows:
        if row.result is Result.FAIL:
            file = attestations(path) / row.subject
            yield (file if file.is_file() else attestations(path)), f"{row.check}: {row.subject}: {row.reason}"
    latest = freshness.path_in(path.parent.parent)
    if is_latest:
        try:
            freshness.read(latest, pem)
        except (OSError, ValueError) as error:
            yield latest, (error.strerror if isinstance(error, OSError) and error.strerror else str(error))


def of_steps(artifacts: Path, line: str, shared_keys: Path | None = None) -> Problems:
    """Yield the statements of finished steps that are missing, or whose signature is not by the key in the record.

    `shared_keys` has the keys of hosts whose steps are taken. Raises `UsageError` where that is no such directory.
    """
    keys = {**attestation_key.trusted(shared_keys), **_own_keys(artifacts / "keys")}
    for place in inventory.lines(artifacts):
        for step in inventory.steps(place) if line in ("", place.name) else ():
            for run in inventory.runs(step):
                if run.state is inventory.RunState.DONE and (problem := _problem(run.path, keys)):
                    yield run.path / step_record.STATEMENT, problem


def _problem(place: Path, keys: dict[str, bytes]) -> str:
    try:
        signer = step_record.read(place).attested
    except step_record.Damaged:
        return ""  # found where steps are verified
    if not signer:
        return ""
    if signer not in keys:
        return f"signed with the key {signer}, whose public half is not below keys/, nor one of --shared-keys"
    try:
        dsse.verify(read_limited(place / step_record.STATEMENT, documents.MOST), keys[signer])
    except (OSError, ValueError) as error:
        return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ""


def _own_keys(directory: Path) -> dict[str, bytes]:
    """Return the public halves of the keys that this machine signed with, by id."""
    files = (directory / "attestation" / "public.pem", *(directory / "attestation-keys").glob("*"))
    found = {}
    for path in files:
        try:
            pem = read_limited(path, attestation_key.MOST)
            found[attestation_key.key_id(pem)] = pem
        except (OSError, ValueError):
            continue
    return found
