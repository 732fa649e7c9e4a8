"""Gather what an audit read for its page and the JSON beside it: steps, patches, roles, bill of materials, lab runs.

Both are made of one document, so that neither says more than the other. Everything in it was said by a snapshot, so by
a stranger; the page makes it neutral.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.audit import lab_results, statement
from pipeline.audit.audit import Examined
from pipeline.audit.findings import Finding, Result
from pipeline.audit.identity import Evidence, Identity
from pipeline.audit.lab_results import LabRun
from pipeline.audit.statement import FileFacts, Kind, LeftOutFacts, Pin, RuleFacts
from pipeline.audit.statement_checks import Stated

FORMAT = 1


@dataclass(frozen=True)
class Facts:
    """The whole: verdict, policy and keys. `sums` is the SHA-256 of SHA256SUMS; what is not known is empty."""

    line: str
    snapshot: str
    verdict: Result
    sums: str
    policy: str
    policy_sha256: str
    release_key: str
    attestation_key: str


@dataclass(frozen=True)
class Step:
    """From source to package: a step by its signed statement, and the packages of the snapshot that it made."""

    step: str
    statement: str
    statement_sha256: str
    begun: str
    image: str
    sources: tuple[str, ...]
    patches: tuple[str, ...]
    series: tuple[str, ...]
    steps: tuple[str, ...]
    packages: tuple[str, ...]


@dataclass(frozen=True)
class SeriesPatch:
    """A patch of a series: origin, who pinned it, and each file with the result of each hunk."""

    name: str
    sha256: str
    origin: str
    pin: Pin
    left_out: tuple[LeftOutFacts, ...]
    files: tuple[FileFacts, ...]


@dataclass(frozen=True)
class Series:
    """The patches of a role or a tool in order, and the rule that proved them."""

    name: str
    rule: RuleFacts
    patches: tuple[SeriesPatch, ...]


@dataclass(frozen=True)
class Proof:
    """A package's role by its content, and the evidence."""

    package: str
    role: str
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class BilledSource:
    """A source in the bill of materials, with the address that it came from."""

    name: str
    version: str
    sha256: str
    address: str


@dataclass(frozen=True)
class BilledPatch:
    """A patch in the bill of materials, with the series that it is of."""

    name: str
    sha256: str
    series: str


@dataclass(frozen=True)
class BilledPackage:
    """A published package in the bill of materials: bytes and SHA-256 of the signed file, and the sets it is in."""

    name: str
    nevra: str
    size: int
    sha256: str
    sets: tuple[str, ...]


@dataclass(frozen=True)
class Bill:
    """The bill of materials: everything that went in or came out, each once."""

    sources: tuple[BilledSource, ...]
    patches: tuple[BilledPatch, ...]
    packages: tuple[BilledPackage, ...]


@dataclass(frozen=True)
class PageData:
    """All that the page of an audit shows. `statements` has the digest of each verified envelope by its file's name."""

    format: int
    facts: Facts
    findings: tuple[Finding, ...]
    statements: Mapping[str, str]
    steps: tuple[Step, ...]
    patches: tuple[Series, ...]
    roles: tuple[Proof, ...]
    bill: Bill
    lab: tuple[LabRun, ...]


def gather(examined: Examined, reports: Path) -> PageData:
    """Return the data of an audit; `reports` has the lab's runs of the line, whether or not it is there."""
    audit = examined.audit
    return PageData(
        FORMAT,
        _facts(examined),
        audit.findings,
        audit.statements,
        tuple(_steps(examined)),
        tuple(_series(examined.stated)),
        tuple(_proofs(examined.identities)),
        _bill(examined),
        tuple(lab_results.of_snapshot(reports, audit.snapshot)),
    )


def _facts(examined: Examined) -> Facts:
    audit = examined.audit
    document = examined.audited.document if examined.audited else None
    attestation = document.attestation if document else None
    return Facts(
        line=audit.line,
        snapshot=audit.snapshot,
        verdict=audit.verdict,
        sums=audit.sums,
        policy=audit.policy,
        policy_sha256=audit.policy_sha256,
        release_key=document.key.fingerprint if document else "",
        attestation_key=attestation.id if attestation else "",
    )


def _steps(examined: Examined) -> Iterator[Step]:
    packages = examined.audited.document.packages if examined.audited else {}
    for each in examined.stated.values():
        yield Step(
            step=each.step,
            statement=each.file,
            statement_sha256=each.sha256,
            begun=each.statement.predicate.runDetails.metadata.startedOn,
            image=", ".join(resource.name for resource in each.found(Kind.IMAGE)),
            sources=tuple(resource.name for resource in each.found(Kind.SOURCE)),
            patches=tuple(resource.name for resource in each.found(Kind.PATCH)),
            series=tuple(sorted({r.facts(statement.PatchFacts).series for r in each.found(Kind.PATCH)})),
            steps=tuple(resource.name for resource in each.found(Kind.STEP)),
            packages=tuple(file for file, row in packages.items() if each.step in row.steps),
        )


def _series(stated: Mapping[str, Stated]) -> Iterator[Series]:
    found: dict[str, dict[int, statement.Resource]] = {}
    for each in stated.values():
        for resource in each.found(Kind.PATCH):
            facts = resource.facts(statement.PatchFacts)
            found.setdefault(facts.series, {})[facts.position] = resource
    for name, patches in sorted(found.items()):
        rows = [resource for _, resource in sorted(patches.items())]
        yield Series(name, rows[0].facts(statement.PatchFacts).rule, tuple(map(_patch, rows)))


def _patch(resource: statement.Resource) -> SeriesPatch:
    facts, digest = resource.facts(statement.PatchFacts), resource.digest.get("sha256", "")
    return SeriesPatch(resource.name, digest, facts.origin, facts.pin, facts.left_out, facts.files)


def _proofs(identities: Mapping[str, Identity]) -> Iterator[Proof]:
    for file, identity in identities.items():
        if identity.evidence:
            yield Proof(file, str(identity.role), identity.evidence)


def _bill(examined: Examined) -> Bill:
    sources: dict[tuple[str, str], BilledSource] = {}
    patches: dict[tuple[str, str], BilledPatch] = {}
    for each in examined.stated.values():
        for resource in each.found(Kind.SOURCE):
            version, digest = resource.facts(statement.SourceFacts).version, resource.digest.get("sha256", "")
            row = BilledSource(resource.name, version, digest, resource.downloadLocation)
            sources.setdefault((resource.name, digest), row)
        for resource in each.found(Kind.PATCH):
            series, digest = resource.facts(statement.PatchFacts).series, resource.digest.get("sha256", "")
            patches.setdefault((resource.name, digest), BilledPatch(resource.name, digest, series))
    return Bill(
        tuple(sorted(sources.values(), key=lambda row: row.name)),
        tuple(sorted(patches.values(), key=lambda row: row.name)),
        tuple(_packages(examined)),
    )


def _packages(examined: Examined) -> Iterator[BilledPackage]:
    document = examined.audited.document if examined.audited else None
    for file, row in sorted(document.packages.items()) if document else ():
        sets = tuple(name for name, files in document.sets.items() if file in files) if document else ()
        yield BilledPackage(file, row.nevra, row.size, row.sha256, sets)
