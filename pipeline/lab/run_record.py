"""The record of a run of the lab that passed: of what it was, and what it wrote. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.core import fs, manifest
from pipeline.core.documents import MOST
from pipeline.lab.report import page, results

LINK = "passed"  # among the runs of a line: leads to the last whole one that passed
RECORD = "passed.json"  # in the directory of such a run
REPORT = "report.json"
_WRITTEN = (REPORT, page.PAGE)


def record(work: Path, what: Mapping[str, Any], found: results.Report) -> None:
    """Record that the run whose results are in `work` passed, and `what` it was a run of."""
    written = {name: fs.sha256_of(work / name) for name in _WRITTEN}
    states = {scenario.name: scenario.state.value for scenario in found.scenarios}
    fs.write_atomic(work / RECORD, manifest.sealed({"what": what, "states": states, "written": written}))


def recorded(place: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return what the run in `place` was a run of, and what of its files is not as recorded: name and text."""
    try:
        known = manifest.unsealed(manifest.text_at(place / RECORD))
        what, written, states = dict(known["what"]), dict(known["written"]), dict(known["states"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {}, [(RECORD, f"no record of a run that passed: {error}")]
    problems = []
    for name in _WRITTEN:
        try:
            actual, _ = manifest.sha256_at(place / name)
        except (OSError, ValueError) as error:
            problems.append((name, str(error)))
            continue
        if actual != written.get(name):
            problems.append((name, f"SHA-256 {actual}; expected {written.get(name)}"))
    if not problems and not _is_of(place / REPORT, what, states):
        problems.append((REPORT, "the report of a run that did not pass, or of another snapshot"))
    return what, problems


def _is_of(file: Path, what: Mapping[str, Any], states: Mapping[str, str]) -> bool:
    """Whether the report tells of a run that passed, of this snapshot and with these ends of its scenarios."""
    try:
        found = results.Report.model_validate_json(fs.read_limited(file, MOST))
    except (ValidationError, OSError):
        return False
    ends = {scenario.name: scenario.state.value for scenario in found.scenarios}
    return found.passed and found.snapshot == what.get("snapshot") and ends == states


def verified(artifacts: Path) -> Iterator[tuple[Path, str]]:
    """Read every run that is recorded as passed, and yield each problem: its path and a text."""
    for place in sorted((artifacts / "reports" / "lab").glob(f"*/{LINK}")):
        yield from ((place / name, text) for name, text in recorded(place)[1])
