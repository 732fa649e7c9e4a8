"""Write downloaded bytes to the part file and hash them concurrently."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from pipeline.core import faults
from pipeline.core.fs import CHUNK

_QUEUED = 8  # chunks between two threads


class _Worker:
    """A thread that does `work` with chunk after chunk; `put` and `end` raise its first error."""

    def __init__(self, work: Callable[[bytes], object]) -> None:
        self.work = work
        self.chunks: queue.Queue[bytes | None] = queue.Queue(_QUEUED)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._loop, daemon=True)
        self.thread.start()

    def _loop(self) -> None:
        for chunk in iter(self.chunks.get, None):
            if self.error is None:  # else only drain, so that `put` never waits for ever
                try:
                    self.work(chunk)
                except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                    self.error = error

    def put(self, chunk: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.chunks.put(chunk)

    def end(self) -> None:
        self.chunks.put(None)
        self.thread.join()


class PartWriter:
    """Write and hash bytes, each in a thread of its own: both release the interpreter's lock.

    With one thread the time would be the sum of receiving, writing and hashing; so it is that of
    the slowest (bench/download.py). What is in the file already is hashed first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256 = hashlib.sha256()

    def __enter__(self) -> PartWriter:
        self.handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self.hasher, self.writer = _Worker(self.sha256.update), _Worker(self._write)
        try:
            with self.path.open("rb", buffering=0) as stream:
                for chunk in iter(lambda: stream.read(CHUNK), b""):
                    self.hasher.put(chunk)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        # A full disk is the better explanation also when the sender failed at the same time.
        for worker in (self.writer, self.hasher):
            if worker.error is not None:
                raise worker.error

    def _end(self) -> None:
        self.hasher.end()
        self.writer.end()
        os.close(self.handle)

    def put(self, chunk: bytes) -> None:
        """Write and hash the next bytes. Raises the first error of either."""
        self.writer.put(chunk)
        self.hasher.put(chunk)

    def _write(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            left = left[os.write(self.handle, left) :]
        faults.point("download.part-written")
