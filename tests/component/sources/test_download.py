"""The downloader against real servers: which addresses are asked, how often, and which no more."""

from __future__ import annotations

import hashlib
import os
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from pipeline.config.settings import load
from pipeline.errors import UsageError
from pipeline.sources.download import fetch
from pipeline.sources.wanted import Options, Wanted
from tests.fixtures import badserver as bad
from tests.fixtures.badserver import good, then, truncated
from tests.fixtures.downloads import BODY, DIGEST, HALF, NAME, NEWER, PATIENT, Bench

# --- when all is well ------------------------------------------------------------------------------------


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


# --- a place that fails for now --------------------------------------------------------------------------


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


# --- a place that will not get better --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (bad.status(404), "HTTP 404"),
        (bad.status(410), "HTTP 410"),
        (bad.status(403), "HTTP 403"),
        (bad.redirect("ftp://127.0.0.1/f"), "redirected to ftp://127.0.0.1/f: not followed; expected http or https"),
        (bad.redirect("file:///etc/passwd"), "redirected to file:///etc/passwd: not followed; expected http or https"),
        (bad.redirect("http://[/"), "redirected to 'http://[/', which is no address: "),
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


def test_a_server_that_a_redirect_names_is_told_when_it_does_not_answer(bench: Bench) -> None:
    given_up = bench.gives_up(bench.server.at("/f", bad.redirect("http://user:secret@127.0.0.1:1/f")))
    assert "redirected to http://127.0.0.1:1/f: Connection refused" in str(given_up)
    assert "secret" not in str(given_up)


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


# --- silence ---------------------------------------------------------------------------------------------


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


# --- mirrors, and no network -----------------------------------------------------------------------------


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
