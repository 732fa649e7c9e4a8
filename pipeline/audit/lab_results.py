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


@dataclass(frozen=True)
class LabCheck:
    """A check: what it is of, what was expected and found."""

    name: str
    expected: str
    found: str
    passed: bool


@dataclass(frozen=True)
class LabScenario:
    """A scenario with its checks; `seconds` of wall time, 0 for one that was not played."""

    name: str
    title: str
    state: State
    why: str
    seconds: float
    checks: tuple[LabCheck, ...]


@dataclass(frozen=True)
class LabRun:
    """A run of the lab: how its guests ran, and `problem` where its report cannot be read. `page` is its own."""

    state: RunState
    counts: str
    guests: str
    begun: str
    page: str
    problem: str
    scenarios: tuple[LabScenario, ...]


def of_snapshot(reports: Path, snapshot: str) -> list[LabRun]:
    """Return the runs of a snapshot among the reports of its line, whether or not there are any; the newest first."""
    found = [each for each in run_record.runs(reports) if each.run.snapshot == snapshot] if reports.is_dir() else []
    return [_run(each) for each in reversed(found)]


def _run(found: run_record.FoundRun) -> LabRun:
    problem, guests = "", ""
    scenarios: tuple[LabScenario, ...] = ()
    try:
        data = fs.read_limited(found.path / run_record.REPORT, documents.MOST)
        report = results.Report.model_validate_json(data)
        scenarios, guests = tuple(_scenarios(report)), report.acceleration
    except (OSError, ValueError) as error:
        problem = f"{run_record.REPORT} cannot be read: {str(error).splitlines()[0]}"
    begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.run.begun))
    return LabRun(found.run.state, found.counts, guests, begun, str(found.page), problem, scenarios)


def _scenarios(report: results.Report) -> Iterator[LabScenario]:
    for scenario in report.scenarios:
        checks = tuple(LabCheck(row.name, row.expected, row.found, row.passed) for row in scenario.checks)
        yield LabScenario(scenario.name, scenario.title, scenario.state, scenario.why, scenario.seconds, checks)
