"""Statements of a real build: a toy of el6 by el6's own recipe, in the real builder image and sandbox."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import dsse, statement
from pipeline.audit.statement import Kind
from pipeline.config import git_checkout
from pipeline.core import documents, resources
from pipeline.core.process import run
from pipeline.errors import ExitCode
from pipeline.packaging.compiled_sources import CompiledSources
from tests.fixtures.bills import cyclonedx_problem, spdx_elements
from tests.fixtures.statements import content, made_key, of_kind, openssl_takes, sigstore_takes, statement_of
from tests.fixtures.workshop import ToyShop, Workshop

pytestmark = pytest.mark.timeout(1200)


class Stated:
    """A shop in which everything was built once, and the statements beside its snapshot."""

    def __init__(self, shop: ToyShop) -> None:
        shop.all()
        self.shop, self.latest = shop, shop.latest()
        self.place = self.latest.parent.parent / "attestations" / self.latest.name

    def __call__(self, step: str) -> dict[str, Any]:
        return statement_of(self.place / f"{step.replace(':', '-')}.intoto.json")


@pytest.fixture(scope="module")
def stated(images: Path) -> Iterator[Stated]:
    with ToyShop.opened(images) as shop:
        yield Stated(shop)


def facts(row: dict[str, Any], kind: type[Any]) -> Any:
    return statement.Resource.from_json(row).facts(kind)


def test_every_published_statement_is_taken_by_openssl_sigstore_and_our_own_reader(
    stated: Stated, tmp_path: Path
) -> None:
    [public] = stated.latest.glob("ATTESTATION-KEY-*.pem")
    envelopes = sorted(stated.place.iterdir())
    assert len(envelopes) == 7
    for envelope in envelopes:
        assert openssl_takes(envelope, public, tmp_path)
        assert statement.parse(dsse.verify(envelope.read_bytes(), public.read_bytes())).predicate.buildDefinition
    assert sigstore_takes(envelopes[0], public)


def test_a_source_has_its_address_digest_and_who_pinned_it_when(stated: Stated) -> None:
    rows = {row["name"]: row for row in of_kind(stated("kernel:director"), Kind.SOURCE)}
    srpm, tarball = rows["kernel-2.6.32-220.23.1.el6.src.rpm"], rows["Lvs-fullnat-synproxy.tar.gz"]
    file = stated.shop.toy.mirror / srpm["name"]
    assert srpm["downloadLocation"] == str(file)
    assert srpm["digest"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert srpm["digest"]["gitBlob"] == run(["git", "hash-object", "--no-filters", file]).text.strip()
    found = facts(srpm, statement.SourceFacts)
    assert found.pin.file == "toy.lock.toml" and found.pin.by == "Ada Example <ada@example.org>"
    assert re.match(r"\d{4}-\d\d-\d\dT", found.pin.at)
    lock = content(of_kind(stated("kernel:director"), Kind.LOCK_FILE)[0]).decode()
    assert srpm["digest"]["sha256"] in lock and found.pin.at in lock
    members = facts(tarball, statement.SourceFacts).members
    [patch] = of_kind(stated("kernel:director"), Kind.PATCH)
    assert members["lvs-fullnat-synproxy/lvs-2.6.32-220.23.1.el6.patch"] == patch["digest"]["sha256"]


def test_a_source_of_debian_names_the_signed_index(stated: Stated) -> None:
    rows = {row["name"]: facts(row, statement.SourceFacts) for row in of_kind(stated("keepalived"), Kind.SOURCE)}
    [openssl] = [found for name, found in rows.items() if name.startswith("openssl_")]
    assert openssl.pin.by == "Debian's signed index" and openssl.pin.indexes[0].suite == "toyworm"


def test_a_patch_is_embedded_with_each_hunk_s_result_what_was_left_out_and_the_rule_that_proved_it(
    stated: Stated,
) -> None:
    [patch] = of_kind(stated("kernel:director"), Kind.PATCH)
    assert content(patch) == stated.shop.toy.patches["lvs"].read_bytes()
    found = facts(patch, statement.PatchFacts)
    assert sum(len(file.hunks) for file in found.files) == content(patch).count(b"\n@@ ") - 1, "one was left out"
    [left] = found.left_out
    assert (left.file, dict(left.config)) == (".config", {"CONFIG_IP_VS_TAB_BITS": "22"}) and len(left.why) > 10
    assert left.sha256_before == patch["digest"]["sha256"] and left.sha256_after == found.applied_sha256
    assert found.rule.role == found.series == "director" and found.rule.option_numbers == (200,)
    assert "net/netfilter/ipvs" in found.rule.by
    assert found.origin.startswith("Lvs-fullnat-synproxy.tar.gz (sha256 ")
    trees = [facts(row, statement.TreeFacts) for row in of_kind(stated("kernel:director"), Kind.TREE)]
    assert [(tree.role, tree.changed > 0) for tree in trees] == [("", False), ("director", True)]
    assert [facts(row, statement.TreeFacts).role for row in of_kind(stated("kernel:stock"), Kind.TREE)] == [""]
    assert not of_kind(stated("keepalived"), Kind.TREE), "it is made from no kernel's source"


def test_a_digest_of_the_project_s_own_line_was_pinned_by_a_commit(stated: Stated) -> None:
    """The toy's line lies in no checkout, el6's own files do: their last change is git's."""
    rows = {row["name"]: facts(row, statement.LineFileFacts) for row in of_kind(stated("ipvsadm"), Kind.LINE_FILE)}
    change = git_checkout.last_change(resources.lines_dir() / "el6.toml")
    assert change is not None and rows["toy.toml"].commit == ""
    assert (rows["lines/el6.toml"].commit, rows["lines/el6.toml"].author) == (change.commit, change.author)
    [recipe] = [facts(row, statement.RecipeFacts) for row in of_kind(stated("ipvsadm"), Kind.RECIPE)]
    project = git_checkout.of_project()
    assert project is not None and (recipe.commit, recipe.dirty) == (project.commit, project.dirty)


