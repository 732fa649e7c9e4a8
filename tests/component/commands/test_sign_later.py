"""A snapshot that one host builds and another one signs: what is carried, what is verified, what stays the same."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import audit, policy
from pipeline.audit.audit import Standing
from pipeline.audit.findings import Result
from pipeline.commands import clean, sign_later
from pipeline.config.context import RunContext
from pipeline.config.settings import load
from pipeline.core import documents, fs, process
from pipeline.core.console import Console
from pipeline.errors import PipelineError, Refused, UsageError
from pipeline.formats import rpm_header
from pipeline.publish import keys, unsigned
from pipeline.publish.verify import read_document, verify_snapshot
from tests.component.commands.test_build import MADE, Bench
from tests.fixtures.rpms import person
from tests.fixtures.snapshots import flipped

ADDRESS = "http://repo.example/lvs"


def attestation_key(place: Path) -> str:
    file = place / "attestation.pem"
    process.run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", file])
    return str(file)


class Builder(Bench):
    """A host that builds and has no release key."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.attestation = attestation_key(place)

    def left(self) -> Path:
        said = self.build_all(sign_later=True, baseurl=ADDRESS, attestation_key=self.attestation)
        return Path(said["unsigned"])


class SigningHost:
    """A host with nothing but the attestation key, and what is carried to it."""

    def __init__(self, place: Path, attestation: str) -> None:
        self.place, self.artifacts, self.attestation = place, place / "artifacts", attestation
        place.mkdir()

    def carried(self, path: Path) -> Path:
        return Path(shutil.copytree(path, self.place / path.name))

    def sign(self, name: str | Path, **settings: Any) -> Any:
        given = {"artifacts": str(self.artifacts), "attestation_key": self.attestation, **settings}
        self.out = io.StringIO()
        context = RunContext(load(given, {}), Console(quiet=True, out=self.out))
        return json.loads(documents.to_json(sign_later.sign(context, str(name))))


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("builder"))


@pytest.fixture(scope="module")
def made(builder: Builder) -> Path:
    return builder.left()


@pytest.fixture
def host(builder: Builder, tmp_path: Path) -> SigningHost:
    return SigningHost(tmp_path / "host", builder.attestation)


def bodies(directory: Path) -> dict[str, str]:
    return {path.name: rpm_header.body_sha256(path, rpm_header.read(path)) for path in directory.rglob("*.rpm")}


def statement_problems(snapshot: Path) -> list[Any]:
    """What an audit of the latest snapshot finds wrong, but for roles: the packages of these tests have none."""
    found = audit.examine(snapshot, policy.load(None), Standing.LATEST).audit.findings
    assert {"subject", "freshness", "signature"} <= {row.check for row in found}
    return [row for row in found if row.result is Result.FAIL and row.check != "role"]


def test_the_host_that_builds_makes_no_key_and_publishes_nothing(builder: Builder, made: Path) -> None:
    assert made.parent == builder.artifacts / "unsigned" / "lts61"
    assert not (builder.artifacts / "repo").exists()
    assert not list((builder.artifacts / "keys").rglob("secret*")), "neither OpenPGP nor another one"
    assert {path.name for path in (made / "statements").iterdir()} == {
        f"{step.replace(':', '-')}.intoto.json" for step in MADE
    }
    assert len(bodies(made)) == 5


def test_the_same_again_is_reused_and_what_is_gone_is_made_anew(builder: Builder, made: Path) -> None:
    before = (made / unsigned.FILE).stat().st_ino
    assert builder.left() == made and (made / unsigned.FILE).stat().st_ino == before
    fs.remove(made)
    assert builder.left() == made and len(bodies(made)) == 5


def test_clean_old_removes_what_a_newer_one_has_taken_the_place_of(builder: Builder, made: Path) -> None:
    options = {"sign_later": True, "attestation_key": builder.attestation}
    other = Path(builder.build_all(baseurl="http://other.example", **options)["unsigned"])
    os.utime(made / unsigned.FILE, (1, 1))
    clean.clean(("old",), "lts61", builder.job().context)
    assert other.is_dir() and not made.exists()
    assert builder.left() == made
    clean.clean(("steps",), "lts61", builder.job().context)
    assert not other.exists() and not made.exists()
    assert len(bodies(builder.left())) == 5


def test_a_file_of_a_key_signs_what_was_carried_and_the_bodies_stay(made: Path, host: SigningHost) -> None:
    carried = host.carried(made)
    key = person("release")
    said = host.sign(carried, gpg_key=str(key.secret))
    snapshot = Path(said["snapshot"]["path"])
    document = verify_snapshot(snapshot, key.fingerprint)
    assert (document.baseurl, document.line) == (ADDRESS, "lts61")
    assert bodies(snapshot) == bodies(made)
    assert (host.artifacts / "repo/lts61/latest").resolve() == snapshot.resolve()
    assert host.sign(carried, gpg_key=str(key.secret))["steps"]["repository"]["state"] == "reused"


def test_a_builder_that_signs_itself_publishes_the_same_bodies(builder: Builder, made: Path) -> None:
    signed = builder.build_all(baseurl=ADDRESS, attestation_key=builder.attestation)["snapshot"]
    assert bodies(Path(signed["path"])) == bodies(made)
    fs.remove(builder.artifacts / "repo")
    shutil.rmtree(builder.artifacts / "keys" / "development")


