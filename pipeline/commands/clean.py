"""Run `inv clean`: remove results that can be rebuilt, and none in use.

Locks each entry before its removal, with its maker's lock; names and keeps entries in use. Never removes sources,
keys, the newest snapshots, what recorded nights refer to, and evidence: `store gc` cleans the first, the rest cannot be
recreated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipeline.config.context import RunContext
from pipeline.core import fs, resources, trees
from pipeline.core.console import Console
from pipeline.core.locks import locked
from pipeline.core.suggestion import unknown
from pipeline.core.units import human_bytes
from pipeline.errors import ExitCode, HostLacks, PipelineError
from pipeline.nights import record, retention
from pipeline.nights.retention import Kept
from pipeline.packaging import inventory
from pipeline.packaging.inventory import Run, RunState
from pipeline.packaging.scheduler import LOCK, SHELL_LOCK
from pipeline.publish import unsigned
from pipeline.publish.layout import UNSIGNED
from pipeline.publish.snapshot import remove_snapshot
from pipeline.sandbox import container

ALL = "all"
WORDS = {
    "failed": "what failed, what was damaged, and what killed runs left",
    "old": "results, images and snapshots that a newer one has taken the place of",
    "ccache": "the compiler's cache: the next kernels take longer",
    "steps": "every result of every step: the next run builds anew",
    "images": "every builder image: the next run makes its own anew",
    "guests": "what the lab's guests boot: its next run makes it anew",
    ALL: "all of these",
}
LOCK_SUFFIX = ".lock"  # of the files that the makers of an image hold
SNAPSHOTS_KEPT = 2  # of a repository: a reader may be half through the one before the latest


@dataclass(frozen=True)
class Item:
    """A removable result. `words` remove it, `locks` must be free for that; `size` in bytes."""

    path: str
    words: tuple[str, ...]
    size: int
    locks: tuple[Path, ...]
    remove: Callable[[], None] = field(repr=False)


@dataclass(frozen=True)
class Total:
    """The items that a word would remove: their number, and their `bytes` together."""

    items: int
    bytes: int


@dataclass(frozen=True)
class Removable:
    """An item of the list, with the words that remove it."""

    path: str
    bytes: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """All removable items, and for each word what it would remove."""

    would: Mapping[str, Total]
    items: tuple[Removable, ...]


@dataclass(frozen=True)
class Removed:
    """A removed item."""

    path: str
    bytes: int


@dataclass(frozen=True)
class Left:
    """An item that was not removed, and the error."""

    path: str
    what: str
    why: str


@dataclass(frozen=True)
class Cleaned:
    """The items that were removed, their `bytes` together, and those that were left."""

    removed: tuple[Removed, ...]
    bytes: int
    left: tuple[Left, ...]


def clean(words: Sequence[str], line: str, context: RunContext) -> tuple[Listing | Cleaned, ExitCode]:
    """Remove the results that `words` name, with `line` only that line's; without words only list them.

    The exit code tells why something had to be left, if it had. Raises `UsageError` for a line that is not there.
    """
    if line and line not in (known := _lines(context.settings.artifacts)):
        raise unknown("line", line, known, hint="./inv status")
    items = list(_items(context, line))
    for each in record.unreadable(record.root(context.settings.artifacts)):
        context.console.warn(str(each))
    if not words:
        return _describe(items, context.console), ExitCode.OK
    removed, left = remove([item for item in items if ALL in words or set(item.words) & set(words)])
    _say(removed, left, context.console)
    gone = tuple(Removed(item.path, item.size) for item in removed)
    remaining = tuple(Left(item.path, error.what, error.why) for item, error in left)
    return Cleaned(gone, sum(item.size for item in removed), remaining), _code({error.code for _, error in left})


def superseded(line: str, artifacts: Path) -> list[Item]:
    """Return the steps' results and the snapshots of a line that a newer one has taken the place of."""
    steps = inventory.steps(artifacts / "steps" / line)
    kept = retention.kept(artifacts)
    items = [*(item for step in steps for item in _of_step(step, kept)), *_snapshots(artifacts, line, kept)]
    return [item for item in items if "old" in item.words]


