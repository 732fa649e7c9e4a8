"""Two snapshots made of real packages are compared by what is in them, and by signed statements, or else records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import dsse, snapshot_diff
from pipeline.audit.snapshot_diff import Change
from pipeline.errors import ExitCode
from pipeline.packaging import compiled_sources, step_record
from pipeline.packaging.compiled_sources import CompiledSources, SourceTree
from pipeline.packaging.step_record import Phase, Record
from pipeline.publish import attestation_key, signing, snapshot
from pipeline.publish.attestation_key import AttestationKey
from pipeline.publish.layout import statement_name
from pipeline.publish.snapshot_contents import BuiltPackage
from tests.fixtures import madestatements
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import of_files, rpm, shared_keys
from tests.fixtures.snapshots import publish, wanted

KEYS = {187: "1" * 20, 190: "2" * 20}  # of the kernel's step
STEP = "kernel:stock"
CONFIG = b"CONFIG_A=y\nCONFIG_B=m\n"


def kernel(minor: int, config: bytes, module: bytes) -> BuiltPackage:
    uname = f"6.1.{minor}-1.lts61.x86_64"
    files = {f"/boot/config-{uname}": config, f"/lib/modules/{uname}/a.ko": module, f"/boot/System.map-{uname}": b"s"}
    return BuiltPackage(of_files("kernel", f"6.1.{minor}", "1.lts61", files), "kernel:stock", key=KEYS[minor])


class Published:
    """Two snapshots below one artifacts directory: the second has another kernel and ipvsadm, and keepalived."""

    def __init__(self, place: Path, key: AttestationKey | None = None) -> None:
        self.inv, self.key = Inv(place), key
        self.artifacts = self.inv.artifacts
        old = [kernel(187, CONFIG, b"a"), BuiltPackage(rpm(), "ipvsadm")]
        tools = [BuiltPackage(rpm("ipvsadm", "Requires: bash", text="longer"), "ipvsadm")]
        new = [kernel(190, b"CONFIG_A=y\nCONFIG_D=y\n", b"aaa"), *tools, BuiltPackage(rpm("keepalived"), "keepalived")]
        with signing.open_signer("", shared_keys()) as signer:
            self.old, self.new = (
                publish(
                    wanted(
                        line="lts61",
                        label="lts61",
                        old_readers=False,
                        sets={"director": built, "stock": built},
                        attestation=key.public if key else None,
                    ),
                    signer,
                    self.artifacts / "repo",
                )
                for built in (old, new)
            )

    def state(self, minor: int, signer: AttestationKey | None = None, key: str = "", **inputs: str) -> Path:
        """Lays a kernel's statement beside its snapshot, with the compiled files of `step`; return its file."""
        made = madestatements.compiled(CompiledSources(1, STEP, 2, 0, {f"linux-6.1.{minor}": _tree(minor)}))
        text = madestatements.statement(STEP, inputs, made, key=key or KEYS[minor]).text()
        path = {187: self.old, 190: self.new}[minor].path
        file = snapshot.attestations(path) / statement_name(STEP)
        file.parent.mkdir(parents=True, exist_ok=True)
        signer = signer or self.key
        assert signer is not None
        file.write_bytes(dsse.sign(text, signer))
        return file

    def step(self, minor: int, **inputs: str) -> None:
        """Keeps the record of a kernel's step, with one compiled file that bears the version, and one that is new."""
        place = self.artifacts / "steps/lts61/kernel-stock" / KEYS[minor]
        (place / "out").mkdir(parents=True)
        sources = CompiledSources(1, STEP, 2, 0, {f"linux-6.1.{minor}": _tree(minor)})
        compiled_sources.write(place / "out", sources)
        record = Record("lts61", STEP, KEYS[minor], Phase.DONE, 1.0, 1, inputs=inputs)
        replace(record, made=step_record.scan(place, [])).write(place)

    def diff(self, *words: str | Path, **more: Any) -> Any:
        return self.inv("diff", *words, **more)


def _tree(minor: int) -> SourceTree:
    return SourceTree({"a.c": "a" * 64, "b.c": f"{minor:064}"}, {}, ())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    found = Published(tmp_path_factory.mktemp("diff"))
    found.step(187, source="s" * 64, patches=json.dumps({"a.patch": "1", "b.patch": "2"}), code="c")
    found.step(190, source="t" * 64, patches=json.dumps({"a.patch": "3"}), code="c")
    yield found


@pytest.fixture(scope="module")
def found(published: Published) -> snapshot_diff.SnapshotDiff:
    return snapshot_diff.compare(published.old.path, published.new.path, published.artifacts)