def test_the_image_has_its_packages_and_the_compiled_sources_are_embedded(stated: Stated) -> None:
    [image] = of_kind(stated("kernel:stock"), Kind.IMAGE)
    assert facts(image, statement.ImageFacts).packages > 100 and b'"gcc' in content(image)
    [compiled] = of_kind(stated("kernel:stock"), Kind.COMPILED)
    assert documents.parse(CompiledSources, content(compiled)).step == "kernel:stock"


def test_configurations_are_told_against_the_stock_kernel_s(stated: Stated) -> None:
    rows = [facts(row, statement.DifferenceFacts) for row in of_kind(stated("repository"), Kind.DIFFERENCE)]
    assert [dict(row.symbols) for row in rows] == [
        {"CONFIG_IP_VS_TAB_BITS": ("12", "22")},
        {"CONFIG_TOA": ("n", "m")},
    ]
    [config] = of_kind(stated("kernel:director"), Kind.CONFIGURATION)
    assert b"CONFIG_IP_VS_TAB_BITS=22\n" in content(config)


def test_a_step_that_compiles_nothing_has_no_sources(stated: Stated) -> None:
    assert of_kind(stated("role-packages"), Kind.SOURCE) == of_kind(stated("role-packages"), Kind.PATCH) == []
    internal = stated("repository")["predicate"]["buildDefinition"]["internalParameters"]
    assert internal["runtime"] == "", "a publication runs nothing in a sandbox"


@pytest.mark.parametrize("whose", ["development", "own"])
def test_no_build_reaches_the_attestation_key(shop: Workshop, whose: str) -> None:
    own = made_key(shop.place / "own.pem")
    own.chmod(0o600)
    option = ("--attestation-key", str(own)) if whose == "own" else ()
    shop.build("role-packages", *option)  # so that the development key is there
    secret = own if whose == "own" else shop.inv.artifacts / "keys" / "attestation" / "secret.pem"
    assert secret.exists()
    shop.line.makefile(f"! cat {secret.resolve()} && ! find / -name {secret.name} 2> /dev/null | grep .")
    shop.build("ipvsadm", *option)
    assert "No such file or directory" in shop.log("*")
    shop.line.makefile("! ls /etc/hostname")  # such a test can fail
    shop.build("ipvsadm", *option, expect=ExitCode.BUILD)


