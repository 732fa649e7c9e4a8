"""Print the results of a run: a line for each scenario, then the failures and their places."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.core.console import Console
from pipeline.lab.report.page import SIGNS, verdict
from pipeline.lab.report.results import Check, Finding, Report, Scenario, State, neutralized

TRACE_LINES = 6  # of a finding: the page has them all


def print_report(report: Report, console: Console, page: Path) -> None:
    """Print the report. `page` is the path of report.html. With `--json` nothing is printed."""
    report = neutralized(report)
    title = f"lab of {report.line}, {report.acceleration}"
    headings = ("", "scenario", "state", "took", "checks", "why")
    console.table(headings, [_row(scenario) for scenario in report.scenarios], title)
    for scenario in report.scenarios:
        for line in _failures(scenario):
            console.say(line)
    console.say(f"{verdict(report)}; report: {page}")


def _row(scenario: Scenario) -> tuple[str, ...]:
    passed = sum(check.passed for check in scenario.checks)
    took = f"{scenario.seconds:.1f} s" if scenario.state is not State.LEFT_OUT else ""
    checks = f"{passed}/{len(scenario.checks)}" if scenario.checks else ""
    return SIGNS[scenario.state], scenario.name, scenario.state.value, took, checks, " ".join(scenario.why.split())


def _failures(scenario: Scenario) -> Iterator[str]:
    for check in scenario.checks:
        if not check.passed:
            yield from _check(scenario, check)
    for guest in scenario.guests:
        for finding in guest.findings:
            yield from _finding(scenario, guest.name, finding)


def _check(scenario: Scenario, check: Check) -> Iterator[str]:
    yield f"{scenario.name}: {check.name}"
    rows = (("expected", check.expected), ("got", check.found), ("look at", check.hint))
    for label, text in rows:
        for number, line in enumerate(text.splitlines()):
            yield f"  {label + ':' if number == 0 else '':9} {line}"


def _finding(scenario: Scenario, guest: str, finding: Finding) -> Iterator[str]:
    yield f"{scenario.name}: {finding.kind} on the console of {guest}, line {finding.line}: {finding.meaning}"
    yield f"  {'look at:':9} {finding.look}"
    lines = finding.trace.splitlines()
    for line in lines[:TRACE_LINES]:
        yield f"  | {line}"
    if len(lines) > TRACE_LINES:
        yield f"  | ... and {len(lines) - TRACE_LINES} more lines"
