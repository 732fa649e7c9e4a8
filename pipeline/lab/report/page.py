"""Write the results: `report.json`, `junit.xml`, and one self-contained page.

Arranges the page; `drawing` makes its pictures, the template its text. Runs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from pipeline.core import templates
from pipeline.core.fs import write_atomic
from pipeline.core.units import human_seconds
from pipeline.lab.report import drawing, junit
from pipeline.lab.report.results import (
    JSON,
    JUNIT,
    PAGE,
    Check,
    Finding,
    Guest,
    Report,
    RunState,
    Scenario,
    State,
    neutralized,
)

TEMPLATE = "specs/report/page.html.j2"
CHUNK_LINES = 400  # console lines laid out together: a browser lays out only the visible parts
SIGNS = {State.PASSED: "✓", State.FAILED: "✗", State.BROKEN: "!", State.LEFT_OUT: "–"}  # state is never colour alone
_HEADLINES = {
    RunState.RUNNING: ("…", "Running"),
    RunState.PASSED: ("✓", "Passed"),
    RunState.FAILED: ("✗", "Not passed"),
    RunState.INTERRUPTED: ("✗", "Interrupted"),
}


def write(report: Report, directory: Path) -> Path:
    """Write the three views of a run into `directory`, each atomically; return the page's path."""
    neutral = neutralized(report)
    write_atomic(directory / JSON, json.dumps(report.model_dump(mode="json"), indent=2) + "\n")
    write_atomic(directory / JUNIT, junit.document(neutral))
    write_atomic(directory / PAGE, page(neutral))
    return directory / PAGE


def page(report: Report) -> str:
    """Render the page. The texts of `report` must be neutral; characters special in HTML are escaped here."""
    sections = [_section(number, scenario) for number, scenario in enumerate(report.scenarios, 1)]
    state = RunState.FAILED if report.state is RunState.PASSED and not report.passed else report.state
    sign, headline = _HEADLINES[state]
    return templates.render(
        TEMPLATE,
        report=report,
        state=state,
        sign=sign,
        headline=headline,
        verdict=verdict(report),
        facts=_facts(report),
        files=(
            (JSON, link(JSON)),
            (JUNIT, link(JUNIT)),
            *([("run before", link(p))] if (p := report.previous) else []),
        ),
        sections=sections,
        signs=SIGNS,
        link=link,
    )


def link(path: str) -> str:
    """Return the address of a file beside the page; whatever its name is, it leads nowhere else."""
    return "./" + quote(path)


def _facts(report: Report) -> tuple[tuple[str, str, str], ...]:
    """Return what is known of the run as a whole: name, value, and the value's class in the style sheet."""
    changed = "with uncommitted changes" if report.dirty else "without changes"
    known = (
        ("Date", _utc(report.started), ""),
        ("Duration", human_seconds(report.seconds) if report.seconds else "", ""),
        ("Host", report.host, ""),
        ("Command", report.command, "mono"),
        ("Commit", f"{report.commit} {changed}" if report.commit else "not known: this is no checkout", ""),
        ("Guests run", report.acceleration, ""),
        ("Snapshot", report.snapshot, "mono"),
        ("Signed by", report.fingerprint, "mono"),
        ("Servers' snapshot", report.server_snapshot, "mono"),
        ("Servers signed by", report.server_fingerprint, "mono"),
    )
    return tuple(row for row in known if row[1])


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at else ""


def verdict(report: Report) -> str:
    """Summarize the run: `7 of 8 scenarios passed, 1 failed, 2 left out`."""
    states = [scenario.state for scenario in report.scenarios]
    ran = len(states) - states.count(State.LEFT_OUT)
    if not ran and report.state is RunState.RUNNING:
        return "no scenario has ended yet"
    if not ran:
        return "no scenario was run, so nothing is proven"
    others = (State.FAILED, State.BROKEN, State.LEFT_OUT)
    counted = [f"{states.count(state)} {state}" for state in others if state in states]
    text = ", ".join([f"{states.count(State.PASSED)} of {ran} scenario{'s' * (ran != 1)} passed", *counted])
    return f"so far {text}" if report.state in (RunState.RUNNING, RunState.INTERRUPTED) else text


# --- What the template gets ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConsolePart:
    """Lines of a console, plain, or the subject of a finding with its anchor."""

    text: str
    finding: Finding | None = None
    anchor: str = ""


@dataclass(frozen=True)
class ConsoleView:
    """A guest's console. `findings`: each finding with the anchor of its place in `parts`."""

    guest: Guest
    lines: int
    parts: tuple[ConsolePart, ...]
    findings: tuple[ConsolePart, ...]


@dataclass(frozen=True)
class Section:
    """A scenario's section of the page."""

    scenario: Scenario
    anchor: str
    started: str
    checks: tuple[Check, ...]  # those that did not pass first
    passed: int
    topology: drawing.Sheet
    distributions: tuple[tuple[str, drawing.Sheet], ...]
    boots: drawing.Sheet
    sequence: drawing.SequenceDiagram
    consoles: tuple[ConsoleView, ...]


def _section(number: int, scenario: Scenario) -> Section:
    anchor = f"{number}-{re.sub(r'[^a-z0-9]+', '-', scenario.name.lower()).strip('-')}"
    guests = scenario.guests
    return Section(
        scenario=scenario,
        anchor=anchor,
        started=_utc(scenario.started),
        checks=tuple(sorted(scenario.checks, key=lambda check: check.passed)),
        passed=sum(check.passed for check in scenario.checks),
        topology=drawing.topology(guests, scenario.sequence),
        distributions=tuple((each.title, drawing.distribution(each)) for each in scenario.distributions),
        boots=drawing.boots(guests),
        sequence=drawing.sequence_diagram(scenario.sequence, guests),
        consoles=tuple(_console(f"{anchor}-{place}", guest) for place, guest in enumerate(guests, 1)),
    )


def _console(anchor: str, guest: Guest) -> ConsoleView:
    lines = guest.console.removesuffix("\n").split("\n") if guest.console else []
    pieces: list[ConsolePart] = []
    found: list[ConsolePart] = []
    reached = 0  # lines that are in `pieces`
    ordered = sorted(guest.findings, key=lambda finding: finding.line)
    for number, finding in enumerate(ordered, 1):
        start = min(max(finding.line - 1, reached), len(lines))
        end = min(max(finding.line - 1 + len(finding.trace.rstrip("\n").split("\n")), start), len(lines))
        pieces += _chunks(lines[reached:start])
        piece = ConsolePart("\n".join(lines[start:end]), finding, f"{anchor}-{number}")
        pieces.append(piece)
        found.append(piece)
        reached = end
    pieces += _chunks(lines[reached:])
    return ConsoleView(guest, len(lines), tuple(pieces), tuple(found))


def _chunks(lines: Sequence[str]) -> list[ConsolePart]:
    rest = iter(lines)
    return [ConsolePart("\n".join(some)) for some in iter(lambda: list(islice(rest, CHUNK_LINES)), [])]
