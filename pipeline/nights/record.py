"""Record nights: each in a directory of its own, from its start on, under a number that only grows.

    <artifacts>/nights/lock             held while a night goes on
    <artifacts>/nights/000012/night.json, junit.xml, and copies of the results of lab and audit
    <artifacts>/nights/index.html, index.json

Numbers order nights, since a clock may be set back; times are seconds since 1970 and shown in UTC, which has no summer
time. Every file is replaced by one rename. A night whose record says that it runs, while nobody holds the lock, was
killed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.core import documents, faults, fs, locks, neutral
from pipeline.core.disk_space import writing
from pipeline.errors import ExitCode
from pipeline.publish import mirrorlist

RECORD, JUNIT, INDEX, INDEX_JSON, LOCK = "night.json", "junit.xml", "index.html", "index.json", "lock"
_DIGITS = 6  # of a directory's name


class Verdict(StrEnum):
    """The end of a night for a line; `UNREACHABLE` is green but for upstreams that did not answer."""

    RUNNING = "running"
    GREEN = "green"
    UNREACHABLE = "unreachable"
    RED = "red"
    ALARM = "alarm"
    KILLED = "killed"


# The worst of several lines; the last is the worst.
ORDER = (Verdict.GREEN, Verdict.UNREACHABLE, Verdict.RUNNING, Verdict.KILLED, Verdict.RED, Verdict.ALARM)
RELEASABLE = (Verdict.GREEN, Verdict.UNREACHABLE)
BROKEN = (Verdict.RED, Verdict.ALARM)


class Phase(StrEnum):
    """The parts of a night for a line, in their order."""

    UPSTREAM = "upstream"
    BUILD = "build"
    SMOKE = "smoke"
    AUDIT = "audit"
    RELEASE = "release"


class Upstream(StrEnum):
    """The state of a source where it comes from."""

    SAME = "same"
    UPDATE = "update available"
    TAKEN = "update taken"
    UNREACHABLE = "unreachable"
    ALARM = "alarm"


@dataclass(frozen=True)
class SourceState:
    """A source where it comes from: the version or digest in use, the one found, the place, and a sentence."""

    source: str
    state: Upstream
    used: str
    found: str
    where: str
    text: str


@dataclass(frozen=True)
class NightStep:
    """A step of a night's build; `seconds` is 0 for a reused one."""

    state: str
    why: str
    seconds: float
    key: str


@dataclass(frozen=True)
class Failure:
    """The first failure of a line: its phase, step (empty outside of builds), first error and next command."""

    phase: Phase
    step: str
    error: str
    where: str
    next: str
    code: int


@dataclass(frozen=True)
class Part:
    """The outcome of smoke or audit: a sentence, the copy of its page (empty without), and what it was made of.

    `subject` is the digest of everything that decides the outcome of an audit.
    """

    text: str = ""
    page: str = ""
    reused: bool = False
    subject: str = ""


@dataclass(frozen=True)
class LineNight:
    """One line in one night. `directory`: that of the line in the repository.

    `upstream` has the sources that are not as they were, `examined` is the number of all. `snapshot` is what
    was built, `before` the latest before the night, `released` whether the snapshot is the latest now. `bytes` of all
    packages together, `seconds` by phase. `sources` are the digests of what the snapshot was made of.
    """

    line: str
    directory: str
    verdict: Verdict = Verdict.RUNNING
    phase: Phase = Phase.UPSTREAM
    examined: int = 0
    upstream: tuple[SourceState, ...] = ()
    steps: Mapping[str, NightStep] = field(default_factory=dict)
    packages: int = 0
    bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    snapshot: str = ""
    before: str = ""
    released: bool = False
    smoke: Part = Part()
    audit: Part = Part()
    failure: Failure | None = None
    sources: tuple[str, ...] = ()

    @property
    def code(self) -> ExitCode:
        """The exit code of a night with this line alone."""
        if self.failure:
            return ExitCode(self.failure.code)
        return ExitCode.UNREACHABLE if self.verdict is Verdict.UNREACHABLE else ExitCode.OK

    @property
    def ran(self) -> tuple[str, ...]:
        """The steps that were built."""
        return tuple(name for name, step in self.steps.items() if step.state != "reused")

    @property
    def passed(self) -> Verdict:
        """The verdict when nothing of the line failed."""
        silent = any(each.state is Upstream.UNREACHABLE for each in self.upstream)
        return Verdict.UNREACHABLE if silent else Verdict.GREEN

    @property
    def changed(self) -> bool:
        """Whether the night has another snapshot than was the latest."""
        return bool(self.snapshot) and self.snapshot != self.before


@dataclass(frozen=True)
class Night:
    """A night. `begun` in seconds since 1970, `why` it was killed, `notified` what came of the notification."""

    number: int
    begun: float
    pid: int
    command: str
    seconds: float = 0.0
    ended: bool = False
    why: str = ""
    notified: str = ""
    lines: tuple[LineNight, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst of the lines'."""
        return max((line.verdict for line in self.lines), key=ORDER.index, default=Verdict.RUNNING)

    @property
    def code(self) -> ExitCode:
        """The exit code: of several failures that of the worst line."""
        worst = max(self.lines, key=lambda line: ORDER.index(line.verdict), default=None)
        return worst.code if worst else ExitCode.OK

    @property
    def date(self) -> str:
        """The time of its begin."""
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.begun))

    def line(self, directory: str) -> LineNight | None:
        """Return the line with this directory in the repository; None where the night was without it."""
        return next((line for line in self.lines if line.directory == directory), None)


