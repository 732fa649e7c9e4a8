"""Killed at any point, a download loses nothing, spoils nothing, and the next run goes on; and several at once."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core import faults, process
from pipeline.errors import Locked
from pipeline.sources.store import Store
from tests.fixtures.badserver import BadServer, good, payload, status
from tests.fixtures.commandline import ROOT
from tests.fixtures.stores import assert_intact

BODY = payload(1_000_000)
DIGEST = hashlib.sha256(BODY).hexdigest()
PIECE = 50_000  # bytes the server sends at a time

CHILD = """
import sys
from pathlib import Path
from pipeline.core.console import Console, PlainProgress
from pipeline.sources.download import fetch
from pipeline.sources.wanted import Options, Wanted
from pipeline.sources.store import Store

root, url, sha256, size = sys.argv[1:]
options = Options((), False, jobs=1, retries=3, stall=5.0, connect=5.0, wait=lambda seconds: None)
had = fetch(Wanted("f", (url,), sha256, int(size)), Store(Path(root)), options, PlainProgress(Console()).meter("f"))
print(had.path)
"""


@dataclass
class Runs:
    """Starts processes that each fetch the same file from the same server into the same store."""

    store: Store
    server: BadServer

    def start(self, kill: str = "") -> AbstractContextManager[subprocess.Popen[bytes]]:
        """One such process; `kill` is the point at which it kills itself."""
        arguments = [str(self.store.root), self.server.url("/f"), DIGEST, str(len(BODY))]
        environment = process.clean_environment(no_proxy="127.0.0.1", NO_PROXY="127.0.0.1")
        if kill:
            environment[faults.VARIABLE] = kill
        return process.start([sys.executable, "-c", CHILD, *arguments], env=environment, cwd=ROOT)

    def killed(self, point: str) -> None:
        """A run that dies at `point`."""
        with self.start(kill=point) as child:
            _, err = child.communicate(timeout=60)
        assert child.returncode == -9, err.decode()
        assert_intact(self.store)

    def complete(self) -> None:
        """A run that ends well, and leaves the store complete, right and tidy."""
        with self.start() as child:
            out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err.decode()
        assert Path(out.decode().strip()) == self.store.path(DIGEST)
        self.check_complete()

    def check_complete(self) -> None:
        assert self.store.path(DIGEST).read_bytes() == BODY
        assert_intact(self.store, empty_partial=True)

    def wait_for_request(self, number: int) -> None:
        """Until the server has been asked `number` times."""
        until = time.monotonic() + 60  # a busy machine takes long to start a process
        while self.server.count("/f") < number:
            assert time.monotonic() < until, "no request came"
            time.sleep(0.005)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    with BadServer() as server:
        server.at("/f", good(BODY, piece=PIECE, pause=0.01))
        yield Runs(Store(tmp_path / "store"), server)


@pytest.mark.parametrize("pass_number", [1, 3])
def test_killed_during_the_download_the_next_run_fetches_only_the_rest(runs: Runs, pass_number: int) -> None:
    runs.killed(f"download.part-written:{pass_number}")
    there = runs.store.partial(DIGEST).size()
    assert 0 < there < len(BODY)
    runs.complete()
    [_, second] = runs.server.seen["/f"]
    assert second.headers["Range"] == f"bytes={there}-"
    assert second.sent == len(BODY) - there


@pytest.mark.parametrize("point", ["download.done", "verify.done", "publish.before-rename", "publish.after-rename"])
def test_killed_after_the_last_byte_the_next_run_makes_no_request(runs: Runs, point: str) -> None:
    runs.killed(point)
    assert runs.store.has(DIGEST) == (point == "publish.after-rename")
    runs.server.at("/f", status(404))
    runs.complete()
    assert runs.server.count() == 1


def test_killed_twice_while_publishing_it_is_still_published_by_the_third(runs: Runs) -> None:
    runs.killed("publish.before-rename")
    runs.killed("publish.before-rename")
    runs.complete()
    assert runs.server.count() == 1


def test_killed_from_outside_at_any_time_the_store_stays_right(runs: Runs) -> None:
    times = random.Random(220)
    for _ in range(10):
        asked = runs.server.count("/f")
        with runs.start() as child:
            runs.wait_for_request(asked + 1)
            time.sleep(times.uniform(0, 0.25))
            child.kill()
            child.wait()
        assert_intact(runs.store)
        # Begin again, so that every round has something to break: a whole part is completed without a request too.
        if runs.store.has(DIGEST) or runs.store.partial(DIGEST).size() == len(BODY):
            runs.store.gc(set())
    runs.complete()


def test_two_processes_share_one_download(runs: Runs) -> None:
    with runs.start() as first, runs.start() as second:
        for child in (first, second):
            _, err = child.communicate(timeout=60)
            assert child.returncode == 0, err.decode()
    runs.check_complete()
    assert runs.server.count() == 1
    assert runs.server.sent("/f") == len(BODY)


def test_the_one_that_waits_goes_on_when_the_other_is_killed(runs: Runs) -> None:
    runs.server.at("/f", good(BODY, piece=PIECE, pause=0.1))
    with runs.start() as first:
        runs.wait_for_request(1)
        with runs.start() as second:
            assert second.stderr is not None
            said = second.stderr.readline().decode()
            assert f"is being fetched already, waiting (pid {first.pid}: " in said
            runs.server.at("/f", good(BODY))
            first.kill()
            _, err = second.communicate(timeout=60)
            assert second.returncode == 0, err.decode()
    runs.check_complete()
    [_, rest] = runs.server.seen["/f"]
    assert rest.headers["Range"] is not None


def test_gc_is_refused_while_another_process_fetches_and_names_it(runs: Runs) -> None:
    runs.server.at("/f", good(BODY, piece=PIECE, pause=0.1))
    with runs.start() as child:
        runs.wait_for_request(1)
        with pytest.raises(Locked) as refused:
            runs.store.gc(set())
        assert f"pid {child.pid}: " in refused.value.why
        assert f"pid {os.getpid()}: " not in refused.value.why
        child.kill()
        child.wait()
    runs.store.gc(set())  # the dead hold nothing
    assert_intact(runs.store, empty_partial=True)


def test_outside_tests_the_points_do_nothing() -> None:
    assert faults.point is faults._nothing