def bills(stated: Stated) -> Path:
    return stated.latest.parent.parent / "sboms" / stated.latest.name


def test_others_take_the_bills_of_materials_of_every_package_and_of_the_snapshot(stated: Stated) -> None:
    rpms = {path.name.removesuffix(".rpm") for path in stated.latest.rglob("*.rpm")} | {"snapshot"}
    assert {path.name for path in bills(stated).iterdir()} == {f"{n}.{k}.json" for n in rpms for k in ("cdx", "spdx")}
    for name in rpms:
        assert cyclonedx_problem(bills(stated) / f"{name}.cdx.json") == ""
        assert name in spdx_elements(bills(stated) / f"{name}.spdx.json")


def test_others_refuse_a_bill_with_an_unknown_word(stated: Stated, tmp_path: Path) -> None:
    for kind, word in (("cdx", '"bomFormat"'), ("spdx", '"name"')):
        file = tmp_path / f"snapshot.{kind}.json"
        text = (bills(stated) / file.name).read_text()
        file.write_text(text.replace(word, f'"unknown":1,{word}', 1))
        if kind == "cdx":
            assert cyclonedx_problem(file) != ""
        else:
            with pytest.raises(Exception, match="unknown"):
                spdx_elements(file)


def test_a_kernel_s_bill_has_the_pristine_source_the_patch_and_its_digest(stated: Stated) -> None:
    [file] = bills(stated).glob("kernel-2*.fnat.*.cdx.json")
    own = json.loads(file.read_text())["metadata"]["component"]
    [ancestor] = own["pedigree"]["ancestors"]
    source = hashlib.sha256((stated.shop.toy.mirror / "kernel-2.6.32-220.23.1.el6.src.rpm").read_bytes()).hexdigest()
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": source}]
    [patch] = own["pedigree"]["patches"]
    assert patch["type"] == "unofficial"
    member = "Lvs-fullnat-synproxy.tar.gz#lvs-fullnat-synproxy/lvs-2.6.32-220.23.1.el6.patch"
    assert patch["diff"]["url"].endswith(member)
    digest = hashlib.sha256(stated.shop.toy.patches["lvs"].read_bytes()).hexdigest()
    assert {"name": "lvs-fullnat:patch:1:sha256:lvs", "value": digest} in own["properties"]
    assert own["licenses"] == [{"expression": "GPL-2.0-only"}], "GPLv2, as RHEL 6 writes it"
    [rpm] = {path.resolve() for path in stated.latest.glob(f"director/{file.name.removesuffix('.cdx.json')}.rpm")}
    assert own["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(rpm.read_bytes()).hexdigest()}]


def test_a_kernel_s_bill_has_the_files_that_were_compiled_and_its_headers_none(stated: Stated) -> None:
    [kernel] = bills(stated).glob("kernel-2*.fnat.*.spdx.json")
    [compiled] = of_kind(stated("kernel:director"), Kind.COMPILED)
    trees = documents.parse(CompiledSources, content(compiled)).trees
    files = {f"{tree}/{path}" for tree, found in trees.items() for path in found.files}
    assert len(files) > 10 and files <= spdx_elements(kernel)
    [headers] = bills(stated).glob("kernel-headers-2*.fnat.*.spdx.json")
    assert not files & spdx_elements(headers)


def test_the_publication_s_statement_names_each_bill(stated: Stated) -> None:
    digests = {row["name"]: row["digest"]["sha256"] for row in stated("repository")["subject"]}
    for path in bills(stated).iterdir():
        assert digests[f"sboms/{path.name}"] == hashlib.sha256(path.read_bytes()).hexdigest()