def test_packages_are_compared_by_what_is_in_them(found: snapshot_diff.SnapshotDiff) -> None:
    packages = {row.name: row for row in found.packages}
    assert set(packages) == {"ipvsadm", "keepalived", "kernel"}
    assert packages["keepalived"].before is None and packages["keepalived"].after
    assert {row.sets for row in found.packages} == {("director", "stock")}
    ipvsadm = packages["ipvsadm"]
    [file] = ipvsadm.files
    assert (file.path, file.before and file.before.size, file.after and file.after.size) == (
        "/usr/share/fnat/ipvsadm", 4, 7,
    )  # fmt: skip
    assert ipvsadm.requires == (Change("bash", None, snapshot_diff.PRESENT),)


def test_another_version_alone_changes_no_files_name(found: snapshot_diff.SnapshotDiff) -> None:
    [kernel] = [row for row in found.packages if row.name == "kernel"]
    assert [row.path for row in kernel.files] == [
        "/boot/config-{version}.x86_64", "/lib/modules/{version}.x86_64/a.ko",
    ]  # fmt: skip
    assert kernel.provides == ()


def test_a_kernels_configuration_is_compared_symbol_by_symbol(found: snapshot_diff.SnapshotDiff) -> None:
    [kernel] = [row for row in found.packages if row.name == "kernel"]
    assert kernel.configuration == (Change("CONFIG_B", "m", None), Change("CONFIG_D", None, "y"))


def test_sources_patches_and_compiled_files_come_from_the_records(found: snapshot_diff.SnapshotDiff) -> None:
    [step] = found.steps
    assert step.step == "kernel:stock"
    assert step.inputs == (
        Change("patches.a.patch", "1", "3"),
        Change("patches.b.patch", "2", None),
        Change("source", "s" * 64, "t" * 64),
    )
    assert step.compiled == (Change("b.c", f"{187:064}", f"{190:064}"),)


def test_it_is_said_that_nobody_signed_the_records(published: Published, found: snapshot_diff.SnapshotDiff) -> None:
    ids = f"{published.old.id} and {published.new.id}"
    assert found.unsigned == (f"sources, patches and parameters of {STEP}: no statements beside {ids}",)
    assert f"not signed: {found.unsigned[0]}; read from records" in published.diff(published.old.id, "latest").out


@pytest.fixture
def stated(tmp_path: Path) -> Published:
    """Snapshots with signed statements, and records below the artifacts that say something else."""
    found = Published(tmp_path / "stated", attestation_key.open_key("", tmp_path / "keys"))
    for minor in KEYS:
        found.step(minor, source="a forged record's", patches=str(minor))
    found.state(187, source="s" * 64, patches=json.dumps({"a.patch": "1", "b.patch": "2"}))
    found.state(190, source="t" * 64, patches=json.dumps({"a.patch": "3"}))
    return found


SOURCES = Change("source", "s" * 64, "t" * 64)


@pytest.mark.parametrize("where", ["artifacts", "nothing"])
def test_the_signed_statements_count_before_any_record_and_suffice(
    stated: Published, tmp_path: Path, where: str
) -> None:
    found = snapshot_diff.compare(
        stated.old.path, stated.new.path, {"artifacts": stated.artifacts}.get(where, tmp_path)
    )
    [step] = found.steps
    patches = (Change("patches.a.patch", "1", "3"), Change("patches.b.patch", "2", None))
    assert step.inputs == (*patches, SOURCES) and step.compiled == (Change("b.c", f"{187:064}", f"{190:064}"),)
    assert found.unsigned == found.unknown == ()


def test_a_snapshot_without_statements_counts_by_its_record_and_is_named(stated: Published) -> None:
    for file in snapshot.attestations(stated.old.path).iterdir():
        file.unlink()
    found = snapshot_diff.compare(stated.old.path, stated.new.path, stated.artifacts)
    assert found.unsigned == (f"sources, patches and parameters of {STEP}: no statements beside {stated.old.id}",)
    assert Change("source", "a forged record's", "t" * 64) in found.steps[0].inputs


def test_a_missing_statement_is_not_replaced_by_a_record(stated: Published) -> None:
    file = snapshot.attestations(stated.old.path) / statement_name(STEP)
    text = madestatements.statement("ipvsadm", {}).text()
    assert stated.key is not None
    file.with_name(statement_name("ipvsadm")).write_bytes(dsse.sign(text, stated.key))
    file.unlink()
    found = snapshot_diff.compare(stated.old.path, stated.new.path, stated.artifacts)
    assert found.unknown == (f"sources, patches and parameters of {STEP}: no statement of {KEYS[187]}",)
    assert found.steps == ()


