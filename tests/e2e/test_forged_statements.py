"""Statements that who has the attestation key forged and linked anew: each is found, named, and ends no audit."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.audit import page
from pipeline.audit.findings import Result
from pipeline.audit.statement import Kind
from pipeline.errors import ExitCode
from pipeline.publish.layout import PUBLISH, statement_name
from tests.fixtures.forged import STRANGERS, Forged, edit_content
from tests.fixtures.published import Published

pytestmark = pytest.mark.timeout(1200, func_only=True)
STOCK = "kernel:stock"
STEPS = ("ipvsadm", "keepalived", "kernel:director", "kernel:realserver", STOCK, "role-packages", PUBLISH)
# By kind: what the failure names when such a part was dropped.
NAMED: dict[str, Callable[[dict[str, Any]], str]] = {
    Kind.RECIPE: lambda row: "expected one of the kind recipe, got none",
    Kind.LINE_FILE: lambda row: "the line file ",
    Kind.LOCK_FILE: lambda row: "the lock file that pins the source kernel-srpm",
    Kind.SOURCE: lambda row: str(row["digest"]["sha256"]),
    Kind.TREE: lambda row: "series of " + row["name"].rpartition(" ")[2] if " of " in row["name"] else "pristine tree",
    Kind.PATCH: lambda row: str(row["annotations"]["applied_sha256"]),
    Kind.IMAGE: lambda row: "the builder image",
    Kind.STEP: lambda row: f"the step {row['name']}",
    Kind.PACKAGE: lambda row: f"the package {row['name']} of the step {row['annotations']['step']}",
    Kind.DIFFERENCE: lambda row: f"its by-product {Kind.DIFFERENCE} of {row['annotations']['package']}",
    Kind.FACTS: lambda row: "expected one of the kind facts, got none",
    **{
        kind: lambda row: f"its by-product {row['annotations']['kind']}"
        for kind in (Kind.LOG, Kind.EVIDENCE, Kind.COMPILED, Kind.CONFIGURATION)
    },
}


def parts(statement: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The materials and the by-products of a statement."""
    predicate = statement["predicate"]
    return [predicate["buildDefinition"]["resolvedDependencies"], predicate["runDetails"]["byproducts"]]


def of_kind(statement: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """The first part of a kind."""
    return next(row for rows in parts(statement) for row in rows if row["annotations"]["kind"] == kind)


@pytest.mark.parametrize("step", STEPS)
def test_what_is_signed_and_linked_anew_with_nothing_changed_holds(
    forged: Forged, published: Published, step: str
) -> None:
    before = forged.envelope(step).read_bytes()
    with forged.statement(step):
        pass
    assert forged.envelope(step).read_bytes() != before
    assert forged.failures(published.policy) == {}


@pytest.mark.parametrize("step", STEPS)
def test_each_part_that_was_dropped_is_named(forged: Forged, published: Published, step: str) -> None:
    name, number = f"statement: {statement_name(step)}", 0
    kept = {path: path.read_bytes() for path in forged.envelope(step).parent.iterdir()}
    with forged.statement(step) as statement:
        places = [(place, at) for place, rows in enumerate(parts(statement)) for at in range(len(rows))]
    for place, at in places:
        with forged.statement(step) as statement:
            row = parts(statement)[place].pop(at)
        reason = forged.failures(published.policy).get(name, "nothing")
        assert NAMED[row["annotations"]["kind"]](row) in reason, (row["name"], reason)
        for path, data in kept.items():
            path.write_bytes(data)
        number += 1
    assert number >= 7 and not forged.failures(published.policy)


def test_all_trees_dropped_with_the_configuration_are_named(forged: Forged, published: Published) -> None:
    with forged.statement("kernel:director") as statement:
        for rows in parts(statement):
            rows[:] = [row for row in rows if row["annotations"]["kind"] not in (Kind.TREE, Kind.CONFIGURATION)]
    failures = forged.failures(published.policy)
    reason = failures["statement: kernel-director.intoto.json"]
    assert "pristine tree" in reason and "series of director" in reason and "by-product configuration" in reason
    (kernel,) = forged.latest.glob("director/kernel-2*.rpm")
    assert "no statement has this configuration" in failures[f"configuration: {kernel.name}"]


def _no_facts(statement: dict[str, Any]) -> None:
    rows = parts(statement)[1]
    rows[:] = [row for row in rows if row["annotations"]["kind"] != Kind.FACTS]


def _content(text: bytes) -> Callable[[dict[str, Any]], None]:
    return lambda statement: edit_content(of_kind(statement, Kind.LINE_FILE), lambda _: text)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_no_facts, "expected one of the kind facts, got none"),
        (lambda s: of_kind(s, Kind.RECIPE)["annotations"].update(dirty="x"), "expected true or false, got 'x'"),
        (lambda s: parts(s)[0].append({"name": "x", "annotations": {"kind": "source"}}), "expected the keys version"),
        (lambda s: parts(s)[0].append({"name": "x"}), "expected one of recipe"),
        (
            lambda s: parts(s)[1].append({"name": "x", "content": "eA==", "annotations": {"kind": "configuration"}}),
            "expected the keys package",
        ),
        (_content(b"= = nonsense"), "toy.toml: expected TOML"),
        (_content(b"sources = 1"), "toy.toml.sources: expected a table"),
        (lambda s: of_kind(s, Kind.LINE_FILE).update(content="!!!"), "expected base64"),
        (lambda s: of_kind(s, Kind.SOURCE).update(digest={"sha256": "x"}), "expected a digest sha256"),
        (lambda s: s["predicate"]["runDetails"].update(byproducts=7), "byproducts: expected a list, got 7"),
        (lambda s: s.update(subject={}), "subject: expected a list"),
        (lambda s: s.pop("predicate"), "predicate: expected an object, got None"),
    ],
)
def test_a_malformed_statement_is_a_finding_and_the_audit_goes_on(
    forged: Forged, published: Published, damage: Callable[[dict[str, Any]], object], expected: str
) -> None:
    with forged.statement("ipvsadm") as statement:
        damage(statement)
    examined = forged.examined(published.policy)
    rows = {(row.check, row.subject): row for row in examined.audit.findings}
    row = rows["statement", "ipvsadm.intoto.json"]
    assert row.result is Result.FAIL and expected in row.reason
    assert {"subject", "source", "patches", "role", "configuration", "freshness"} <= {check for check, _ in rows}
    assert "ipvsadm.intoto.json" in page.render(examined, forged.repo / "none")


