"""Watches one running job: copies its output to the log and ends it at its limits."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from pipeline.core import process, trees
from pipeline.sandbox.runtime import End, Job

_TICK = 0.5  # seconds between looks at the clock and the disk
_SELDOM = 50  # a look at every file is followed by this many times as long without one
_INODES = 1024  # that must stay free, where a file system counts them


def follow(job: Job, handle: int, read: Callable[[], bytes | None]) -> End:
    """Copies what `read` gives to the job's log until the job ends, or has to be ended by the caller.

    `handle` is what to wait for; `read` must not wait, and gives None for nothing yet, b"" for the end.
    Raises `process.Stopped` when the run was told to stop.
    """
    limits, written = job.limits, 0
    begun = said = time.monotonic()
    written_to = [mount.source for mount in job.mounts if mount.writable]
    places, growth = [job.log.parent, *written_to], _Growth(written_to)
    with job.log.open("ab", buffering=0) as log:
        while True:
            ready, _, _ = select.select([handle], [], [], _TICK)
            data = read() if ready else None
            process.go_on()
            if data == b"":
                return End.EXIT
            now = time.monotonic()
            if data:
                if not _write(log, data):
                    return End.DISK
                written, said = written + len(data), now
            checks = (
                (End.WALL, now - begun > limits.wall),
                (End.IDLE, now - said > limits.idle),
                (End.LOG, written > limits.log),
                (End.SIZE, growth.now() > limits.size),
                (End.DISK, _is_low(places, limits.free)),
            )
            for end, over in checks:
                if over:
                    return end


def _write(log: IO[bytes], data: bytes) -> bool:
    """Whether all of `data` went to the log: a full disk may take a part."""
    view = memoryview(data)
    try:
        while view:
            view = view[log.write(view) :]
    except OSError:
        return False
    return True


def _is_low(places: Sequence[Path], free: int) -> bool:
    for left in map(os.statvfs, places):
        few = left.f_files > 0 and left.f_favail < _INODES
        if free and (few or left.f_bavail * left.f_frsize < free):
            return True
    return False


class _Growth:
    """By how many bytes on disk directories have grown, looked at so seldom that looking is cheap."""

    def __init__(self, places: Sequence[Path]) -> None:
        self._places, self._grown, self._next = places, 0, 0.0
        self._begun = self._measured()

    def now(self) -> int:
        """As of the last look."""
        if time.monotonic() >= self._next:
            self._grown = self._measured() - self._begun
        return self._grown

    def _measured(self) -> int:
        begun = time.monotonic()
        found = sum(map(trees.usage, self._places))
        now = time.monotonic()
        self._next = now + max(_TICK, _SELDOM * (now - begun))
        return found