def remove(chosen: Sequence[Item]) -> tuple[list[Item], list[tuple[Item, PipelineError]]]:
    """Remove items; return those that were, and those that were left with the reason."""
    removed: list[Item] = []
    left: list[tuple[Item, PipelineError]] = []
    for item in chosen:
        try:
            with contextlib.ExitStack() as held:
                for lock in item.locks:
                    held.enter_context(locked(lock, wait=False))
                item.remove()
            removed.append(item)
        except FileNotFoundError:  # another run was faster
            continue
        except OSError as error:
            left.append((item, HostLacks(f"it could not be removed: {error.strerror}", where=str(error.filename))))
        except PipelineError as error:
            left.append((item, error))
    return removed, left


def _lines(artifacts: Path) -> list[str]:
    """Return the project's lines, and others with results here."""
    built = [path.name for path in (*inventory.lines(artifacts), *inventory.entries(artifacts / "repo"))]
    return sorted({*resources.line_names(), *built})


def _code(left: set[ExitCode]) -> ExitCode:
    """Return the exit code of a run that left results for these reasons; those that waiting cannot solve come first."""
    return next(iter(left - {ExitCode.LOCKED}), ExitCode.LOCKED) if left else ExitCode.OK


def _describe(items: Sequence[Item], console: Console) -> Listing:
    totals = {}
    for word in WORDS:
        of_word = [item for item in items if word == ALL or word in item.words]
        totals[word] = Total(len(of_word), sum(item.size for item in of_word))
    rows = [(word, total.items, human_bytes(total.bytes), WORDS[word]) for word, total in totals.items()]
    console.table(("word", "items", "frees", "what it is"), rows, "nothing was removed; `./inv clean WORD...` removes:")
    return Listing(totals, tuple(Removable(item.path, item.size, item.words) for item in items))


def _say(removed: Sequence[Item], left: Sequence[tuple[Item, PipelineError]], console: Console) -> None:
    if removed:
        console.table(("removed", "freed"), [(item.path, human_bytes(item.size)) for item in removed])
    console.say(f"{len(removed)} removed, {human_bytes(sum(item.size for item in removed))} freed")
    for item, error in left:
        text = "in use" if error.code is ExitCode.LOCKED else "not removed"
        console.say(f"left, {text}: {item.path}: {error.what}" + (f" ({error.why})" if error.why else ""))


def _items(context: RunContext, line: str) -> Iterator[Item]:
    artifacts = context.settings.artifacts
    kept = retention.kept(artifacts)
    lines = [place for place in inventory.lines(artifacts) if line in ("", place.name)]
    for place in lines:
        for step in inventory.steps(place):
            yield from _of_step(step, kept)
    yield from _second_builds(artifacts, line)
    # Whoever builds uses an image and a cache, and holds the lock of its line for it.
    users = tuple(place / LOCK for place in inventory.lines(artifacts))
    for cache in inventory.caches(artifacts):
        if line in ("", cache.line):
            yield _item(cache.path, ("ccache",), users)
    yield from _snapshots(artifacts, line, kept)
    yield from _unsigned(artifacts, line)
    if not line:  # a line owns no image
        for place in (path for path in inventory.entries(artifacts / "lab") if path.is_dir()):
            yield _item(place, ("guests",), (artifacts / "lab" / LOCK,))
        yield from _images(artifacts, users)
        yield from _engine_images(artifacts, users, context.console)


def _item(path: Path, words: tuple[str, ...], locks: tuple[Path, ...]) -> Item:
    return Item(str(path), words, trees.usage(path), locks, partial(fs.remove, path))


def _of_step(step: Path, kept: Kept) -> Iterator[Item]:
    own = step / LOCK
    runs = inventory.runs(step)
    finished = [run for run in runs if run.state in (RunState.DONE, RunState.UNREADABLE)]
    for path in (path for path in inventory.entries(step) if path.name.startswith(".old-")):
        yield _item(path, ("failed",), (own,))
    for run in runs:
        if run not in finished:
            yield _item(run.path, ("failed",), (own, step / SHELL_LOCK))
        else:
            needed = run is _newest(finished) or kept.has_step(run.line, run.key)
            words = ("steps",) if needed else ("old", "steps")
            yield _item(run.path, words, (step.parent / LOCK, own))


