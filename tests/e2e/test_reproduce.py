"""A published snapshot rebuilt from its statements: identical, different and why, or a cannot of its own."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline.audit import audit, policy
from pipeline.audit.audit import Standing
from pipeline.audit.reproduction import Comparison, StatedBuild, Verdict
from pipeline.errors import ExitCode
from pipeline.packaging import step_record
from pipeline.packaging.graph import Step, StepGraph
from pipeline.packaging.scheduler import Outcome, State
from tests.fixtures.forged import Forged
from tests.fixtures.workshop import ToyShop

MODULES = "make -s INSTALL_MOD_PATH=$RPM_BUILD_ROOT modules_install"
CHANCE = f"{MODULES}\nod -An -N8 -tx8 /dev/urandom >$RPM_BUILD_ROOT/lib/modules/%{{KVERREL}}/chance"


@dataclass
class Published:
    """A published toy in whose kernels are bytes of chance, and the build that its statements tell of."""

    shop: ToyShop
    build: StatedBuild

    @property
    def inputs(self) -> dict[str, str]:
        """The inputs of ipvsadm without those that every plan has anew."""
        return {name: text for name, text in self.build.steps["ipvsadm"].inputs.items() if name != "code"}


@contextlib.contextmanager
def emptied(directory: Path) -> Iterator[tuple[Path, Path]]:
    """The directory without what is in it, which is kept in another meanwhile."""
    kept = directory.rename(directory.with_name("kept"))
    directory.mkdir()
    try:
        yield directory, kept
    finally:
        shutil.rmtree(directory)
        kept.rename(directory)


@pytest.fixture(scope="module")
def published(images: Path) -> Iterator[Published]:
    with ToyShop.opened(images, spec_changed=[(MODULES, CHANCE)]) as shop:
        shop.all()
        examined = audit.examine(shop.latest(), policy.load(None), Standing.LATEST)
        yield Published(shop, StatedBuild.of(examined))


def test_a_package_is_identical_or_different_and_then_it_is_said_in_which_files(published: Published) -> None:
    shop = published.shop
    words = ("reproduce", "toy", "--only", "ipvsadm", "--only", "kernel:stock")
    found = shop.inv(*words, "--json", expect=ExitCode.REFUSED).json
    verdicts = {row["package"]: row["verdict"] for row in found["packages"]}
    assert found["verdict"] == "different"
    assert [v for name, v in verdicts.items() if name.startswith("ipvsadm-")] == ["identical"]
    [kernel] = [row for row in found["packages"] if row["package"].startswith("kernel-2.6")]
    assert kernel["verdict"] == "different"
    assert "files that differ: /lib/modules/2.6.32-220.23.1.el6.stock.override_toy.x86_64/chance" in kernel["reasons"]
    assert Path(shop.inv.cwd, kernel["kept"]).is_file()
    assert "header tags that differ: Rsaheader" not in str(found), "a signature is no difference"
    assert not (shop.inv.artifacts / "steps" / "toy+reproduced").exists()
    assert shop.left() == {}


def test_sources_come_from_the_store_by_the_statements_and_not_from_an_index(published: Published) -> None:
    shop = published.shop
    words = ("reproduce", shop.latest(), "--only", "ipvsadm", "--offline")
    before = (shop.inv.artifacts / "evidence" / "toy" / "sources.json").read_bytes()
    assert "1 identical, 0 cannot, 0 different" in shop.inv(*words).out
    assert (shop.inv.artifacts / "evidence" / "toy" / "sources.json").read_bytes() == before
    with emptied(shop.inv.artifacts / "store" / "records") as (records, kept):
        for key in kept.glob("key-*"):  # the index's answers are gone, the keys are not
            shutil.copy(key, records)
        assert "1 identical" in shop.inv(*words).out


def test_without_a_source_it_is_a_cannot_of_its_own(published: Published) -> None:
    shop = published.shop
    with emptied(shop.inv.artifacts / "store" / "sha256"):
        ended = shop.inv("reproduce", "toy", "--only", "ipvsadm", "--offline", expect=ExitCode.UNREACHABLE)
    assert f"error: the snapshot {published.build.document.id} cannot be rebuilt: 2 files" in ended.err
    assert "popt_1.19.orig.tar.xz: no address delivered the file" in ended.err


def test_what_another_input_keeps_from_being_rebuilt_ends_with_an_exit_code_of_its_own(
    published: Published, tmp_path: Path
) -> None:
    """The line file that is named for the files beside it sets another option than the stated one."""
    shop = published.shop
    other = shutil.copytree(shop.toy.line_file.parent, tmp_path / "line") / shop.toy.line_file.name
    other.write_text(other.read_text() + '\n[roles.stock.config]\nCONFIG_IP_VS_TAB_BITS = "13"\n')
    words = ("reproduce", "toy", "--only", "kernel:stock", "--only", "ipvsadm", "--line-file", other)
    ended = shop.inv(*words, "--json", expect=ExitCode.HOST)
    assert (ExitCode.HOST, ended.json["verdict"]) == (7, "cannot")
    rows = {row["package"].partition("-2")[0].partition("-1")[0]: row for row in ended.json["packages"]}
    assert rows["ipvsadm"]["verdict"] == "identical", "what the change does not touch is compared all the same"
    assert rows["kernel"]["verdict"] == "cannot" and rows["kernel"]["rebuilt"] == ""
    assert "is another here" in rows["kernel"]["reasons"][0]
    assert not (shop.inv.artifacts / "reports" / "reproduced" / published.build.document.id).exists()


def test_a_snapshot_whose_audit_fails_is_not_rebuilt(published: Published, tmp_path: Path) -> None:
    shop = published.shop
    forged = Forged(shop.inv.artifacts / "repo" / "toy", shop.inv.artifacts / "keys", tmp_path)
    forged.envelope("ipvsadm").unlink()
    ended = shop.inv("reproduce", forged.latest, expect=ExitCode.REFUSED)
    assert "its audit failed: statement:" in ended.err
    assert f"next: ./inv audit {forged.latest}" in ended.err


def planned(published: Published, *, differs: str = "", **changed: str) -> tuple[StatedBuild, StepGraph]:
    """A plan of ipvsadm, and of role packages made from it; the stated inputs but for what is `changed`."""
    ipvsadm = Step("ipvsadm", lambda _: None, {**published.inputs, **changed}, differs=differs)
    stated = published.build.steps["role-packages"].inputs.items()
    inputs = {name: text for name, text in stated if name != "code" and not name.startswith("step ")}
    return published.build, StepGraph([ipvsadm, Step("role-packages", lambda _: None, inputs, ("ipvsadm",))])


def test_other_inputs_are_named_and_keep_a_step_and_what_needs_it_from_being_rebuilt(published: Published) -> None:
    build, same = planned(published)
    assert build.obstacles(same) == {"ipvsadm": [], "role-packages": []}
    build, other = planned(published, image="0000000000000000", macros="{}")
    key = build.images["debian12"]
    assert build.obstacles(other) == {
        "ipvsadm": [
            f"builder image debian12 of that time, {key}, is not kept here, and today's is another",
            "its input 'macros' is another here",
        ],
        "role-packages": ["made from ipvsadm"],
    }
    build, never = planned(published, differs="it signs with a key of its own")
    assert build.obstacles(never)["ipvsadm"] == [
        "two builds of it never have the same bytes: it signs with a key of its own"
    ]


def test_a_difference_that_other_code_made_proves_nothing(published: Published, tmp_path: Path) -> None:
    build, graph = planned(published)
    [file] = [name for name, row in build.document.packages.items() if row.steps == ("ipvsadm",)]
    rpms = tmp_path / "made" / "out" / "rpms"
    rpms.mkdir(parents=True)
    [other] = [name for name, row in build.document.packages.items() if name.startswith("lvs-fnat-director")]
    [there, *_] = build.path.glob(f"*/{other}")
    (rpms / file).write_bytes(there.read_bytes())
    [record] = published.shop.inv.artifacts.glob("steps/toy/ipvsadm/[0-9a-f]*")
    outcome = Outcome("ipvsadm", "0", State.RAN, "", 0.0, tmp_path / "made", record=step_record.read(record))
    compared = Comparison(build, graph, {"ipvsadm": []}, tmp_path / "reports")
    [found] = compared.packages({"ipvsadm": outcome}, build.steps.keys() - {"ipvsadm"})
    assert found.verdict is Verdict.CANNOT
    assert found.reasons[0].startswith("built by the code of commit ") or "no commit has" in found.reasons[0]
    same = replace(compared, graph=SameCode(build, graph))  # type: ignore[arg-type]
    [found] = same.packages({"ipvsadm": outcome}, build.steps.keys() - {"ipvsadm"})
    assert found.verdict is Verdict.DIFFERENT


class SameCode:
    """A plan whose code is that of the statements."""

    def __init__(self, build: StatedBuild, graph: StepGraph) -> None:
        code = build.steps["ipvsadm"].inputs["code"]
        self.parts = {name: {**parts, "code": code} for name, parts in graph.parts.items()}
