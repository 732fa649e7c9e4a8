"""Several downloads at once: their order, their errors, and what ends them."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from dataclasses import replace

import pytest

from pipeline.core.console import Console
from pipeline.errors import ExitCode, Locked, PipelineError, Unreachable
from pipeline.sources.download import fetch_all
from pipeline.sources.wanted import Wanted
from tests.fixtures import badserver as bad
from tests.fixtures.badserver import good, payload, wrong
from tests.fixtures.downloads import BODY, DIGEST, NAME, Bench
from tests.fixtures.stores import assert_intact


def console() -> Console:
    return Console(out=io.StringIO(), err=io.StringIO())


def test_many_files_come_in_the_order_they_were_asked_for(bench: Bench) -> None:
    bodies = [payload(1000 + n, seed=n) for n in range(12)]
    wanted = [
        Wanted(f"f{n}", (bench.server.at(f"/{n}", good(body)),), hashlib.sha256(body).hexdigest(), len(body))
        for n, body in enumerate(bodies)
    ]
    had = fetch_all(wanted, bench.store, bench.options, console())
    assert [item.path.read_bytes() for item in had] == bodies
    assert_intact(bench.store, empty_partial=True)


def test_no_more_than_jobs_are_downloaded_at_a_time(bench: Bench) -> None:
    now, most, lock = 0, 0, threading.Lock()

    def counted(exchange: bad.Exchange) -> None:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        exchange.over.wait(0.03)
        with lock:
            now -= 1
        exchange.head(404, {"Content-Length": 0})

    wanted = [Wanted(f"f{n}", (bench.server.at(f"/{n}", counted),), f"{n:064x}", None) for n in range(6)]
    with pytest.raises(Unreachable):
        fetch_all(wanted, bench.store, replace(bench.options, jobs=2), console())
    assert most == 2


def test_all_errors_are_told_and_wrong_bytes_decide_the_exit_code(bench: Bench) -> None:
    wanted = [
        Wanted("missing", (bench.server.url("/missing"),), "0" * 64, None),
        Wanted("lying", (bench.server.at("/lying", wrong(BODY)),), "1" * 64, None),
        Wanted(NAME, (bench.server.at("/f", good(BODY)),), DIGEST, None),
    ]
    with pytest.raises(PipelineError) as failed:
        fetch_all(wanted, bench.store, bench.options, console())
    assert failed.value.code is ExitCode.REFUSED
    assert "2 files could not be fetched" in str(failed.value)
    assert "missing: no address delivered the file" in str(failed.value)
    assert "lying: downloaded content differs from the pinned file" in str(failed.value)
    assert bench.store.has(DIGEST)  # one failure stops no other file


def test_a_single_error_is_told_as_it_is(bench: Bench) -> None:
    with pytest.raises(Unreachable, match=r"^missing: no address"):
        fetch_all([Wanted("missing", (), "0" * 64, None)], bench.store, bench.options, console())


def test_a_mistake_of_ours_is_not_dressed_up_as_a_missing_source(bench: Bench) -> None:
    wanted = [Wanted("missing", (), "0" * 64, None), Wanted("unpinned", (), None, None)]
    with pytest.raises(ValueError, match="no pin"):
        fetch_all(wanted, bench.store, bench.options, console())


def test_the_same_file_wanted_twice_is_downloaded_once(bench: Bench) -> None:
    wanted = Wanted(NAME, (bench.server.at("/f", good(BODY, piece=50_000, pause=0.02)),), DIGEST, None)
    first, second = fetch_all([wanted, wanted], bench.store, bench.options, console())
    assert first.path == second.path
    assert bench.server.count() == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_that_is_there_already_has_no_bar_at_a_terminal(bench: Bench) -> None:
    wanted = [Wanted(NAME, (bench.server.at("/f", good(BODY)),), DIGEST, None)]
    first, again = (Console(out=io.StringIO(), err=Terminal()) for _ in range(2))
    for shown in (first, again):
        fetch_all(wanted, bench.store, bench.options, shown)
    assert isinstance(first.err, Terminal) and NAME in first.err.getvalue()
    assert isinstance(again.err, Terminal) and NAME not in again.err.getvalue()


def test_ctrl_c_stops_all_downloads_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    url = bench.server.at("/f", good(BODY, piece=1000, pause=0.02))
    real = threading.Thread.join

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == "fetch-0":
            while not bench.server.sent("/f"):
                time.sleep(0.01)
            raise KeyboardInterrupt
        real(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_all([Wanted(NAME, (url,), DIGEST, None)], bench.store, bench.options, console())
    for thread in [thread for thread in threading.enumerate() if thread.name == "fetch-0"]:
        real(thread, 5)
    assert bench.server.sent("/f") < len(BODY) // 2
    assert not bench.store.has(DIGEST)


def test_gc_is_refused_while_a_download_runs(bench: Bench) -> None:
    url = bench.server.at("/f", good(BODY, piece=20_000, pause=0.02))
    thread = threading.Thread(target=bench.gets_it, args=(url,))
    thread.start()
    while not bench.server.count():
        time.sleep(0.005)
    with pytest.raises(Locked):
        bench.store.gc(set())
    thread.join()
    assert bench.store.has(DIGEST)
