"""The doctor's row about the network: real servers as archives and proxies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.config import settings
from pipeline.sources import archive_check
from tests.fixtures.badserver import BadServer, good

INDEXES = ("/debian/dists/bookworm/InRelease", "/debian-security/dists/bookworm-security/InRelease")


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BadServer]:
    for name in (*PROXIES, *map(str.upper, PROXIES)):
        monkeypatch.delenv(name, raising=False)
    with BadServer() as running:
        yield running


@pytest.fixture
def archive(server: BadServer) -> BadServer:
    for path in INDEXES:
        server.at(path, good(b"index"))
    return server


def test_archives_that_answer_are_well(archive: BadServer) -> None:
    finding = archive_check.check(settings.load({"debian_mirror": archive.url("/debian")}, {}))
    assert finding.state == "ok" and archive.url("/debian") in finding.found
    assert [archive.count(path) for path in INDEXES] == [1, 1]


def test_an_archive_that_lacks_its_index_is_told_with_what_to_do(server: BadServer) -> None:
    server.at(INDEXES[0], good(b"index"))
    finding = archive_check.check(settings.load({"debian_mirror": server.url("/debian")}, {}))
    assert finding.state == "warn" and f"{server.url(INDEXES[1])}: HTTP 404" in finding.found
    assert "--debian-mirror" in finding.remedy and finding.affects


def test_it_is_asked_through_the_proxy_of_the_environment(archive: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", archive.url())
    finding = archive_check.check(settings.load({"debian_mirror": "http://nowhere.invalid/debian"}, {}))
    assert finding.state == "ok" and archive.count() == 2


def test_offline_nothing_is_asked(archive: BadServer) -> None:
    options = {"debian_mirror": archive.url("/debian"), "offline": True}
    assert archive_check.check(settings.load(options, {})).state == "ok"
    assert archive.count() == 0
