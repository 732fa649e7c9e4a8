"""Who may have signed a source RPM: several keys, keys that cannot be had, expired and revoked ones."""

from __future__ import annotations

import json
import shutil
import tempfile
import tomllib
from pathlib import Path

import pytest

from pipeline.core.fs import sha256_of
from pipeline.errors import ExitCode
from tests.fixtures.agedkeys import AgedKey
from tests.fixtures.commandline import Inv
from tests.fixtures.pinning import fetch, lock_file, locked, pin
from tests.fixtures.toy import SRPM, Toy, make_toy


@pytest.fixture
def inv(tmp_path: Path) -> Inv:
    return Inv(tmp_path)


# Two valid files bear the name: CentOS's and Red Hat's.
def two_signers(place: Path, *, signed_by: str) -> Toy:
    """A line that trusts the keys `toy` and `old`, with an SRPM signed by the one called `signed_by`."""
    toy, old = make_toy(place / "toy"), make_toy(place / "old", expired=True)
    (toy.line_file.parent / "old-key.asc").write_bytes((old.line_file.parent / "toy-key.asc").read_bytes())
    text = toy.line_file.read_text().replace('signers = ["toy"]', 'signers = ["toy", "old"]')
    table = f'\n[keys.old]\ntitle = "Old key"\nfingerprint = "{old.key_fingerprint}"\nfiles = ["old-key.asc"]\n'
    table += "expired = 2020-12-31\n"
    toy.line_file.write_text(text + table)
    if signed_by == "old":
        (toy.mirror / SRPM).write_bytes((old.mirror / SRPM).read_bytes())
    return toy


@pytest.mark.parametrize("signed_by", ["toy", "old"])
def test_of_two_known_signers_the_lock_says_which_one_it_was(inv: Inv, tmp_path: Path, signed_by: str) -> None:
    toy = two_signers(tmp_path, signed_by=signed_by)
    pin(inv, toy)
    keys = tomllib.loads(toy.line_file.read_text())["keys"]
    assert (locked(toy)["signer"], locked(toy)["fingerprint"]) == (signed_by, keys[signed_by]["fingerprint"])
    how = fetch(inv, toy, "--json").json["sources"][0]["how"]
    expired = " of 2020-01-01, and the key expired on 2020-12-31" if signed_by == "old" else ""
    assert how.endswith(f"good signature by {signed_by} ({keys[signed_by]['fingerprint']}){expired}")


def test_a_key_that_cannot_be_had_is_said_and_the_other_one_does(inv: Inv, tmp_path: Path) -> None:
    toy = two_signers(tmp_path, signed_by="toy")
    (toy.line_file.parent / "old-key.asc").unlink()
    ended = pin(inv, toy)
    assert "warning: the key old (" in ended.err and "its signatures will be refused" in ended.err
    assert locked(toy)["signer"] == "toy"


