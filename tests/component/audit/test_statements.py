"""Statements of a real run, whose packages cost nothing: what lies where, and who can read and verify it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2  # type: ignore[import-untyped]
from in_toto_attestation.predicates.vsa.v1 import vsa_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1 import statement_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1.statement import Statement as TheirStatement  # type: ignore[import-untyped]

from pipeline.audit import audit, dsse, freshness, policy, statement, vsa
from pipeline.audit.audit import Standing
from pipeline.audit.findings import Finding, Result
from pipeline.audit.statement import Kind
from pipeline.core.decoder import Mismatch
from pipeline.core.fs import sha256_of
from pipeline.errors import Refused, UsageError
from pipeline.formats import rpm_header
from pipeline.publish import attestation_key, snapshot
from pipeline.publish.verify import verify_snapshot
from tests.component.commands.test_build import MADE, Bench
from tests.fixtures.audits import examined
from tests.fixtures.snapshots import changed
from tests.fixtures.statements import flip, made_key, of_kind, openssl_takes, sigstore_takes, statement_of

NAMES = {f"{step.replace(':', '-')}.intoto.json" for step in (*MADE, "repository")}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench on which everything was built once."""
    made = Bench(tmp_path_factory.mktemp("statements"))
    made.build_all()
    return made


def published(bench: Bench) -> Path:
    """The statements beside the latest snapshot."""
    return bench.latest.parent / "attestations" / bench.latest.resolve().name


def public(bench: Bench) -> Path:
    [found] = bench.latest.resolve().glob("ATTESTATION-KEY-*.pem")
    return found


def test_each_step_s_statement_lies_with_its_result_and_beside_the_snapshot(bench: Bench) -> None:
    assert {path.name for path in published(bench).iterdir()} == NAMES
    for name in NAMES:
        [own] = (bench.artifacts / "steps/lts61").glob(f"{name.removesuffix('.intoto.json')}/*/statement.intoto.json")
        assert own.read_bytes() == (published(bench) / name).read_bytes()
    assert not list(bench.latest.resolve().rglob("*.intoto.json")), "what tells times would change a snapshot's id"


def test_the_public_key_is_a_file_that_the_openpgp_signature_covers(bench: Bench) -> None:
    said = bench.build_all()["snapshot"]
    document = verify_snapshot(bench.latest, said["fingerprint"])
    assert document.attestation is not None and document.attestation.development
    assert f"{sha256_of(public(bench))}  {public(bench).name}\n" in (bench.latest / "SHA256SUMS").read_text()
    assert public(bench).read_bytes() == (bench.artifacts / "keys/attestation/public.pem").read_bytes()
    assert public(bench).name in (bench.latest / "README").read_text()


@pytest.mark.parametrize("name", ["kernel-stock.intoto.json", "repository.intoto.json"])
def test_openssl_sigstore_and_the_in_toto_library_take_a_statement(bench: Bench, tmp_path: Path, name: str) -> None:
    envelope = published(bench) / name
    assert openssl_takes(envelope, public(bench), tmp_path)
    assert sigstore_takes(envelope, public(bench))
    payload = dsse.verify(envelope.read_bytes(), public(bench).read_bytes())
    theirs = json_format.Parse(payload, statement_pb2.Statement())  # strict: an unknown field is an error
    TheirStatement.copy_from_pb(theirs).validate()
    predicate = json_format.MessageToJson(theirs.predicate)
    provenance = json_format.Parse(predicate, provenance_pb2.Provenance())
    assert provenance.build_definition.build_type == statement.BUILD_TYPE
    ours = statement.parse(payload)
    assert ours.text() == payload, "what is read is all that there is"


ACCEPTED = tuple(
    Finding(check, "key", Result.PASS, "accepted by the policy") for check in ("release key", "attestation key")
)


def summary(place: Path, *findings: Finding) -> tuple[Path, Path]:
    """The signed summary of an audit with these findings by a policy, and the public key."""
    opened = attestation_key.open_key(str(made_key(place / "own.pem")), place)
    audited = replace(examined(*findings, told=True).audit, policy="policy.toml", policy_sha256="9" * 64)
    envelope, key = place / "vsa.json", place / "public.pem"
    envelope.write_bytes(vsa.sign(audited, opened))
    key.write_bytes(opened.public.pem)
    return envelope, key


