"""`./inv publish`: what it refuses to copy, and in whose place it does not put a snapshot."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pipeline.audit import freshness
from pipeline.commands import publish_copy
from pipeline.config.context import RunContext
from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.errors import Refused, UsageError
from pipeline.publish import signers
from pipeline.publish.upload import Uploaded
from tests.component.commands.test_build import Bench


class Publisher(Bench):
    """A bench that publishes to a directory beside its artifacts."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.target = place / "target"

    def publish(self, keep: str = "", line: str = "lts61") -> Uploaded:
        given = load({"artifacts": str(self.artifacts), "line": line}, {})
        self.out = io.StringIO()
        console = Console(quiet=True, out=self.out, err=self.out)
        try:
            return publish_copy.publish(RunContext(given, console), str(self.target), keep)
        finally:
            self.said = self.out.getvalue()

    @property
    def stated(self) -> Path:
        return freshness.path_in(self.latest.parent)


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    made = Publisher(tmp_path)
    made.build_all()
    return made


def test_the_signed_word_which_snapshot_is_the_latest_goes_with_it(publisher: Publisher) -> None:
    done = publisher.publish(keep="3")
    there = freshness.path_in(publisher.target / "lts61")
    assert there.read_bytes() == publisher.stated.read_bytes()
    assert f"{done.snapshot} is the latest at {publisher.target}; 1 kept, 0 removed" in publisher.out.getvalue()


def test_what_was_left_on_the_target_is_said(publisher: Publisher) -> None:
    publisher.publish()
    (publisher.target / "lts61/snapshots/photos").mkdir()
    publisher.publish()
    assert "no snapshots of ours, and left there: lts61/snapshots/photos" in publisher.said


def test_a_linked_line_is_refused_before_its_statement_is_read(publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish()
    (publisher.target / "lts61").rename(tmp_path / "disk")
    (publisher.target / "lts61").symlink_to(tmp_path / "disk")
    with pytest.raises(UsageError, match="lts61 on the target: a symbolic link; expected a directory"):
        publisher.publish()
    assert (publisher.target / "lts61").is_symlink()


def test_nothing_takes_the_place_of_what_has_a_higher_number(publisher: Publisher) -> None:
    earlier = publisher.stated.read_bytes()
    first = publisher.latest.resolve()
    newer = publisher.build_all(baseurl="http://other.example")["snapshot"]["id"]
    publisher.publish()
    (publisher.latest.parent / "latest").unlink()
    (publisher.latest.parent / "latest").symlink_to(f"snapshots/{first.name}")
    publisher.stated.write_bytes(earlier)
    with pytest.raises(Refused, match=r"the target: has a newer publication, number \d+"):
        publisher.publish()
    assert (publisher.target / "lts61/latest").resolve().name == newer


def test_a_snapshot_that_is_not_stated_to_be_the_latest_is_not_published(publisher: Publisher) -> None:
    publisher.stated.unlink()
    with pytest.raises(Refused, match="the statement of the latest snapshot: expected one about"):
        publisher.publish()
    assert not publisher.target.exists()


def test_a_signer_that_nobody_recorded_is_not_taken_from_the_snapshot(publisher: Publisher) -> None:
    signers.record_path(publisher.artifacts, "lts61").unlink()
    with pytest.raises(Refused, match="expected its fingerprint in a record, got none"):
        publisher.publish()
    assert not publisher.target.exists()


@pytest.mark.parametrize("keep", ["0", "-1", "x", "1.5"])
def test_a_number_to_keep_that_is_none_is_a_mistake(publisher: Publisher, keep: str) -> None:
    with pytest.raises(UsageError, match="--keep: expected a number, 1 or more"):
        publisher.publish(keep=keep)


def test_a_line_without_a_repository_has_nothing_to_publish(publisher: Publisher) -> None:
    with pytest.raises(UsageError, match="there is no repository of the line lts612"):
        publisher.publish(line="lts612")
