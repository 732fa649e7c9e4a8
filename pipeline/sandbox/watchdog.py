"""Watch a running job: copy its output to the log, and report the limit at which it must end."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from pipeline.core import process, trees
from pipeline.sandbox.runtime import EndReason, Job

_TICK = 0.5  # seconds between looks at the clock and the disk
_SCAN_PAUSE_FACTOR = 50  # a look at every file is followed by this many times as long without one
_MIN_FREE_INODES = 1024  # that must stay free, where a file system counts them


def watch(job: Job, handle: int, read: Callable[[], bytes | None]) -> EndReason:
    """Copy the output of `read` to the job's log until the job ends, or must be ended by the caller.

    `handle` is polled; `read` must not block, and returns None without new output, b"" at the end.
    Raises `process.Stopped` when the run was interrupted.
    """
    limits, written = job.limits, 0
    begun = last_output = time.monotonic()
    written_to = [mount.source for mount in job.mounts if mount.writable]
    places, growth = [job.log.parent, *written_to], _DiskGrowth(written_to)
    with job.log.open("ab", buffering=0) as log:
        while True:
            ready, _, _ = select.select([handle], [], [], _TICK)
            data = read() if ready else None
            process.raise_if_stopped()
            if data == b"":
                return EndReason.EXIT
            now = time.monotonic()
            if data:
                if not _write(log, data):
                    return EndReason.DISK
                written, last_output = written + len(data), now
            checks = (
                (EndReason.WALL, now - begun > limits.wall),
                (EndReason.IDLE, now - last_output > limits.idle),
                (EndReason.LOG, written > limits.log),
                (EndReason.SIZE, growth.bytes_grown() > limits.size),
                (EndReason.DISK, _is_low(places, limits.free)),
            )
            for end, over in checks:
                if over:
                    return end


def _write(log: IO[bytes], data: bytes) -> bool:
    """Write all of `data` to the log; return False when the disk is full."""
    view = memoryview(data)
    try:
        while view:
            view = view[log.write(view) :]
    except OSError:
        return False
    return True


def _is_low(places: Sequence[Path], free: int) -> bool:
    for left in map(os.statvfs, places):
        few = left.f_files > 0 and left.f_favail < _MIN_FREE_INODES
        if free and (few or left.f_bavail * left.f_frsize < free):
            return True
    return False


class _DiskGrowth:
    """The growth of directories in bytes on disk, measured so rarely that measuring stays cheap."""

    def __init__(self, places: Sequence[Path]) -> None:
        self._places, self._grown, self._next = places, 0, 0.0
        self._begun = self._measure()

    def bytes_grown(self) -> int:
        """Return the growth at the last measurement."""
        if time.monotonic() >= self._next:
            self._grown = self._measure() - self._begun
        return self._grown

    def _measure(self) -> int:
        begun = time.monotonic()
        found = sum(map(trees.usage, self._places))
        now = time.monotonic()
        self._next = now + max(_TICK, _SCAN_PAUSE_FACTOR * (now - begun))
        return found
