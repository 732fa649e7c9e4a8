"""What lies below the artifacts directory, out of the metadata on this disk alone: steps, images, snapshots.

Reads whatever is there, whole or not: what is missing, damaged or half removed is told, never an error. Asks no
network, no engine, and changes nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.build.runner import LOCK, read_meta
from pipeline.locks import is_held

SECOND = "+"  # in the name of a directory of steps: builds that are only compared (`pipeline.mainjob.AGAIN`)


class Last(StrEnum):
    """What became of the newest run of a step."""

    DONE = "done"
    FAILED = "failed"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Run:
    """A run of a step: where it lies and what its metadata say. Times in seconds, None where they are not told."""

    line: str
    step: str
    state: Last
    path: Path
    begun: float | None
    seconds: float | None
    pid: int | None
    next: str

    @property
    def key(self) -> str:
        """Of its inputs; what failed lies under another name."""
        return self.path.name.removeprefix(".work-")


@dataclass(frozen=True)
class BuilderImage:
    """A builder image below `images/NAME`. `current`: the one that the newest link of this name leads to."""

    name: str
    key: str
    path: Path
    current: bool
    packages: int


@dataclass(frozen=True)
class Snapshot:
    """A published snapshot of one repository directory. `latest`: the link leads to it."""

    directory: str
    id: str
    path: Path
    latest: bool
    published: float


def entries(path: Path) -> list[Path]:
    """What is in a directory, by name; nothing where it cannot be read."""
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def lines(artifacts: Path) -> list[Path]:
    """The directory of each line that was ever built."""
    return [path for path in entries(artifacts / "steps") if path.is_dir() and SECOND not in path.name]


def steps(line: Path) -> list[Path]:
    """The directory of each step of a line."""
    return [path for path in entries(line) if path.is_dir() and not path.name.startswith(".")]


def runs(step: Path) -> list[Run]:
    """Every run of a step that left something, the newest last; what was not finished is newer than what was."""
    found = [_run(path) for path in entries(step) if path.is_dir() and not path.name.startswith(".old-")]
    return sorted(found, key=lambda run: (run.state in (Last.RUNNING, Last.INTERRUPTED), run.begun or 0.0))


def _run(path: Path) -> Run:
    meta = read_meta(path / "meta.json")
    options = " ".join(map(str, _list(meta.get("options")))) or f"--line {path.parent.parent.name}"
    name = str(meta.get("step") or path.parent.name)
    state, following = _state(path, meta), ""
    if state is Last.FAILED:
        error = meta.get("error")
        following = str(error.get("next") or "") if isinstance(error, dict) else ""
    if state is not Last.DONE and state is not Last.RUNNING:
        following = following or f"./inv build-all --only {name} {options}"
    return Run(
        line=path.parent.parent.name,
        step=name,
        state=state,
        path=path,
        begun=_number(meta.get("begun")) or _changed(path / "meta.json"),
        seconds=_number(meta.get("seconds")),
        pid=int(_number(meta.get("pid")) or 0) or None,
        next=following,
    )


def _state(path: Path, meta: dict[str, Any]) -> Last:
    if path.name.startswith(".work-"):
        lives = Path(f"/proc/{meta.get('pid')}").is_dir() and is_held(path.parent / LOCK)
        return Last.RUNNING if lives else Last.INTERRUPTED
    if path.name == ".failed":
        return Last.FAILED
    return Last.DONE if meta.get("state") == "done" else Last.UNREADABLE


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _changed(path: Path) -> float | None:
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime
    return None


def images(artifacts: Path) -> list[BuilderImage]:
    """Every builder image, those of one name together."""
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
    """The links of an image's directory: what was asked for leads to what was made."""
    return [path for path in entries(place) if path.is_symlink()]


def package_count(listed: Path) -> int:
    """How many packages an image's list names; 0 when it cannot be read."""
    try:
        return len(json.loads(listed.read_bytes())["packages"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def snapshots(artifacts: Path) -> list[Snapshot]:
    """Every published snapshot, those of one directory together, the newest last."""
    found = []
    for place in entries(artifacts / "repo"):
        latest = (place / "latest").resolve()
        for path in entries(place / "snapshots"):
            if path.is_dir():
                published = _changed(path) or 0.0
                found.append(Snapshot(place.name, path.name, path, path.resolve() == latest, published))
    return sorted(found, key=lambda snapshot: (snapshot.directory, snapshot.published))
