"""Define a file to fetch, how patiently it is sought, and what came of that. Sends nothing."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.config.line_model import Wrapped
    from pipeline.config.settings import Settings


@dataclass(frozen=True)
class Wrong:
    """Bytes that failed verification; `sha256` and `kept` None when only their size was announced."""

    sha256: str | None
    size: int
    kept: Path | None


@dataclass(frozen=True)
class Wanted:
    """A file to fetch. `name` is its file name in the line file, and on mirrors.

    `urls` are its own addresses, in order; `size` in bytes; `sha256` None only for a source that
    is pinned on first use. `most` bounds a file whose size is not known: a server may send without end.
    `wrapped` are texts that hold the file, which must have digest and size then.
    Raises `UsageError` for a name that is not a plain file name.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None
    size: int | None
    most: int = 4 << 30  # bytes; the largest source known here, a kernel's, has 140 MB
    wrapped: tuple[Wrapped, ...] = ()

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or re.search(r"[/\0]", self.name):
            raise UsageError(f"not a file name: {self.name!r}", why="mirrors are asked for it; it must not leave them")


@dataclass(frozen=True)
class Attempt:
    """One failed attempt at one address (shown without its password), in words.

    `missing`: the other side says that it has no such file.
    """

    url: str
    what: str
    wrong: Wrong | None = None
    missing: bool = False


@dataclass(frozen=True)
class Fetched:
    """A fetched file. `url` None for one already in the store. `attempts` are the failed ones before."""

    name: str
    path: Path
    sha256: str
    size: int
    url: str | None
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Options:
    """Options of downloads. `mirrors` are directories or URLs; `stall` and `connect` in seconds.

    `wait` and `jitter` (a number in [0, 1)) are there for tests.
    """

    mirrors: tuple[str, ...]
    offline: bool
    jobs: int
    retries: int
    stall: float
    connect: float
    wait: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random

    @classmethod
    def from_settings(cls, settings: Settings) -> Options:
        """Return the options in a run's settings."""
        return cls(
            mirrors=settings.mirror,
            offline=settings.offline,
            jobs=settings.jobs,
            retries=settings.retries,
            stall=settings.stall,
            connect=settings.connect,
        )
