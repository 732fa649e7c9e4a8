"""Make the page of an audit: one file that needs nothing else, for people who open it from a disk, and its JSON.

Arranges what `page_data` gathered; the template has the text. Everything in it was said by a snapshot: by a stranger.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.audit import page_data, page_links
from pipeline.audit.audit import Examined
from pipeline.audit.findings import Finding, Result
from pipeline.audit.lab_results import LabRun, LabScenario
from pipeline.audit.page_data import Bill, PageData, Proof, Series, SeriesPatch, Step
from pipeline.audit.page_links import Links
from pipeline.core import documents, fs, neutral, resources, templates
from pipeline.core.units import human_bytes
from pipeline.lab.report.results import RunState, State

TEMPLATE = "specs/report/audit.html.j2"
SCRIPT = "specs/report/search.js"
SIGNS = {Result.PASS: "✓", Result.WARN: "!", Result.FAIL: "✗"}  # a result is never colour alone
_CLASSES = {Result.PASS: "passed", Result.WARN: "running", Result.FAIL: "failed"}  # of the style sheet
_HEADLINES = {Result.PASS: "Passed", Result.WARN: "Passed, with warnings", Result.FAIL: "Failed"}
_LAB_SIGNS = {State.PASSED: "✓", State.LEFT_OUT: "-"}
_RUN_CLASSES = {RunState.PASSED: ("passed", "✓"), RunState.RUNNING: ("running", "!")}
_MOST_NAMES = 3  # patches of a step that are shown by their names; of more, the series


def json_beside(page: Path) -> Path:
    """Return the path of the JSON beside a page: `audit.json` beside `audit.html`."""
    stem = page.name.removesuffix(".html")
    return page.with_name(f"{stem}.json")


def write(page: Path, examined: Examined, reports: Path) -> Path:
    """Write the page and the JSON of the same data beside it, both or neither; return the JSON's path.

    `reports` has the lab's runs of the line, whether or not it is there.
    """
    data, beside = page_data.gather(examined, reports), json_beside(page)
    fs.write_together({beside: documents.to_json(data), page: _render(data)})
    return beside


def render(examined: Examined, reports: Path) -> str:
    """Return the page; `reports` has the lab's runs of the line, whether or not it is there."""
    return _render(page_data.gather(examined, reports))


