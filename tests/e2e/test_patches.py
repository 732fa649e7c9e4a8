"""`patches`, the real command line on the toy el6 line: what is proven, and each refusal with its own words."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import process, resources
from pipeline.errors import ExitCode
from pipeline.formats import git_tree
from pipeline.sources import kernel_tree
from tests.fixtures.commandline import Ended, Inv
from tests.fixtures.toy import Toy, make_toy
from tests.fixtures.toy.house_fix import add_fix


@pytest.fixture
def inv(tmp_path: Path) -> Inv:
    return Inv(tmp_path / "host")


def proven(inv: Inv, toy: Toy, *words: str, expect: int = ExitCode.OK) -> Ended:
    return inv("patches", "--line-file", toy.line_file, *words, expect=expect)


def pinned(inv: Inv, directory: Path, **variant: Any) -> Toy:
    toy = make_toy(directory, **variant)
    inv("pin", "toy", "kernel-srpm", "--line-file", toy.line_file)
    return toy


def test_each_role_is_shown_to_get_its_own_patch_and_evidence_is_written(inv: Inv, tmp_path: Path) -> None:
    ended = proven(inv, pinned(inv, tmp_path))
    rows = {row.split()[0]: row.split() for row in ended.out.splitlines() if row.startswith(("lvs  ", "toa  "))}
    assert rows["lvs"][3:5] == ["director", "director"]
    assert rows["toa"][3:5] == ["realserver", "realserver"]
    assert "CONFIG_IP_VS_TAB_BITS=22" in ended.out, "what was left out moves to the kernel configuration"
    assert "stock: no patch" in ended.out
    assert "OVERRIDES el6" in ended.out
    evidence = json.loads((inv.artifacts / "evidence/toy/patches.json").read_text())
    assert evidence["override"]["base"] == "el6"
    commit = process.run(["git", "-C", str(resources.PACKAGE.parent), "rev-parse", "HEAD"]).text.strip()
    assert evidence["pipeline"]["checkout"]["commit"] == commit
    assert evidence["roles"]["director"]["proven_by"] == "lvs" and "realserver: proven by toa" in ended.out
    assert {p["patch"]: p["role_found"] for p in evidence["patches"]} == {"lvs": "director", "toa": "realserver"}
    assert all(hunk["fuzz"] == 0 for file in evidence["roles"]["director"]["files"] for hunk in file["hunks"])


def test_the_second_run_reads_no_archive_again(inv: Inv, tmp_path: Path) -> None:
    toy = pinned(inv, tmp_path)
    first = proven(inv, toy, "--json").json
    stand_ins = inv.without_programs("rpm2archive", "rpmkeys", "rpm")
    again = inv("patches", "--line-file", toy.line_file, "--json", **stand_ins)
    assert again.json == first
    assert inv.called == ""


def test_a_kept_tree_that_was_changed_is_read_anew(inv: Inv, tmp_path: Path) -> None:
    toy = pinned(inv, tmp_path)
    first = proven(inv, toy, "--json").json
    [kept] = (inv.artifacts / "trees").glob("*/files/kernel/kallsyms.c")
    kept.write_text("not what it was\n")
    assert proven(inv, toy, "--json").json == first


def test_a_kept_tree_whose_listing_was_changed_with_it_is_read_anew(inv: Inv, tmp_path: Path) -> None:
    toy = pinned(inv, tmp_path)
    first = proven(inv, toy, "--json").json
    [kept] = (inv.artifacts / "trees").glob("*/files/kernel/kallsyms.c")
    before = git_tree.blob_id(kept.read_bytes())
    kept.write_text("not what it was\n")
    listing = kept.parents[2] / "listing.xz"
    rows = lzma.decompress(listing.read_bytes()).decode()
    listing.write_bytes(lzma.compress(rows.replace(before, git_tree.blob_id(kept.read_bytes())).encode()))
    assert {path for path, _ in kernel_tree.problems(inv.artifacts / "trees")} == {kept, listing}
    assert proven(inv, toy, "--json").json == first
    assert list(kernel_tree.problems(inv.artifacts / "trees")) == []


def test_the_guides_mistake_is_refused_in_both_directions_in_its_own_words(inv: Inv, tmp_path: Path) -> None:
    said = proven(inv, pinned(inv, tmp_path, swap_patches=True), expect=ExitCode.REFUSED).err
    assert "the LVS-FULLNAT patch is in the realserver's series" in said
    assert "mistake of the best-known guide" in said
    assert "the TOA patch is in the director's series" in said


def test_another_tcp_option_number_is_refused(inv: Inv, tmp_path: Path) -> None:
    said = proven(inv, pinned(inv, tmp_path, option_number=254), expect=ExitCode.REFUSED).err
    assert "254" in said
    assert "200" in said
    assert "TCPOPT_TOA" in said


def test_a_hunk_that_needs_fuzz_is_refused_by_file_and_number(inv: Inv, tmp_path: Path) -> None:
    said = proven(inv, pinned(inv, tmp_path, fuzz=True), expect=ExitCode.REFUSED).err
    assert "needs rebase: net/netfilter/ipvs/ip_vs_conn.c: hunk #1" in said
    assert "fuzz 1" in said


def test_an_offset_is_accepted_and_said(inv: Inv, tmp_path: Path) -> None:
    said = proven(inv, pinned(inv, tmp_path, offset=True)).out
    assert "2 at an offset, none with fuzz" in said
    assert "ip_vs_conn.c hunk 1 moved by 6 lines" in said


def test_a_patch_that_is_pinned_otherwise_is_refused_with_both_digests(inv: Inv, tmp_path: Path) -> None:
    said = proven(inv, pinned(inv, tmp_path, patch_digest_wrong=True), expect=ExitCode.REFUSED).err
    assert "patch lvs: its SHA-256 is" in said
    assert "pinned is" in said


def test_a_tree_that_the_series_leaves_otherwise_is_refused_by_path(inv: Inv, tmp_path: Path) -> None:
    toy = pinned(inv, tmp_path)
    text = toy.line_file.read_text()
    blob = next(line for line in text.splitlines() if line.startswith('"net/toa/toa.c"')).split('"')[3]
    toy.line_file.write_text(text.replace(blob, "0123456789" * 4))
    said = proven(inv, toy, expect=ExitCode.REFUSED).err
    assert "the series leaves another tree than recorded" in said
    assert "net/toa/toa.c" in said


def test_any_patch_file_can_be_held_against_the_rules(inv: Inv, tmp_path: Path) -> None:
    toy = make_toy(tmp_path)
    found = proven(inv, toy, "--json", "--classify", str(toy.patches["toa"])).json
    assert (found["role"], found["pinned"]) == ("realserver", ["toa"])
    neither = tmp_path / "toa-lookalike.patch"
    neither.write_text("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n")
    said = proven(inv, toy, "--classify", str(neither), expect=ExitCode.REFUSED)
    assert "does not add net/toa/toa.c" in said.out
    assert "fits the rules of no role" in said.err


TOA_C, TEST = "net/toa/toa.c", "option[0] == TCPOPT_TOA"


def test_a_fix_of_ones_own_stands_beside_upstreams_patch(inv: Inv, tmp_path: Path) -> None:
    toy = pinned(inv, tmp_path)
    fix = add_fix(toy, "toa", TOA_C, TEST, "TCPOPT_TOA == option[0]")
    ended = proven(inv, toy)
    row = next(row for row in ended.out.splitlines() if row.startswith("fix  "))
    assert "part of realserver" in row
    assert "fix: no role by itself, part of the realserver's series by its pinned digest" in ended.out
    assert "realserver: proven by toa" in ended.out
    evidence = json.loads((inv.artifacts / "evidence/toy/patches.json").read_text())
    hunks = sum(item["hunks"] for item in evidence["patches"] if item["role"] == "realserver")
    assert f"realserver: {hunks} hunks applied, 0 at an offset" in ended.out
    found = {item["patch"]: (item["role"], item["role_found"]) for item in evidence["patches"]}
    assert found["fix"] == ("realserver", None)
    role = evidence["roles"]["realserver"]
    assert (role["patches"], role["role_found"], role["option_number"]) == (2, "realserver", [200])
    assert [item["patch"] for item in role["files"] if item["path"] == TOA_C] == ["toa", "fix"]
    said = proven(inv, toy, "--classify", str(fix), expect=ExitCode.REFUSED)
    assert "fix (2 of 2 in the realserver's series)" in said.out
    assert "a role is proven of a series as a whole" in said.err


def test_a_fix_that_changes_the_option_number_is_refused_by_name(inv: Inv, tmp_path: Path) -> None:
    toy = pinned(inv, tmp_path)
    add_fix(toy, "toa", "net/toa/toa.h", "TCPOPT_TOA  200", "TCPOPT_TOA  254")
    said = proven(inv, toy, expect=ExitCode.REFUSED).err
    assert "patch fix: it undoes what toa established for the realserver" in said
    assert "TCP option number 254 (TCPOPT_TOA in net/toa/toa.h, line 4 of the patched file" in said


def test_two_versions_are_compared_by_effect(inv: Inv, tmp_path: Path) -> None:
    toy, other = make_toy(tmp_path / "a"), make_toy(tmp_path / "b", option_number=254)
    same = proven(inv, toy, "--json", "--diff", str(toy.patches["toa"]), str(toy.patches["toa"])).json
    assert same["same_effect"] is True
    text = proven(inv, toy, "--diff", str(toy.patches["toa"]), str(other.patches["toa"])).out
    assert "net/toa/toa.h: differs" in text
    assert "TCPOPT_TOA 200" in text
    assert "TCPOPT_TOA 254" in text


def test_a_series_with_an_unknown_patch_is_a_mistake_in_the_line_file(inv: Inv, tmp_path: Path) -> None:
    toy = pinned(inv, tmp_path)
    text = toy.line_file.read_text() + '\n[roles.director]\nseries = ["nowhere"]\n'
    toy.line_file.write_text(text)
    said = proven(inv, toy, expect=ExitCode.USAGE).err
    assert "no patch 'nowhere'" in said
    assert "toy.toml:" in said
