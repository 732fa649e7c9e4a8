"""Record a run of the lab that passed: its subject and its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pipeline.core import documents, fs, manifest
from pipeline.lab.report import results

LINK = "passed"  # among the runs of a line: leads to the last whole one that passed
RECORD = "passed.json"  # in the directory of such a run
REPORT = "report.json"
_WRITTEN = (REPORT, results.PAGE)


@dataclass(frozen=True)
class Subject:
    """The subject of a run; `guests` is the key of their userland, `code` the digest of the lab's."""

    line: str
    snapshot: str
    guests: str
    scenarios: Mapping[str, object]
    code: str


@dataclass(frozen=True)
class Passed:
    """The record of a run that passed. `states` by scenario, `written`: the SHA-256 of each file."""

    what: Subject
    states: Mapping[str, results.State]
    written: Mapping[str, str]


def record(work: Path, what: Subject, found: results.Report) -> None:
    """Record that the run whose results are in `work` passed, and `what` it was a run of."""
    written = {name: fs.sha256_of(work / name) for name in _WRITTEN}
    states = {scenario.name: scenario.state for scenario in found.scenarios}
    fs.write_atomic(work / RECORD, documents.seal(Passed(what, states, written)))


def read_record(place: Path) -> tuple[Subject | None, list[tuple[str, str]]]:
    """Return the subject of the run in `place`, and the differences of its files: name and text."""
    try:
        known = documents.unseal(Passed, manifest.text_at(place / RECORD))
    except (OSError, ValueError) as error:
        return None, [(RECORD, f"no record of a run that passed: {error}")]
    problems = []
    for name in _WRITTEN:
        try:
            actual, _ = manifest.sha256_at(place / name)
        except (OSError, ValueError) as error:
            problems.append((name, str(error)))
            continue
        if actual != known.written.get(name):
            problems.append((name, f"SHA-256 {actual}; expected {known.written.get(name)}"))
    if not problems and not _is_report_of(place / REPORT, known):
        problems.append((REPORT, "the report of a run that did not pass, or of another snapshot"))
    return known.what, problems


def _is_report_of(file: Path, known: Passed) -> bool:
    """Return whether the report is of a passed run of this snapshot, with these states of its scenarios."""
    try:
        found = results.Report.model_validate_json(fs.read_limited(file, documents.MOST))
    except (ValidationError, OSError):
        return False
    ends = {scenario.name: scenario.state for scenario in found.scenarios}
    return found.passed and found.snapshot == known.what.snapshot and ends == known.states


def problems(artifacts: Path) -> Iterator[tuple[Path, str]]:
    """Read every run that is recorded as passed, and yield each problem: its path and a text."""
    for place in sorted((artifacts / "reports" / "lab").glob(f"*/{LINK}")):
        yield from ((place / name, text) for name, text in read_record(place)[1])
