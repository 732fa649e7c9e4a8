"""The build command on a toy of el6: its recipe, builder image, signatures and repository are the real ones."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.process import run
from pipeline.packaging import compiled_sources
from pipeline.packaging.rpmbuild import read_package
from pipeline.publish import el6_compat, signers
from pipeline.publish.verify import verify_snapshot
from tests.fixtures.toy import make_toy
from tests.fixtures.toy.house_fix import add_fix
from tests.fixtures.workshop import ToyShop

ROLES = {"director": ".fnat", "realserver": ".toa", "stock": ".stock"}
RELEASE = "2.6.32-220.23.1.el6"
TAG = ".override_toy"  # what a line that overrides another has in every release
KERNEL = {"kernel", "kernel-devel", "kernel-headers", "kernel-firmware"}
BESIDE = {
    "director": {"lvs-fnat-director"},
    "realserver": {"lvs-fnat-realserver"},
    "stock": {"lvs-fnat-director", "lvs-fnat-realserver"},
}

pytestmark = pytest.mark.timeout(1200)


def uname(role: str, more: str = "") -> str:
    return f"{RELEASE}{ROLES[role]}{TAG}{more}.x86_64"


class Built:
    """A shop in which everything was built once, and what that run said of each step."""

    def __init__(self, shop: ToyShop) -> None:
        self.shop = shop
        self.first = shop.steps()

    def out(self, step: str) -> Path:
        """A step's output."""
        return self.shop.inv.cwd / str(self.first[step]["out"])

    def kernel(self, role: str, name: str = "kernel") -> Path:
        """One package of a role's kernel."""
        return self.out(f"kernel:{role}") / "rpms" / f"{name}-{uname(role)}.rpm"

    def content(self, rpm: Path, member: str) -> bytes:
        """One file of a package; `member` is its path without the leading slash."""
        archive = run(["rpm2cpio", rpm]).out
        return run(["cpio", "-i", "--quiet", "--to-stdout", f"./{member}"], stdin=archive).out


@pytest.fixture(scope="module")
def built(images: Path) -> Iterator[Built]:
    with ToyShop.opened(images) as shop:
        yield Built(shop)


def test_every_step_ran_and_was_proven(built: Built) -> None:
    assert {f"kernel:{role}" for role in ROLES} | {"role-packages", "repository"} <= set(built.first)
    assert {step["state"] for step in built.first.values()} == {"ran"}
    assert built.shop.left() == {}
    assert not list(built.shop.inv.artifacts.glob("steps/*/*/.*-*"))


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_set_has_its_kernel_and_what_it_needs_beside_it(built: Built, role: str) -> None:
    files = [path.name for path in (built.shop.latest() / role).glob("*.rpm")]
    own = {file.removesuffix(f"-{uname(role)}.rpm") for file in files if file.startswith("kernel")}
    assert own == KERNEL
    beside = {re.sub(r"-\d.*", "", file) for file in files if not file.startswith("kernel")}
    assert BESIDE[role] <= beside and not {"lvs-fnat-director", "lvs-fnat-realserver"} & beside - BESIDE[role]


def test_the_repository_is_signed_and_old_rpm_can_read_all_of_it(built: Built) -> None:
    document = verify_snapshot(built.shop.latest(), signers.recorded_fingerprint(built.shop.inv.artifacts, "toy"))
    rpms = sorted(built.shop.latest().rglob("*.rpm"))
    assert {rpm.name for rpm in rpms} == set(document.packages)
    for rpm in rpms:
        el6_compat.check(rpm, key_id=document.key.fingerprint[-16:])
    assert list(built.shop.latest().glob("*/repodata/*primary.sqlite*")), "yum of that age likes its database"


@pytest.mark.parametrize(
    ("role", "crcs", "tab_bits"),
    [
        ("director", {"register_ip_vs_scheduler": "0x5180a05d", "inet_stream_ops": "0x758e2721"}, "22"),
        ("realserver", {"register_ip_vs_scheduler": "0x4660b4b4", "inet_stream_ops": "0x51888a5d"}, "12"),
        ("stock", {"register_ip_vs_scheduler": "0x4660b4b4", "inet_stream_ops": "0x758e2721"}, "12"),
    ],
)
def test_a_kernel_is_its_roles_by_content(built: Built, role: str, crcs: dict[str, str], tab_bits: str) -> None:
    evidence = json.loads((built.out(f"kernel:{role}") / "evidence.json").read_text())
    assert evidence["role"]["role"] == role
    assert crcs.items() <= evidence["symbols"]["crcs"].items()
    assert evidence["symbols"]["kabi"] == 2, "both symbols of the distribution's list were compared"
    assert evidence["banner"].startswith(f"{uname(role)} ")
    assert set(evidence["packages"]) == KERNEL
    assert evidence["parameters"]["signed_modules"] is False
    config = built.content(built.kernel(role), f"boot/config-{uname(role)}").decode()
    assert f"CONFIG_IP_VS_TAB_BITS={tab_bits}\n" in config
    assert ("CONFIG_TOA=m\n" in config) is (role == "realserver")
    provides = read_package(built.kernel(role)).provides
    assert {f"kernel({symbol}) = {crc}" for symbol, crc in crcs.items()} <= set(provides)


