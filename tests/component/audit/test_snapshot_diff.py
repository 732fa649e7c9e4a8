"""Two snapshots made of real packages are compared by what is in them, and by the records of their steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import snapshot_diff
from pipeline.audit.snapshot_diff import Change
from pipeline.errors import ExitCode
from pipeline.packaging import compiled_sources, step_record
from pipeline.packaging.compiled_sources import CompiledSources, SourceTree
from pipeline.packaging.step_record import Phase, Record
from pipeline.publish import signing
from pipeline.publish.snapshot_contents import BuiltPackage
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import of_files, rpm, shared_keys
from tests.fixtures.snapshots import publish, wanted

KEYS = {187: "1" * 20, 190: "2" * 20}  # of the kernel's step
CONFIG = b"CONFIG_A=y\nCONFIG_B=m\n"


def kernel(minor: int, config: bytes, module: bytes) -> BuiltPackage:
    uname = f"6.1.{minor}-1.lts61.x86_64"
    files = {f"/boot/config-{uname}": config, f"/lib/modules/{uname}/a.ko": module, f"/boot/System.map-{uname}": b"s"}
    return BuiltPackage(of_files("kernel", f"6.1.{minor}", "1.lts61", files), "kernel:stock", key=KEYS[minor])


class Published:
    """Two snapshots below one artifacts directory: the second has another kernel and ipvsadm, and keepalived."""

    def __init__(self, place: Path) -> None:
        self.inv = Inv(place)
        self.artifacts = self.inv.artifacts
        old = [kernel(187, CONFIG, b"a"), BuiltPackage(rpm(), "ipvsadm")]
        tools = [BuiltPackage(rpm("ipvsadm", "Requires: bash", text="longer"), "ipvsadm")]
        new = [kernel(190, b"CONFIG_A=y\nCONFIG_D=y\n", b"aaa"), *tools, BuiltPackage(rpm("keepalived"), "keepalived")]
        with signing.open_signer("", shared_keys()) as signer:
            self.old, self.new = (
                publish(
                    wanted(line="lts61", label="lts61", old_readers=False, sets={"director": built, "stock": built}),
                    signer,
                    self.artifacts / "repo",
                )
                for built in (old, new)
            )

    def step(self, minor: int, **inputs: str) -> None:
        """Keeps the record of a kernel's step, with one compiled file that bears the version, and one that is new."""
        place = self.artifacts / "steps/lts61/kernel-stock" / KEYS[minor]
        (place / "out").mkdir(parents=True)
        tree = SourceTree({"a.c": "a" * 64, "b.c": f"{minor:064}"}, {}, ())
        compiled_sources.write(place / "out", CompiledSources(1, "kernel:stock", 2, 0, {f"linux-6.1.{minor}": tree}))
        record = Record("lts61", "kernel:stock", KEYS[minor], Phase.DONE, 1.0, 1, inputs=inputs)
        replace(record, made=step_record.scan(place, [])).write(place)

    def diff(self, *words: str | Path, **more: Any) -> Any:
        return self.inv("diff", *words, **more)


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
        ("", "not a snapshot"),
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
