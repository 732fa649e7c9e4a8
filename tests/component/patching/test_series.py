"""A series of several patches: its role is proven of the whole, and every wrong part is named."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.line_model import Line, LineData, RoleName
from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.errors import ExitCode, Refused
from pipeline.formats import git_tree
from pipeline.patching.apply import DELETED, apply_series
from pipeline.patching.patched_trees import Trees
from pipeline.patching.series import verify_patches, verify_roles
from pipeline.patching.series_rules import RoleProof
from pipeline.patching.verified_patch import VerifiedPatch
from pipeline.sources.kernel_tree import Pristine
from pipeline.sources.resolver import Sources
from tests.fixtures.patches import (
    RULES,
    TREE,
    changed,
    config_section,
    director,
    edit,
    git_rename,
    plain,
    realserver,
    write,
)

DIRECTOR, REALSERVER = RoleName.DIRECTOR, RoleName.REALSERVER
FLAG, CONN, TCP, TOA = (
    "include/linux/ip_vs.h",
    "net/netfilter/ipvs/ip_vs_conn.c",
    "net/ipv4/tcp_ipv4.c",
    "net/toa/toa.c",
)
SYNPROXY = "net/netfilter/ipvs/ip_vs_synproxy.c"
TOA_C = "#define TCPOPT_TOA 200\nint toa(void);\n"
FLAG_H = changed(TREE[FLAG], "int flag_20(void);", "#define IP_VS_CONN_F_FULLNAT 5", "#define TCPOPT_ADDR  200")
OTHER_H = FLAG_H.replace("F_FULLNAT", "F_OTHER")
EXPORTED = changed(TREE[TCP], "int tcp_9(void);", "int exported(void);")
KCONFIG = "config TOA\n\ttristate\n"
HALVES = (
    edit(TCP, "int tcp_9(void);", "int exported(void);") + plain("net/toa/Kconfig", "", "config TOA\n\ttristate\n"),
    plain(TOA, "", TOA_C),
)
FIX = plain(TOA, TOA_C, changed(TOA_C, "int toa(void);", "int fixed(void);"))

Named = Sequence[tuple[str, bytes]]


class _OnDisk(Trees):
    """Trees of the toy kernel, which needs no archive."""

    def pristine(self) -> Pristine:
        root = self.sources.settings.artifacts.parent / "toy"
        listing = git_tree.of_directory(root)
        return Pristine(git_tree.tree_id(listing), listing, root)


class House:
    """A line whose patches are files beside it, each with digest and effect; `more` goes over a patch's table."""

    def __init__(self, place: Path, role: RoleName, series: Named, **more: dict[str, Any]) -> None:
        write(place / "toy")
        for name, data in series:
            (place / f"{name}.patch").write_bytes(data)
        left = self._left(place, [(name, data) for name, data in series if name not in more])
        tables = {
            name: {
                "role": role,
                "file": f"{name}.patch",
                "sha256": hashlib.sha256(data).hexdigest(),
                "effect": left.get(name, {}),
                **more.get(name, {}),
            }
            for name, data in series
        }
        document = {
            "schema": 1,
            "name": "house",
            "title": "a house's own patches",
            "kernel": "2.6.32",
            "sources": {},
            "roles": {role: {"series": [name for name, _ in series]}},
            "rules": {each: rule.model_dump(by_alias=True) for each, rule in RULES.items()},
            "patches": tables,
        }
        self.role = role
        self.line = Line(LineData.model_validate(document), (place / "house.toml",), place / "house.lock.toml")
        settings = load({"artifacts": place / "artifacts"}, {})
        self.sources = Sources(self.line, settings, Console(out=io.StringIO()))
        self.series: dict[RoleName, list[VerifiedPatch]] = {}

    @staticmethod
    def _left(place: Path, series: Named) -> dict[str, dict[str, str]]:
        try:
            report = apply_series(place / "toy", series, place / "measured")
        except Refused:
            return {}
        return {
            patch.name: {file.path: file.after.blob if file.after else DELETED for file in patch.files}
            for patch in report.patches
        }

    @property
    def patches(self) -> list[VerifiedPatch]:
        return self.series[self.role]

    def trees(self) -> Trees:
        return _OnDisk(self.sources, self.series, {})

    def prove(self) -> RoleProof:
        self.series = verify_patches(self.line, {})
        return verify_roles(self.line, self.trees())[self.role]

    def refusal(self) -> Refused:
        with pytest.raises(Refused) as caught:
            self.prove()
        assert caught.value.code == ExitCode.REFUSED
        assert caught.value.where and caught.value.why and caught.value.hint
        return caught.value


