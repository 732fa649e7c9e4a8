"""Read what this machine's lab recorded of a snapshot's runs, for the page of an audit. Nothing of it is signed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import documents, fs
from pipeline.lab import run_record
from pipeline.lab.report import results
from pipeline.lab.report.results import RunState, State

_SIGNS = {State.PASSED: "✓", State.LEFT_OUT: "-"}
_RUN_STATES = {RunState.PASSED: ("passed", "✓"), RunState.RUNNING: ("running", "!")}


@dataclass(frozen=True)
class ShownCheck:
    """A check: what it is of, what was expected and found."""

    sign: str
    state: str
    name: str
    expected: str
    found: str


@dataclass(frozen=True)
class ShownScenario:
    """A scenario with its checks; `state` is a class of the style sheet, `passed` how many of its checks passed."""

    name: str
    title: str
    sign: str
    state: str
    word: str
    why: str
    seconds: str
    passed: str
    checks: tuple[ShownCheck, ...]


@dataclass(frozen=True)
class ShownRun:
    """A run of the lab: how its guests ran, and `problem` where its report cannot be read."""

    sign: str
    state: str
    word: str
    counts: str
    guests: str
    begun: str
    page: str
    problem: str
    scenarios: tuple[ShownScenario, ...]


def of_snapshot(reports: Path, snapshot: str) -> list[ShownRun]:
    """Return the runs of a snapshot among the reports of its line, whether or not there are any; the newest first."""
    found = [each for each in run_record.runs(reports) if each.run.snapshot == snapshot] if reports.is_dir() else []
    return [_run(each) for each in reversed(found)]


def _run(found: run_record.FoundRun) -> ShownRun:
    state, sign = _RUN_STATES.get(found.run.state, ("failed", "✗"))
    problem, guests = "", ""
    scenarios: tuple[ShownScenario, ...] = ()
    try:
        data = fs.read_limited(found.path / run_record.REPORT, documents.MOST)
        report = results.Report.model_validate_json(data)
        scenarios, guests = tuple(_scenarios(report)), report.acceleration
    except (OSError, ValueError) as error:
        problem = f"{run_record.REPORT} cannot be read: {str(error).splitlines()[0]}"
    begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.run.begun))
    return ShownRun(sign, state, str(found.run.state), found.counts, guests, begun, str(found.page), problem, scenarios)


def _scenarios(report: results.Report) -> Iterator[ShownScenario]:
    for scenario in report.scenarios:
        checks = tuple(_check(check) for check in scenario.checks)
        passed = sum(check.passed for check in scenario.checks)
        yield ShownScenario(
            name=scenario.name,
            title=scenario.title,
            sign=_SIGNS.get(scenario.state, "✗"),
            state=scenario.state.replace(" ", "-"),
            word=str(scenario.state),
            why=scenario.why,
            seconds=f"{scenario.seconds:.0f} s" if scenario.seconds else "",
            passed=f"{passed} of {len(checks)} checks passed" if checks else "",
            checks=checks,
        )


def _check(check: results.Check) -> ShownCheck:
    state, sign = ("passed", "✓") if check.passed else ("failed", "✗")
    return ShownCheck(sign, state, check.name, check.expected, check.found)
