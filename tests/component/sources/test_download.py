"""The downloader against real servers that misbehave: it gets the right bytes another way, or clearly refuses."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.settings import load
from pipeline.core import fs
from pipeline.core.console import Console
from pipeline.core.process import run
from pipeline.errors import ExitCode, HostLacks, Locked, PipelineError, Refused, Unreachable, UsageError
from pipeline.sources.download import Fetched, Options, Wanted, fetch, fetch_all, fetch_unverified
from pipeline.sources.store import Store
from tests.component.sources.test_store import assert_intact, no_room
from tests.fixtures import badserver as bad
from tests.fixtures.badserver import BadServer, good, payload, then, truncated, wrong
from tests.fixtures.ftpserver import FtpServer

BODY = payload(300_000)
NEWER = payload(300_000, seed=2)
DIGEST = hashlib.sha256(BODY).hexdigest()
HALF = 150_000
NAME = "kernel.src.rpm"
PATIENT = 20.0  # seconds on a busy machine for what ends within two


@dataclass
class Notes:
    """A meter that keeps what it is told."""

    said: list[str] = field(default_factory=list)
    done: int = 0
    total: int | None = None

    def start(self, total: int | None, done: int = 0) -> None:
        self.total, self.done = total, done

    def advance(self, count: int) -> None:
        self.done += count

    def note(self, text: str) -> None:
        self.said.append(text)


@dataclass
class Bench:
    """All a test needs: a store, a server, options, and what was said and waited."""

    store: Store
    server: BadServer
    options: Options
    notes: Notes
    waits: list[float]

    def fetch(self, *urls: str, sha256: str = DIGEST, size: int | None = len(BODY), **changes: Any) -> Fetched:
        wanted = Wanted(NAME, urls, sha256, size)
        return fetch(wanted, self.store, replace(self.options, **changes), self.notes)

    def gets_it(self, *urls: str, **how: Any) -> Fetched:
        """Fetches, and checks that the right bytes are in the store and nothing else was left."""
        had = self.fetch(*urls, **how)
        assert had.path == self.store.path(DIGEST)
        assert had.path.read_bytes() == BODY
        assert (had.name, had.sha256, had.size) == (NAME, DIGEST, len(BODY))
        assert_intact(self.store, empty_partial=True)
        return had

    def refuses(self, *urls: str, **how: Any) -> Refused:
        """Fetches, and checks that it is refused and nothing came into the store."""
        with pytest.raises(Refused) as refused:
            self.fetch(*urls, **how)
        assert refused.value.code is ExitCode.REFUSED
        assert DIGEST in str(refused.value)
        assert not self.store.has(DIGEST)
        return refused.value

    def gives_up(self, *urls: str, **how: Any) -> Unreachable:
        """Fetches, and checks that no place gave anything."""
        with pytest.raises(Unreachable) as given_up:
            self.fetch(*urls, **how)
        assert given_up.value.code is ExitCode.UNREACHABLE
        assert not self.store.has(DIGEST)
        return given_up.value

    def ranges(self, path: str) -> list[str | None]:
        """The Range headers of the requests that came for `path`."""
        return [seen.headers.get("Range") for seen in self.server.seen[path]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    store, waits = Store(tmp_path / "store"), list[float]()
    options = Options((), False, jobs=4, retries=3, stall=2.0, connect=2.0, wait=waits.append, jitter=lambda: 0.5)
    with BadServer() as server:
        yield Bench(store, server, options, Notes(), waits)
    assert_intact(store)


# ---- when all is well


def test_a_good_server_is_asked_once_and_the_store_afterwards_not_at_all(bench: Bench) -> None:
    url = bench.server.at("/f", good(BODY))
    assert bench.gets_it(url).url == url
    assert bench.gets_it(url).url is None
    assert bench.server.count() == 1


def test_the_request_says_who_asks_and_wants_the_plain_bytes(bench: Bench) -> None:
    bench.gets_it(bench.server.at("/f", good(BODY)))
    [seen] = bench.server.seen["/f"]
    assert seen.headers["User-Agent"].startswith("lvs-fullnat-pipeline/")
    assert seen.headers["Accept-Encoding"] == "identity"


def test_progress_is_told_in_bytes(bench: Bench) -> None:
    bench.gets_it(bench.server.at("/f", good(BODY)))
    assert (bench.notes.done, bench.notes.total) == (len(BODY), len(BODY))


def test_a_file_without_a_pinned_size_is_fetched_by_its_digest(bench: Bench) -> None:
    bench.gets_it(bench.server.at("/f", good(BODY)), size=None)


def test_an_empty_file_can_be_fetched(bench: Bench) -> None:
    url = bench.server.at("/f", good(b""))
    had = bench.fetch(url, sha256=hashlib.sha256(b"").hexdigest(), size=0)
    assert had.path.read_bytes() == b""


@pytest.mark.parametrize("behaviour", [bad.chunked(BODY), bad.unannounced(BODY)])
@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_server_that_announces_no_size_is_good_enough(
    bench: Bench, behaviour: bad.Behaviour, size: int | None
) -> None:
    bench.gets_it(bench.server.at("/f", behaviour), size=size)


def test_a_redirect_is_followed(bench: Bench) -> None:
    bench.server.at("/there", good(BODY))
    bench.gets_it(bench.server.at("/f", bad.redirect("/there")))


def test_bytes_that_claim_to_be_compressed_are_taken_as_they_are(bench: Bench) -> None:
    def claims_gzip(exchange: bad.Exchange) -> None:  # what some servers say of every .tar.gz
        exchange.head(200, {"Content-Length": len(BODY), "Content-Encoding": "gzip"})
        exchange.send(BODY)

    bench.gets_it(bench.server.at("/f", claims_gzip))


def test_a_proxy_named_in_the_environment_is_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.server.at("/f", good(BODY))
    monkeypatch.setenv("http_proxy", bench.server.url())
    monkeypatch.setenv("no_proxy", "")
    bench.gets_it("http://nowhere.invalid/f")


def test_the_options_come_from_the_settings() -> None:
    given = {"mirror": ("/m",), "offline": True, "jobs": 2, "retries": 7, "stall": 3.0, "connect": 1.0}
    options = Options.from_settings(load(given, {}))
    assert options == Options(("/m",), True, jobs=2, retries=7, stall=3.0, connect=1.0)


# ---- a place that fails for now


@pytest.mark.parametrize(
    "first",
    [
        bad.status(503),
        bad.status(500),
        bad.status(429),
        bad.status(408),
        bad.reset(BODY, -1),
        bad.reset(BODY, HALF),
        truncated(BODY, HALF),
        truncated(BODY, 0),
        bad.unannounced(BODY, HALF),
        bad.chunked(BODY[:HALF], ends=False),
    ],
    ids=["503", "500", "429", "408", "reset", "reset-later", "truncated", "empty", "cut", "chunks-cut"],
)
def test_what_may_get_better_is_tried_again_at_the_same_place(bench: Bench, first: bad.Behaviour) -> None:
    had = bench.gets_it(bench.server.at("/f", then(first, good(BODY))))
    assert len(had.attempts) == 1
    assert bench.server.count() == 2
    assert bench.waits == [0.25]


def test_waits_grow_up_to_a_cap_and_are_jittered(bench: Bench) -> None:
    bench.gives_up(bench.server.at("/f", bad.status(503)), retries=9)
    assert bench.waits == [0.25, 0.5, 1, 2, 4, 8, 10, 10]
    assert bench.server.count() == 9


@pytest.mark.parametrize(
    ("asked", "waited"),
    [("3", 3.0), ("100000", 20.0), ("0", 0.25), ("soon", 0.25), ("-5", 0.25), ("\u00b2", 0.25), ("9" * 400, 20.0)],
)
def test_retry_after_is_honoured_up_to_the_cap(bench: Bench, asked: str, waited: float) -> None:
    bench.gets_it(bench.server.at("/f", then(bad.status(503, retry_after=asked), good(BODY))))
    assert bench.waits == [waited]


def test_retry_after_may_be_a_date(bench: Bench) -> None:
    date = formatdate(time.time() + 10, usegmt=True)
    bench.gets_it(bench.server.at("/f", then(bad.status(503, retry_after=date), good(BODY))))
    assert 5 < bench.waits[0] <= 10


def test_a_server_that_stays_busy_is_left_for_the_next(bench: Bench) -> None:
    busy, fine = bench.server.at("/busy", bad.status(503)), bench.server.at("/fine", good(BODY))
    assert bench.gets_it(busy, fine).url == fine
    assert bench.server.count("/busy") == 3


# ---- a place that will not get better


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (bad.status(404), "HTTP 404"),
        (bad.status(410), "HTTP 410"),
        (bad.status(403), "HTTP 403"),
        (bad.redirect("ftp://127.0.0.1/f"), "ftp://127.0.0.1/f"),
        (bad.redirect("file:///etc/passwd"), "file:///etc/passwd"),
        (bad.redirect("http://[/"), ""),
    ],
    ids=["404", "410", "403", "to-ftp", "to-file", "to-nonsense"],
)
def test_what_cannot_get_better_is_not_asked_again(bench: Bench, behaviour: bad.Behaviour, said: str) -> None:
    given_up = bench.gives_up(bench.server.at("/f", behaviour))
    assert bench.server.count() == 1
    assert bench.waits == []
    assert said in str(given_up)
    assert "--mirror DIR" in given_up.hint


def test_a_redirect_loop_ends_and_is_not_tried_again(bench: Bench) -> None:
    given_up = bench.gives_up(bench.server.at("/f", bad.redirect("/f")))
    assert bench.server.count() == 11
    assert "redirects" in str(given_up)


def test_no_server_at_all_is_said_in_plain_words(bench: Bench) -> None:
    given_up = bench.gives_up("http://127.0.0.1:1/f", "http://nowhere.invalid/f")
    assert "http://127.0.0.1:1/f: Connection refused (3 times)" in str(given_up)
    assert "http://nowhere.invalid/f: " in str(given_up)


@pytest.mark.parametrize("url", ["gopher://a/f", "file://elsewhere/f", "f", "http://127.0.0.1:99999/f", "ftp://a:b/f"])
def test_an_address_of_no_known_kind_is_said_and_passed_over(bench: Bench, url: str) -> None:
    fine = bench.server.at("/fine", good(BODY))
    assert bench.gets_it(url, fine).url == fine
    assert bench.waits == []


def test_an_address_that_is_no_url_is_a_mistake_of_the_caller(bench: Bench) -> None:
    with pytest.raises(UsageError, match="not a URL"):
        bench.fetch("http://[::1/f")


def test_a_password_in_an_address_is_shown_nowhere(bench: Bench) -> None:
    url = bench.server.at("/f", truncated(BODY, HALF)).replace("http://", "http://me:secret@")
    given_up = bench.gives_up(url)
    written = "".join(path.read_text() for path in (bench.store.root / "partial").glob("*.json"))
    assert "secret" not in str(given_up) + written + "".join(bench.notes.said)
    assert "127.0.0.1" in written


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "/etc/passwd", "a\0b"])
def test_a_name_that_could_leave_a_mirror_is_a_mistake_of_the_caller(name: str) -> None:
    with pytest.raises(UsageError, match="not a file name"):
        Wanted(name, (), DIGEST, None)


def test_a_file_without_a_pin_is_not_fetched_as_if_it_had_one(bench: Bench) -> None:
    with pytest.raises(ValueError, match="no pin"):
        fetch(Wanted(NAME, (), None, None), bench.store, bench.options, bench.notes)


# ---- silence


def test_a_stalled_transfer_is_given_up_and_resumed(bench: Bench) -> None:
    url = bench.server.at("/f", then(bad.stalled(BODY, HALF), good(BODY)))
    had = bench.gets_it(url, stall=1.0)
    assert had.attempts[0].what == "no byte for 1 s"
    assert bench.ranges("/f") == [None, f"bytes={HALF}-"]


def test_a_slow_drip_is_a_stall_although_it_is_never_silent(bench: Bench) -> None:
    url = bench.server.at("/f", then(bad.dripping(BODY, pause=0.02), good(BODY)))
    began = time.monotonic()
    had = bench.gets_it(url, stall=1.0)
    assert time.monotonic() - began < PATIENT
    assert had.attempts[0].what.startswith("too slow")


def test_a_steady_transfer_that_takes_longer_than_a_stall_is_none(bench: Bench) -> None:
    url = bench.server.at("/f", good(BODY, piece=20_000, pause=0.1))
    assert bench.gets_it(url, stall=1.0).attempts == ()


def test_headers_that_drip_for_ever_are_given_up(bench: Bench) -> None:
    url = bench.server.at("/f", then(bad.dripping_headers(pause=0.02), good(BODY)))
    began = time.monotonic()
    had = bench.gets_it(url, stall=0.5, connect=0.5)
    assert time.monotonic() - began < PATIENT
    assert had.attempts[0].what == "no answer within 2 s"


# ---- wrong bytes


def test_wrong_bytes_are_refused_with_both_digests_the_url_and_the_evidence(bench: Bench) -> None:
    url = bench.server.at("/f", wrong(BODY))
    refused = bench.refuses(url)
    [kept] = (bench.store.root / "bad").iterdir()
    got = hashlib.sha256(kept.read_bytes()).hexdigest()
    for said in (f"wanted sha256 {DIGEST}", f"{len(BODY)} bytes", got, url, str(kept)):
        assert said in str(refused)
    assert refused.where == url
    assert kept.name == f"{got}-{NAME}"
    assert bench.server.count() == 1
    assert_intact(bench.store, empty_partial=True)


def test_a_lying_mirror_beside_an_honest_one_gives_success_and_a_warning(bench: Bench) -> None:
    lying, honest = bench.server.at("/lying", wrong(BODY)), bench.server.at("/honest", good(BODY))
    had = bench.gets_it(lying, honest)
    assert had.url == honest
    assert had.attempts[0].wrong is not None
    [warning] = [text for text in bench.notes.said if text.startswith("warning")]
    assert lying in warning
    assert str(had.attempts[0].wrong.kept) in warning


def test_wrong_bytes_anywhere_outweigh_places_that_could_not_be_reached(bench: Bench) -> None:
    refused = bench.refuses(bench.server.at("/lying", wrong(BODY)), bench.server.url("/missing"))
    assert "HTTP 404" in str(refused)


@pytest.mark.parametrize("more", [1, -1, 1000])
def test_another_size_than_the_pinned_one_is_not_even_downloaded(bench: Bench, more: int) -> None:
    refused = bench.refuses(bench.server.at("/f", bad.announcing(BODY, more)))
    assert f"announces {len(BODY) + more} bytes, wanted {len(BODY)}" in str(refused)
    assert bench.server.count() == 1


def test_a_size_announced_too_small_gives_wrong_bytes(bench: Bench) -> None:
    bench.refuses(bench.server.at("/f", bad.announcing(BODY, -1)), size=None)


def test_a_size_announced_too_large_looks_like_a_broken_transfer(bench: Bench) -> None:
    given_up = bench.gives_up(bench.server.at("/f", bad.announcing(BODY, 1)), size=None)
    assert f"broke off at {len(BODY)} of {len(BODY) + 1} bytes" in str(given_up)


def test_a_body_that_ends_properly_but_too_early_is_wrong(bench: Bench) -> None:
    refused = bench.refuses(bench.server.at("/f", bad.chunked(BODY[:HALF])))
    assert f"{HALF} bytes" in str(refused)


def test_a_body_without_end_is_stopped_at_the_pinned_size(bench: Bench) -> None:
    began = time.monotonic()
    bench.refuses(bench.server.at("/f", bad.endless(payload(100_000))))
    assert time.monotonic() - began < PATIENT
    [kept] = (bench.store.root / "bad").iterdir()
    assert len(BODY) < kept.stat().st_size <= len(BODY) + fs.CHUNK


# ---- resuming


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


# ---- mirrors, and no network


def test_a_mirror_directory_is_used_before_any_request(bench: Bench, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / NAME).write_bytes(BODY)
    had = bench.gets_it(bench.server.at("/f", good(BODY)), mirrors=(str(mirror),))
    assert had.url == str(mirror / NAME)
    assert bench.server.count() == 0


@pytest.mark.parametrize("as_url", [False, True])
def test_an_exported_mirror_has_files_by_digest(bench: Bench, tmp_path: Path, as_url: bool) -> None:
    exported = tmp_path / "exported mirror" / "files"
    exported.mkdir(parents=True)
    (exported / DIGEST).write_bytes(BODY)
    mirror = exported.parent.as_uri() if as_url else str(exported.parent)
    bench.gets_it(mirrors=(mirror,), offline=True)


def test_a_mirror_url_is_asked_for_the_name_first(bench: Bench) -> None:
    bench.server.at(f"/mirror/{NAME}", good(BODY))
    bench.gets_it(bench.server.at("/own", good(BODY)), mirrors=(bench.server.url("/mirror/"),))
    assert bench.server.count("/own") == 0


def test_a_mirror_directory_with_a_wrong_file_is_passed_over(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(NEWER)
    had = bench.gets_it(bench.server.at("/f", good(BODY)), mirrors=(str(tmp_path),))
    assert had.attempts[0].wrong is not None
    assert (tmp_path / NAME).read_bytes() == NEWER


def test_a_pipe_in_a_mirror_does_not_block(bench: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    assert "is not a file" in str(bench.gives_up(mirrors=(str(tmp_path),)))


def test_a_file_url_is_read(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "with space.rpm"
    source.write_bytes(BODY)
    bench.gets_it(source.as_uri(), offline=True)


def test_offline_makes_no_request_and_says_what_would_help(bench: Bench, tmp_path: Path) -> None:
    url = bench.server.at("/f", good(BODY))
    given_up = bench.gives_up(url, offline=True, mirrors=(bench.server.url(), str(tmp_path)))
    assert bench.server.count() == 0
    assert f"{url}: not requested: offline" in str(given_up)
    assert "--offline" in given_up.hint
    assert "--mirror" in given_up.hint


def test_offline_the_store_is_enough(bench: Bench) -> None:
    bench.gets_it(bench.server.at("/f", good(BODY)))
    assert bench.gets_it("http://nowhere.invalid/f", offline=True).url is None


# ---- FTP


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


# ---- what came instead


def test_a_page_instead_of_the_file_is_named_and_kept_and_the_next_address_is_asked(bench: Bench) -> None:
    wall = bench.server.at("/wall", bad.page("Sign in", announced=False))
    had = bench.gets_it(bench.server.at("/f", bad.redirect(wall)), bench.server.at("/good", good(BODY)))
    (attempt,) = had.attempts
    assert f"a web page with the title 'Sign in'; redirected to {wall}, of type text/html; kept as" in attempt.what
    assert attempt.wrong is not None and attempt.wrong.kept is not None
    assert b"<title>Sign in</title>" in attempt.wrong.kept.read_bytes()
    assert bench.server.count("/f") == 1


def raw(answer: bytes) -> bad.Behaviour:
    return lambda exchange: exchange.send(answer)


@pytest.mark.parametrize(
    ("answer", "said", "times"),
    [
        (bad.page("Sign in"), "announces 93 bytes, wanted 300000; of type text/html", 1),
        (bad.status(203), "HTTP 203", 1),
        (bad.status(204), "HTTP 204", 1),
        (bad.status(206), "HTTP 206", 1),
        (bad.status(302), "HTTP 302 Found, without an address to go to", 1),
        (raw(b"content\r\n"), "not an HTTP answer: 'content", 3),
        (raw(b"HTTP/9.9 what\r\n\r\n"), "not an HTTP answer: 'HTTP/9.9 what", 3),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "the length of a chunk is no number", 3),
    ],
)
def test_an_odd_answer_is_named_and_the_next_address_is_asked(
    bench: Bench, answer: bad.Behaviour, said: str, times: int
) -> None:
    had = bench.gets_it(bench.server.at("/f", answer), bench.server.at("/good", good(BODY)))
    assert said in had.attempts[0].what
    assert bench.server.count("/f") == times


def test_a_file_without_a_pin_is_proven_address_by_address(bench: Bench) -> None:
    def prove(path: Path) -> None:
        if path.read_bytes() != BODY:
            raise Refused("not the one", why="its bytes")

    wanted = Wanted(NAME, (bench.server.at("/f", good(NEWER)), bench.server.at("/good", good(BODY))), None, None)
    with bench.store.using():
        had = fetch_unverified(wanted, bench.store, bench.options, bench.notes, prove)
    assert had.sha256 == DIGEST and "not the one" in had.attempts[0].what
    only = Wanted(NAME, (bench.server.url("/f"),), None, None)
    with pytest.raises(Refused, match="not the one") as refused:
        fetch_unverified(only, bench.store, bench.options, bench.notes, prove)
    assert "kept as" in refused.value.where and refused.value.why == "its bytes"


# ---- a source without a pin


def test_an_unpinned_file_stays_outside_until_it_is_verified_and_adopted(bench: Bench) -> None:
    wanted = Wanted(NAME, (bench.server.at("/f", then(truncated(BODY, HALF), good(BODY))),), None, None)
    with bench.store.using():
        had = fetch_unverified(wanted, bench.store, bench.options, bench.notes)
        assert (had.sha256, had.size, had.path.read_bytes()) == (DIGEST, len(BODY), BODY)
        assert had.path.parent == bench.store.root / "partial"
        assert not bench.store.has(DIGEST)
        bench.store.adopt(had.path, had.sha256)
    assert bench.ranges("/f") == [None, f"bytes={HALF}-"]
    assert_intact(bench.store, empty_partial=True)


def test_an_unpinned_file_of_a_known_size_must_have_it(bench: Bench) -> None:
    wanted = Wanted(NAME, (bench.server.at("/f", bad.chunked(BODY)),), None, 5)
    with pytest.raises(Refused, match="5 bytes"):
        fetch_unverified(wanted, bench.store, bench.options, bench.notes)


def test_an_unpinned_file_without_end_is_let_go_and_the_next_address_asked(bench: Bench) -> None:
    urls = (bench.server.at("/f", bad.endless(payload(100_000))), bench.server.at("/g", good(payload(2_000_000))))
    wanted = Wanted(NAME, (*urls, bench.server.at("/h", good(BODY))), None, None, most=1_000_000)
    had = fetch_unverified(wanted, bench.store, bench.options, bench.notes)
    assert had.sha256 == DIGEST
    assert [attempt.what for attempt in had.attempts] == [
        "sends more than 1000000 bytes",
        "announces 2000000 bytes, more than 1000000",
    ]
    assert not list((bench.store.root / "bad").glob("*"))


def test_an_unpinned_file_does_not_come_from_a_name_in_a_mirror_by_digest(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(BODY)
    wanted = Wanted(NAME, (), None, None)
    options = replace(bench.options, mirrors=(str(tmp_path),), offline=True)
    assert fetch_unverified(wanted, bench.store, options, bench.notes).sha256 == DIGEST


# ---- no room


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


# ---- several at once


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
    with pytest.raises(Unreachable, match=r"^missing: no place"):
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


# --- What has no end -------------------------------------------------------------------------------------


def test_the_body_of_a_redirect_is_not_read(bench: Bench) -> None:
    def endless(exchange: bad.Exchange) -> None:
        exchange.head(302, {"Location": "/there"})
        exchange.pieces(bytes(64 << 20), 1 << 20, 0)

    bench.server.at("/there", good(BODY))
    bench.gets_it(bench.server.at("/f", endless))
    assert bench.server.sent("/f") < 32 << 20


@pytest.mark.parametrize("header", ["Content-Length", "Retry-After", "Content-Range"])
def test_a_number_without_end_is_no_number(bench: Bench, header: str) -> None:
    status = {"Content-Length": 200, "Retry-After": 503, "Content-Range": 206}[header]

    def huge(exchange: bad.Exchange) -> None:
        exchange.head(status, {header: ("bytes 0-1/" if status == 206 else "") + "9" * 5000})
        exchange.send(BODY)

    bench.server.at("/f", then(truncated(BODY, HALF), huge, good(BODY)))
    bench.gets_it(bench.server.url("/f"))
    assert all(wait < 600 for wait in bench.waits)


def test_an_ftp_server_that_talks_without_end_is_left(bench: Bench) -> None:
    with FtpServer({"/f": BODY}) as server:
        server.greeting = "220-on\r\n" * 1_000_000 + "220 and on"
        given_up = bench.gives_up(server.url("/f"))
    assert "the server says more than 1000 lines" in str(given_up)