def test_the_tree_that_was_compiled_is_the_one_that_git_gives_after_the_patch(built: Built) -> None:
    """A role's listing in the builder is the pristine tree's, with the recorded blobs in their places."""
    manifest = lzma.decompress((built.shop.toy.line_file.parent / "toy.tree.xz").read_bytes()).decode()
    entries = {path: f"{mode} {blob}" for mode, blob, path in (row.split(" ", 2) for row in manifest.splitlines())}
    for role, name in (("director", "lvs"), ("realserver", "toa")):
        evidence = json.loads((built.out(f"kernel:{role}") / "evidence.json").read_text())
        text = built.shop.toy.line_file.read_text()
        [table] = re.findall(rf"^\[patches\.{name}\.effect\]\n((?:.+\n)+)", text, re.MULTILINE)
        effect = dict(re.findall(r'^"?([^"\s]+)"? = "(\w+)"$', table, re.MULTILINE))
        changed = {path for path, blob in effect.items() if not entries.get(path, "").endswith(blob)}
        assert evidence["paths_changed"] == len(changed) == len(effect)
    stock = json.loads((built.out("kernel:stock") / "evidence.json").read_text())
    assert (stock["paths_changed"], stock["tree"]) == (0, re.findall(r'git-tree = "(\w+)"', text)[0])


@pytest.mark.parametrize("role", ROLES)
def test_the_sources_that_were_compiled_are_recorded_as_the_patch_left_them(built: Built, role: str) -> None:
    out = built.out(f"kernel:{role}")
    [(name, tree)] = compiled_sources.read(compiled_sources.path_of(out)).trees.items()
    assert name == f"kernel-{RELEASE}/linux-{uname(role)}"
    assert {"net/netfilter/ipvs/ip_vs_core.c", "include/linux/module.h"} <= tree.files.keys()
    assert ("net/toa/toa.c" in tree.files) is (role == "realserver")
    assert not tree.unread
    record = json.loads((out.parent / "meta.json").read_text())
    assert compiled_sources.FILE in json.dumps(record), "the step's record covers it"
    for rpm in (out / "rpms").glob("*.rpm"):
        assert not [path for path in read_package(rpm).files if path.endswith(compiled_sources.FILE)]
    stock = compiled_sources.read(compiled_sources.path_of(built.out("kernel:stock")))
    [pristine] = stock.trees.values()
    changed = {path for path, digest in tree.files.items() if pristine.files.get(path, digest) != digest}
    assert bool(changed) is (role == "director"), "the real server's patch changes what the toy does not compile"


def test_the_sources_of_the_tools_are_recorded(built: Built) -> None:
    for step, source in (("ipvsadm", "ipvsadm/ipvsadm.c"), ("keepalived", "keepalived/keepalived.c")):
        assert source in compiled_sources.read(compiled_sources.path_of(built.out(step))).trees["tools"].files


