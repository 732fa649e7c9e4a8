"""Downloads that break off, over HTTP and FTP or on a full disk, and go on where they stopped."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipeline.core.process import run
from pipeline.errors import ExitCode, HostLacks
from pipeline.sources.store import Store
from tests.fixtures import badserver as bad
from tests.fixtures.badserver import good, then, truncated
from tests.fixtures.downloads import BODY, DIGEST, HALF, NEWER, Bench
from tests.fixtures.ftpserver import FtpServer
from tests.fixtures.stores import assert_intact, no_room

# --- resuming --------------------------------------------------------------------------------------------


def test_a_broken_transfer_goes_on_where_it_stopped(bench: Bench) -> None:
    url = bench.server.at("/f", then(truncated(BODY, HALF), good(BODY)))
    bench.gets_it(url)
    second = bench.server.seen["/f"][1]
    assert (second.headers["Range"], second.headers["If-Range"]) == (f"bytes={HALF}-", bad.ETAG)
    assert bench.server.sent("/f") == len(BODY)
    assert bench.notes.done == len(BODY)


def test_the_next_run_goes_on_too(bench: Bench) -> None:
    url = bench.server.at("/f", then(truncated(BODY, HALF), good(BODY)))
    bench.gives_up(url, retries=1)
    bench.gets_it(url)
    assert bench.ranges("/f") == [None, f"bytes={HALF}-"]


def test_without_a_pinned_size_it_is_resumed_as_well(bench: Bench) -> None:
    bench.gets_it(bench.server.at("/f", then(truncated(BODY, HALF), good(BODY))), size=None)
    assert bench.server.sent("/f") == len(BODY)


def test_a_last_modified_date_serves_where_there_is_no_strong_etag(bench: Bench) -> None:
    date = "Mon, 18 Jun 2012 12:00:00 GMT"
    url = bench.server.at("/f", then(truncated(BODY, HALF, etag='W/"weak"', modified=date), good(BODY, etag=date)))
    bench.gets_it(url)
    assert bench.server.seen["/f"][1].headers["If-Range"] == date
    assert bench.server.sent("/f") == len(BODY)


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_proof_that_it_is_the_same_file_it_starts_again(bench: Bench, etag: str | None) -> None:
    bench.gets_it(bench.server.at("/f", then(truncated(BODY, HALF, etag=etag), good(BODY))))
    assert bench.ranges("/f") == [None, None]


def test_another_address_does_not_go_on_with_the_bytes_of_the_first(bench: Bench) -> None:
    first, second = bench.server.at("/a", truncated(BODY, HALF)), bench.server.at("/b", good(BODY))
    bench.gets_it(first, second, retries=1)
    assert bench.ranges("/b") == [None]


@pytest.mark.parametrize(
    ("second", "requests"),
    [
        (bad.without_ranges(BODY), 2),
        (bad.refusing_ranges(BODY), 3),
        (bad.misplaced_range(BODY, 0), 3),
        (bad.misplaced_range(BODY, HALF + 1), 3),
        (good(BODY, etag='"two"'), 2),
    ],
    ids=["no-ranges", "416", "range-from-0", "range-later", "etag-changed"],
)
def test_a_server_that_cannot_go_on_is_asked_for_the_whole(bench: Bench, second: bad.Behaviour, requests: int) -> None:
    had = bench.gets_it(bench.server.at("/f", then(truncated(BODY, HALF), second)))
    assert len(had.attempts) == 1
    assert bench.server.count() == requests


def test_a_file_that_changed_between_two_attempts_is_taken_whole(bench: Bench) -> None:
    url = bench.server.at("/f", then(truncated(NEWER, HALF), good(BODY, etag='"two"')))
    bench.gets_it(url)


def test_a_changed_file_that_kept_its_etag_is_downloaded_whole_once_more(bench: Bench) -> None:
    url = bench.server.at("/f", then(truncated(NEWER, HALF), good(BODY)))
    had = bench.gets_it(url)
    assert bench.ranges("/f") == [None, f"bytes={HALF}-", None]
    assert [attempt.wrong for attempt in had.attempts] == [None]
    assert not (bench.store.root / "bad").exists()


def test_a_changed_file_that_is_wrong_also_as_a_whole_is_refused(bench: Bench) -> None:
    bench.refuses(bench.server.at("/f", then(truncated(BODY, HALF), good(NEWER))))
    [kept] = (bench.store.root / "bad").iterdir()
    assert kept.read_bytes() == NEWER


def test_a_part_that_is_complete_needs_no_request(bench: Bench) -> None:
    url = bench.server.at("/f", good(BODY))
    part = bench.store.partial(DIGEST)
    part.restart(url, bad.ETAG)
    part.path.write_bytes(BODY)
    bench.gets_it(url)
    assert bench.server.count() == 0


@pytest.mark.parametrize("left", [NEWER, BODY + b"x", BODY[:HALF] + b"x" * 10])
def test_a_part_of_wrong_bytes_does_no_harm(bench: Bench, left: bytes) -> None:
    url = bench.server.at("/f", good(BODY))
    part = bench.store.partial(DIGEST)
    part.restart(url, bad.ETAG)
    part.path.write_bytes(left)
    bench.gets_it(url)


# --- FTP -------------------------------------------------------------------------------------------------


def test_ftp_gives_a_file(bench: Bench) -> None:
    with FtpServer({"/pub/f": BODY}) as server:
        bench.gets_it(server.url("/pub/f"))


@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_broken_ftp_transfer_goes_on_where_it_stopped(bench: Bench, size: int | None) -> None:
    with FtpServer({"/f": BODY}) as server:
        server.cuts = 1
        had = bench.gets_it(server.url("/f"), size=size)
        assert len(had.attempts) == 1
        assert f"REST {HALF}" in server.log


def test_an_ftp_file_of_another_time_is_taken_whole(bench: Bench) -> None:
    with FtpServer({"/f": NEWER}) as server:
        server.cuts = 1
        bench.gives_up(server.url("/f"), retries=1)
        server.files, server.modified = {"/f": BODY}, "20200101000000"
        bench.gets_it(server.url("/f"))
        assert not any(line.startswith("REST") for line in server.log)


@pytest.mark.parametrize("lacking", ["knows_rest", "knows_facts"])
def test_an_old_ftp_server_starts_again(bench: Bench, lacking: str) -> None:
    with FtpServer({"/f": BODY}) as server:
        server.cuts = 1
        setattr(server, lacking, False)
        bench.gets_it(server.url("/f"))


def test_a_missing_ftp_file_is_not_asked_for_again(bench: Bench) -> None:
    with FtpServer({}) as server:
        given_up = bench.gives_up(server.url("/f"))
        assert "550" in str(given_up)
        assert server.log.count("RETR /f") == 1


def test_wrong_bytes_by_ftp_are_refused(bench: Bench) -> None:
    with FtpServer({"/f": NEWER}) as server:
        bench.refuses(server.url("/f"))


def test_an_ftp_path_cannot_smuggle_a_command(bench: Bench) -> None:
    with FtpServer({"/f": BODY}) as server:
        bench.gives_up(server.url("/f%0d%0aDELE%20/f"))
        assert not any("DELE" in line for line in server.log)


# --- no room ---------------------------------------------------------------------------------------------


@contextmanager
def full_disk(store: Store) -> Iterator[Callable[[], None]]:
    """A store with room for half the file; what is yielded makes room for all of it.

    A file system of its own where one may be mounted, else a limit on the size of files.
    """
    store.root.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(store.root)]
    if os.geteuid() == 0 and run(mount, accept=range(256)).status == 0:
        try:
            yield lambda: (run(["mount", "-o", "remount,size=4m", store.root]), None)[1]
            assert_intact(store, empty_partial=True)
        finally:
            run(["umount", store.root])
    else:
        with no_room(200_000):
            yield lift_limit


def lift_limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def check_no_room(bench: Bench, make_room: Callable[[], None], said: str) -> HostLacks:
    """The error of a download that finds no room, and goes on once there is some."""
    url = bench.server.at("/f", good(BODY))
    with pytest.raises(HostLacks, match=said) as full:
        bench.fetch(url)
    assert full.value.code is ExitCode.HOST
    assert not bench.store.has(DIGEST)
    assert bench.server.count() == 1
    make_room()
    bench.gets_it(url)
    assert bench.server.seen["/f"][1].headers["Range"] is not None
    return full.value


def test_a_full_disk_is_the_hosts_fault_and_room_made_the_run_goes_on(bench: Bench) -> None:
    with full_disk(bench.store) as make_room:
        lacks = check_no_room(bench, make_room, r"no disk space for 293\.0 KiB")
    assert lacks.where == str(bench.store.root)


def test_a_limit_on_file_sizes_is_the_hosts_fault_too(bench: Bench) -> None:
    with no_room(200_000):
        check_no_room(bench, lift_limit, "the shell's limit `ulimit -f`")