def test_a_malformed_statement_ends_the_command_with_the_code_of_a_refusal(
    forged: Forged, published: Published
) -> None:
    with forged.statement("ipvsadm") as statement:
        _no_facts(statement)
    ended = published.shop.inv("audit", forged.repo / "latest", expect=ExitCode.REFUSED)
    assert "fail: statement: ipvsadm.intoto.json: " in ended.out and "Traceback" not in ended.out + ended.err


def test_compiled_sources_that_cannot_be_read_are_a_finding_and_end_a_trace(
    forged: Forged, published: Published
) -> None:
    with forged.statement("kernel:director") as statement:
        edit_content(of_kind(statement, Kind.COMPILED), lambda _: b"no list")
    examined = forged.examined(published.policy)
    reasons = [row.reason for row in examined.audit.findings if row.subject == "kernel-director.intoto.json"]
    assert any("its compiled sources cannot be read" in reason for reason in reasons)
    ended = published.shop.inv("trace", forged.latest, "net/netfilter/ipvs/ip_vs_core.c", expect=ExitCode.REFUSED)
    assert "kernel-director.intoto.json: its compiled sources cannot be read" in ended.err


def test_a_patch_that_another_step_hides_behind_its_own_is_named(forged: Forged, published: Published) -> None:
    with forged.statement("kernel:director") as statement:
        patch = json.loads(json.dumps(of_kind(statement, Kind.PATCH)))
    edit_content(patch, lambda data: data + b"\n")
    with forged.statement("ipvsadm") as statement:
        parts(statement)[0].append(patch)
    assert "the policy does not accept lvs" in forged.failures(published.policy)["patches: director"]


def test_a_series_that_the_policy_demands_and_no_statement_has_fails(forged: Forged, published: Published) -> None:
    rules = forged.repo / "policy.toml"
    rules.write_text(published.policy.read_text() + f'ipvsadm = ["{"1" * 64}"]\nkeepalived = []\n')
    failures = forged.failures(rules)
    assert list(failures) == ["patches: ipvsadm"] and "no statement has any" in failures["patches: ipvsadm"]


def test_bills_of_materials_are_those_of_the_publication(forged: Forged, published: Published) -> None:
    bills = forged.repo / "sboms" / forged.latest.name
    assert not forged.failures(published.policy)
    whole, (package,) = bills / "snapshot.cdx.json", list(bills.glob("ipvsadm-*.spdx.json"))
    data, digest = whole.read_bytes(), hashlib.sha256(b"{}").hexdigest()
    whole.write_text("{}")
    package.unlink()
    (bills / "more.cdx.json").write_text("{}")
    failures = forged.failures(published.policy)
    assert list(failures) == [f"subject: sboms/{name}" for name in (package.name, whole.name, "more.cdx.json")]
    assert f"got {digest}" in failures["subject: sboms/snapshot.cdx.json"]
    assert "missing from" in failures[f"subject: sboms/{package.name}"]
    assert "surplus" in failures["subject: sboms/more.cdx.json"]
    whole.write_bytes(data)
    shutil.rmtree(bills)
    failures = forged.failures(published.policy)
    assert set(failures) > {"subject: sboms/snapshot.cdx.json", "subject: sboms/snapshot.spdx.json"}
    assert all(what.startswith("subject: sboms/") for what in failures)