def test_of_cve_records_only_the_vendors_changelog_tells(built: Built, tmp_path: Path) -> None:
    """And where the line's own hunks lie, is told of each record."""
    product = {"vendor": "Linux", "product": "Linux", "programFiles": ["net/netfilter/ipvs/ip_vs_core.c"]}
    for name in ("CVE-2012-0003", "CVE-2026-0001"):
        text = {"cveMetadata": {"cveId": name}, "containers": {"cna": {"title": "ipvs: a fix", "affected": [product]}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(text))
    document = built.shop.inv("cves", tmp_path, *built.shop.line_words[:2], "--json").json
    assert (document["vendor"], document["claims"], document["notes"]) == (True, ["CVE-2012-0003"], [])
    assert {row["id"]: row["verdict"] for row in document["findings"]} == {
        "CVE-2012-0003": "claimed-fixed", "CVE-2026-0001": "not-claimed",
    }  # fmt: skip
    for row in document["findings"]:
        assert row["compiled"] == ["net/netfilter/ipvs/ip_vs_core.c"]
        assert [(hunk["role"], hunk["patch"]) for hunk in row["hunks"]] == [("director", "lvs")]
    out = built.shop.inv("cves", tmp_path, *built.shop.line_words[:2]).out
    assert "2.6.32 is a vendor's kernel" in out and "records that the changelog does not claim fixed: 1." in out


def test_modules_are_linked_as_the_old_loader_wants_them(built: Built, tmp_path: Path) -> None:
    module = tmp_path / "ip_vs.ko"
    path = f"lib/modules/{uname('director')}/kernel/net/netfilter/ipvs/ip_vs.ko"
    module.write_bytes(built.content(built.kernel("director"), path))
    relocations = run(["readelf", "-rW", module]).text
    assert "R_X86_64_PC32" in relocations and "R_X86_64_PLT32" not in relocations


def test_the_log_begins_with_the_command_that_reproduces_it(built: Built) -> None:
    line_file = built.shop.toy.line_file
    for step in built.first:
        log = built.out(step).parent / "log"
        if step != "repository":
            first = log.read_text().splitlines()[0]
            assert first.startswith(
                f"# reproduce: ./inv build-all --only {step} --force {step} --line-file {line_file} "
            )
            assert "--image debian12" in first


def test_the_second_run_builds_nothing_and_asks_nobody(built: Built) -> None:
    stand_ins = built.shop.inv.without_programs("bwrap", "rpmbuild", "gpg", "rpmsign", "createrepo_c", "mmdebstrap")
    again = built.shop.inv(*built.shop.words(), "--json", "--offline", **stand_ins).json
    assert {step["state"] for step in again["steps"].values()} == {"reused"}
    assert built.shop.inv.called == ""


def test_a_kernel_is_built_from_a_series_of_two(images: Path) -> None:
    """Upstream's patch and a fix of the house: what is compiled is the tree that both leave, in their order."""
    with ToyShop.opened(images) as shop:
        add_fix(shop.toy, "toa", "net/toa/toa.c", "option[0] == TCPOPT_TOA", "TCPOPT_TOA == option[0]")
        proven = shop.inv("patches", "--line-file", shop.toy.line_file, "--json").json["roles"]["realserver"]
        [step] = shop.build("kernel:realserver", "--json").json["steps"].values()
        evidence = json.loads((shop.inv.cwd / step["out"] / "evidence.json").read_text())
        assert (proven["patches"], proven["proven_by"]) == (2, "toa")
        assert (evidence["tree"], evidence["role"]["role"]) == (proven["tree"], "realserver")
        assert evidence["parameters"]["patches"] == ["toa.patch", "fix.patch"]


def told(shop: ToyShop, *options: str) -> dict[str, Any]:
    """What a run would do."""
    steps: dict[str, dict[str, str]] = shop.all("--json", "--dry-run", *options).json["steps"]
    return {name: (step["would"], step["why"]) for name, step in steps.items()}


def test_explain_names_what_a_changed_patch_makes_run(built: Built) -> None:
    """Only the real server's kernel, and what is made of it."""
    line = built.shop.toy.line_file
    before = {path: path.read_text() for path in (line, line.with_name("toy.lock.toml"))}
    other = make_toy(built.shop.place / "other", toa_name="TOA, changed")
    line.write_text(other.line_file.read_text())
    built.shop.pin(built.shop.toy)
    try:
        would = told(built.shop)
    finally:
        for path, text in before.items():
            path.write_text(text)
    assert would["kernel:realserver"] == ("ran", "changed: patches")
    assert would["repository"][0] == "ran" and "step kernel:realserver" in would["repository"][1]
    unchanged = {name for name, (what, _) in would.items() if what == "reused"}
    assert {"kernel:director", "kernel:stock", "role-packages"} <= unchanged


def test_small_kernels_say_so_and_have_a_repository_of_their_own(built: Built) -> None:
    full = built.shop.latest()
    before = sorted(path.name for path in full.rglob("*.rpm"))
    steps = built.shop.steps("--kernel-config", "small")
    assert steps["role-packages"]["state"] == "reused"
    assert built.shop.latest() == full and sorted(path.name for path in full.rglob("*.rpm")) == before
    assert not [name for name in before if ".small" in name]
    small = built.shop.latest("toy-small")
    verify_snapshot(small, signers.recorded_fingerprint(built.shop.inv.artifacts, "toy-small"))
    for role in ROLES:
        kernels = {path.name for path in (small / role).glob("kernel*.rpm")}
        assert kernels == {f"{name}-{uname(role, '.small')}.rpm" for name in KERNEL}
        evidence = json.loads((built.shop.inv.cwd / steps[f"kernel:{role}"]["out"] / "evidence.json").read_text())
        assert evidence["role"]["role"] == role
        assert evidence["config"]["requested"] > 100, "every symbol of the small configuration was compared"
        assert "small" in evidence["symbols"]["kabi"]
    assert {step["state"] for step in built.shop.steps().values()} == {"reused"}, "the full ones are still there"
