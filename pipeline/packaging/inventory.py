"""List steps, images, snapshots and caches below the artifacts directory, from the metadata on disk alone.

Reads incomplete results too: reports missing, damaged or half removed ones without an error. Uses no network and no
engine, and changes nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipeline.core import documents, neutral
from pipeline.core.fs import read_limited
from pipeline.core.locks import is_held
from pipeline.packaging import ccache, step_record
from pipeline.packaging.scheduler import DAMAGED, LOCK
from pipeline.packaging.step_record import Damaged, Phase, Record
from pipeline.sandbox.images import PackageList

_OLD_CACHE = re.compile("-(centos6|debian12)$")  # LINE-IMAGE, of all files that extend the line
COMPARISON_MARK = "+"  # in the name of a directory of steps: builds that are only compared; in no line's name


class RunState(StrEnum):
    """The states of a step's newest run."""

    DONE = "done"
    FAILED = "failed"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    UNREADABLE = "unreadable"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Run:
    """A run of a step: its directory and its metadata. Times in seconds, None where unknown; `pid` while it runs."""

    line: str
    step: str
    state: RunState
    path: Path
    begun: float | None
    seconds: float | None
    pid: int | None
    next: str

    @property
    def key(self) -> str:
        """The key of its inputs; a failed run has another name."""
        return self.path.name.removeprefix(".work-").removeprefix(DAMAGED)


@dataclass(frozen=True)
class BuilderImage:
    """A builder image below `images/NAME`. `current`: the newest link of this name leads to it."""

    name: str
    key: str
    path: Path
    current: bool
    packages: int


@dataclass(frozen=True)
class Snapshot:
    """A published snapshot of one repository directory. `is_latest`: the link `latest` leads to it."""

    directory: str
    id: str
    path: Path
    is_latest: bool
    published: float


@dataclass(frozen=True)
class Cache:
    """The compiler caches of one line file; `line` is its name, empty for a link in place of all caches."""

    line: str
    path: Path


def entries(path: Path) -> list[Path]:
    """Return the entries of a directory by name; none where it cannot be read."""
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def lines(artifacts: Path) -> list[Path]:
    """Return the directory of each line that was ever built."""
    return [path for path in entries(artifacts / "steps") if path.is_dir() and COMPARISON_MARK not in path.name]


def steps(line: Path) -> list[Path]:
    """Return the directory of each step of a line."""
    return [path for path in entries(line) if path.is_dir() and not path.name.startswith(".")]


def runs(step: Path) -> list[Run]:
    """Return all runs of a step, the newest last; unfinished ones count as newer than finished ones.

    What was damaged comes first: another run has taken its place, or will.
    """
    found = [_run(path) for path in entries(step) if path.is_dir() and not path.name.startswith(".old-")]
    order = {RunState.DAMAGED: 0, RunState.RUNNING: 2, RunState.INTERRUPTED: 2}
    return sorted(found, key=lambda run: (order.get(run.state, 1), run.begun or 0.0))


def _run(path: Path) -> Run:
    line, name = path.parent.parent.name, path.parent.name
    known = None
    with contextlib.suppress(Damaged):
        known = step_record.read(path)
    if known and (known.line, known.step.replace(":", "-")) != (line, name):
        known = None  # that of another run
    options = neutral.command(known.options if known else ()) or neutral.command(("--line", line))
    step = known.step if known else name
    state, following = _state(path, known), ""
    if state is RunState.FAILED and known and known.error:
        following = known.error.next
    if state not in (RunState.DONE, RunState.RUNNING):
        following = following or f"./inv build-all --only {neutral.word(step)} {options}"
    return Run(
        line=line,
        step=step,
        state=state,
        path=path,
        begun=known.begun if known else _mtime(path / step_record.FILE),
        seconds=known.seconds if known else None,
        pid=known.pid if known and state is RunState.RUNNING else None,
        next=following,
    )


def _state(path: Path, known: Record | None) -> RunState:
    if path.name.startswith(".work-"):
        lives = known is not None and Path(f"/proc/{known.pid}").is_dir() and is_held(path.parent / LOCK)
        return RunState.RUNNING if lives else RunState.INTERRUPTED
    if path.name == ".failed":
        return RunState.FAILED
    if path.name.startswith(DAMAGED):
        return RunState.DAMAGED
    return RunState.DONE if known and known.state is Phase.DONE and known.key == path.name else RunState.UNREADABLE


def _mtime(path: Path) -> float | None:
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime
    return None


def images(artifacts: Path) -> list[BuilderImage]:
    """Return all builder images, grouped by name."""
    return [image for place in entries(artifacts / "images") if place.is_dir() for image in _images(place)]


def _images(place: Path) -> Iterator[BuilderImage]:
    there = [path for path in entries(place) if path.is_dir() and not path.is_symlink() and path.name[0] != "."]
    links = sorted(requests(place), key=lambda path: path.lstat().st_mtime)
    led_to = [link.readlink().name for link in links]
    known = [path.name for path in there]
    current = next((name for name in reversed(led_to) if name in known), "")
    if not current and there:
        current = max(there, key=lambda path: path.lstat().st_mtime).name
    for path in there:
        yield BuilderImage(place.name, path.name, path, path.name == current, package_count(path / "packages.json"))


def requests(place: Path) -> list[Path]:
    """Return the links of an image's directory, which lead from requests to images."""
    return [path for path in entries(place) if path.is_symlink()]


def package_count(listed: Path) -> int:
    """Return the number of packages in an image's list; 0 when it cannot be read."""
    try:
        return len(documents.parse(PackageList, read_limited(listed, documents.MOST)).packages)
    except (OSError, ValueError):
        return 0


def caches(artifacts: Path) -> list[Cache]:
    """Return the compiler caches of each line file, and those of earlier versions: one for each line and image."""
    place = artifacts / "ccache"
    if place.is_symlink():
        return [Cache("", place)]
    return [Cache(_OLD_CACHE.sub("", path.name.partition(ccache.FILE_DIGEST_MARK)[0]), path) for path in entries(place)]


def snapshots(artifacts: Path) -> list[Snapshot]:
    """Return all published snapshots, grouped by directory, the newest last."""
    found = []
    for place in entries(artifacts / "repo"):
        latest = (place / "latest").resolve()
        for path in entries(place / "snapshots"):
            if path.is_dir():
                published = _mtime(path) or 0.0
                found.append(Snapshot(place.name, path.name, path, path.resolve() == latest, published))
    return sorted(found, key=lambda snapshot: (snapshot.directory, snapshot.published))
