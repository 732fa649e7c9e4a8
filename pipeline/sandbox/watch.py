"""Watches one running job: copies its output to the log and ends it at its limits."""

from __future__ import annotations

import select
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pipeline.sandbox.runtime import End, Job

_TICK = 0.5  # seconds between looks at the clock and the disk


def follow(job: Job, handle: int, read: Callable[[], bytes | None]) -> End:
    """Copies what `read` gives to the job's log until the job ends, or has to be ended by the caller.

    `handle` is what to wait for; `read` must not wait, and gives None for nothing yet, b"" for the end.
    """
    limits, written = job.limits, 0
    begun = said = time.monotonic()
    places = [job.log.parent, *(mount.source for mount in job.mounts if mount.writable)]
    with job.log.open("ab", buffering=0) as log:
        while True:
            ready, _, _ = select.select([handle], [], [], _TICK)
            data = read() if ready else None
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


def _is_low(places: list[Path], free: int) -> bool:
    return any(shutil.disk_usage(place).free < free for place in places)