# How each envelope that is no step's comes to be: the envelope and the public key, and the type of its predicate.
OTHERS: dict[str, tuple[Callable[[Bench, Path], tuple[Path, Path]], str]] = {
    "publication": (
        lambda bench, _: (published(bench) / "repository.intoto.json", public(bench)),
        statement.PREDICATE_TYPE,
    ),
    "freshness": (lambda bench, _: (freshness.path_in(bench.latest.parent), public(bench)), freshness.PREDICATE_TYPE),
    "summary": (lambda _, place: summary(place, *ACCEPTED), vsa.PREDICATE_TYPE),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_peoples_tools_take_every_envelope_and_refuse_one_changed_byte(
    bench: Bench, tmp_path: Path, what: str
) -> None:
    make, predicate_type = OTHERS[what]
    envelope, key = make(bench, tmp_path)
    assert openssl_takes(envelope, key, tmp_path)
    assert sigstore_takes(envelope, key, predicate_type)
    theirs = json_format.Parse(dsse.verify(envelope.read_bytes(), key.read_bytes()), statement_pb2.Statement())
    TheirStatement.copy_from_pb(theirs).validate()
    for part in ("payload", "signature"):
        document = json.loads(envelope.read_text())
        flip(document, part)
        forged = tmp_path / f"{part}.json"
        forged.write_text(json.dumps(document))
        assert not openssl_takes(forged, key, tmp_path)
        assert not sigstore_takes(forged, key, predicate_type)


@pytest.mark.parametrize(
    ("findings", "result", "level"),
    [
        (ACCEPTED, "PASSED", "SLSA_BUILD_LEVEL_1"),
        ((*ACCEPTED, Finding("line", "toy", Result.WARN, "small")), "PASSED", "SLSA_BUILD_LEVEL_1"),
        ((*ACCEPTED[:1], replace(ACCEPTED[1], result=Result.WARN)), "PASSED", "SLSA_BUILD_LEVEL_0"),
        ((*ACCEPTED[1:], replace(ACCEPTED[0], result=Result.WARN)), "PASSED", "SLSA_BUILD_LEVEL_0"),
        ((*ACCEPTED, Finding("package", "x.rpm", Result.FAIL, "changed")), "FAILED", "FAILED"),
    ],
)
def test_the_in_toto_library_reads_what_a_summary_claims(
    tmp_path: Path, findings: tuple[Finding, ...], result: str, level: str
) -> None:
    theirs = statement_of(summary(tmp_path, *findings)[0])["predicate"]
    assert theirs.pop("verifiedLevels") == [level], "a list, as SLSA's text has it; the library's model has one text"
    found = json_format.ParseDict(theirs, vsa_pb2.VerificationSummary())  # strict: an unknown field is an error
    assert found.verification_result == result
    assert found.policy.uri == f"urn:lvs-fullnat:policy:{'9' * 64}" and found.policy.digest["sha256"] == "9" * 64
    assert [dict(row.digest) for row in found.input_attestations] == [{"sha256": "f" * 64}]


@pytest.mark.parametrize("standing", Standing)
def test_an_audit_names_every_envelope_that_it_relied_on(bench: Bench, standing: Standing) -> None:
    """A summary lists all of them or none, by SLSA's text; of a held snapshot none says that it is the latest."""
    latest = freshness.path_in(bench.latest.parent)
    files = [*published(bench).iterdir(), *([] if standing is Standing.HELD else [latest])]
    found = audit.examine(bench.latest, policy.load(None), standing).audit.statements
    assert found == {file.name: sha256_of(file) for file in files}


def test_an_audit_without_a_policy_has_no_summary(tmp_path: Path) -> None:
    opened = attestation_key.open_key(str(made_key(tmp_path / "own.pem")), tmp_path)
    with pytest.raises(UsageError, match="a summary states the policy that decided"):
        vsa.sign(examined(*ACCEPTED).audit, opened)


def test_a_statement_names_each_package_whole_and_without_its_signatures(bench: Bench) -> None:
    built = statement_of(published(bench) / "kernel-stock.intoto.json")["subject"]
    final = statement_of(published(bench) / "repository.intoto.json")["subject"]
    [rpm] = (bench.latest / "stock").glob("kernel-*.rpm")
    body = rpm_header.body_sha256(rpm, rpm_header.read(rpm))
    assert [row["name"] for row in built] == [f"rpms/{rpm.name}", f"rpms/{rpm.name}#body"]
    assert built[1]["digest"] == {"sha256": body}
    digests = {row["name"]: row["digest"]["sha256"] for row in final}
    assert digests[rpm.name] == sha256_of(rpm) != built[0]["digest"]["sha256"]
    assert digests[f"{rpm.name}#body"] == body
    assert digests["SHA256SUMS"] == sha256_of(bench.latest / "SHA256SUMS")


def test_a_publication_names_the_steps_that_it_took_packages_from_by_their_statements(bench: Bench) -> None:
    found = statement_of(published(bench) / "repository.intoto.json")
    steps = {row["name"]: row["digest"]["sha256"] for row in of_kind(found, Kind.STEP)}
    assert steps == {step: sha256_of(published(bench) / f"{step.replace(':', '-')}.intoto.json") for step in MADE}
    built = statement_of(published(bench) / "ipvsadm.intoto.json")["subject"][0]
    assert built["digest"] in [row["digest"] for row in of_kind(found, Kind.PACKAGE)]


def test_the_line_s_files_are_embedded_with_their_last_change(bench: Bench) -> None:
    found = of_kind(statement_of(published(bench) / "ipvsadm.intoto.json"), Kind.LINE_FILE)
    assert [row["name"] for row in found] == ["lines/lts61.toml", "patches/lts61/series.toml"]
    for row in found:
        facts = statement.Resource.from_json(row)
        assert b"lts61" in facts.data or b"[patches" in facts.data
        assert len(facts.facts(statement.LineFileFacts).commit) == 40


def test_a_run_in_which_nothing_ran_states_nothing(bench: Bench) -> None:
    before = {path.name: path.read_bytes() for path in published(bench).iterdir()}
    bench.build_all()
    assert {path.name: path.read_bytes() for path in published(bench).iterdir()} == before


def test_a_forced_step_is_stated_anew_and_a_publication_keeps_what_it_was_made_from(bench: Bench) -> None:
    before = {path.name: path.read_bytes() for path in published(bench).iterdir()}
    out = Path(bench.build_all(force=["ipvsadm"])["steps"]["ipvsadm"]["out"])
    assert (out.parent / "statement.intoto.json").read_bytes() != before["ipvsadm.intoto.json"]
    assert {path.name: path.read_bytes() for path in published(bench).iterdir()} == before, "the bytes are the same"


def test_removed_statements_of_a_snapshot_are_published_anew_and_the_snapshot_stays(bench: Bench) -> None:
    snapshot = bench.latest.resolve()
    (published(bench) / "kernel-stock.intoto.json").unlink()
    again = bench.build_all()["steps"]
    assert {name for name, step in again.items() if step["state"] == "ran"} == {"repository"}
    assert {path.name for path in published(bench).iterdir()} == NAMES and bench.latest.resolve() == snapshot


def test_bills_of_materials_belong_to_the_publication_and_go_with_their_snapshot(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.build_all()
    place = snapshot.bills_of_materials(bench.latest.resolve())
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    assert len(before) == 2 * 6
    (place / "snapshot.cdx.json").unlink()
    assert {name for name, step in bench.build_all()["steps"].items() if step["state"] == "ran"} == {"repository"}
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before, "the same content, the same bytes"
    old = bench.latest.resolve()
    bench.build_all(baseurl="http://other.example/repo")
    snapshot.remove_snapshot(old)
    assert not place.exists() and not snapshot.attestations(old).exists()


def test_a_key_of_a_person_is_taken_and_remembered(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = bench.build_all()
    own = str(made_key(tmp_path / "own.pem"))
    told = bench.build_all(attestation_key=own, dry_run=True)["steps"]
    assert told["ipvsadm"]["why"].startswith("its statement is signed with the key ")
    second = bench.build_all(attestation_key=own)
    assert {step["state"] for step in second["steps"].values()} == {"ran"}
    assert second["snapshot"]["id"] != first["snapshot"]["id"], "a snapshot has the key in it"
    assert {step["state"] for step in bench.build_all()["steps"].values()} == {"reused"}, "a forgotten key is the last"
    small = bench.build_all(kernel_config="small")["steps"]
    assert small["ipvsadm"]["state"] == "reused", "both configurations share it, and so the key"
    assert sigstore_takes(published(bench) / "ipvsadm.intoto.json", public(bench))
    assert "DEVELOPMENT" not in public(bench).name.upper()


def test_a_key_that_cannot_sign_is_told_before_anything_is_built(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(UsageError, match="the attestation key: No such file"):
        bench.build_all(attestation_key=str(tmp_path / "absent.pem"))
    with pytest.raises(Refused, match="another kind, Ed25519"):
        bench.build_all(attestation_key=str(made_key(tmp_path / "ed.pem", "-algorithm", "ED25519")))
    assert not (bench.artifacts / "steps" / "lts61").exists()


def test_a_snapshot_with_another_attestation_key_than_it_says_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    fingerprint = bench.build_all()["snapshot"]["fingerprint"]
    place = bench.latest.resolve()
    place.chmod(0o755)
    changed(public(bench), lambda pem: made_key(tmp_path / "x.pem").read_bytes())
    with pytest.raises(Refused, match="ATTESTATION-KEY"):
        verify_snapshot(place, fingerprint)


@pytest.mark.parametrize(
    "change",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"predicateType": "https://slsa.dev/provenance/v0.2"},
        {"subject": {}},
        {"predicate": {}},
    ],
)
def test_a_statement_of_another_shape_is_refused(bench: Bench, change: dict[str, object]) -> None:
    document = statement_of(published(bench) / "ipvsadm.intoto.json")
    statement.parse(json.dumps(document).encode())
    with pytest.raises(Mismatch):
        statement.parse(json.dumps(document | change).encode())
