"""Run `inv cves`: print which CVE records concern a line's kernel, which do not and why, and where our hunks lie."""

from __future__ import annotations

import textwrap
from collections import Counter
from pathlib import Path

from pipeline.audit import cve_records, cve_report, kernel_build
from pipeline.audit.cve_report import CveReport, Finding, Verdict
from pipeline.config.context import RunContext
from pipeline.config.line_model import Line
from pipeline.core.console import Console

SHOWN = 20  # skipped files, and reasons of one kind; the JSON has all
_PATHS = 2  # of a record, in a table


def cves(context: RunContext, line: Line, path: str) -> CveReport:
    """Join the records at `path` with the line's kernel and print the result. Raises `UsageError` and `Refused`."""
    records = cve_records.read(
        Path(path), "" if context.settings.line_file else line.name
    )  # first: a mistyped path must not wait for sources
    build, notes = kernel_build.find(line, context)
    found = cve_report.report(records, build, notes)
    console = context.console
    steps = ", ".join(f"{step} {key[:8]}" for step, key in found.steps.items())
    console.say(f"kernel {found.uname} of the line {found.line}: {found.compiled} files compiled in {steps}")
    if found.vendor:
        _say_vendor(console, found)
    else:
        _say_upstream(console, found)
    _say_hunks(console, found)
    for note in found.notes:
        console.say(f"not known: {note}")
    for row in found.skipped[:SHOWN]:
        console.say(f"skipped: {row.path}: {row.why}")
    if len(found.skipped) > SHOWN:
        console.say(f"skipped: {len(found.skipped) - SHOWN} more files, all of them with --json")
    counted = ", ".join(f"{number} {verdict}" for verdict, number in found.counts.items())
    console.say(
        f"{len(found.findings)} records of the kernel: {counted}; {found.others} of other products, "
        f"{len(found.skipped)} skipped"
    )
    return found


def _of(found: CveReport, *verdicts: Verdict) -> list[Finding]:
    return [finding for finding in found.findings if finding.verdict in verdicts]


def _say_upstream(console: Console, found: CveReport) -> None:
    concerns = _of(found, Verdict.CONCERNS)
    if concerns:
        console.table(
            ("concerns", "fix", "compiled files that it names", "ours", "title"),
            [(row.id, row.why, _paths(row.compiled), _ours(row), row.title) for row in concerns],
            f"{len(concerns)} concern {found.version}, by its version and by files that were compiled",
        )
    undecided = _of(found, Verdict.UNDECIDED)
    if undecided:
        console.table(
            ("undecided", "why", "ours", "title"),
            [(row.id, row.why, _ours(row), row.title) for row in undecided],
            f"{len(undecided)} could concern it",
        )
    noise = Counter(_kind(row.why) for row in _of(found, Verdict.NOISE))
    if noise:
        console.table(("noise", "records"), noise.most_common(SHOWN), "do not concern it, by the reason")


def _kind(why: str) -> str:
    """Return a reason without its version: what is counted together."""
    for known in ("fixed in", "came with"):
        if why.startswith(known):
            return {"fixed in": "fixed in this version or before", "came with": "came with a later version"}[known]
    return why


def _say_vendor(console: Console, found: CveReport) -> None:
    claimed, silent = _of(found, Verdict.CLAIMED_FIXED), _of(found, Verdict.NOT_CLAIMED)
    console.say(
        f"{found.version} is a vendor's kernel: its fixes are the vendor's own, and upstream's versions say nothing of "
        "it. All that is known here is what the changelog in the kernel's package claims."
    )
    if claimed:
        rows = [(row.id, _ours(row), row.title) for row in claimed]
        console.table(("claimed fixed", "ours", "title"), rows, "claimed fixed by the changelog")
    if without := sorted(set(found.claims) - {row.id for row in claimed}, key=cve_records.order):
        console.say(f"the changelog claims {len(without)} more fixed, without a record here:")
        console.excerpt(textwrap.fill(" ".join(without), 110, break_on_hyphens=False))
    if found.reverted:
        console.say(f"the changelog names and reverts a change for {', '.join(found.reverted)}: not claimed fixed")
    files = sum(bool(row.compiled) for row in silent)
    console.say(
        f"not known: records that the changelog does not claim fixed: {len(silent)}. {files} of them name files that "
        "were compiled; all of them with --json"
    )


def _say_hunks(console: Console, found: CveReport) -> None:
    """Print which hunks of the line's patches lie in files of records that are not noise."""
    rows = [(row.id, hunks) for row in found.findings if row.verdict is not Verdict.NOISE for hunks in row.hunks]
    if rows:
        console.table(
            ("record", "file", "role", "patch", "hunks"),
            [(name, h.path, h.role, h.patch, _numbers(h.hunks)) for name, h in rows],
            "hunks of the line's own patches in files that these records name",
        )


def _ours(row: Finding) -> str:
    return str(sum(len(hunks.hunks) for hunks in row.hunks) or "-")


def _numbers(hunks: tuple[int, ...]) -> str:
    """Return numbers as ranges: `1-3 5`."""
    starts = [number for number in hunks if number - 1 not in hunks]
    ends = [number for number in hunks if number + 1 not in hunks]
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)) or "-"


def _paths(paths: tuple[str, ...]) -> str:
    more = f" and {len(paths) - _PATHS} more" if len(paths) > _PATHS else ""
    return ", ".join(paths[:_PATHS]) + more
