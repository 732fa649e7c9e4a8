"""What must fail in an el6 build, and how: each mistake that would give a wrong kernel, on a toy that really builds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import line_loader
from pipeline.config.context import RunContext
from pipeline.config.line_model import RoleName
from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.errors import BuildFailed, ExitCode, Refused
from pipeline.formats import archive
from pipeline.inspect import guide_mistakes
from pipeline.packaging import job
from pipeline.packaging.graph import Work
from pipeline.patching.patched_trees import Trees
from pipeline.patching.series import verify_patches
from pipeline.patching.verified_patch import VerifiedPatch
from pipeline.recipes import registry, spec_overlay
from pipeline.recipes.base import BuildInputs
from pipeline.recipes.builder_images import builder
from pipeline.recipes.el6 import kernel
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.runtime import Limits
from pipeline.sources.resolver import Sources
from tests.fixtures.targets import EL6
from tests.fixtures.toy import SRPM, make_toy
from tests.fixtures.workshop import ToyShop

Series = Mapping[RoleName, Sequence[VerifiedPatch]]
OTHER = {RoleName.DIRECTOR: RoleName.REALSERVER, RoleName.REALSERVER: RoleName.DIRECTOR}
HOOK = "ApplyOptionalPatch linux-kernel-test.patch"
EXECUTABLE = "chmod +x scripts/checkpatch.pl\n"  # of the spec's own doing, behind every patch

pytestmark = pytest.mark.timeout(600)


@contextlib.contextmanager
def shop_with(images: Path, more: str = "", **variant: Any) -> Iterator[ToyShop]:
    """A shop whose toy is this variant, with `more` in its line file."""
    with ToyShop.opened(images, **variant) as shop:
        with shop.toy.line_file.open("a") as stream:
            stream.write(more)
        yield shop


def refused(shop: ToyShop, role: str, expect: int, *options: str) -> dict[str, Any]:
    """The error that building one role's kernel ends with."""
    document: dict[str, Any] = shop.build(f"kernel:{role}", "--json", *options, expect=expect).json
    assert shop.left() == {}
    assert not list(shop.inv.artifacts.glob("steps/toy/kernel-*/[!.]*/out")), "nothing of it is published"
    return document


# --- A patch in the wrong place ----------------------------------------------------------------------------


def test_swapped_series_are_refused_by_content_before_anything_is_built(images: Path) -> None:
    """The guide's mistake, with names and places that all agree with each other."""
    with shop_with(images, swap_patches=True) as shop:
        stand_ins = shop.inv.without_programs("bwrap", "rpmbuild")
        ended = shop.build("kernel:realserver", "--json", expect=ExitCode.REFUSED, **stand_ins)
        assert "lvs" in ended.json["what"] and "director" in ended.json["what"]
        assert shop.inv.called == ""
        assert not list(shop.inv.artifacts.glob("steps/*/*/*"))


def built(shop: ToyShop, role: RoleName, misled: Callable[[Series], Series]) -> Path:
    """What the recipe gives for one role when it is told that something else was proven; the packages' directory."""
    options = {"artifacts": str(shop.inv.artifacts), "image": "debian12", "debian_mirror": shop.archive.url}
    context = RunContext(load(options, {}), Console(quiet=True))
    image = builder(context, EL6.build.images)
    line = line_loader.load(line_file=shop.toy.line_file)
    sources = Sources(line, context.settings, context.console)
    verified = {item.name: item for item in sources.fetch(image.name)}
    proven = misled(verify_patches(line, verified))
    bench = job.BuildEnvironment(Bubblewrap(), image, None, Limits())
    material = BuildInputs(line, verified, proven, bench, Trees(sources, proven, verified).of)
    [step] = [step for step in registry.recipe(line).steps(material) if step.name == f"kernel:{role}"]
    work = Work(step, shop.place / "out", shop.place / "scratch", shop.place / "log", {}, 2)
    work.out.mkdir()
    work.scratch.mkdir()
    step.action(work)
    return work.out / "rpms"


def swapped(proven: Series) -> Series:
    return {role: proven[OTHER.get(role, role)] for role in proven}


def unpatched(proven: Series) -> Series:
    return dict.fromkeys(proven, ())


WITHOUT_TOA = '\n[roles.realserver.config]\nCONFIG_TOA = "n"\n'