def _newest(finished: Sequence[Run]) -> Run:
    return max(finished, key=lambda run: (run.state is RunState.DONE, run.begun or 0.0))


def _second_builds(artifacts: Path, line: str) -> Iterator[Item]:
    """Return second builds of a comparison, left after a difference or a kill."""
    for path in inventory.entries(artifacts / "steps"):
        name = path.name.partition(inventory.COMPARISON_MARK)[0]
        if path.is_dir() and inventory.COMPARISON_MARK in path.name and line in ("", name):
            yield _item(path, ("failed",), (path.with_name(f"{path.name}.lock"),))


def _snapshots(artifacts: Path, line: str, kept: Kept) -> Iterator[Item]:
    by_directory: dict[str, list[inventory.Snapshot]] = {}
    for snapshot in inventory.snapshots(artifacts):
        by_directory.setdefault(snapshot.directory, []).append(snapshot)
    for directory, found in by_directory.items():
        if line in ("", directory, directory.removesuffix("-small")):
            older = [one for one in found[:-SNAPSHOTS_KEPT] if not kept.has_snapshot(one.directory, one.id)]
            for old in (snapshot for snapshot in older if not snapshot.is_latest):
                remove = partial(remove_snapshot, old.path, wait=False)
                yield Item(str(old.path), ("old",), trees.usage(old.path), (), remove)


def _unsigned(artifacts: Path, line: str) -> Iterator[Item]:
    """Return snapshots that wait for a signature; the newest of a line is a result of its steps."""
    for place in inventory.entries(artifacts / UNSIGNED):
        directory = place.name.removesuffix("-small")
        found = sorted(place.glob(f"*/{unsigned.FILE}"), key=lambda file: file.lstat().st_mtime)
        locks = (artifacts / "steps" / directory / LOCK,)
        for file in found if line in ("", place.name, directory) else ():
            yield _item(file.parent, ("steps",) if file is found[-1] else ("old", "steps"), locks)


def _images(artifacts: Path, users: tuple[Path, ...]) -> Iterator[Item]:
    for place in inventory.entries(artifacts / "images"):
        makers = tuple(path for path in inventory.entries(place) if path.suffix == LOCK_SUFFIX)
        for path in inventory.entries(place):
            if path.is_dir() and path.name.startswith("."):
                yield _item(path, ("failed",), (*makers, *users))
    for image in inventory.images(artifacts):
        makers = tuple(path for path in inventory.entries(image.path.parent) if path.suffix == LOCK_SUFFIX)
        words = ("images",) if image.current else ("old", "images")
        size = trees.usage(image.path)
        yield Item(str(image.path), words, size, (*makers, *users), partial(_remove_image, image.path))


def _remove_image(path: Path) -> None:
    """Remove an image, its links first: an image without a link counts as superseded."""
    for link in inventory.requests(path.parent):
        if link.resolve() == path.resolve():
            link.unlink()
    path.with_suffix(container.IMPORTS_SUFFIX).unlink(missing_ok=True)
    fs.remove(path)


def _engine_images(artifacts: Path, users: tuple[Path, ...], console: Console) -> Iterator[Item]:
    """Return this project's images in engines that answer; those of other directories are superseded."""
    current = {f"{image.name}:{image.key}" for image in inventory.images(artifacts) if image.current}
    for answering in container.available_engines():
        for tag, size in _kept(answering, console):
            words = ("images",) if tag.rpartition("/")[2] in current else ("old", "images")
            yield Item(f"{tag} in {answering.name}", words, size, users, partial(answering.remove_image, tag))


def _kept(answering: container.ContainerEngine, console: Console) -> list[tuple[str, int]]:
    try:
        return answering.images()
    except PipelineError as error:
        console.note(f"{answering.name}: {error.what}")
        return []