@pytest.mark.parametrize(
    ("role", "series"),
    [
        (DIRECTOR, (("lvs", director()), ("fix", edit(CONN, "int conn_9(void);", "int fixed(void);")))),
        (REALSERVER, (("toa", realserver()), ("fix", FIX))),
        (REALSERVER, (("fix", edit("kernel/kallsyms.c", "int kallsyms_3(void);", "int x;")), ("toa", realserver()))),
    ],
    ids=["director", "realserver", "fix first"],
)
def test_a_house_fix_beside_upstreams_patch_is_part_of_its_role(tmp_path: Path, role: RoleName, series: Named) -> None:
    house = House(tmp_path, role, series)
    proof = house.prove()
    upstream = next(name for name, _ in series if name != "fix")
    assert (proof.found.role, proof.proven_by) == (role, upstream)
    assert proof.to_json()["option_number"] == (200,)
    assert {item.name: item.found.role for item in house.patches} == {upstream: role, "fix": None}
    touched = {path for item in house.patches for change in item.parsed.files for path in change.paths}
    assert house.trees().of(role).changed == len(touched)


def test_two_halves_make_a_role_only_together(tmp_path: Path) -> None:
    proof = House(tmp_path, REALSERVER, list(zip(("one", "two"), HALVES, strict=True))).prove()
    assert proof.proven_by == "the series of 2 patches"
    assert "it adds net/toa/toa.c; touches net/ipv4/tcp_ipv4.c" in proof.found.by
    assert [found.role for found in proof.alone.values()] == [None, None]


@pytest.mark.parametrize("half", HALVES, ids=["one", "two"])
def test_a_half_with_a_patch_that_is_not_the_other_half_is_no_role(tmp_path: Path, half: bytes) -> None:
    beside = edit("kernel/kallsyms.c", "int kallsyms_3(void);", "int x;")
    error = House(tmp_path, REALSERVER, [("half", half), ("beside", beside)]).refusal()
    assert "series half + beside: its content fits the rules of no role" in error.what
    assert "not realserver: it does not" in error.what


@pytest.mark.parametrize(
    ("role", "first", "fix", "said"),
    [
        (REALSERVER, realserver(), plain(TOA, TOA_C, ""), "the series does not add net/toa/toa.c"),
        (REALSERVER, realserver(), git_rename(TOA, "net/toa/other.c"), "the series does not add net/toa/toa.c"),
        (REALSERVER, realserver(), plain(TCP, EXPORTED, TREE[TCP]), "the series does not touch net/ipv4/tcp_ipv4.c"),
        (REALSERVER, realserver(), plain("net/toa/Kconfig", KCONFIG, ""), "the series does not add 'config TOA'"),
        (DIRECTOR, director(), plain(FLAG, FLAG_H, OTHER_H), "the series does not add 'IP_VS_CONN_F_FULLNAT'"),
    ],
    ids=["deletes", "renames", "reverts", "symbol", "flag"],
)
def test_a_later_patch_that_undoes_the_proof_is_named(
    tmp_path: Path, role: RoleName, first: bytes, fix: bytes, said: str
) -> None:
    error = House(tmp_path, role, [("upstream", first), ("fix", fix)]).refusal()
    assert f"patch fix: it undoes what upstream established for the {role}: with it, the series" in error.what
    assert said in error.what


CALCULATED = "#define BASE 100\n\n\n\n\n\n\n\n\n#define TCPOPT_TOA (BASE * 2)\nint toa(void);\n"


@pytest.mark.parametrize(
    ("before", "after", "now"),
    [
        (TOA_C, TOA_C.replace("200", "254"), "254"),
        (TOA_C, TOA_C.replace("#define TCPOPT_TOA 200\n", ""), "unknown"),
        (TOA_C, f"#if 0\n{TOA_C}#endif\n", "unknown"),
        (TOA_C, f"{TOA_C}#define TCPOPT_TOA 254\n", "200 and 254"),
        (CALCULATED, CALCULATED.replace("BASE 100", "BASE 127"), "254"),
    ],
    ids=["changed", "removed", "compiled out", "second", "calculated"],
)
def test_a_later_patch_that_changes_the_option_number_is_named(
    tmp_path: Path, before: str, after: str, now: str
) -> None:
    whole = realserver().replace(plain(TOA, "", TOA_C), plain(TOA, "", before))
    error = House(tmp_path, REALSERVER, [("toa", whole), ("fix", plain(TOA, before, after))]).refusal()
    assert "patch fix: it undoes what toa established for the realserver: before it TCP option 200" in error.what
    assert f"with it TCP option number {now} (" in error.what


def test_what_encloses_a_hunk_is_seen_once_the_series_is_applied(tmp_path: Path) -> None:
    """Between `#if 0` and the number are more lines than any hunk of either patch shows."""
    fix = plain(FLAG, FLAG_H, f"#if 0\n{FLAG_H}#endif\n")
    assert b"TCPOPT_ADDR" not in fix
    error = House(tmp_path, DIRECTOR, [("lvs", director()), ("fix", fix)]).refusal()
    assert "patch fix: it undoes what lvs established for the director: before it TCP option 200" in error.what


def test_a_later_patch_may_put_the_option_number_right(tmp_path: Path) -> None:
    fix = plain(TOA, TOA_C.replace("200", "254"), TOA_C)
    proof = House(tmp_path, REALSERVER, [("toa", realserver(254)), ("fix", fix)]).prove()
    assert proof.found.option is not None and proof.found.option.right


