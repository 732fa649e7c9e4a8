"""Make the page of an audit: one file that needs nothing else, for people who open it from a disk.

Arranges what the audit read; the template has the text. Everything in it was said by a snapshot, so by a stranger.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.audit import lab_results, page_links, statement
from pipeline.audit.audit import Audit, Examined
from pipeline.audit.findings import Finding, Result
from pipeline.audit.identity import Identity
from pipeline.audit.page_links import Links
from pipeline.audit.statement import Kind
from pipeline.audit.statement_checks import Stated
from pipeline.core import neutral, resources, templates
from pipeline.core.units import human_bytes

TEMPLATE = "specs/report/audit.html.j2"
SCRIPT = "specs/report/search.js"
SIGNS = {Result.PASS: "✓", Result.WARN: "!", Result.FAIL: "✗"}  # a result is never colour alone
_CLASSES = {Result.PASS: "passed", Result.WARN: "running", Result.FAIL: "failed"}  # of the style sheet
_HEADLINES = {Result.PASS: "Passed", Result.WARN: "Passed, with warnings", Result.FAIL: "Failed"}


@dataclass(frozen=True)
class Flow:
    """From source to package: one step with what went in and what came out."""

    id: str
    step: str
    sources: tuple[str, ...]
    patches: tuple[str, ...]
    steps: tuple[str, ...]
    image: str
    begun: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class ShownPatch:
    """A patch of a series: who pinned it, and each file with its hunks."""

    name: str
    sha256: str
    origin: str
    pinned: str
    left_out: tuple[str, ...]
    files: tuple[tuple[str, str, str], ...]  # status, path, hunks


@dataclass(frozen=True)
class ShownSeries:
    """The patches of a role or a tool, and the rule that proved them."""

    id: str
    name: str
    rule: str
    patches: tuple[ShownPatch, ...]


@dataclass(frozen=True)
class Proof:
    """Evidence of a package's role: what it is about, its text, and where it was read."""

    id: str
    package: str
    role: str
    rows: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Part:
    """A row of the bill of materials."""

    id: str
    kind: str
    name: str
    version: str
    sha256: str
    note: str


