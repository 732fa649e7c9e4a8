"""Record runs of the lab: the state of each from its start on, and of one that passed its subject and its files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.core import documents, fs, locks, manifest
from pipeline.lab.report import results
from pipeline.lab.report.results import RunState

LINK = "passed"  # among the runs of a line: leads to the last whole one that passed
RECORD = "passed.json"  # in the directory of such a run
RUN = "run.json"  # in the directory of every run
LOCK = "lock"  # held as long as the run goes on
REPORT = results.JSON
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


@dataclass(frozen=True)
class Run:
    """The record of a run. `begun` in seconds since 1970, `states` of the scenarios that have ended."""

    line: str
    snapshot: str
    state: RunState
    begun: float
    seconds: float
    pid: int
    states: Mapping[str, results.State]


@dataclass(frozen=True)
class FoundRun:
    """A run below the reports of a line, with its state as it is now."""

    path: Path
    run: Run

    @property
    def page(self) -> Path:
        """The run's page."""
        return self.path / results.PAGE

    @property
    def counts(self) -> str:
        """The scenarios that passed, of those that were played: `5 of 6 scenarios passed`."""
        states = [state for state in self.run.states.values() if state is not results.State.LEFT_OUT]
        return f"{states.count(results.State.PASSED)} of {len(states)} scenarios passed"


@dataclass
class Recorder:
    """A run that goes on: report and record in its directory, written anew with each change."""

    work: Path
    report: results.Report
    clock: float = field(default_factory=time.monotonic)

    def save(self, **changes: Any) -> None:
        """Change the report, and write the report and the record of the run."""
        known = {"seconds": round(time.monotonic() - self.clock, 1), **changes}
        self.report = self.report.model_copy(update=known)
        _write(self.work, self.report)

    def end(self) -> None:
        """Write the end of a run whose scenarios were all played."""
        passed = results.all_passed(self.report.scenarios)
        self.save(state=RunState.PASSED if passed else RunState.FAILED)


@contextlib.contextmanager
def recording(work: Path, report: results.Report) -> Iterator[Recorder]:
    """Record a run in `work` as running, and as interrupted where the block raises or does not come to `end`."""
    with locks.locked(work / LOCK):
        recorder = Recorder(work, report)
        recorder.save(state=RunState.RUNNING)
        try:
            yield recorder
        except BaseException as error:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                recorder.save(state=RunState.INTERRUPTED, why=str(error) or "it was stopped by a signal")
            raise


def _write(work: Path, report: results.Report) -> None:
    from pipeline.lab.report import page  # with the drawing, which reading records does not need

    states = {scenario.name: scenario.state for scenario in report.scenarios}
    known = Run(report.line, report.snapshot, report.state, report.started, report.seconds, report.pid, states)
    page.write(report, work)
    fs.write_atomic(work / RUN, documents.seal(known))


def runs(reports: Path) -> list[FoundRun]:
    """Return the runs of a line's reports that have a readable record, the newest last; change nothing."""
    found = []
    for place in reports.iterdir() if reports.is_dir() else ():
        with contextlib.suppress(OSError, ValueError):
            if not place.is_symlink():
                found.append(FoundRun(place, _now(place, _stored(place))))
    return sorted(found, key=lambda each: (each.run.begun, each.path.name))


def newest(artifacts: Path) -> dict[str, FoundRun]:
    """Return the newest run of each line, by the name of its directory."""
    places = sorted((artifacts / "reports" / "lab").glob("*"))
    return {place.name: found[-1] for place in places if (found := runs(place))}


def unresolved(reports: Path, snapshot: str) -> FoundRun | None:
    """Return the newest run of this snapshot with a scenario that failed and has not passed since; None without one."""
    failed: dict[str, FoundRun] = {}
    for found in runs(reports):
        for name, state in found.run.states.items() if found.run.snapshot == snapshot else ():
            if state is results.State.PASSED:
                failed.pop(name, None)
            elif state is not results.State.LEFT_OUT:
                failed[name] = found
    return max(failed.values(), key=lambda found: found.run.begun, default=None)


def settle(reports: Path) -> None:
    """Write the pages of runs that were killed anew, so that each says so."""
    for each in runs(reports):
        with contextlib.suppress(OSError, ValueError):
            if each.run.state is RunState.INTERRUPTED and _stored(each.path).state is RunState.RUNNING:
                report = results.Report.model_validate_json(fs.read_limited(each.path / REPORT, documents.MOST))
                _write(each.path, report.model_copy(update={"state": RunState.INTERRUPTED}))


def _stored(place: Path) -> Run:
    return documents.unseal(Run, manifest.text_at(place / RUN))


def _now(place: Path, run: Run) -> Run:
    """Return the record of a run whose process is gone as that of an interrupted one."""
    lives = Path(f"/proc/{run.pid}").is_dir() and locks.is_held(place / LOCK)
    return replace(run, state=RunState.INTERRUPTED) if run.state is RunState.RUNNING and not lives else run


def record(work: Path, what: Subject, found: results.Report) -> None:
    """Record that the run whose results are in `work` passed, and `what` it was a run of."""
    written = {name: fs.sha256_of(work / name) for name in _WRITTEN}
    states = {scenario.name: scenario.state for scenario in found.scenarios}
    fs.write_atomic(work / RECORD, documents.seal(Passed(what, states, written)))


def states(place: Path) -> Mapping[str, results.State]:
    """Return the states of the scenarios of a run that passed. Raises as `documents.unseal` does."""
    return documents.unseal(Passed, manifest.text_at(place / RECORD)).states


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
