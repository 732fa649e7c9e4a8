"""A line's snapshots are believed by a key that signed one here, or that a person names; never by theirs."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import integrity
from pipeline.commands.lab import LabCommand
from pipeline.config import line_loader, settings
from pipeline.config.context import RunContext
from pipeline.core import fs, process
from pipeline.core.console import Console
from pipeline.errors import Refused, UsageError
from pipeline.publish import signers, signing
from pipeline.publish.signing import Signer
from pipeline.publish.snapshot import Snapshot
from pipeline.publish.snapshot_contents import BuiltPackage, Contents
from tests.fixtures import snapshots
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import person, rpm

pytestmark = pytest.mark.usefixtures("inv")


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def ours(artifacts: Path, signer: Signer) -> Snapshot:
    """The line's snapshot, by the key that is recorded."""
    made = publish(artifacts, signer)
    signers.record(artifacts, "lts61", signer.key.fingerprint)
    return made


@pytest.fixture
def theirs(inv: Inv, tmp_path: Path) -> Iterator[Snapshot]:
    """The same packages, published elsewhere by somebody else."""
    with signing.open_signer(str(person("stranger").secret), tmp_path / "keys") as other:
        yield publish(tmp_path / "elsewhere", other)


def publish(artifacts: Path, by: Signer) -> Snapshot:
    wanted = Contents("lts61", "lts61", {"stock": [BuiltPackage(rpm("kernel"), "kernel:stock")]})
    return snapshots.publish(wanted, by, artifacts / "repo")


def job(artifacts: Path, **options: Any) -> LabCommand:
    given = settings.load({"artifacts": str(artifacts), **options}, {})
    return LabCommand(line_loader.load("lts61"), RunContext(given, Console(out=io.StringIO())))


def refusal(artifacts: Path, **options: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        job(artifacts, **options)._repository()
    return refused.value


def put(theirs: Snapshot, ours: Snapshot, how: str) -> None:
    """Has the foreign snapshot take our place."""
    if how == "in its place":
        process.run(["mv", "-T", ours.path, f"{ours.path}.ours"])
        process.run(["cp", "-r", theirs.path, ours.path])
    else:
        ours.latest.unlink()
        ours.latest.symlink_to(theirs.path)


def test_our_own_snapshot_is_believed(ours: Snapshot, artifacts: Path) -> None:
    assert job(artifacts)._repository().fingerprint == ours.fingerprint


def test_a_snapshot_by_the_key_before_the_last_is_believed(ours: Snapshot, artifacts: Path, tmp_path: Path) -> None:
    """Held snapshots and kept ones: a new key signs while `latest` still leads to what the old one signed."""
    with signing.open_signer(str(person("packager").secret), tmp_path / "keys") as signer:
        new = publish(artifacts, signer)
    for _ in range(2):
        signers.record(artifacts, "lts61", new.fingerprint)
    assert new.id != ours.id
    for made in (new, ours):
        fs.replace_symlink(made.latest, f"snapshots/{made.id}")
        assert job(artifacts)._repository().fingerprint == made.fingerprint
    assert list(integrity._snapshots(artifacts, "lts61")) == []
    signers.record_path(artifacts, "lts61").write_text(f"{new.fingerprint}\n")
    assert "another key" in refusal(artifacts).what, "one that was taken out counts no more"
    assert [path for path, _ in integrity._snapshots(artifacts, "lts61")] == [ours.path]


@pytest.mark.parametrize("how", ["in its place", "by the link"])
def test_a_snapshot_by_another_key_is_refused_with_both(
    ours: Snapshot, theirs: Snapshot, artifacts: Path, how: str
) -> None:
    put(theirs, ours, how)
    refused = refusal(artifacts)
    assert refused.what == (
        f"the snapshot was signed by another key: expected {ours.fingerprint}, got {theirs.fingerprint}"
    )
    assert f"--gpg-key {theirs.fingerprint}" in refused.why
    assert refused.hint.endswith(f"./inv build-all --line lts61 --artifacts {artifacts}")
    *moving, _ = refused.hint.rpartition("./inv")[0].split(" && ")
    for command in moving:
        process.run(shlex.split(command))
    assert not job(artifacts).latest.exists() or how == "by the link", "a build publishes again then"
    assert theirs.path.exists()


@pytest.mark.parametrize("how", ["fingerprint", "public key", "secret key"])
def test_a_snapshot_from_elsewhere_is_believed_when_its_key_is_named(
    ours: Snapshot, theirs: Snapshot, artifacts: Path, how: str
) -> None:
    put(theirs, ours, "by the link")
    stranger = person("stranger")
    named = {"fingerprint": stranger.fingerprint, "public key": stranger.public, "secret key": stranger.secret}[how]
    assert job(artifacts, gpg_key=str(named))._repository().fingerprint == theirs.fingerprint


def test_a_named_key_that_is_not_the_signers_is_refused_although_the_record_is(ours: Snapshot, artifacts: Path) -> None:
    refused = refusal(artifacts, gpg_key=person("stranger").fingerprint)
    assert f"expected {person('stranger').fingerprint}, got {ours.fingerprint}" in refused.what
    assert refused.hint == f"./inv smoke --gpg-key {ours.fingerprint} --line lts61 --artifacts {artifacts}"


def test_a_snapshot_that_names_our_key_and_is_signed_by_another_is_refused(
    ours: Snapshot, theirs: Snapshot, artifacts: Path
) -> None:
    put(theirs, ours, "in its place")
    process.run(["chmod", "-R", "u+w", ours.path])
    document = ours.path / "snapshot.json"
    document.write_text(document.read_text().replace(theirs.fingerprint, ours.fingerprint))
    assert refusal(artifacts).what == "the key lvs-fullnat-" + theirs.fingerprint[-8:].lower() + " was not found"


@pytest.mark.parametrize("record", [None, "", "F" * 39, "not a fingerprint\n", "é", "F" * 40 + "\n" + "F" * 100])
def test_without_a_record_nothing_is_believed(ours: Snapshot, artifacts: Path, record: str | None) -> None:
    place = signers.record_path(artifacts, "lts61")
    place.unlink() if record is None else place.write_text(record)
    refused = refusal(artifacts)
    assert (refused.what, refused.where) == (
        "the signing key of the line lts61: expected its fingerprint in a record, got none",
        str(place),
    )
    assert refused.hint == f"./inv build-all --line lts61 --artifacts {artifacts}"


def test_a_key_file_with_no_end_or_no_key_is_a_mistake(ours: Snapshot, artifacts: Path, tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("no key")
    both = tmp_path / "both"
    both.write_bytes(person("stranger").public.read_bytes() + person("packager").public.read_bytes())
    for name, said in {
        "/dev/zero": "expected a regular file, got a device",
        str(tmp_path): "expected a regular file, got a directory",
        str(tmp_path / "junk"): "expected one OpenPGP key, got none",
        str(both): f"expected one OpenPGP key, got {person('stranger').fingerprint}, {person('packager').fingerprint}",
    }.items():
        with pytest.raises(UsageError, match=said):
            job(artifacts, gpg_key=name)._repository()


def test_the_command_line_takes_the_key_for_everything_that_boots(ours: Snapshot, inv: Inv) -> None:
    for verb in ("smoke", "boot", "lab"):
        assert "--gpg-key" in inv("--help", verb).out