def test_a_series_that_leaves_another_number_is_refused_with_its_place_in_the_file(tmp_path: Path) -> None:
    halves = [("one", HALVES[0]), ("two", HALVES[1].replace(b"200", b"254"))]
    error = House(tmp_path, REALSERVER, halves).refusal()
    assert (
        "series one + two: TCP option number 254 (TCPOPT_TOA in net/toa/toa.c, line 1 of the patched file)"
        in error.what
    )


def test_no_patch_of_a_series_may_touch_what_its_role_must_not(tmp_path: Path) -> None:
    fix = edit(CONN, "int conn_9(void);", "int x;")
    error = House(tmp_path, REALSERVER, [("toa", realserver()), ("fix", fix)]).refusal()
    assert f"patch fix: it touches {CONN}; no patch of the realserver's series may touch net/netfilter" in error.what


def test_every_wrong_patch_is_told_at_once(tmp_path: Path) -> None:
    edited = changed(TREE[CONN], "int conn_9(void);", "int x;")
    there, back = plain(CONN, TREE[CONN], edited), plain(CONN, edited, TREE[CONN])
    with pytest.raises(Refused) as caught:
        House(tmp_path, REALSERVER, [("toa", realserver()), ("fix", there), ("undo", back)]).prove()
    assert "patch fix: it touches" in caught.value.what and "patch undo: it touches" in caught.value.what


def test_the_guides_mistake_is_named_among_several_patches(tmp_path: Path) -> None:
    error = House(tmp_path, REALSERVER, [("toa", realserver()), ("fix", FIX), ("lvs", director())]).refusal()
    assert error.what.startswith("patch lvs: the LVS-FULLNAT patch is in the realserver's series")
    assert "best-known guide" in error.why


def test_a_part_that_is_declared_for_the_other_role_is_refused(tmp_path: Path) -> None:
    error = House(tmp_path, REALSERVER, [("toa", realserver()), ("fix", FIX)], fix={"role": DIRECTOR}).refusal()
    assert "patch fix: declared for the role director, but it is in the realserver's series" in error.what


def test_a_wrong_digest_of_any_patch_is_refused_with_both(tmp_path: Path) -> None:
    error = House(tmp_path, REALSERVER, [("toa", realserver()), ("fix", FIX)], fix={"sha256": "0" * 64}).refusal()
    assert f"patch fix: its SHA-256 is {hashlib.sha256(FIX).hexdigest()}, pinned is {'0' * 64}" in error.what


def test_a_wrong_order_is_told_by_patch_place_and_order(tmp_path: Path) -> None:
    error = House(tmp_path, REALSERVER, [("fix", FIX), ("toa", realserver())]).refusal()
    assert error.what == f"patch fix, file {TOA}: {TOA} is not in the tree"
    assert error.where == "fix:1"
    assert "it is patch 1 of 2 of its series and applied first" in error.why
    assert "check the order of the series, fix, toa" in error.hint


def test_a_hunk_is_held_against_what_earlier_patches_left(tmp_path: Path) -> None:
    once = changed(TREE[CONN], "int conn_5(void);", *["int more;"] * 9)
    late = plain(CONN, once, changed(once, "int conn_50(void);", "int late;"))
    early = plain(CONN, TREE[CONN], once)
    house = House(tmp_path, DIRECTOR, [("lvs", director()), ("early", early), ("late", late)])
    house.prove()
    moved = [h.offset for patch in house.trees().report(DIRECTOR).patches for f in patch.files for h in f.hunks]
    assert moved == [0, 0, 0, 0, 1], "by the one line that lvs adds above it, not by the nine of the patch before"


def test_an_earlier_patch_must_leave_what_is_recorded_of_it(tmp_path: Path) -> None:
    """The last patch overwrites the file, so that the tree in the end is as recorded."""
    house = House(tmp_path, REALSERVER, [("toa", realserver()), ("fix", FIX)])
    house.prove()
    effect = {**house.patches[0].model.effect, TOA: "0123456789" * 4}
    house.line.data.patches["toa"].__dict__["effect"] = effect
    with pytest.raises(
        Refused, match=r"patch toa leaves other files than recorded: 1 path\(s\) differ\n.*net/toa/toa\.c"
    ):
        house.trees().of(REALSERVER)


def test_a_section_can_be_left_out_of_one_of_several(tmp_path: Path) -> None:
    whole, rest = config_section() + director(), director()
    digests = [hashlib.sha256(data).hexdigest() for data in (whole, rest)]
    rule = {
        "file": ".config",
        "why": "no tree has it when patches are applied",
        "config": {"CONFIG_IP_VS_TAB_BITS": "22"},
        "sha256-before": digests[0],
        "sha256-after": digests[1],
    }
    fix = edit(CONN, "int conn_9(void);", "int fixed(void);")
    house = House(tmp_path, DIRECTOR, [("fix", fix), ("lvs", whole)], lvs={"leave-out": [rule]})
    assert house.prove().proven_by == "lvs"
    assert house.patches[1].data == rest