@dataclass(frozen=True)
class Unreadable:
    """A night whose record cannot be read, so that nobody knows what it refers to: the file and the problem."""

    number: int
    file: Path
    problem: str

    def __str__(self) -> str:
        return (
            f"night {self.number}: its record cannot be read: {self.problem}: {self.file}; nothing that it may refer to"
            f" is removed while it is there; next: rm -r {neutral.word(self.file.parent)}, after a look at it"
        )


@dataclass
class Recorder:
    """The record of the night that goes on in the directory `place`."""

    place: Path
    night: Night
    clock: float = field(default_factory=time.monotonic)

    def save(self, **changes: Any) -> None:
        """Change the night and write its record. Raises `HostLacks`."""
        seconds = round(time.monotonic() - self.clock, 2)
        self.night = replace(self.night, **{"seconds": seconds, **changes})
        write(self.place, self.night)
        faults.point("night.recorded")

    def save_line(self, line: LineNight) -> None:
        """Change or add a line of the night, and write the record."""
        others = {each.directory: each for each in self.night.lines}
        self.save(lines=tuple({**others, line.directory: line}.values()))


def root(artifacts: Path) -> Path:
    """Return the directory of all nights."""
    return artifacts / "nights"


def place_of(nights: Path, number: int) -> Path:
    """Return the directory of a night."""
    return nights / f"{number:0{_DIGITS}d}"


def write(place: Path, night: Night) -> None:
    """Replace the record of a night. Raises `HostLacks`."""
    with writing(place.parent):
        fs.write_atomic(place / RECORD, documents.seal(night))


def places(nights: Path) -> list[tuple[int, Path]]:
    """Return number and directory of each night, whether or not its record can be read; the newest last."""
    found = nights.iterdir() if nights.is_dir() else ()
    return sorted((int(path.name), path) for path in found if path.name.isdecimal() and path.is_dir())


def load(nights: Path) -> list[Night]:
    """Return the nights whose records can be read, the newest last; change nothing."""
    return [each for each in _records(nights) if isinstance(each, Night)]


def unreadable(nights: Path) -> list[Unreadable]:
    """Return the nights whose records cannot be read, the newest last; change nothing."""
    return [each for each in _records(nights) if isinstance(each, Unreadable)]


def _records(nights: Path) -> Iterator[Night | Unreadable]:
    for number, place in places(nights):
        try:
            yield documents.unseal(Night, fs.read_limited(place / RECORD, documents.MOST))
        except (OSError, ValueError) as error:
            problem = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]
            if _has_begun(place):
                yield Unreadable(number, place / RECORD, problem)


def _has_begun(place: Path) -> bool:
    """Return whether a night ever recorded anything there; hidden files are what was not written to its end."""
    with contextlib.suppress(FileNotFoundError):
        return any(not path.name.startswith(".") for path in place.iterdir())
    return False


def current(nights: Path) -> list[Night]:
    """Return the nights as they are now, the newest last: one whose process is gone as killed. Change nothing."""
    is_running = locks.is_held(nights / LOCK)
    known = load(nights)
    gone = [each.number for each in known if not each.ended and not (is_running and each is known[-1])]
    return [_killed(each, nights.parent) if each.number in gone else each for each in known]


def settle(nights: Path) -> list[Night]:
    """Record nights that did not come to their end as killed, for the holder of the lock; return those.

    The directory of a night that could not even record its begin, such as on a full disk, is removed; one whose record
    cannot be read stays.
    """
    for _, place in places(nights):
        if not _has_begun(place):
            fs.remove(place)
    killed = []
    for night in load(nights):
        if not night.ended:
            why = night.why or "its process was gone before its end"
            ended = replace(_killed(night, nights.parent), ended=True, why=why)
            write(place_of(nights, night.number), ended)
            killed.append(ended)
    return killed


def is_moved(line: LineNight, artifacts: Path) -> bool:
    """Return whether `latest`, as it is on the disk, leads to what the line released; False before that phase."""
    latest = mirrorlist.leads(artifacts / "repo" / line.directory).get("latest", "")
    return line.phase is Phase.RELEASE and line.changed and latest == line.snapshot


def _killed(night: Night, artifacts: Path) -> Night:
    """Return a night that came to no end: a line is green only where `latest` is what that line released."""
    lines = []
    for line in night.lines:
        if line.verdict is Verdict.RUNNING or (line.verdict in RELEASABLE and not line.released):
            moved = is_moved(line, artifacts)
            line = replace(line, verdict=line.passed if moved else Verdict.KILLED, released=moved)
        lines.append(line)
    return replace(night, lines=tuple(lines))


def next_number(nights: Path) -> int:
    """Return the number of a new night: above all that there are, whatever the clock says."""
    return max((number for number, _ in places(nights)), default=0) + 1


def broken_since(nights: Sequence[Night], directory: str) -> Night | None:
    """Return the first of the nights since which a line has not been green; None where the last one was.

    A killed night says neither.
    """
    first = None
    for night in reversed(nights):
        line = night.line(directory)
        if line is None or line.verdict in (Verdict.KILLED, Verdict.RUNNING):
            continue
        if line.verdict not in BROKEN:
            break
        first = night
    return first


def last_released(nights: Sequence[Night], directory: str) -> LineNight | None:
    """Return the line in the newest night that made its snapshot the latest; None without one."""
    found = (line for night in reversed(nights) if (line := night.line(directory)) and line.released)
    return next(found, None)
