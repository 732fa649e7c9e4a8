"""Hash files once per run, and several at a time: a table of the SHA-256 of each file as it is.

A file that was written to, or replaced, is hashed anew. Of hard links one is read.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")
_MORE = 2  # times the processors: rows differ in size, and two processors share the work on three large ones
_State = tuple[int, int, int, int, int]


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    sha256: str = ""


@dataclass
class Digests:
    """The digests that this run established; for several threads."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _entries: dict[_State, _Entry] = field(default_factory=dict)

    def sha256_of(self, path: Path) -> str:
        """Return the SHA-256 of a file in lower-case hex; reads one that is as it was when it was read before once."""
        with path.open("rb") as stream:
            at = os.fstat(stream.fileno())
            state = at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns
            with self._lock:
                entry = self._entries.setdefault(state, _Entry())
            with entry.lock:
                entry.sha256 = entry.sha256 or hashlib.file_digest(stream, "sha256").hexdigest()
            return entry.sha256


def together(work: Callable[[_T], _R], rows: Iterable[_T]) -> Generator[Callable[[], _R], None, None]:
    """Do `work` on all rows, several at a time.

    Yields a function for each, in order, that returns its result, or raises what the work raised. Work that has not
    begun when the caller stops is not done.
    """
    with ThreadPoolExecutor(_MORE * (os.cpu_count() or 1)) as pool:
        futures = [pool.submit(work, row) for row in rows]
        try:
            yield from [future.result for future in futures]
        finally:
            for future in futures:
                future.cancel()
