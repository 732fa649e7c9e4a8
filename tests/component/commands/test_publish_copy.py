"""`./inv publish`: what it refuses to copy, and in whose place it does not put a snapshot."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from pipeline.audit import dsse, freshness
from pipeline.commands import publish_copy
from pipeline.config.context import RunContext
from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.core.process import run
from pipeline.errors import Refused, UsageError
from pipeline.publish import signers
from pipeline.publish.attestation_key import open_key
from pipeline.publish.upload import Uploaded
from tests.component.commands.test_build import Bench
from tests.fixtures.rpms import person


class Publisher(Bench):
    """A bench that publishes to a directory beside its artifacts."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.target = place / "target"

    def publish(self, keep: str = "", line: str = "lts61", to: str | None = None, replaces: str = "") -> Uploaded:
        given = load({"artifacts": str(self.artifacts), "line": line}, {})
        target = str(self.target) if to is None else to
        self.out = io.StringIO()
        console = Console(quiet=True, out=self.out, err=self.out)
        try:
            return publish_copy.publish(RunContext(given, console), target, keep, replaces)
        finally:
            self.said = self.out.getvalue()

    @property
    def stated(self) -> Path:
        return freshness.path_in(self.latest.parent)

    def back_to(self, snapshot: Path, statement: bytes) -> None:
        """Put an earlier snapshot back, with its statement, as a host has it that did not publish since."""
        (self.latest.parent / "latest").unlink()
        (self.latest.parent / "latest").symlink_to(f"snapshots/{snapshot.name}")
        self.stated.write_bytes(statement)


def attestation_key(place: Path) -> str:
    """The file of a new attestation key."""
    file = place / "attestation.pem"
    run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", file])
    return str(file)


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
    publisher.back_to(first, earlier)
    with pytest.raises(Refused, match=r"the target: has a newer publication, number \d+"):
        publisher.publish()
    assert (publisher.target / "lts61/latest").resolve().name == newer


def test_a_snapshot_that_is_not_stated_to_be_the_latest_is_not_published(publisher: Publisher) -> None:
    publisher.stated.unlink()
    with pytest.raises(Refused, match="the statement of the latest snapshot: expected one about"):
        publisher.publish()
    assert not publisher.target.exists()


def test_after_a_change_of_the_attestation_key_the_new_host_names_what_it_replaces(
    publisher: Publisher, tmp_path: Path
) -> None:
    old = publisher.publish().snapshot
    newer = publisher.build_all(attestation_key=attestation_key(tmp_path))["snapshot"]["id"]
    with pytest.raises(Refused, match="is not verified: signed with another key") as refused:
        publisher.publish()
    assert f"./inv publish --to {publisher.target} --replaces {old}`" in refused.value.hint
    with pytest.raises(UsageError, match=f"--replaces: not the latest snapshot there; expected {old}, got {newer}"):
        publisher.publish(replaces=newer)
    assert (publisher.target / "lts61/latest").resolve().name == old
    assert publisher.publish(replaces=old).snapshot == newer
    assert publisher.publish().snapshot == newer == (publisher.target / "lts61/latest").resolve().name


def test_an_older_host_that_knows_the_old_key_alone_never_leads_clients_back(
    publisher: Publisher, tmp_path: Path
) -> None:
    earlier, first = publisher.stated.read_bytes(), publisher.latest.resolve()
    old = publisher.publish().snapshot
    newer = publisher.build_all(attestation_key=attestation_key(tmp_path))["snapshot"]["id"]
    publisher.publish(replaces=old)
    publisher.back_to(first, earlier)
    for replaces in ("", newer):
        with pytest.raises(Refused, match=r"the target: has a newer publication, number \d+"):
            publisher.publish(replaces=replaces)
    assert (publisher.target / "lts61/latest").resolve().name == newer


@pytest.mark.parametrize("damage", ["missing", "no JSON", "flipped", "too large", "of another line"])
def test_a_target_whose_latest_is_not_stated_is_refused_unless_it_is_named(publisher: Publisher, damage: str) -> None:
    old = publisher.publish().snapshot
    there = freshness.path_in(publisher.target / "lts61")
    stated = there.read_bytes()
    if damage == "missing":
        there.unlink()
    elif damage == "of another line":
        key = open_key("", publisher.artifacts / "keys")
        there.write_bytes(dsse.sign(dsse.payload(stated).replace(b'"lts61"', b'"lts62"'), key))
    else:
        damaged = {"no JSON": b"x", "flipped": stated.replace(b'"sig": "', b'"sig": "AAAA'), "too large": b"x" * 70_000}
        there.write_bytes(damaged[damage])
    newer = publisher.build_all(baseurl="http://other.example")["snapshot"]["id"]
    with pytest.raises(Refused, match=r"expected a statement that this host's attestation key has signed") as refused:
        publisher.publish()
    assert f"--replaces {old}" in refused.value.hint
    assert (publisher.target / "lts61/latest").resolve().name == old
    assert publisher.publish(replaces=old).snapshot == newer


def test_mirrorlists_that_nothing_states_are_not_replaced(publisher: Publisher) -> None:
    publisher.publish()
    place = publisher.target / "lts61"
    for name in ("latest", "publications.json", "attestations/latest.intoto.json"):
        (place / name).unlink()
    with pytest.raises(Refused, match="nothing states the number of what it leads clients to"):
        publisher.publish()
    for listed in place.glob("mirrorlist-*"):
        listed.unlink()
    assert publisher.publish().kept == (publisher.latest.resolve().name,)


def test_a_statement_that_was_lost_is_put_back_by_the_same_snapshot(publisher: Publisher) -> None:
    publisher.publish()
    freshness.path_in(publisher.target / "lts61").unlink()
    publisher.publish()
    assert freshness.path_in(publisher.target / "lts61").read_bytes() == publisher.stated.read_bytes()


def test_a_statement_that_has_expired_is_not_published(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.time() + 31 * freshness.DAY
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.commands.publish_checks.time.time", lambda: later)
        with pytest.raises(Refused, match="the statement of the latest snapshot: expired 20") as refused:
            publisher.publish()
        assert "./inv build-all" in refused.value.hint and not publisher.target.exists()
        publisher.build_all()
        publisher.publish()


def test_a_release_key_that_has_expired_is_not_published_with(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.build_all(gpg_key=str(person("short-lived", expires="2d").secret))
    publisher.publish()
    later = time.time() + 3 * freshness.DAY
    monkeypatch.setattr("pipeline.audit.release_key.time.time", lambda: later)
    with pytest.raises(Refused, match=r"the release key [0-9A-F]{40}: it expired on 20.*: clients refuse metadata"):
        publisher.publish()


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