def test_without_any_key_nothing_is_pinned_and_the_places_are_named(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    (toy.line_file.parent / "toy-key.asc").unlink()
    said = pin(inv, toy, "--json", expect=ExitCode.UNREACHABLE).json
    assert said["what"] == f"the key toy ({toy.key_fingerprint}) could not be fetched"
    assert "toy-key.asc" in said["why"] and "keys/FINGERPRINT.asc" in said["next"]
    assert not lock_file(toy).exists()


def test_a_key_file_with_another_key_is_said(inv: Inv, tmp_path: Path) -> None:
    toy, old = make_toy(tmp_path / "toy"), make_toy(tmp_path / "old", expired=True)
    (toy.line_file.parent / "toy-key.asc").write_bytes((old.line_file.parent / "toy-key.asc").read_bytes())
    said = pin(inv, toy, "--json", expect=ExitCode.UNREACHABLE).json
    assert f"wanted {toy.key_fingerprint}, had {old.key_fingerprint}" in said["why"]


# A line of one's own is never taken for the project's.
def test_an_override_is_called_one_in_output_json_and_evidence(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    pinned = pin(inv, toy)
    ended, said = fetch(inv, toy), fetch(inv, toy, "--json").json
    notice = (
        f"warning: not the line el6: {toy.line_file} (sha256 {sha256_of(toy.line_file)[:16]}…) overrides keys.toy, "
    )
    for run in (pinned, ended):
        assert run.err.startswith(notice) and "sources.kernel-srpm.tree.git-tree" in run.err
        assert run.out.startswith("line toy (OVERRIDES el6)")
    evidence = json.loads((inv.artifacts / "evidence" / "toy" / "sources.json").read_text())
    for document in (said, evidence):
        assert document["line"] == "toy"
        assert (document["override"]["base"], document["override"]["file"]) == ("el6", str(toy.line_file))
        assert document["override"]["sha256"] == sha256_of(toy.line_file)
        assert "sources.kernel-srpm.tree.git-tree" in document["override"]["changes"]


def test_quiet_does_not_hide_the_notice_of_an_override(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    pin(inv, toy)
    ended = fetch(inv, toy, "--quiet")
    assert [line.partition(":")[0] for line in ended.err.splitlines()] == ["warning"]


def test_nothing_is_left_of_a_proof_but_its_record(inv: Inv, tmp_path: Path) -> None:
    pin(inv, make_toy(tmp_path / "toy"))
    assert list(inv.tmp.iterdir()) == [] and list(inv.home.iterdir()) == []
    assert list((inv.artifacts / "scratch").iterdir()) == []
    assert inv.living(0) == []


# The state of a key: what is known of it now.
def house(tmp_path: Path) -> tuple[Toy, AgedKey]:
    """A toy whose source package an aged key has signed, in 2022."""
    toy = make_toy(tmp_path / "toy")
    with tempfile.TemporaryDirectory(prefix="k-") as short:  # a socket must fit
        signer = AgedKey.made(Path(short) / "h")
        signed = signer.sign_rpm(tmp_path, 2022, package=toy.mirror / SRPM)
        (toy.mirror / SRPM).write_bytes(signed.read_bytes())
        shutil.copytree(signer.home, tmp_path / "h", ignore=shutil.ignore_patterns("S.*"))
    signer = AgedKey(tmp_path / "h", signer.fingerprint)
    text = toy.line_file.read_text().replace(toy.key_fingerprint, signer.fingerprint)
    toy.line_file.write_text(text)
    (toy.line_file.parent / "toy-key.asc").write_bytes(signer.public)
    return toy, signer


def test_a_key_that_was_kept_is_judged_again_once_its_revocation_is_known(inv: Inv, tmp_path: Path) -> None:
    toy, signer = house(tmp_path)
    pin(inv, toy)
    fetch(inv, toy)
    signer.revoke("compromised", 2023)
    (toy.line_file.parent / "toy-key.asc").write_bytes(signer.public)
    for verb in (fetch, pin):
        said = verb(inv, toy, "--json", expect=ExitCode.REFUSED).json
        assert said["why"] == "the key was revoked on 2023-01-01: compromised"
    (toy.line_file.parent / "toy-key.asc").unlink()
    assert "compromised" in pin(inv, toy, "--json", expect=ExitCode.REFUSED).json["why"], "the store remembers"


def test_an_expired_key_needs_a_line_that_accepts_it(inv: Inv, tmp_path: Path) -> None:
    toy, signer = house(tmp_path)
    signer.expire(2021, 2023)
    (toy.line_file.parent / "toy-key.asc").write_bytes(signer.public)
    said = pin(inv, toy, "--json", expect=ExitCode.REFUSED).json
    assert said["what"] == "the key toy has expired, and the line file does not say that this is accepted"
    assert "`expired = 2022-12-31` under [keys.toy]" in said["next"]
    text = toy.line_file.read_text()
    toy.line_file.write_text(text.replace("[keys.toy]\n", "[keys.toy]\nexpired = 2022-12-31\n"))
    pin(inv, toy)
    assert fetch(inv, toy, "--json").json["sources"][0]["how"].endswith(" and the key expired on 2022-12-31")
    toy.line_file.write_text(text.replace("[keys.toy]\n", "[keys.toy]\nexpired = 2021-12-31\n"))
    said = fetch(inv, toy, "--json", expect=ExitCode.REFUSED).json
    assert said["what"] == "the key toy had expired when the package was signed"


def test_a_revocation_that_an_earlier_run_saw_counts_for_what_was_proven_before(inv: Inv, tmp_path: Path) -> None:
    toy, signer = house(tmp_path)
    pin(inv, toy)
    fetch(inv, toy)
    key, before = toy.line_file.parent / "toy-key.asc", signer.public
    signer.revoke("compromised", 2023)
    key.write_bytes(signer.public)
    fetch(inv, toy, expect=ExitCode.REFUSED)
    key.write_bytes(before)
    said = fetch(inv, toy, "--json", expect=ExitCode.REFUSED).json
    assert said["why"] == "the key was revoked on 2023-01-01: compromised"


def test_a_revocation_that_a_mirror_brings_counts_for_what_was_proven_before(inv: Inv, tmp_path: Path) -> None:
    toy, signer = house(tmp_path)
    pin(inv, toy)
    fetch(inv, toy)
    signer.revoke("compromised", 2023)
    brought = tmp_path / "brought" / "keys" / f"{signer.fingerprint}.asc"
    brought.parent.mkdir(parents=True)
    brought.write_bytes(signer.public)
    for options in (["--mirror", str(tmp_path / "brought")], []):
        said = fetch(inv, toy, *options, "--json", expect=ExitCode.REFUSED).json
        assert said["why"] == "the key was revoked on 2023-01-01: compromised"
