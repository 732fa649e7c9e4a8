"""Audit a published snapshot: from its bytes up, offline, as any user, without checkout or git.

Everything that is compared lies in the snapshot, in the statements beside it, and in the policy. Only what is signed
by an accepted key counts.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipeline.audit import freshness, release_key, role_checks, snapshot_checks, statement, statement_checks
from pipeline.audit.findings import Finding, Findings, Result
from pipeline.audit.identity import Identity
from pipeline.audit.policy import LinePolicy, PolicyFile
from pipeline.audit.snapshot_checks import Audited
from pipeline.audit.statement import Kind
from pipeline.audit.statement_checks import Stated
from pipeline.config.line_model import RoleName
from pipeline.core.fs import read_limited, sha256_of
from pipeline.publish.verify import SUMS


@dataclass(frozen=True)
class Audit:
    """The result of an audit: the verdict is the worst of the findings. `sums` is the SHA-256 of SHA256SUMS.

    `statements` has the digest of each verified envelope by its file's name.
    """

    snapshot: str
    path: Path
    line: str
    sums: str
    policy: str
    policy_sha256: str
    verdict: Result
    findings: tuple[Finding, ...]
    statements: dict[str, str]


@dataclass(frozen=True)
class Examined:
    """An audit with what it read, for those who go on with it."""

    audit: Audit
    audited: Audited | None
    stated: dict[str, Stated]
    identities: dict[str, Identity]
    sequence: int


class Standing(StrEnum):
    """The claim that is made of a snapshot: the line's latest, a published one, or one that is not released yet."""

    LATEST = "latest"
    PUBLISHED = "published"
    HELD = "held"


def examine(path: Path, policy: PolicyFile, standing: Standing) -> Examined:
    """Audit the snapshot `path`: as the latest it must be stated to be that, as a held one it need not be stated."""
    path = path.resolve()
    findings = Findings()
    audited = snapshot_checks.check(path, policy, findings)
    stated: dict[str, Stated] = {}
    identities: dict[str, Identity] = {}
    sequence, latest = 0, ""
    if audited is not None:
        release_key.check(audited, findings)
        stated = statement_checks.check(audited, policy, findings)
        identities = role_checks.check(audited, stated, policy, findings)
        if standing is not Standing.HELD:
            sequence, latest = _check_freshness(audited, policy, findings, latest=standing is Standing.LATEST)
    result = Audit(
        snapshot=audited.document.id if audited else path.name,
        path=path,
        line=audited.document.line if audited else "",
        sums=sha256_of(path / SUMS) if (path / SUMS).is_file() else "",
        policy=policy.path,
        policy_sha256=policy.sha256,
        verdict=findings.worst,
        findings=tuple(findings.rows),
        statements={each.file: each.sha256 for each in stated.values()} | ({freshness.FILE: latest} if latest else {}),
    )
    return Examined(result, audited, stated, identities, sequence)


def _check_freshness(audited: Audited, policy: PolicyFile, findings: Findings, *, latest: bool) -> tuple[int, str]:
    """Check that the snapshot is the one last stated to be the latest, and that this has not expired.

    Return the number and the SHA-256 of the verified envelope; 0 and an empty text without one.
    """
    check, place = "freshness", audited.path.parent.parent
    if audited.pem is None:
        return 0, ""
    with findings.failing(check, freshness.FILE):
        try:
            envelope = read_limited(freshness.path_in(place), freshness.MOST)
            stated, sums = freshness.verified(envelope, audited.pem)
        except FileNotFoundError:
            findings.fail(
                check,
                freshness.FILE,
                f"missing from {freshness.path_in(place).parent}: an older snapshot is as well signed",
            )
            return 0, ""
        wanted, problem = policy.policy.freshness, ""
        is_it = (stated.snapshot, sums) == (audited.document.id, sha256_of(audited.path / SUMS))
        age = int(time.time()) - stated.issued
        if not is_it:
            problem = f"the latest is {stated.snapshot}, number {stated.sequence}; this is an older one, or none of it"
        elif age > stated.expires - stated.issued:
            problem = f"expired {_day(stated.expires)}: whoever publishes states a newer one before that"
        elif wanted.most_days is not None and age > wanted.most_days * freshness.DAY:
            problem = f"issued {_day(stated.issued)}: the policy accepts {wanted.most_days} days"
        elif stated.sequence < wanted.least_sequence:
            problem = f"its number is {stated.sequence}: the policy accepts {wanted.least_sequence} and above"
        if problem and not is_it and not latest:
            findings.warn(check, audited.document.id, problem)
        else:
            good = f"number {stated.sequence}, issued {_day(stated.issued)}, valid until {_day(stated.expires)}"
            findings.require(check, audited.document.id, problem, good)
        return stated.sequence, hashlib.sha256(envelope).hexdigest()
    return 0, ""


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def accepted_content(examined: Examined) -> LinePolicy:
    """Return the part of a policy that accepts the line of this snapshot as it is."""
    sources: dict[str, str] = {}
    patches: dict[str, dict[int, str]] = {}
    for each in examined.stated.values():
        sources |= {resource.name: resource.digest["sha256"] for resource in each.found(Kind.SOURCE)}
        for resource in each.found(Kind.PATCH):
            facts = resource.facts(statement.PatchFacts)
            patches.setdefault(facts.series, {})[facts.position] = resource.digest["sha256"]
    ordered = {name: tuple(digest for _, digest in sorted(rows.items())) for name, rows in patches.items()}
    numbers = {
        int(row.subject)
        for row in examined.audit.findings
        if row.check == "option number" and row.subject.isdecimal() and row.result is Result.PASS and int(row.subject)
    }
    sets = examined.audited.document.sets if examined.audited else {}
    roles = tuple(role for role in RoleName if role in sets)
    number = numbers.pop() if len(numbers) == 1 else None
    return LinePolicy.model_validate({"roles": roles, "option-number": number, "sources": sources, "patches": ordered})