def _render(data: PageData) -> str:
    script, verdict = (resources.data_root() / SCRIPT).read_text(), data.facts.verdict
    counts = [(each, sum(row.result is each for row in data.findings)) for each in reversed(Result)]
    links = Links()
    parts: Mapping[str, Any] = {
        "flows": [_flow(step, links) for step in data.steps],
        "series": [_series(series, links) for series in data.patches],
        "proofs": [_proof(proof, links) for proof in data.roles],
        "parts": list(_parts(data.bill, links)),
    }
    shown: Mapping[str, Any] = {
        **parts,
        "audit": {"line": data.facts.line, "snapshot": data.facts.snapshot, "reason": _reason(data.findings)},
        "facts": _facts(data),
        "groups": [(check, [_row(*each, links) for each in rows]) for check, rows in _by_check(data.findings)],
        "marks": {part: list(_marks(rows)) for part, rows in links.back(data.findings).items()},
        "runs": [_run(run) for run in data.lab],
    }
    return templates.render(
        TEMPLATE,
        **neutral.document(shown),
        state=_CLASSES[verdict],
        sign=SIGNS[verdict],
        headline=_HEADLINES[verdict],
        counts=[(SIGNS[each], number, str(each)) for each, number in counts if number],
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _facts(data: PageData) -> list[tuple[str, str, str]]:
    """Return what is known of the whole: name, value, and the value's class in the style sheet."""
    facts, packages = data.facts, data.bill.packages
    size = sum(row.size for row in packages)
    known = (
        ("Line", facts.line, ""),
        ("Snapshot", facts.snapshot, "mono"),
        ("Packages", f"{len(packages)}, {human_bytes(size)}" if packages else "", ""),
        ("SHA-256 of SHA256SUMS", facts.sums, "mono"),
        ("Policy", facts.policy or "none: what is accepted is what the snapshot says itself", ""),
        ("SHA-256 of the policy", facts.policy_sha256, "mono"),
        ("Release key", facts.release_key, "mono"),
        ("Attestation key", facts.attestation_key, "mono"),
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


def _flow(step: Step, links: Links) -> dict[str, Any]:
    """Return a step with what went in and what came out; of many patches only the number."""
    many = f"{len(step.patches)} patches of {', '.join(step.series)}"
    patches = step.patches if len(step.patches) <= _MOST_NAMES else (many,)
    return {**vars(step), "id": links.add(page_links.STEP, step.statement, page_links.FLOWS), "patches": patches}


def _series(series: Series, links: Links) -> dict[str, Any]:
    made = links.add(page_links.SERIES, series.name, page_links.PATCHES)
    return {"id": made, "name": series.name, "rule": series.rule.by, "patches": list(map(_patch, series.patches))}


def _patch(patch: SeriesPatch) -> dict[str, Any]:
    files = []
    for file in patch.files:
        moved = [f"hunk {hunk.number} by {hunk.offset:+d} lines" for hunk in file.hunks if hunk.offset]
        hunks = f"{len(file.hunks)} hunk{'s' if len(file.hunks) != 1 else ''}"
        files.append((file.status, file.path, "; ".join([f"{hunks}, no fuzz", *moved])))
    who = " ".join(filter(None, (patch.pin.by, patch.pin.at, patch.pin.commit)))
    pinned = f"{patch.pin.file}: {who}" if who else patch.pin.file
    left = [f"{each.file}: {each.why}" for each in patch.left_out]
    shown = {"name": patch.name, "sha256": patch.sha256, "origin": patch.origin}
    return {**shown, "pinned": pinned, "left_out": left, "files": files}


def _proof(proof: Proof, links: Links) -> dict[str, Any]:
    rows = [(row.about, row.text, f"{row.where}, {row.how}") for row in proof.evidence]
    made = links.add(page_links.PROOF, proof.package, page_links.ROLES)
    return {"id": made, "package": proof.package, "role": proof.role, "rows": rows}


def _parts(bill: Bill, links: Links) -> Iterator[dict[str, str]]:
    """Yield the rows of the bill of materials: sources, patches, packages."""
    rows = [("source", row.name, row.version, row.sha256, row.address) for row in bill.sources]
    rows += [("patch", row.name, "", row.sha256, f"of {row.series}") for row in bill.patches]
    packages = [(row, human_bytes(row.size), f"in {', '.join(row.sets)}") for row in bill.packages]
    rows += [("package", row.name, size, row.sha256, sets) for row, size, sets in packages]
    for kind, name, version, digest, note in rows:
        made = links.add(kind if kind == "patch" else page_links.PART, name, page_links.BILL)
        yield {"id": made, "kind": kind, "name": name, "version": version, "sha256": digest, "note": note}


def _run(run: LabRun) -> dict[str, Any]:
    state, sign = _RUN_CLASSES.get(run.state, ("failed", "✗"))
    scenarios = list(map(_scenario, run.scenarios))
    return {**vars(run), "state": state, "sign": sign, "word": str(run.state), "scenarios": scenarios}


def _scenario(scenario: LabScenario) -> dict[str, Any]:
    passed = sum(check.passed for check in scenario.checks)
    words = {True: ("passed", "✓"), False: ("failed", "✗")}
    checks = [dict(zip(("state", "sign"), words[row.passed], strict=True), **vars(row)) for row in scenario.checks]
    return {
        **vars(scenario),
        "sign": _LAB_SIGNS.get(scenario.state, "✗"),
        "state": scenario.state.replace(" ", "-"),
        "word": str(scenario.state),
        "seconds": f"{scenario.seconds:.0f} s" if scenario.seconds else "",
        "passed": f"{passed} of {len(checks)} checks passed" if checks else "",
        "checks": checks,
    }
