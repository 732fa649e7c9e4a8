"""Upstreams: updates, alarms, dead and late mirrors, and pinned files that are read whole only when they must be."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import line_loader
from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.nights import upstream
from pipeline.nights.record import SourceState, Upstream
from pipeline.sources.resolver import Sources
from tests.fixtures.badserver import BadServer, good, status
from tests.fixtures.debianarchive import SUITE, Archive, key

BODY, OTHER = b"upstream's tarball" * 100, b"Upstream's tarball" * 100
_FILE = """
[sources.tools]
kind = "file"
file = "tools.tar.gz"
size = {size}
sha256 = "{digest}"
urls = {urls}
"""


class Place:
    """A line with one source of Debian's, and one pinned file at two addresses."""

    def __init__(self, server: BadServer, place: Path) -> None:
        self.server, self.place, self.archive = server, place, Archive(server)
        self.publish("6.1.9-1", b"nine")
        self.file = self.archive.write_line(place, version="6.1.")
        urls = [server.url("/one"), server.url("/two")]
        digest = hashlib.sha256(BODY).hexdigest()
        self.file.write_text(
            self.file.read_text() + _FILE.format(size=len(BODY), digest=digest, urls=str(urls).replace("'", '"'))
        )
        self.at(BODY)

    def publish(self, version: str, body: bytes) -> None:
        self.archive.add(SUITE, "linux", version, body)
        self.archive.publish()

    def at(self, one: bytes, two: bytes = BODY) -> None:
        self.server.at("/one", good(one))
        self.server.at("/two", good(two, etag=None))

    def sources(self, **options: Any) -> Sources:
        given = {"artifacts": str(self.place / "artifacts"), "debian_mirror": self.archive.url, "line": "", **options}
        settings = load(given, {})
        console = Console(out=io.StringIO(), err=io.StringIO(), quiet=True)
        return Sources(line_loader.load(None, self.file), settings, console)

    def fetch(self) -> None:
        self.sources().fetch()

    def look(self, *, update: bool = False) -> dict[str, SourceState]:
        return {each.source: each for each in upstream.look(self.sources(), update=update)}

    def states(self) -> dict[str, Upstream]:
        return {name: each.state for name, each in self.look().items()}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with BadServer() as server:
        made = Place(server, tmp_path)
        made.fetch()
        yield made


def test_nothing_changed_and_a_pinned_file_is_read_whole_once_where_its_address_has_a_validator(place: Place) -> None:
    assert place.states() == {"linux": Upstream.SAME, "tools": Upstream.SAME}
    sent = len(place.server.seen["/one"]), len(place.server.seen["/two"])
    assert place.states() == {"linux": Upstream.SAME, "tools": Upstream.SAME}
    assert place.server.seen["/two"][sent[1]].sent == len(BODY), "no validator: read whole"
    assert len(place.server.seen["/one"]) == sent[0] + 1, "one request"


def test_a_newer_version_is_reported_and_changes_nothing_until_it_is_taken(place: Place) -> None:
    place.publish("6.1.10-1", b"ten")
    found = place.look()["linux"]
    assert (found.state, found.used, found.found) == (Upstream.UPDATE, "6.1.9-1", "6.1.10-1")
    assert {each.name: each.version for each in place.sources().fetch()}["linux"] == "6.1.9-1"
    assert place.look(update=True)["linux"].state is Upstream.TAKEN
    assert {each.name: each.version for each in place.sources().fetch()}["linux"] == "6.1.10-1"
    assert place.states()["linux"] is Upstream.SAME


def test_another_revision_of_the_same_tarball_is_no_update(place: Place) -> None:
    place.publish("6.1.9-2", b"nine")
    assert place.states()["linux"] is Upstream.SAME


def test_the_same_version_with_another_digest_is_an_alarm(place: Place) -> None:
    place.archive = Archive(place.server)
    place.publish("6.1.9-1", b"another nine")
    found = place.look(update=True)["linux"]
    assert found.state is Upstream.ALARM and "another digest" in found.text
    assert {each.name: each.sha256 for each in place.sources().fetch()}["linux"] == hashlib.sha256(b"nine").hexdigest()


def test_an_index_that_a_stranger_signed_is_an_alarm(place: Place) -> None:
    place.archive.publish(signer=key("stranger"))
    assert place.states()["linux"] is Upstream.ALARM


def test_an_older_version_is_a_mirror_that_is_behind(place: Place) -> None:
    place.archive = Archive(place.server)
    place.publish("6.1.8-1", b"eight")
    found = place.look(update=True)["linux"]
    assert found.state is Upstream.UNREACHABLE and "older than 6.1.9-1" in found.text


def test_a_dead_archive_is_unreachable(place: Place) -> None:
    for path in place.archive.files:
        place.server.at(path, status(404))
    assert place.states() == {"linux": Upstream.UNREACHABLE, "tools": Upstream.SAME}


@pytest.mark.parametrize("other", [OTHER, BODY + b"!", BODY[:-1]], ids=["other bytes", "longer", "shorter"])
@pytest.mark.parametrize("seen", [True, False], ids=["seen before", "never seen"])
def test_other_bytes_at_one_address_are_an_alarm(place: Place, other: bytes, seen: bool) -> None:
    if seen:
        place.look()
    place.server.at("/one", good(other, etag='"another"'))
    found = place.look()["tools"]
    assert found.state is Upstream.ALARM and found.where == place.server.url("/one")
    assert hashlib.sha256(BODY).hexdigest() in found.text


def test_one_address_that_answers_is_enough_and_none_is_unreachable(place: Place) -> None:
    place.server.at("/one", status(404))
    found = place.look()["tools"]
    assert found.state is Upstream.SAME and "HTTP 404" in found.text
    place.server.at("/two", status(503))
    assert place.look()["tools"].state is Upstream.UNREACHABLE


def test_a_source_that_was_never_used_here_is_not_looked_for(place: Place, tmp_path: Path) -> None:
    given = {"artifacts": str(tmp_path / "new")}
    assert [each.source for each in upstream.look(place.sources(**given), update=True)] == ["tools"]
