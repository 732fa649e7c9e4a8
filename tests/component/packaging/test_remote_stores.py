"""A shared store on another host, with rsync and over HTTP: the guarantees of a directory, with real servers."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.core.console import Console, PlainProgress
from pipeline.errors import PipelineError, Refused, Unreachable, UsageError
from pipeline.packaging.http_store import HttpStore
from pipeline.packaging.rsync_store import RsyncStore
from pipeline.packaging.shared_store import DirectoryStore, SharedStore
from pipeline.sources.wanted import Options
from tests.component.packaging.test_exchange import (
    DAMAGES,
    Host,
    fails,
    listed,
    packs,
    plan,
    states,
    text,
    writes,
)
from tests.fixtures.badserver import BadServer, endless, good, page, redirect, status, then, truncated
from tests.fixtures.commandline import ROOT
from tests.fixtures.rsyncd import daemon

OPTIONS = Options((), False, 1, 2, 5.0, 2.0, wait=lambda _: None)


class Remote(Host):
    """A host that reaches the store by an address of rsync or HTTP."""

    def __init__(self, place: Path, store: Path, address: str) -> None:
        super().__init__(place, store)
        self.address = address

    def shared(self) -> SharedStore:
        return over_http(self.address) if self.address.startswith("http") else RsyncStore(self.address)


def over_http(url: str, **options: object) -> HttpStore:
    return HttpStore(url, replace(OPTIONS, **options), PlainProgress(Console(quiet=True)).meter)  # type: ignore[arg-type]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """An rsync server of the directory `store`."""
    with daemon(tmp_path, tmp_path / "store") as url:
        yield url


@pytest.fixture
def hosts(tmp_path: Path, server: str) -> tuple[Remote, Remote]:
    """Two hosts that trust each other and share the server's store."""
    one, other = (Remote(tmp_path / name, tmp_path / "store", server) for name in ("one", "other"))
    one.trusts(other)
    other.trusts(one)
    return one, other


def named(place: Path, text: str) -> tuple[str, Path]:
    """A file, and the name of an object with its bytes."""
    place.write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"packs/{digest[:2]}/{digest}", place


def test_what_one_host_made_another_takes_with_rsync_and_a_third_in_the_directory(
    hosts: tuple[Remote, Remote], tmp_path: Path
) -> None:
    one, other = hosts
    made = one.run(plan())
    assert states(made) == ["ran", "ran"] and len(listed(one.store)) == len(packs(one.store)) == 2, one.said
    taken = other.run(plan(fails, fails))
    assert states(taken) == ["taken", "taken"] and text(taken["tools"]) == "kernel:stocktools"
    assert states(other.run(plan(fails, fails))) == states(one.run(plan(fails, fails))) == ["reused", "reused"]
    third = Host(tmp_path / "third", one.store)
    third.trusts(one)
    assert states(third.run(plan(fails, fails))) == ["taken", "taken"]
    assert not [row for row in one.said + other.said if "not used" in row]


def test_the_first_result_of_a_key_wins_and_the_second_host_takes_it(hosts: tuple[Remote, Remote]) -> None:
    one, other = hosts
    alone = Host(other.place, other.place)  # with a store of its own
    alone.run(plan(writes("another")))
    one.run(plan(writes("first")))
    kept = {path: path.read_bytes() for path in (*listed(one.store), *packs(one.store))}
    now = other.run(plan(fails, fails))
    assert states(now) == ["taken", "taken"] and text(now["kernel:stock"]) == "first"
    assert any("the shared store has another result" in row for row in other.said)
    assert {path: path.read_bytes() for path in (*listed(one.store), *packs(one.store))} == kept


def test_of_many_hosts_that_store_a_name_at_once_one_does_and_all_read_its_bytes(server: str, tmp_path: Path) -> None:
    def store(number: int) -> bool:
        source = tmp_path / f"source-{number}"
        source.write_text(f"by {number}")
        return RsyncStore(server).create("results/line/step/key.json", source)

    with ThreadPoolExecutor(6) as pool:
        first = list(pool.map(store, range(6)))
    assert first.count(True) == 1
    assert RsyncStore(server).read("results/line/step/key.json", 99) == f"by {first.index(True)}".encode()
    assert packs(tmp_path / "store") == [], "what decided it is gone, and so is what came too late"
    assert {path.name for path in (tmp_path / "store/results/line/step").iterdir()} == {"key.json", "key.first"}


