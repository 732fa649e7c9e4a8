"""The downloader against servers that send what was not wanted: refused, kept as evidence, and never without end."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import fs
from pipeline.errors import Refused
from pipeline.sources.download import fetch_unverified
from pipeline.sources.wanted import Wanted
from tests.fixtures import badserver as bad
from tests.fixtures.badserver import good, payload, then, truncated, wrong
from tests.fixtures.downloads import BODY, DIGEST, HALF, NAME, NEWER, PATIENT, Bench
from tests.fixtures.ftpserver import FtpServer
from tests.fixtures.stores import assert_intact

# --- wrong bytes -----------------------------------------------------------------------------------------


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


# --- what came instead -----------------------------------------------------------------------------------


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


# --- a source without a pin ------------------------------------------------------------------------------


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
