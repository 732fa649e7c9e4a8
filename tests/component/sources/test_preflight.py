"""The look at every address before a build: who answers, who does not, and what a person is told within seconds."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import line_loader
from pipeline.config.settings import TABLE, load
from pipeline.core.console import Console
from pipeline.errors import ExitCode
from pipeline.sources import preflight
from pipeline.sources.preflight import MissingSource
from pipeline.sources.resolver import Sources
from pipeline.sources.wanted import Options, Wanted
from tests.fixtures.badserver import BadServer, Exchange, dripping_headers, good, payload, redirect, reset, status
from tests.fixtures.commandline import Inv
from tests.fixtures.toy import SRPM, TARBALL, make_toy

BODY = payload(300_000)
NOWHERE = "http://nowhere.invalid/kernel.src.rpm"  # RFC 6761: this name never resolves
# A name server that knows, one that is not there, and one that never answers.
UNRESOLVED = re.compile("Name or service not known|No address associated|name resolution|no answer within")
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BadServer]:
    for name in (*PROXIES, *map(str.upper, PROXIES)):
        monkeypatch.delenv(name, raising=False)
    with BadServer() as running:
        yield running


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address where the kernel takes connections and nobody ever answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/deaf"


@pytest.fixture
def closed() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def hangs(exchange: Exchange) -> None:
    """Takes the request and never answers it."""
    exchange.over.wait(30)


def wanted(*urls: str, name: str = "kernel.src.rpm") -> Wanted:
    return Wanted(name, urls, hashlib.sha256(BODY).hexdigest(), len(BODY))


def look(*asked: Wanted, mirrors: tuple[str, ...] = (), offline: bool = False) -> list[MissingSource]:
    return preflight.probe(asked, Options(mirrors, offline, jobs=4, retries=4, stall=2.0, connect=2.0))


def said(silent: list[MissingSource]) -> dict[str, str]:
    """What each address said."""
    return {attempt.url: attempt.what for item in silent for attempt in item.attempts}


def test_a_file_that_begins_to_come_is_believed_in_and_not_downloaded(server: BadServer) -> None:
    assert look(wanted(server.at("/f", good(BODY, piece=1000, pause=0.01)))) == []
    assert server.sent("/f") < len(BODY)


def test_every_way_of_not_answering_is_told_with_its_address(server: BadServer, deaf: str, closed: str) -> None:
    ways = {
        f"{closed}/f": "Connection refused",
        deaf: "timed out",
        server.at("/hangs", hangs): "timed out",
        server.at("/drips", dripping_headers(pause=0.2)): "no answer within 1.6 s",
        server.at("/reset", reset(BODY, -1)): "Connection reset by peer",
        server.at("/gone", status(404)): "HTTP 404 Not Found",
        server.at("/loop", redirect("/loop")): "more than 10 redirects",
    }
    assert said(look(wanted(*ways))) == ways


def test_a_name_that_does_not_resolve_is_told_as_that(server: BadServer) -> None:
    assert UNRESOLVED.search(said(look(wanted(NOWHERE)))[NOWHERE])


def test_the_addresses_are_told_in_the_order_of_the_line_file(server: BadServer, closed: str) -> None:
    urls = [server.at("/hangs", hangs), f"{closed}/f", server.url("/none"), NOWHERE]
    [silent] = look(wanted(*urls))
    assert [attempt.url for attempt in silent.attempts] == urls


def test_one_address_that_answers_is_enough_and_the_others_are_not_waited_for(server: BadServer) -> None:
    hanging = [server.at(f"/hangs{number}", hangs) for number in range(3)]
    assert look(wanted(*hanging, NOWHERE, server.at("/f", good(BODY)))) == []
    assert not server.over.is_set()


def test_a_server_that_is_busy_is_there(server: BadServer) -> None:
    """What comes of it is found out by the downloader, which asks again."""
    assert look(wanted(server.at("/busy", status(503, retry_after=1)))) == []


def test_of_several_files_those_without_hope_are_told(server: BadServer) -> None:
    here = wanted(server.at("/f", good(BODY)), name="here.tar.gz")
    gone = wanted(server.url("/gone"), name="gone.tar.gz")
    nowhere = wanted(name="nowhere.tar.gz")
    assert [item.name for item in look(here, gone, nowhere)] == ["gone.tar.gz", "nowhere.tar.gz"]


def test_a_mirror_on_this_host_is_looked_into(server: BadServer, tmp_path: Path) -> None:
    (tmp_path / "kernel.src.rpm").write_bytes(BODY)
    assert look(wanted(NOWHERE), mirrors=(str(tmp_path),), offline=True) == []
    assert look(wanted(server.at("/f", good(BODY))), offline=True) != []
    assert server.count() == 0


def test_with_the_settings_defaults_an_address_has_less_than_20_seconds_in_all() -> None:
    """`transport` gives up after twice the time for a connection and a byte."""
    assert 2 * preflight.SHARE * (TABLE["connect"].default + TABLE["stall"].default) <= 16


def test_the_error_names_each_file_each_address_and_each_reason(server: BadServer, closed: str) -> None:
    asked = wanted(f"{closed}/f", server.url("/gone")), wanted(name="other.rpm")
    error = preflight.failure(look(*asked), "try this")
    assert error.code is ExitCode.UNREACHABLE
    assert str(error).splitlines() == [
        "2 sources cannot be fetched from here: no address answers",
        "  kernel.src.rpm",
        f"    {closed}/f: Connection refused",
        f"    {server.url('/gone')}: HTTP 404 Not Found",
        "  other.rpm",
        "    no address",
        "  why: missing sources must be fetched before a build; nothing was started",
        "  next: try this",
    ]


def test_what_the_store_has_is_asked_for_nowhere(tmp_path: Path) -> None:
    inv, toy = Inv(tmp_path), make_toy(tmp_path / "toy")
    inv("pin", "toy", "kernel-srpm", "--line-file", toy.line_file)
    inv("fetch", "--line-file", toy.line_file)
    line = line_loader.load(None, toy.line_file)
    toy.mirror.rename(tmp_path / "away")

    def silent(artifacts: Path) -> list[str]:
        settings = load({"artifacts": str(artifacts)}, {})
        return [item.name for item in Sources(line, settings, Console(quiet=True)).unavailable()]

    assert silent(inv.artifacts) == []
    assert silent(tmp_path / "empty") == [SRPM, TARBALL]


# --- The command line ----------------------------------------------------------------------------------

LINE = """\
schema = 1
extends = "el6"
name = "el6-away"
[sources.kernel-srpm]
urls = ["{srpm}"]
[sources.lvs-tarball]
urls = ["{tarball}", "http://nowhere.invalid/t.tar.gz"]
"""


def without_proxies() -> dict[str, Any]:
    return dict.fromkeys((*PROXIES, *map(str.upper, PROXIES)), "")


@pytest.mark.parametrize("words", [("build-all",), ("build", "ipvsadm")], ids=["build-all", "build"])
def test_build_all_names_every_address_and_both_ways_on(server: BadServer, tmp_path: Path, words: tuple[str]) -> None:
    inv = Inv(tmp_path, **without_proxies())
    line = tmp_path / "away.toml"
    srpm = server.at("/kernel-2.6.32-220.23.1.el6.src.rpm", hangs)
    line.write_text(LINE.format(srpm=srpm, tarball=server.url("/t.tar.gz")))
    quick = ("--connect", "1", "--stall", "1")
    ended = inv(*words, "--line-file", line, *quick, expect=ExitCode.UNREACHABLE)
    assert "2 sources cannot be fetched from here" in ended.err
    for told in (f"{srpm}: timed out", f"{server.url('/t.tar.gz')}: HTTP 404", "http://nowhere.invalid/t.tar.gz: "):
        assert told in ended.err
    assert UNRESOLVED.search(ended.err)
    assert "--mirror DIR" in ended.err and "--line lts61" in ended.err
    assert server.count() == 2, "each address was asked once"
    assert not (inv.artifacts / "steps").exists() and not list(inv.artifacts.glob("store/sha256/*"))


def test_without_a_line_build_all_means_el6(closed: str, tmp_path: Path) -> None:
    dead: dict[str, Any] = dict.fromkeys((*PROXIES, *map(str.upper, PROXIES)), closed)
    inv = Inv(tmp_path, **dead | {"no_proxy": "", "NO_PROXY": ""})
    document = inv("build-all", "--json", expect=ExitCode.UNREACHABLE).json
    assert "vault.centos.org/6.2/updates/Source/SPackages/kernel-2.6.32-220.23.1.el6.src.rpm" in document["what"]
    assert "Lvs-fullnat-synproxy.tar.gz" in document["what"]
    assert "--mirror DIR" in document["next"] and "--line lts61" in document["next"]
