"""Run `inv status`: print results and the last runs' ends, from this disk alone."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.audit.integrity import Differing
from pipeline.config.context import RunContext
from pipeline.core.console import Console, local_time
from pipeline.core.trees import usage
from pipeline.core.units import human_bytes
from pipeline.lab import run_record
from pipeline.lab.report.results import RunState
from pipeline.lab.run_record import FoundRun
from pipeline.nights import record
from pipeline.nights.record import Phase, Unreadable, Verdict
from pipeline.packaging import inventory, step_record
from pipeline.packaging.inventory import BuilderImage, Run, Snapshot
from pipeline.recipes.base import CERTIFICATE

_UNFINISHED = (Verdict.RUNNING, Verdict.KILLED, *record.BROKEN)  # whose phase says how far the night came
PLACES = ("store", "steps", "ccache", "images", "repo", "lab", "scratch")  # whose sizes are shown


@dataclass(frozen=True)
class Latest:
    """The newest snapshot of a repository directory; `published` in seconds since 1970."""

    id: str
    path: Path
    published: float


@dataclass(frozen=True)
class LabRun:
    """The last run of the lab over a repository directory; `begun` in seconds since 1970, `states` by scenario."""

    state: RunState
    snapshot: str
    begun: float
    seconds: float
    states: Mapping[str, str]
    page: Path


@dataclass(frozen=True)
class LastNight:
    """The last night of a repository directory; `begun` in seconds since 1970, `failure` its first error in one line.

    `broken_since` is the number of the first night since which the line has not been green, None for a line that is;
    `page` that of all nights, or the record of the night before there is one.
    """

    number: int
    begun: float
    verdict: Verdict
    phase: Phase
    snapshot: str
    released: bool
    failure: str
    broken_since: int | None
    page: Path

    def __str__(self) -> str:
        end = f"{self.verdict} in {self.phase}" if self.verdict in _UNFINISHED else self.verdict.value
        failure = f": {self.failure}" if self.failure else ""
        since = f"; broken since night {self.broken_since}" if self.broken_since else ""
        return f"night {self.number} {end}, begun {local_time(self.begun)}{failure}{since}: {self.page}"


@dataclass(frozen=True)
class Status:
    """The last run of each step; by directory the newest snapshot, run of the lab and night; images, sizes in bytes.

    `certificates`: for each step whose modules are signed, as `LINE STEP`, by which one.
    """

    artifacts: Path
    steps: tuple[Run, ...]
    certificates: Mapping[str, str]
    latest: Mapping[str, Latest]
    lab: Mapping[str, LabRun]
    nights: Mapping[str, LastNight]
    unreadable_nights: tuple[Unreadable, ...]
    images: tuple[BuilderImage, ...]
    bytes: Mapping[str, int]


@dataclass(frozen=True)
class VerifiedStatus(Status):
    """A status with everything that differs from its record."""

    differing: tuple[Differing, ...]


def tell(context: RunContext) -> Status:
    """Print the status and return it. Uses neither network nor engine."""
    artifacts, console = context.settings.artifacts, context.console
    last = [runs[-1] for line in inventory.lines(artifacts) for runs in _of_line(line) if runs]
    latest = [snapshot for snapshot in inventory.snapshots(artifacts) if snapshot.is_latest]
    images = inventory.images(artifacts)
    sizes = {name: usage(artifacts / name) for name in PLACES if (artifacts / name).is_dir()}
    played, nights = run_record.newest(artifacts), last_nights(record.root(artifacts))
    certificates = {f"{run.line} {run.step}": found for run in last if (found := _certificate(run))}
    damaged = tuple(record.unreadable(record.root(artifacts)))
    _say(console, artifacts, last, certificates, latest, played, nights, damaged, images, sizes)
    newest = {found.directory: Latest(found.id, found.path, found.published) for found in latest}
    lab = {name: _lab_run(found) for name, found in played.items()}
    return Status(artifacts, tuple(last), certificates, newest, lab, nights, damaged, tuple(images), sizes)


def last_nights(nights: Path) -> dict[str, LastNight]:
    """Return the last night of each repository directory, in the order of their names."""
    known, found = record.current(nights), dict[str, LastNight]()
    for night in known:
        for line in night.lines:
            failure = line.failure.error.partition("\n")[0] if line.failure else ""
            since = record.broken_since(known, line.directory)
            page = nights / record.INDEX
            found[line.directory] = LastNight(
                *(night.number, night.begun, line.verdict, line.phase, line.snapshot, line.released, failure),
                since.number if since else None,
                page if page.is_file() else record.place_of(nights, night.number) / record.RECORD,
            )
    return dict(sorted(found.items()))


def _lab_run(found: FoundRun) -> LabRun:
    run = found.run
    return LabRun(run.state, run.snapshot, run.begun, run.seconds, run.states, found.page)


def _of_line(line: Path) -> list[list[Run]]:
    return [inventory.runs(step) for step in inventory.steps(line)]


def _certificate(run: Run) -> str:
    """Return by which certificate the modules of a finished step are signed; empty for none."""
    if run.state is not inventory.RunState.DONE:
        return ""
    with contextlib.suppress(step_record.Damaged):
        return step_record.read(run.path).inputs.get(CERTIFICATE, "")
    return ""


def _say(
    console: Console,
    artifacts: Path,
    last: Sequence[Run],
    certificates: Mapping[str, str],
    latest: Sequence[Snapshot],
    played: Mapping[str, FoundRun],
    nights: Mapping[str, LastNight],
    damaged: Sequence[Unreadable],
    images: Sequence[BuilderImage],
    sizes: dict[str, int],
) -> None:
    if not sizes and not played and not nights and not damaged:
        console.say(f"nothing has been made in {artifacts} yet; next: ./inv build-all, or ./inv fetch LINE")
        return
    rows = [(run.line, run.step, _state(run), local_time(run.begun), _took(run.seconds)) for run in last]
    if rows:
        console.table(("line", "step", "last run", "begun", "took"), rows)
    for run in last:
        if run.next:
            console.say(f"{run.line} {run.step} {run.state}: {run.next}")
    for step, certificate in certificates.items():
        console.say(f"{step}: modules signed by {certificate}")
    for snapshot in latest:
        console.say(f"{snapshot.directory}: latest is {snapshot.id}, published {local_time(snapshot.published)}")
    for name, found in played.items():
        number = f", pid {found.run.pid}" if found.run.state is RunState.RUNNING else ""
        text = (
            f"{name}: lab {found.run.state}{number}, {found.counts}, begun {local_time(found.run.begun)}: {found.page}"
        )
        earlier = f"; of an earlier snapshot, {found.run.snapshot}" if _is_earlier(found.run, latest, name) else ""
        console.say(text + earlier)
    for name, night in nights.items():
        console.say(f"{name}: {night}")
    for each in damaged:
        console.say(str(each))
    for image in images:
        state = "current" if image.current else "superseded"
        console.say(f"image {image.name} {image.key}: {state}, {image.packages} packages")
    console.table(("directory", "size"), [(str(artifacts / name), human_bytes(size)) for name, size in sizes.items()])
    console.say("what could be removed: ./inv clean")


def _is_earlier(run: run_record.Run, latest: Sequence[Snapshot], name: str) -> bool:
    return any(snapshot.directory == name and snapshot.id != run.snapshot for snapshot in latest)


def _state(run: Run) -> str:
    return f"{run.state}, pid {run.pid}" if run.state is inventory.RunState.RUNNING else run.state.value


def _took(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