@pytest.mark.parametrize("name", ["SHA256SUMS", "snapshot.json", "sboms/snapshot.cdx.json"])
def test_a_subject_that_the_publication_does_not_state_is_named(
    forged: Forged, published: Published, name: str
) -> None:
    with forged.statement(PUBLISH) as statement:
        statement["subject"] = [row for row in statement["subject"] if row["name"] != name]
    assert forged.failures(published.policy)[f"subject: {name}"].startswith("the publication's statement is not about")


@pytest.mark.parametrize("name", ["more.rpm", "sboms/../x", "sboms/more.json", ""])
def test_a_subject_that_is_not_there_is_named(forged: Forged, published: Published, name: str) -> None:
    with forged.statement(PUBLISH) as statement:
        statement["subject"].append({"name": name, "digest": {"sha256": "0" * 64}})
    assert list(forged.failures(published.policy)) == [f"subject: {name}"]


def test_a_statement_in_the_place_of_another_is_named(forged: Forged) -> None:
    shutil.copy(forged.envelope(STOCK), forged.envelope("kernel:director"))
    failures = forged.failures()
    assert "it is about the step kernel:stock" in failures["statement: kernel-director.intoto.json"]


def test_a_statement_about_other_packages_is_named(forged: Forged) -> None:
    with forged.statement(STOCK) as ours, forged.statement("ipvsadm") as others:
        ours["subject"] = [{**mine, "digest": others["subject"][0]["digest"]} for mine in ours["subject"]]
    failures = [what for what in forged.failures() if what.startswith("subject: kernel-")]
    assert len(failures) == 4


def test_a_dropped_step_is_named(forged: Forged) -> None:
    with forged.statement("keepalived") as statement:
        rows = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        rows[:] = [row for row in rows if row["annotations"]["kind"] != Kind.STEP]
    assert "the step kernel:director" in forged.failures()["statement: keepalived.intoto.json"]


def test_inputs_that_were_changed_give_another_key(forged: Forged) -> None:
    with forged.statement(STOCK) as statement:
        statement["predicate"]["buildDefinition"]["internalParameters"]["inputs"]["image"] = "0" * 16
    assert "its inputs give the key" in forged.failures()["statement: kernel-stock.intoto.json"]


def test_a_second_signature_by_an_unknown_key_is_refused(forged: Forged) -> None:
    with forged.statement("ipvsadm", STRANGERS):
        pass
    with forged.signatures("ipvsadm") as strangers:
        second = strangers[0]
    with forged.statement("ipvsadm"):
        pass
    with forged.signatures("ipvsadm") as signatures:
        signatures.append(second)
    reason = forged.failures()["statement: ipvsadm.intoto.json"]
    assert "signed with another key" in reason and second["keyid"] in reason


def test_a_key_in_the_statement_itself_is_not_believed(forged: Forged) -> None:
    with forged.statement("ipvsadm", STRANGERS):
        pass
    with forged.signatures("ipvsadm") as signatures:
        signatures[0]["publicKey"] = forged.attestation(STRANGERS).public.pem.decode()
    assert "publicKey" in forged.failures()["statement: ipvsadm.intoto.json"]


def test_one_changed_byte_of_a_statement_is_found(forged: Forged) -> None:
    data = forged.envelope("ipvsadm").read_text()
    forged.envelope("ipvsadm").write_text(data.replace('"payload": "eyJ', '"payload": "eyI', 1))
    assert "signature" in forged.failures()["statement: ipvsadm.intoto.json"]


def test_a_statement_that_is_missing_or_surplus_is_named(forged: Forged) -> None:
    forged.envelope("ipvsadm").rename(forged.envelope("ipvsadm").with_name("other.intoto.json"))
    failures = forged.failures()
    assert "missing" in failures["statement: ipvsadm.intoto.json"]
    assert "expected that in a file" in failures["statement: other.intoto.json"]
    with forged.statement("other") as statement:
        statement["predicate"]["buildDefinition"]["externalParameters"]["step"] = "other"
    assert "surplus" in forged.failures()["statement: other.intoto.json"]


def test_a_lock_file_that_was_edited_after_the_build_is_found(forged: Forged) -> None:
    with forged.statement(STOCK) as statement:
        rows = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        (lock,) = (row for row in rows if row["annotations"]["kind"] == Kind.LOCK_FILE)
        (source,) = (row for row in rows if row["annotations"]["kind"] == Kind.SOURCE)
        edit_content(lock, lambda data: data.replace(source["digest"]["sha256"].encode(), b"0" * 64))
    failures = forged.failures()
    assert "pinned by no embedded file" in failures[f"source: {source['name']}"]


def test_another_patch_under_the_same_name_is_found(forged: Forged, published: Published) -> None:
    with forged.statement("kernel:director") as statement:
        rows = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        (patch,) = (row for row in rows if row["annotations"]["kind"] == Kind.PATCH)
        edit_content(patch, lambda data: data + b"\n")
    assert "which no embedded file pins" in forged.failures()["patches: director"]
    assert "the policy does not accept lvs" in forged.failures(published.policy)["patches: director"]