def test_a_real_server_with_the_lvs_patch_is_refused_by_what_its_packages_hold(images: Path) -> None:
    """It applies, builds, and would boot; nothing but the proof of the role can tell."""
    with shop_with(images, WITHOUT_TOA) as shop, pytest.raises(Refused) as caught:
        built(shop, RoleName.REALSERVER, swapped)
    told = caught.value.what
    assert "wrong role by content; expected a realserver's kernel, got a director's" in told
    assert "lacks the sign of a realserver: has kernel/net/toa/toa.ko" in told
    assert "has the sign of a director: CONFIG_IP_VS_TAB_BITS is 22" in told
    assert caught.value.why == guide_mistakes.WRONG_PATCH


def test_a_real_server_with_the_lvs_patch_loses_the_option_that_only_toa_brings(images: Path) -> None:
    with shop_with(images) as shop, pytest.raises(BuildFailed) as caught:
        built(shop, RoleName.REALSERVER, swapped)
    assert "CONFIG_TOA=m was dropped" in caught.value.what


def test_a_director_of_an_unpatched_tree_is_refused_by_what_its_packages_hold(images: Path) -> None:
    with shop_with(images) as shop, pytest.raises(Refused) as caught:
        built(shop, RoleName.DIRECTOR, unpatched)
    told = caught.value.what
    assert "wrong role by content; expected a director's kernel, got a stock's" in told
    for sign in ("TAB_BITS is 22", "exports ip_vs_synproxy_cookie_v4_init_sequence", "has IP_VS_CONN_F_FULLNAT"):
        assert f"lacks the sign of a director: {sign}" in told.replace("CONFIG_IP_VS_", "").replace(
            "linux/ip_vs.h ", ""
        )


# --- A spec that does something else ------------------------------------------------------------------------


def spec_of(toy_directory: Path) -> str:
    """The toy's spec, out of its source package."""
    toy = make_toy(toy_directory)
    return archive.read(toy.mirror / SRPM, {kernel.SPEC: 1 << 20})[kernel.SPEC].decode()


PARAMETERS = kernel.Parameters(
    EL6,
    RoleName.DIRECTOR,
    "2.6.32",
    "220.23.1.el6",
    "debian12",
    "linux",
    0,
    ".fnat",
    small=True,
    patches=("lvs.patch",),
)
ANCHORS = sorted({edit.anchor for edit in kernel.edits(PARAMETERS)})


def test_the_recipe_hangs_on_the_lines_that_upstreams_spec_has() -> None:
    assert {HOOK, "%prep", "%build", "Patch999999: linux-kernel-test.patch", "%define fancy_debuginfo 1"} < set(ANCHORS)
    assert len(ANCHORS) == 9


@pytest.mark.parametrize("times", ["nowhere", "2 times"])
@pytest.mark.parametrize("anchor", ANCHORS)
def test_a_line_that_moved_is_refused_by_name(tmp_path: Path, anchor: str, times: str) -> None:
    text = spec_of(tmp_path)
    assert text.splitlines().count(anchor) == 1
    spec_overlay.overlaid(text, kernel.edits(PARAMETERS))
    moved = [f"{anchor}-moved"] if times == "nowhere" else [anchor, anchor]
    wrong = [new for line in text.splitlines() for new in (moved if line == anchor else [line])]
    with pytest.raises(Refused) as caught:
        spec_overlay.overlaid("\n".join(wrong), kernel.edits(PARAMETERS))
    assert f"`{anchor}` {times}" in caught.value.what


OTHER_PATCH = """\
--- a/Documentation/toy.txt
+++ b/Documentation/toy.txt
@@ -1 +1 @@
-A kernel that only packages.
+A kernel that somebody else changed.
"""
DECLARED = ("Patch999999: linux", "Patch1: other.patch\nPatch999999: linux")
TREES: dict[str, tuple[dict[str, Any], str]] = {
    "another patch before ours": (
        {
            "spec_changed": [DECLARED, (HOOK, f"ApplyPatch other.patch\n{HOOK}")],
            "sources_changed": {"other.patch": OTHER_PATCH},
        },
        "changed Documentation/toy.txt",
    ),
    "another patch behind ours": (
        {
            "spec_changed": [DECLARED, (EXECUTABLE, f"{EXECUTABLE}ApplyPatch other.patch\n")],
            "sources_changed": {"other.patch": OTHER_PATCH},
        },
        "changed Documentation/toy.txt",
    ),
    "a file taken away": ({"spec_changed": [(EXECUTABLE, f"{EXECUTABLE}rm COPYING\n")]}, "missing COPYING"),
    "a file more": ({"spec_changed": [(HOOK, f"touch net/extra.c\n{HOOK}")]}, "extra net/extra.c"),
    "our own hook used": (
        {"sources_changed": {"linux-kernel-test.patch": "# a comment\n" * 9 + OTHER_PATCH}},
        "changed Documentation/toy.txt",
    ),
}