def render(examined: Examined, reports: Path) -> str:
    """Return the page; `reports` has the lab's runs of the line, whether or not it is there."""
    audit, script = examined.audit, (resources.data_root() / SCRIPT).read_text()
    counts = [(each, sum(row.result is each for row in audit.findings)) for each in reversed(Result)]
    links = Links()
    parts: Mapping[str, Any] = {
        "flows": [asdict(flow) for flow in _flows(examined, links)],
        "series": [asdict(series) for series in _series(examined.stated, links)],
        "proofs": [asdict(proof) for proof in _proofs(examined.identities, links)],
        "parts": [asdict(part) for part in _parts(examined, links)],
    }
    shown: Mapping[str, Any] = {
        **parts,
        "audit": {"line": audit.line, "snapshot": audit.snapshot, "reason": _reason(audit.findings)},
        "facts": _facts(audit, examined),
        "groups": [(check, [_row(*each, links) for each in rows]) for check, rows in _by_check(audit.findings)],
        "marks": {part: list(_marks(rows)) for part, rows in links.back(audit.findings).items()},
        "runs": [asdict(run) for run in lab_results.of_snapshot(reports, audit.snapshot)],
    }
    return templates.render(
        TEMPLATE,
        **neutral.document(shown),
        state=_CLASSES[audit.verdict],
        sign=SIGNS[audit.verdict],
        headline=_HEADLINES[audit.verdict],
        counts=[(SIGNS[each], number, str(each)) for each, number in counts if number],
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _facts(audit: Audit, examined: Examined) -> list[tuple[str, str, str]]:
    """Return what is known of the whole: name, value, and the value's class in the style sheet."""
    document = examined.audited.document if examined.audited else None
    attestation = document.attestation if document else None
    size = sum(row.size for row in document.packages.values()) if document else 0
    known = (
        ("Line", audit.line, ""),
        ("Snapshot", audit.snapshot, "mono"),
        ("Packages", f"{len(document.packages)}, {human_bytes(size)}" if document else "", ""),
        ("SHA-256 of SHA256SUMS", audit.sums, "mono"),
        ("Policy", audit.policy or "none: what is accepted is what the snapshot says itself", ""),
        ("SHA-256 of the policy", audit.policy_sha256, "mono"),
        ("Release key", document.key.fingerprint if document else "", "mono"),
        ("Attestation key", attestation.id if attestation else "", "mono"),
    )
    return [row for row in known if row[1]]


def _reason(findings: Sequence[Finding]) -> str:
    """Return the first reason for the verdict."""
    worst = max((row.result for row in findings), key=list(Result).index, default=Result.FAIL)
    row = next((row for row in findings if row.result is worst), None)
    return f"{row.check}: {row.subject}: {row.reason}" if row and worst is not Result.PASS else "Everything holds."


def _row(number: int, row: Finding, links: Links) -> dict[str, str]:
    known = {"state": _CLASSES[row.result], "sign": SIGNS[row.result], **{k: str(v) for k, v in vars(row).items()}}
    return {**known, "id": page_links.finding_id(number), "target": links.target(row)}


def _marks(rows: Sequence[tuple[int, Finding]]) -> Iterator[dict[str, str]]:
    """Yield what leads from a part to the findings about it; to the first one of those that are alike."""
    counted = Counter((row.check, row.result) for _, row in rows)
    firsts = {(row.check, row.result): number for number, row in reversed(rows)}
    for (check, result), count in counted.items():
        made = {"id": page_links.finding_id(firsts[check, result]), "state": _CLASSES[result], "sign": SIGNS[result]}
        yield {**made, "check": f"{count} {check}" if count > 1 else check}


def _by_check(findings: Sequence[Finding]) -> list[tuple[str, list[tuple[int, Finding]]]]:
    """Group findings, with their places in the audit's order, by check; those with the worst results first."""
    order = list(Result)
    groups: dict[str, list[tuple[int, Finding]]] = {}
    for number, row in enumerate(findings):
        groups.setdefault(row.check, []).append((number, row))
    for rows in groups.values():
        rows.sort(key=lambda each: -order.index(each[1].result))
    return sorted(groups.items(), key=lambda item: -order.index(item[1][0][1].result))


def _flows(examined: Examined, links: Links) -> Iterator[Flow]:
    packages = examined.audited.document.packages if examined.audited else {}
    for each in examined.stated.values():
        names = [resource.name for resource in each.found(Kind.PATCH)]
        series = {resource.facts(statement.PatchFacts).series for resource in each.found(Kind.PATCH)}
        patches = names if len(names) <= 3 else [f"{len(names)} patches of {', '.join(sorted(series))}"]
        images = [resource.name for resource in each.found(Kind.IMAGE)]
        yield Flow(
            links.add(page_links.STEP, each.file, page_links.FLOWS),
            each.step,
            tuple(resource.name for resource in each.found(Kind.SOURCE)),
            tuple(patches),
            tuple(resource.name for resource in each.found(Kind.STEP)),
            ", ".join(images),
            each.statement.predicate.runDetails.metadata.startedOn,
            tuple(file for file, row in packages.items() if each.step in row.steps),
        )


def _series(stated: Mapping[str, Stated], links: Links) -> Iterator[ShownSeries]:
    found: dict[str, dict[int, statement.Resource]] = {}
    for each in stated.values():
        for resource in each.found(Kind.PATCH):
            facts = resource.facts(statement.PatchFacts)
            found.setdefault(facts.series, {})[facts.position] = resource
    for name, patches in sorted(found.items()):
        rows = [resource for _, resource in sorted(patches.items())]
        made = links.add(page_links.SERIES, name, page_links.PATCHES)
        yield ShownSeries(made, name, rows[0].facts(statement.PatchFacts).rule.by, tuple(map(_patch, rows)))


def _patch(resource: statement.Resource) -> ShownPatch:
    facts = resource.facts(statement.PatchFacts)
    files = []
    for file in facts.files:
        moved = [f"hunk {hunk.number} by {hunk.offset:+d} lines" for hunk in file.hunks if hunk.offset]
        hunks = f"{len(file.hunks)} hunk{'s' if len(file.hunks) != 1 else ''}"
        files.append((file.status, file.path, "; ".join([f"{hunks}, no fuzz", *moved])))
    who = " ".join(filter(None, (facts.pin.by, facts.pin.at, facts.pin.commit)))
    pinned = f"{facts.pin.file}: {who}" if who else facts.pin.file
    left = tuple(f"{left.file}: {left.why}" for left in facts.left_out)
    return ShownPatch(resource.name, resource.digest.get("sha256", ""), facts.origin, pinned, left, tuple(files))


def _proofs(identities: Mapping[str, Identity], links: Links) -> Iterator[Proof]:
    for file, identity in identities.items():
        if identity.evidence:
            rows = tuple((row.about, row.text, f"{row.where}, {row.how}") for row in identity.evidence)
            yield Proof(links.add(page_links.PROOF, file, page_links.ROLES), file, str(identity.role), rows)


def _parts(examined: Examined, links: Links) -> Iterator[Part]:
    """Yield sources, patches and packages, each once."""
    rows: dict[tuple[str, str], tuple[str, str, str, str, str]] = {}
    for each in examined.stated.values():
        for resource in each.found(Kind.SOURCE):
            facts = resource.facts(statement.SourceFacts)
            digest = resource.digest.get("sha256", "")
            row = ("source", resource.name, facts.version, digest, resource.downloadLocation)
            rows.setdefault((resource.name, digest), row)
        for resource in each.found(Kind.PATCH):
            digest = resource.digest.get("sha256", "")
            series = resource.facts(statement.PatchFacts).series
            rows.setdefault((resource.name, digest), ("patch", resource.name, "", digest, f"of {series}"))
    for row in sorted(rows.values(), key=lambda row: (row[0] != "source", row[1])):
        kind = page_links.PART if row[0] == "source" else row[0]
        yield Part(links.add(kind, row[1], page_links.BILL), *row)
    document = examined.audited.document if examined.audited else None
    for file, package in sorted(document.packages.items()) if document else ():
        sets = [name for name, files in document.sets.items() if file in files] if document else []
        made, size = links.add(page_links.PART, file, page_links.BILL), human_bytes(package.size)
        yield Part(made, "package", file, size, package.sha256, f"in {', '.join(sets)}")
