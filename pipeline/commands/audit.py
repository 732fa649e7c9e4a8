"""Print an audit: verdict first, then what failed, what a person must judge, and what holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pipeline.audit import audit, evidence, policy
from pipeline.audit import vsa as summary
from pipeline.audit.audit import Audit, Examined, Standing
from pipeline.audit.findings import Finding, Result
from pipeline.commands.task import Outcome
from pipeline.config.context import RunContext
from pipeline.core.console import Console
from pipeline.core.disk_space import writing
from pipeline.core.fs import write_atomic
from pipeline.errors import ExitCode, UsageError


def audit_snapshot(
    context: RunContext, chosen: str, *, policy_file: str, write_policy: str, html: str, vsa: str, vsa_key: str
) -> Outcome:
    """Audit a snapshot, print the findings, and write the requested files; the exit code is 4 when one failed.

    Raises `UsageError` for a snapshot that is not there, and for a summary without a key or policy, or a key without a
    summary.
    """
    if bool(vsa) != bool(vsa_key):
        what = "--vsa: the file of the summary and the key to sign it with belong together; expected both or neither"
        raise UsageError(what, hint="./inv audit SNAPSHOT --policy FILE --vsa FILE --vsa-key KEY.pem")
    if vsa:
        summary.check_policy(policy_file)
    rules = policy.load(Path(policy_file) if policy_file else None)
    path = evidence.find_snapshot(chosen, context.settings.artifacts)
    by_id = evidence.is_id(chosen, context.settings.artifacts)
    examined = audit.examine(path, rules, Standing.PUBLISHED if by_id else Standing.LATEST)
    _print(context.console, examined.audit)
    if write_policy:
        _write_policy(Path(write_policy), examined, context.console)
    if html:
        _write_page(Path(html), examined, context)
    if vsa:
        _write_summary(Path(vsa), vsa_key, examined.audit, context.console)
    return Outcome(examined.audit, ExitCode.REFUSED if examined.audit.verdict is Result.FAIL else ExitCode.OK)


def _print(console: Console, result: Audit) -> None:
    counts = Counter(row.result for row in result.findings)
    described = ", ".join(f"{counts[each]} {each}" for each in reversed(Result) if counts[each])
    word = {Result.PASS: "passed", Result.WARN: "passed, with warnings", Result.FAIL: "FAILED"}[result.verdict]
    console.say(f"audit of {result.line or 'an unreadable snapshot'} {result.snapshot}: {word} ({described})")
    console.say(f"policy: {result.policy or 'none of yours; what is accepted is what the snapshot itself says'}")
    shown = [row for row in result.findings if row.result is not Result.PASS]
    for worst in (Result.FAIL, Result.WARN):
        for row in (row for row in shown if row.result is worst):
            console.say(f"{row.result}: {row.check}: {row.subject}: {row.reason}")
    console.table(("check", "result", "of what", "reason"), _good_rows(result.findings), "what holds")


def _good_rows(findings: tuple[Finding, ...]) -> list[tuple[str, ...]]:
    """Return the rows of what passed; of many things one row with their number, and the reason where all have one."""
    rows: list[tuple[str, ...]] = []
    for check in dict.fromkeys(row.check for row in findings):
        good = [row for row in findings if row.check == check and row.result is Result.PASS]
        reasons = list(dict.fromkeys(row.reason for row in good))
        if len(good) == 1 or 1 < len(reasons) <= 3:
            rows += [(check, str(Result.PASS), row.subject, row.reason) for row in good]
        elif good:
            reason = reasons[0] if len(reasons) == 1 else "each for a reason of its own: --json"
            rows.append((check, str(Result.PASS), f"{len(good)} of them", reason))
    return rows


def _write_policy(path: Path, examined: Examined, console: Console) -> None:
    audited, content = examined.audited, audit.accepted_content(examined)
    if audited is None or audited.document.attestation is None:
        raise UsageError("--write-policy: the snapshot cannot be read; expected a whole one", hint="./inv status")
    if path.exists():
        what = f"--write-policy: {path} exists; expected a new file, since a policy is written by hand afterwards"
        raise UsageError(what, where=str(path), hint="./inv audit SNAPSHOT --policy FILE")
    document, stated = audited.document, audited.document.attestation
    text = policy.text_of(
        document.key.fingerprint,
        stated.id,
        document.line,
        content,
        examined.sequence,
        development=document.key.development or stated.development,
    )
    with writing(path.parent):
        write_atomic(path, text)
    console.say(f"wrote {path}: it accepts what this snapshot is; compare its keys before you rely on it")


def _write_page(path: Path, examined: Examined, context: RunContext) -> None:
    from pipeline.audit import page

    document = examined.audited.document if examined.audited else None
    reports = context.settings.artifacts / "reports" / "lab" / (document.directory if document else "")
    with writing(path.parent):
        beside = page.write(path, examined, reports)
    context.console.say(f"wrote {path}: the page of this audit, which needs no other file; {beside} has the same data")


def _write_summary(path: Path, key: str, result: Audit, console: Console) -> None:
    from pipeline.publish import attestation_key

    opened = attestation_key.open_key(key, path.parent)
    with writing(path.parent):
        write_atomic(path, summary.sign(result, opened))
    console.say(f"wrote {path}: the signed verification summary; it says {summary.word(result)}")