def test_a_statement_of_a_stranger_or_about_another_execution_is_refused(stated: Published, tmp_path: Path) -> None:
    stated.state(190, attestation_key.open_key("", tmp_path / "strangers"), source="u" * 64)
    ended = stated.diff(stated.old.id, "latest", expect=ExitCode.REFUSED)
    assert "kernel-stock.intoto.json: signed with another key" in ended.err
    stated.state(190, key="3" * 20, source="u" * 64)
    ended = stated.diff(stated.old.id, "latest", expect=ExitCode.REFUSED)
    assert f"about the key {'3' * 20}; expected {KEYS[190]}" in ended.err


def test_the_trees_of_modules_keep_their_names_from_version_to_version() -> None:
    def files(version: str) -> dict[str, str]:
        devel = f"kernel/usr/src/kernels/{version}-1.lts61.x86_64"
        trees = {f"linux-{version}": SourceTree({"a.c": "0"}, {}, ()), devel: SourceTree({"a.h": "1"}, {}, ())}
        return dict(snapshot_diff._files(CompiledSources(1, "package:x", 1, 0, trees)))

    assert files("6.1.187") == files("6.1.190") == {"linux-*/a.c": "0", "kernel/usr/src/kernels/*/a.h": "1"}


def test_what_cannot_be_known_is_named(published: Published, tmp_path: Path) -> None:
    found = snapshot_diff.compare(published.old.path, published.new.path, tmp_path)
    assert found.steps == ()
    assert found.unknown == (f"sources, patches and parameters of kernel:stock: no record of {KEYS[187]}, {KEYS[190]}",)
    assert not found.is_same


def test_a_damaged_record_counts_as_none(published: Published, tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    place = tmp_path / "steps/lts61/kernel-stock" / KEYS[187]
    place.mkdir(parents=True)
    (place / step_record.FILE).write_text("{}")
    assert "no record of" in snapshot_diff.compare(published.old.path, published.new.path, tmp_path).unknown[0]


@pytest.mark.parametrize("name", ["id", "beginning", "path", "latest", "lts61/latest"])
def test_a_snapshot_is_named_in_each_of_these_ways(published: Published, name: str) -> None:
    new = published.new
    words = {"id": new.id, "beginning": new.id[:6], "path": str(new.path)}
    document = published.diff(published.old.id, words.get(name, name), "--json").json
    assert (document["before"], document["after"]) == (published.old.id, new.id)
    assert {row["name"] for row in document["packages"]} == {"ipvsadm", "keepalived", "kernel"}


def test_a_snapshot_is_the_same_as_itself(published: Published) -> None:
    assert "nothing differs\n" in published.diff("latest", "lts61/latest").out


def test_the_text_tells_each_kind_of_difference(published: Published) -> None:
    out = published.diff(published.old.id, "latest").out
    for text in (
        "+ CONFIG_D y", "- CONFIG_B m", "~ source: ss", "+ bash", "/lib/modules/{version}.x86_64/a.ko: 1 B -> 3 B",
        "~ b.c:", "- patches.b.patch 2",
    ):  # fmt: skip
        assert text in out, out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nothing", "'nothing': not a snapshot; expected one, got no id, path or latest"),
        (".", "no snapshot; expected a directory with snapshot.json"),
        ("", "empty; expected SNAPSHOT"),
        ("el6/latest", "not a snapshot"),
    ],
)
def test_any_other_name_is_refused(published: Published, name: str, text: str) -> None:
    assert text in published.diff("latest", name, expect=ExitCode.USAGE).err


def test_latest_of_two_repositories_must_say_which(published: Published, tmp_path: Path) -> None:
    inv = Inv(tmp_path / "two")
    for name in ("lts61", "lts612"):
        (inv.artifacts / "repo" / name / "snapshots").mkdir(parents=True)
        (inv.artifacts / "repo" / name / "snapshots" / published.new.id).symlink_to(published.new.path)
        (inv.artifacts / "repo" / name / "latest").symlink_to(f"snapshots/{published.new.id}")
    ended = inv("diff", "latest", "latest", expect=ExitCode.USAGE)
    assert "latest: 2 snapshots; expected one" in ended.err and "lts612/latest" in ended.err


def test_a_damaged_snapshot_is_refused(published: Published, tmp_path: Path) -> None:
    text = (published.new.path / "snapshot.json").read_text()
    document = json.loads(text)
    document["packages"].popitem()
    (tmp_path / "snapshot.json").write_text(json.dumps(document))
    ended = published.diff("latest", tmp_path, expect=ExitCode.REFUSED)
    assert "snapshot.json: no row for" in ended.err
    (tmp_path / "snapshot.json").write_text(text.replace('"format": 2', '"format": 9'))
    assert "snapshot.json: damaged" in published.diff("latest", tmp_path, expect=ExitCode.REFUSED).err
    (tmp_path / "snapshot.json").write_text(text)  # its packages are not there
    assert "error:" in published.diff(published.old.id, tmp_path, expect=ExitCode.REFUSED).err