def test_an_audit_finds_every_statement_and_that_it_is_the_latest(made: Path, host: SigningHost) -> None:
    said = host.sign(host.carried(made), gpg_key=str(person("release").secret))
    assert statement_problems(Path(said["snapshot"]["path"])) == []


def test_an_agent_signs_with_a_key_whose_secret_no_file_of_ours_has(
    made: Path, host: SigningHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real gpg-agent of somebody's keyring; a token is reached through the same agent."""
    key = person("agent")
    monkeypatch.setenv("GNUPGHOME", str(key.home))
    try:
        said = host.sign(host.carried(made), gpg_key=key.fingerprint)
        running = process.run(["gpg-connect-agent", "--homedir", key.home, "--no-autostart", "getinfo pid", "/bye"])
        assert running.text.startswith("D "), "the person's own agent did it"
    finally:
        key.stop_agent()
    verify_snapshot(Path(said["snapshot"]["path"]), key.fingerprint)
    assert not list(host.artifacts.rglob("secret*")) and not list(host.artifacts.rglob("*private-keys*"))


def test_another_key_makes_another_snapshot_of_the_same_bodies(made: Path, host: SigningHost) -> None:
    carried = host.carried(made)
    paths = [Path(host.sign(carried, gpg_key=str(person(n).secret))["snapshot"]["path"]) for n in ("release", "next")]
    assert paths[0] != paths[1] and bodies(paths[0]) == bodies(paths[1]) == bodies(made)
    assert {read_document(path).key.fingerprint for path in paths} == {
        keys.named(str(person(name).public)) for name in ("release", "next")
    }


def package(place: Path) -> Path:
    return sorted((place / "packages").rglob("*.rpm"))[0]


def edit(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))


def exchange_statements(place: Path) -> None:
    first, second = sorted((place / "statements").iterdir())[:2]
    shutil.copy(first, second)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda place: edit(package(place), flipped), "another SHA-256; expected"),
        (lambda place: package(place).unlink(), "other files than it lists; missing: packages/"),
        (lambda place: shutil.copy(package(place), package(place).with_name("x.rpm")), "unexpected: packages/"),
        (lambda place: (place / "statements/ipvsadm.intoto.json").unlink(), "missing: statements/ipvsadm"),
        (lambda place: edit(place / "statements/ipvsadm.intoto.json", flipped), "expected a signed statement"),
        (exchange_statements, "another "),
        (lambda place: edit(place / unsigned.FILE, lambda data: data.replace(b"lvs", b"xvs")), "damaged; expected the"),
        (lambda place: package(place).with_name("x.rpm").symlink_to("/etc/passwd"), "a link or special file"),
    ],
    ids=["package", "lost", "added", "no statement", "statement", "exchanged", "contents", "link"],
)
def test_what_changed_on_the_way_is_not_signed(
    made: Path, host: SigningHost, damage: Callable[[Path], object], said: str
) -> None:
    carried = host.carried(made)
    damage(carried)
    with pytest.raises(Refused, match=said):
        host.sign(carried, gpg_key=str(person("release").secret))
    assert not (host.artifacts / "repo").exists()


def test_contents_that_were_made_anew_around_another_package_do_not_pass(made: Path, host: SigningHost) -> None:
    """Whoever can write can compute digests; the statements they cannot sign."""
    carried = host.carried(made)
    file = package(carried)
    before = fs.sha256_of(file)
    edit(file, flipped)
    edit(carried / unsigned.FILE, lambda data: data.replace(before.encode(), fs.sha256_of(file).encode()))
    renamed = carried.with_name(unsigned.identity((carried / unsigned.FILE).read_bytes()))
    carried.rename(renamed)
    with pytest.raises(PipelineError, match="another SHA-256 in the statement"):
        host.sign(renamed, gpg_key=str(person("release").secret))


def test_statements_of_another_attestation_key_are_refused(made: Path, host: SigningHost, tmp_path: Path) -> None:
    carried = host.carried(made)
    with pytest.raises(Refused, match="signed with another key; expected"):
        host.sign(carried, gpg_key=str(person("release").secret), attestation_key=attestation_key(tmp_path))


def test_the_host_that_signs_may_have_an_attestation_key_of_its_own(
    builder: Builder, made: Path, host: SigningHost, tmp_path: Path
) -> None:
    (known := tmp_path / "known").mkdir()
    process.run(["openssl", "pkey", "-in", builder.attestation, "-pubout", "-out", known / "builder.pem"])
    own = attestation_key(tmp_path)
    said = host.sign(
        host.carried(made), gpg_key=str(person("release").secret), attestation_key=own, shared_keys=str(known)
    )
    assert statement_problems(Path(said["snapshot"]["path"])) == []


def test_a_name_that_means_none_is_told_with_those_there_are(builder: Builder, made: Path) -> None:
    root = builder.artifacts / "unsigned"
    assert unsigned.find(made.name[:8], root) == made
    with pytest.raises(UsageError, match="'zz': not an unsigned snapshot") as refused:
        unsigned.find("zz", root)
    assert made.name in refused.value.why