OFFER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from pipeline.packaging.rsync_store import RsyncStore
RsyncStore(sys.argv[1]).create("results/line/step/key.json", Path(sys.argv[2]))
"""


@pytest.mark.parametrize(("point", "wins"), [("store.offered", "other"), ("store.decided", "killed")])
def test_a_host_that_is_killed_while_it_stores_leaves_nothing_half_and_the_next_completes(
    server: str, tmp_path: Path, point: str, wins: str
) -> None:
    (tmp_path / "killed").write_text("killed")
    (tmp_path / "other").write_text("other")
    environment = process.clean_environment(FNAT_TRACE_KILL=f"{point}:1")
    argv = [sys.executable, "-c", OFFER, server, str(tmp_path / "killed"), str(ROOT)]
    with process.start(argv, env=environment, stderr=subprocess.DEVNULL) as child:
        assert child.wait() == -9
    store, name = RsyncStore(server), "results/line/step/key.json"
    assert store.read(name, 99) is None
    assert store.create(name, tmp_path / "other") is (wins == "other")
    assert store.read(name, 99) == wins.encode()


def test_a_pack_is_compared_whole_with_what_is_there_under_its_name(server: str, tmp_path: Path) -> None:
    name, source = named(tmp_path / "pack", "right")
    store = RsyncStore(server)
    assert (store.add(name, source), store.add(name, source)) == (True, False)
    (tmp_path / "store" / name).write_text("wrong")
    for each in (store, DirectoryStore(tmp_path / "store")):
        with pytest.raises(Refused, match="other bytes than its name says"):
            each.add(name, source)
    assert (tmp_path / "store" / name).read_text() == "wrong"


@pytest.mark.parametrize("said", ["../../../etc/passwd", "", "0" * 63])
def test_a_link_that_says_no_digest_is_refused(server: str, tmp_path: Path, said: str) -> None:
    (tmp_path / "source").write_text("x")
    first = tmp_path / "store/results/line/step/key.first"
    first.parent.mkdir(parents=True)
    first.symlink_to(said) if said else first.write_text("no link")
    with pytest.raises(Refused, match=r"key\.first in the shared store: .*expected a link that says a SHA-256"):
        RsyncStore(server).create("results/line/step/key.json", tmp_path / "source")
    assert not (tmp_path / "store/results/line/step/key.json").exists()


def test_a_decided_object_with_other_bytes_gets_no_name(server: str, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("x")
    first, decided = tmp_path / "store/results/line/step/key.first", "a" * 64
    first.parent.mkdir(parents=True)
    first.symlink_to(decided)
    store = RsyncStore(server)
    with pytest.raises(Refused, match=r"key\.first in the shared store: neither its object nor a record"):
        store.create("results/line/step/key.json", tmp_path / "source")
    (tmp_path / "store/packs/aa").mkdir(parents=True)
    (tmp_path / "store/packs/aa" / decided).write_text("another")
    with pytest.raises(Refused, match="other bytes than its name says"):
        store.create("results/line/step/key.json", tmp_path / "source")
    assert store.read("results/line/step/key.json", 99) is None


def test_objects_that_are_too_large_or_no_files_are_refused_unread(server: str, tmp_path: Path) -> None:
    store, there = RsyncStore(server), tmp_path / "store"
    (there / "large").write_bytes(bytes(1000))
    (there / "secret").symlink_to("/etc/passwd")
    (there / "directory").mkdir()
    os.mkfifo(there / "fifo")
    for name in ("large", "secret", "directory", "fifo"):
        with pytest.raises(Refused, match=rf"{name}: expected a regular file of at most 999 bytes"):
            store.read(name, 999)
    assert store.read("large", 1000) == bytes(1000) and store.read("nothing", 9) is None
    with pytest.raises(Refused, match="1000 bytes; expected 1001"):
        store.copy("large", tmp_path / "copy", 1001)
    with pytest.raises(Refused, match="missing"):
        store.copy("nothing", tmp_path / "another", 1)


def test_a_store_that_is_not_there_is_an_error_and_one_that_goes_only_costs_the_work(tmp_path: Path) -> None:
    with daemon(tmp_path, tmp_path / "store") as url:
        RsyncStore(url).check()
        with pytest.raises(UsageError, match="expected a directory that exists"):
            RsyncStore(f"{url}/nothing").check()
        host = Remote(tmp_path / "one", tmp_path / "store", url)
    assert states(host.run(plan())) == ["ran", "ran"]
    assert any("the shared store is not used: the shared store: not reached" in row for row in host.said)
    with pytest.raises(Unreachable, match="the shared store: not reached"):
        RsyncStore(url).check()


def test_a_server_that_takes_nothing_is_said_and_what_it_has_is_taken(
    hosts: tuple[Remote, Remote], tmp_path: Path
) -> None:
    one, _ = hosts
    one.run(plan())
    (tmp_path / "reader").mkdir()
    with daemon(tmp_path / "reader", one.store, "read only = yes") as url:
        other = Remote(tmp_path / "other", one.store, url)
        assert states(other.run(plan(fails, fails))) == ["taken", "taken"]
        [path.unlink() for path in listed(one.store)]  # type: ignore[func-returns-value]
        other.run(plan(writes("own"), writes()), "kernel:stock", "tools")
    assert listed(one.store) == []
    assert any("the shared store is not used: the shared store: rsync failed" in row for row in other.said)


@pytest.mark.parametrize("kind", ["rsync", "http"])
@pytest.mark.parametrize(
    "damage",
    [
        "other bytes in each pack",
        "shorter packs",
        "longer packs",
        "no packs",
        "links as packs",
        "the record of another step",
    ],
)
def test_what_is_not_as_signed_is_refused_said_and_built_here(
    hosts: tuple[Remote, Remote], tmp_path: Path, kind: str, damage: str
) -> None:
    one, other = hosts
    one.run(plan())
    DAMAGES[damage](one, one.store)
    with BadServer() as web:
        if kind == "http":
            serve(web, one.store)
            other = Remote(other.place, one.store, web.url())
        ended = other.run(plan())
    assert "ran" in states(ended) and text(ended["tools"]) == "kernel:stocktools"
    assert any("the shared store is not used" in row for row in other.said), other.said
    assert not list(other.place.glob("steps/line/*/.*"))


def serve(web: BadServer, store: Path) -> None:
    """Publishes all files of a store; where a link leads, too, as web servers do."""
    for path in store.rglob("*"):
        if path.is_file():
            web.at(f"/{path.relative_to(store)}", good(path.read_bytes()))


@pytest.fixture
def web() -> Iterator[BadServer]:
    with BadServer() as server:
        yield server


def test_over_http_results_are_taken_and_none_is_stored(hosts: tuple[Remote, Remote], web: BadServer) -> None:
    one, other = hosts
    one.run(plan())
    serve(web, one.store)
    reader = Remote(other.place, one.store, f"{web.url()}/")
    assert states(reader.run(plan(fails, fails))) == ["taken", "taken"]
    for path in listed(one.store):
        web.at(f"/{path.relative_to(one.store)}", status(404))
    assert states(reader.run(plan(fails, fails))) == ["reused", "reused"]
    assert states(reader.run(plan(fails, writes("t")), "tools")) == ["reused", "ran"]
    assert not [row for row in reader.said if "shared store is not used" in row]


def test_a_transfer_that_breaks_off_is_resumed_and_a_redirect_followed(web: BadServer, tmp_path: Path) -> None:
    body = bytes(100_000)
    web.at("/moved", then(status(503), truncated(body, 40_000), good(body)))
    web.at("/store/pack", redirect(web.url("/moved")))
    over_http(web.url("/store"), retries=4).copy("pack", tmp_path / "copy", len(body))
    assert (tmp_path / "copy").read_bytes() == body and web.seen["/moved"][-1].headers["Range"] == "bytes=40000-"
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize("size", [99, 101])
def test_a_pack_of_another_size_is_refused(web: BadServer, tmp_path: Path, size: int) -> None:
    web.at("/pack", good(bytes(size)))
    with pytest.raises((Refused, Unreachable), match=rf"pack in the shared store: .*{size} bytes"):
        over_http(web.url()).copy("pack", tmp_path / "copy", 100)
    assert list(tmp_path.iterdir()) == []


def test_a_body_without_end_is_given_up(web: BadServer) -> None:
    web.at("/record", endless(bytes(10_000)))
    with pytest.raises(PipelineError, match="sends more than 5000 bytes"):
        over_http(web.url(), retries=1).read("record", 5000)
    assert web.sent("/record") < 5_000_000


@pytest.mark.parametrize("code", [404, 410])
def test_a_server_without_the_object_is_asked_once_and_an_error_is_no_answer(web: BadServer, code: int) -> None:
    web.at("/none", status(code))
    assert over_http(web.url()).read("none", 9) is None and web.count("/none") == 1
    web.at("/broken", status(500))
    with pytest.raises(Unreachable, match=r"broken in the shared store: HTTP 500"):
        over_http(web.url()).read("broken", 9)
    assert web.count("/broken") == 2


def test_a_page_to_sign_in_on_is_no_record(hosts: tuple[Remote, Remote], web: BadServer) -> None:
    one, other = hosts
    one.run(plan())
    for path in listed(one.store):
        web.at(f"/{path.relative_to(one.store)}", page("Sign in"))
    reader = Remote(other.place, one.store, web.url())
    assert states(reader.run(plan())) == ["ran", "ran"]
    assert any("its record is refused" in row for row in reader.said)


def test_a_web_server_that_does_not_answer_is_an_error_before_anything_is_built() -> None:
    with BadServer() as web:
        store = over_http(web.url("/nothing"))
        store.check()
    with pytest.raises(Unreachable, match=r"the shared store: .*expected a web server that answers"):
        store.check()


def test_an_address_is_shown_without_its_password() -> None:
    assert over_http("https://me:secret@example.org/store/").address == "https://example.org/store"
