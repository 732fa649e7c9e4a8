"""Measure a download against `sha256sum` of the same file: `python bench/download.py`.

Over loopback from a server in a process of its own that uses sendfile(2), so that what is
measured is our side: receiving, writing, hashing, and publishing in the store with its fsync.
The two take turns in one run; what counts is their ratio, not the seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, nothing needs to be installed

from pipeline.core import process
from pipeline.core.fs import sha256_of
from pipeline.sources.download import fetch
from pipeline.sources.store import Store
from pipeline.sources.wanted import Options, Wanted

AIM = 0.9  # of the speed of sha256sum
MIB = 1 << 20


class _Silent:
    def start(self, total: int | None, done: int = 0) -> None:
        pass

    def advance(self, count: int) -> None:
        pass

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)


@dataclass
class Field:
    """The file that is measured, and its server."""

    directory: Path
    file: Path
    url: str
    sha256: str

    def sha256sum(self) -> None:
        """Hash the file with sha256sum, the baseline."""
        measured = process.run(["sha256sum", self.file]).text.split()[0]
        assert measured == self.sha256

    def in_process(self) -> None:
        """Hash the file with Python's hashlib, which may use instructions that sha256sum does not."""
        assert sha256_of(self.file) == self.sha256

    def download(self) -> None:
        """Fetch the file into an empty store."""
        options = Options((), False, jobs=1, retries=1, stall=30, connect=10)
        wanted = Wanted("file", (self.url,), self.sha256, self.file.stat().st_size)
        fetch(wanted, Store(self.directory / "store"), options, _Silent())


def serve(path: Path) -> None:
    """Serve one file to every client; print the port first, and never end."""
    size = path.stat().st_size
    with socket.create_server(("127.0.0.1", 0)) as listener, path.open("rb") as stream:
        print(listener.getsockname()[1], flush=True)
        while True:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
                sent = 0
                while sent < size:
                    sent += os.sendfile(connection.fileno(), stream.fileno(), sent, size - sent)


@contextlib.contextmanager
def field(directory: Path, size: int) -> Iterator[Field]:
    """Yield a file of `size` bytes with its server."""
    path, digest = directory / "file", hashlib.sha256()
    with path.open("wb") as stream:
        for _ in range(size // MIB):
            block = os.urandom(MIB)
            stream.write(block)
            digest.update(block)
    with process.start([sys.executable, Path(__file__), "--serve", path]) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        yield Field(directory, path, f"http://127.0.0.1:{port}/file", digest.hexdigest())


def seconds(work: Callable[[], None]) -> float:
    """Return the wall-clock time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(directory: Path, size: int, rounds: int) -> float:
    """Print a table and return the ratio of speeds, download to sha256sum: the median over the rounds."""
    with field(directory, size) as made:
        works = {"sha256sum": made.sha256sum, "hashlib": made.in_process, "download": made.download}
        times: dict[str, list[float]] = {name: [] for name in works}
        for number in range(rounds + 1):
            for name, work in works.items():
                taken = seconds(work)
                if number:  # the first round warms the caches
                    times[name].append(taken)
            shutil.rmtree(directory / "store")
    for name, all_taken in times.items():
        middle = statistics.median(all_taken)
        print(f"{name:10} {middle:7.3f} s  {size / MIB / middle:8.0f} MiB/s")
    return statistics.median(a / b for a, b in zip(times["sha256sum"], times["download"], strict=True))


def main() -> None:
    """Parse the options and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="size of the file")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one that does not")
    parser.add_argument("--directory", type=Path, help="where to measure; default: the temporary directory")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as directory:
        ratio = measure(Path(directory), options.mib * MIB, options.rounds)
    print(f"download runs at {ratio:.2f} times the speed of sha256sum (aim: {AIM} or more)")


if __name__ == "__main__":
    main()