@pytest.mark.parametrize("spec", TREES)
def test_a_spec_that_makes_another_tree_is_refused_with_the_paths(images: Path, spec: str) -> None:
    variant, told = TREES[spec]
    with shop_with(images, **variant) as shop:
        error = refused(shop, "director", ExitCode.REFUSED)
        assert error["what"].splitlines() == [
            "the tree in the builder is not the pinned one with the series applied",
            told,
        ]
        assert Path(shop.inv.cwd, error["where"]).is_file(), "the log is where the error says"


def test_the_modes_that_the_spec_sets_and_the_links_it_follows_are_fine(images: Path) -> None:
    follows = ("cp -rl vanilla", "cp -rlL vanilla")
    with shop_with(images, spec_changed=[follows]) as shop:
        shop.build("kernel:stock")
        [log] = shop.inv.artifacts.glob("steps/toy/kernel-stock/[!.]*/log")
        assert log.read_text().count("files are as the sources and the series make them") == 2


# --- Options and symbols ------------------------------------------------------------------------------------


def test_an_option_that_another_file_overrules_is_told_with_both_values(images: Path) -> None:
    overruled = "CONFIG_64BIT=y\nCONFIG_X86_64=y\nCONFIG_IP_VS_TAB_BITS=12\n"
    with shop_with(images, sources_changed={"config-x86_64-generic": overruled}) as shop:
        error = refused(shop, "director", ExitCode.BUILD)
        assert "CONFIG_IP_VS_TAB_BITS=22 became 12" in error["what"]


def test_a_small_kernels_option_that_is_dropped_is_told(images: Path) -> None:
    options = '\n[roles.stock.config]\nCONFIG_OF_NO_KERNEL = "y"\n'
    with shop_with(images, options) as shop:
        error = refused(shop, "stock", ExitCode.BUILD, "--kernel-config", "small")
        assert error["what"].splitlines()[1:] == [
            "  the role stock of the line file: CONFIG_OF_NO_KERNEL=y was dropped"
        ]


SYMBOL = "{}\t{}\tvmlinux\tEXPORT_SYMBOL\n"
SYMBOLS = {
    "changed": (
        SYMBOL.format("0x11111111", "secure_tcp_sequence_number"),
        "secure_tcp_sequence_number: expected 0x11111111, got 0x0a0b0c0d",
    ),
    "gone": (SYMBOL.format("0x22222222", "no_such"), "no_such: expected 0x22222222, got none"),
}


@pytest.mark.parametrize("role", ["director", "stock"])
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_a_symbol_of_the_kernel_abi_that_changed_is_refused_in_every_role(images: Path, symbol: str, role: str) -> None:
    listed, told = SYMBOLS[symbol]
    with shop_with(images, sources_changed={"Module.kabi_x86_64": listed}) as shop:
        error = refused(shop, role, ExitCode.REFUSED)
        first = error["what"].splitlines()[0]
        assert first.startswith("kernel-2.6.32-220.23.1.el6.") and first.endswith("wrong CRC of 1 exported symbol(s)")
        assert error["what"].splitlines()[1:] == [f"  {told}"]


def test_a_source_package_without_the_list_is_refused(images: Path) -> None:
    """It is declared in the spec, and a list of another architecture is no list of this one."""
    with shop_with(images, sources_changed={"Module.kabi_x86_64": "nothing of the kind\n"}) as shop:
        error = refused(shop, "stock", ExitCode.REFUSED)
        assert error["what"].startswith("Module.kabi_x86_64: not a list of exported symbols; expected")
        failed = shop.inv.artifacts / "steps/toy/kernel-stock/.failed/meta.json"
        assert json.loads(failed.read_text())["state"] == "failed"
