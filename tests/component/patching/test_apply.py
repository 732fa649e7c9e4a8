"""Applying a series with the real GNU patch and git, and proving what it changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.errors import ExitCode, PipelineError, Refused
from pipeline.formats import git_tree
from pipeline.formats.git_tree import Entry
from pipeline.patching import apply
from pipeline.patching.apply import DELETED, SeriesReport, apply_series, prove
from pipeline.patching.patch_file import Kind, git_environment
from tests.fixtures import patches
from tests.fixtures.patches import TREE, changed, director, edit, git_link, git_new, git_rename, plain, realserver

CONN = "net/netfilter/ipvs/ip_vs_conn.c"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return patches.write(tmp_path / "toy")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def refusal(tree: Path, data: bytes, scratch: Path, *before: bytes) -> Refused:
    listing = git_tree.of_directory(tree)
    with pytest.raises(Refused) as caught:
        apply_series(tree, [*((f"earlier{n}", item) for n, item in enumerate(before)), ("p.patch", data)], scratch)
    assert caught.value.code == ExitCode.REFUSED
    assert git_tree.of_directory(tree) == listing, "the pristine tree is never written to"
    return caught.value


def effect(report: SeriesReport) -> dict[str, str]:
    return {path: entry.blob if entry else DELETED for path, entry in report.changed.items()}


def test_a_clean_series_reports_every_file_and_hunk(tree: Path, scratch: Path) -> None:
    listing = git_tree.of_directory(tree)
    report = apply_series(tree, [("lvs", director())], scratch)
    files = report.patches[0].files
    assert [(f.path, f.status, len(f.hunks), f.offsets) for f in files] == [
        ("include/linux/ip_vs.h", Kind.MODIFIED, 1, 0),
        (CONN, Kind.MODIFIED, 1, 0),
        ("net/netfilter/ipvs/ip_vs_synproxy.c", Kind.ADDED, 1, 0),
    ]
    text = changed(TREE[CONN], "int conn_40(void);", "int fullnat(void);")
    assert files[1].before == listing[CONN] and files[1].after == Entry("100644", git_tree.blob_id(text.encode()))
    assert files[2].before is None
    assert (report.hunks, report.offsets, set(report.changed)) == (3, 0, {file.path for file in files})
    assert git_tree.of_directory(tree) == listing, "the pristine tree is never written to"


def test_patches_apply_in_order_one_upon_the_other(tree: Path, scratch: Path) -> None:
    once = changed(TREE[CONN], "int conn_5(void);", "int one;")
    twice = changed(once, "int one;", "int two;")
    report = apply_series(tree, [("a", plain(CONN, TREE[CONN], once)), ("b", plain(CONN, once, twice))], scratch)
    assert report.changed == {CONN: Entry("100644", git_tree.blob_id(twice.encode()))}
    assert report.patches[1].files[0].before == report.patches[0].files[0].after


def test_an_offset_is_reported_hunk_by_hunk(tree: Path, scratch: Path) -> None:
    new = changed(changed(TREE[CONN], "int conn_8(void);", "int one;"), "int conn_50(void);", "int two;")
    data = plain(CONN, TREE[CONN], new)
    (tree / CONN).write_text(TREE[CONN].replace("int conn_30(void);\n", "int conn_30(void);\n\n\n\n"))
    report = apply_series(tree, [("p", data)], scratch)
    assert [(h.number, h.offset) for h in report.patches[0].files[0].hunks] == [(1, 0), (2, 3)]
    assert (report.offsets, report.patches[0].files[0].offsets) == (1, 1)


def test_an_offset_of_one_line_and_a_negative_one_are_read_too(tree: Path, scratch: Path) -> None:
    data = edit(CONN, "int conn_40(void);", "int x;")
    (tree / CONN).write_text("int before;\n" + TREE[CONN])
    assert apply_series(tree, [("p", data)], scratch / "1").patches[0].files[0].hunks[0].offset == 1
    (tree / CONN).write_text(TREE[CONN].removeprefix("int conn_1(void);\nint conn_2(void);\n"))
    assert apply_series(tree, [("p", data)], scratch / "2").patches[0].files[0].hunks[0].offset == -2


def test_fuzz_is_refused_although_gnu_patch_accepts_it(tree: Path, scratch: Path) -> None:
    data = edit(CONN, "int conn_9(void);", "int early;").replace(b"diff -uprN", b"diff -uprN", 1)
    data += edit("include/linux/ip_vs.h", "int flag_30(void);", "int x;").replace(b" int flag_28", b" int FLAG_28")
    error = refusal(tree, data, scratch)
    line = next(n for n, text in enumerate(data.splitlines(), 1) if text.startswith(b"@@ -28"))
    assert "patch p.patch needs rebase: include/linux/ip_vs.h: hunk #1" in error.what
    assert f"(line {line} of the patch) applies only with fuzz 1" in error.what
    assert error.where == f"p.patch:{line}"
    kernel_spec_way = ["patch", "-p1", "-F1", "-s", "--dry-run"]
    assert process.run(kernel_spec_way, cwd=tree, stdin=data).status == 0, "GNU patch alone would have accepted it"


def test_every_rejected_hunk_is_named(tree: Path, scratch: Path) -> None:
    new = changed(changed(TREE[CONN], "int conn_8(void);", "int one;"), "int conn_50(void);", "int two;")
    data = plain(CONN, TREE[CONN], new).replace(b" int conn_5", b" int gone_5").replace(b" int conn_4", b" int gone_4")
    error = refusal(tree, data, scratch)
    assert f"{CONN}: hunk #2 (line " in error.what and "of the patch) does not apply" in error.what
    assert [path.name for path in scratch.rglob("*.rej")] == []


def test_blank_lines_chopped_off_the_end_apply_cleanly(tree: Path, scratch: Path) -> None:
    path = "net/netfilter/ipvs/Makefile"
    data = plain(path, TREE[path], changed(TREE[path], "\t\tip_vs_core.o", "# synproxy"))
    whole = b" \n \n # schedulers\n"
    assert data.endswith(whole)
    short = data.removesuffix(whole).replace(b"-1,5 +1,6", b"-1,4 +1,5")
    assert (
        apply_series(tree, [("p", short)], scratch).changed == apply_series(tree, [("p", data)], scratch / "2").changed
    )


def test_text_lost_with_the_end_of_a_patch_is_not_taken_for_blank_lines(tree: Path, scratch: Path) -> None:
    data = edit(CONN, "int conn_40(void);", "int x;")
    assert "needs rebase" in refusal(tree, b"".join(data.splitlines(True)[:-2]), scratch).what


def test_a_file_that_is_not_there_when_patches_are_applied_is_named(tree: Path, scratch: Path) -> None:
    error = refusal(tree, patches.config_section() + director(), scratch)
    assert "file .config: .config is not in the tree" in error.what and "left out by a rule" in error.why


def test_a_file_that_is_there_already_is_not_added_again(tree: Path, scratch: Path) -> None:
    assert "Makefile is in the tree already" in refusal(tree, git_new("Makefile", "x"), scratch).what
    assert "Makefile is in the tree already" in refusal(tree, git_rename(CONN, "Makefile"), scratch / "2").what


def test_a_directory_in_the_place_of_a_file_is_refused(tree: Path, scratch: Path) -> None:
    assert "names net/ipv4, which is no file in the tree" in refusal(tree, git_new("net/ipv4", "x"), scratch).what


def test_git_format_modes_renames_links_and_deletions_are_applied_alike(tree: Path, scratch: Path) -> None:
    text = TREE["Makefile"]
    gone = (
        "diff --git a/Makefile b/Makefile\ndeleted file mode 100644\n--- a/Makefile\n+++ /dev/null\n@@ -1,2 +0,0 @@\n"
    )
    gone += "".join(f"-{line}\n" for line in text.splitlines())
    mode = "diff --git a/scripts/tool.sh b/scripts/tool.sh\nold mode 100755\nnew mode 100644\n"
    data = (
        (gone + mode).encode()
        + git_rename(CONN, "net/conn.c")
        + git_link("net/l", "conn.c")
        + git_new("e.sh", "x", mode="100755")
    )
    report = apply_series(tree, [("p", data)], scratch)
    listing = git_tree.of_directory(tree)
    assert report.changed == {
        "Makefile": None,
        "scripts/tool.sh": Entry("100644", listing["scripts/tool.sh"].blob),
        CONN: None,
        "net/conn.c": listing[CONN],
        "net/l": Entry("120000", git_tree.blob_id(b"conn.c")),
        "e.sh": Entry("100755", git_tree.blob_id(b"x\n")),
    }
    assert prove(report, listing, effect(report)).changed == 6


def test_nothing_goes_through_a_link_of_the_tree(tree: Path, scratch: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tree / "door").symlink_to(outside)
    (tree / "passwd").symlink_to(outside / "passwd")
    assert "door/x lies beyond the symbolic link door" in refusal(tree, git_new("door/x", "x"), scratch).what
    assert "passwd is a symbolic link in the tree" in refusal(tree, plain("passwd", "a\n", "b\n"), scratch).what
    assert list(outside.iterdir()) == []


def test_nothing_goes_through_a_link_of_an_earlier_patch(tree: Path, scratch: Path) -> None:
    error = refusal(tree, git_new("net/door/x", "x"), scratch, git_link("net/door", "../include"))
    assert "net/door/x lies beyond the symbolic link net/door" in error.what


def test_a_renamed_link_must_be_said_to_be_one_and_still_point_into_the_tree(tree: Path, scratch: Path) -> None:
    (tree / "net/ipv4/l").symlink_to("../../Makefile")
    rename = git_rename("net/ipv4/l", "l")
    assert "net/ipv4/l is a symbolic link in the tree" in refusal(tree, rename, scratch / "1").what
    link = rename + b"index 1234567..1234567 120000\n"
    assert "the symbolic link l leaves the tree: '../../Makefile'" in refusal(tree, link, scratch / "2").what


def test_a_later_patch_may_turn_a_file_into_a_directory(tree: Path, scratch: Path) -> None:
    gone = plain("Makefile", TREE["Makefile"], "")
    report = apply_series(tree, [("a", gone), ("b", git_new("Makefile/x", "x"))], scratch)
    assert report.changed == {"Makefile": None, "Makefile/x": Entry("100644", git_tree.blob_id(b"x\n"))}


def test_the_scratch_directory_must_be_fresh(tree: Path, scratch: Path) -> None:
    scratch.mkdir()
    (scratch / "old").touch()
    with pytest.raises(PipelineError, match="not empty"):
        apply_series(tree, [("p", director())], scratch)


def test_only_the_touched_files_are_copied_and_none_is_shared(tree: Path, scratch: Path) -> None:
    def identity() -> list[tuple[int, int, int]]:
        found = (path.stat() for path in sorted(tree.rglob("*")))
        return [(item.st_mode, item.st_nlink, item.st_ctime_ns) for item in found]

    (tree / CONN).chmod(0o600)
    before = identity()
    apply_series(tree, [("p", director())], scratch)
    assert identity() == before, "not even the change time of a pristine file has moved"
    for side in ("patch", "git"):
        assert set(git_tree.of_directory(scratch / side)) == {
            "include/linux/ip_vs.h",
            CONN,
            "net/netfilter/ipvs/ip_vs_synproxy.c",
        }


def test_it_works_inside_a_checkout_whose_settings_play_no_part(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There `git apply` alone skips every file outside the directory it is in, and says nothing."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[core]\n\tautocrlf = true\n[apply]\n\twhitespace = fix\n")
    monkeypatch.setenv("HOME", str(home))
    process.run(
        ["git", "init", "-q", str(tmp_path / "checkout")],
        env=git_environment() | {"GIT_DIR": str(tmp_path / "checkout/.git")},
    )
    # Only git's own format is read relative to the checkout.
    data = edit(CONN, "int conn_40(void);", "int trailing;  \t").replace(b"toy.orig/", b"a/").replace(b"toy/", b"b/")
    data = data.replace(b"diff -uprN", b"diff --git", 1)
    report = apply_series(tree, [("p", data)], tmp_path / "checkout/artifacts/scratch")
    wanted = changed(TREE[CONN], "int conn_40(void);", "int trailing;  \t")
    assert report.changed == {CONN: Entry("100644", git_tree.blob_id(wanted.encode()))}


def test_git_and_gnu_patch_must_leave_the_same(tree: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "GIT_APPLY", ("sh", "-c", f"git apply -p1 - && echo >> {CONN}"))
    error = refusal(tree, director(), scratch)
    assert "git (found) and GNU patch (expected) differ: 1 path(s) differ" in error.what and CONN in error.what


def test_a_write_to_anything_the_patch_does_not_name_is_refused(
    tree: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "GNU_PATCH", ("sh", "-c", "touch stray; patch -p1 -F1 --verbose"))
    error = refusal(tree, director(), scratch)
    assert "GNU patch changed what the patch does not name" in error.what and "extra stray" in error.what


def test_a_patch_that_only_gnu_patch_applies_is_refused(
    tree: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "GIT_APPLY", ("sh", "-c", "echo error: no >&2; exit 1"))
    assert "GNU patch applies it, git does not: error: no" in refusal(tree, director(), scratch).what


def test_the_proof_gives_gits_own_tree_id(tree: Path, scratch: Path) -> None:
    report = apply_series(tree, [("p", realserver())], scratch)
    proof = prove(report, git_tree.of_directory(tree), effect(report))
    process.run(["patch", "-p1", "-s"], cwd=tree, stdin=realserver())
    git = ["git", "--git-dir", str(tree.parent / "g"), "--work-tree", str(tree)]
    env = process.clean_environment(GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_NOSYSTEM="1")
    process.run([*git, "init", "-q"], env=env)
    process.run([*git, "add", "-Af"], env=env)
    assert process.run([*git, "write-tree"], env=env).text.strip() == proof.tree
    assert proof.changed == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({CONN: "1" * 40}, f"changed {CONN}: expected 100644 {'1' * 40}, found 100644"),
        ({CONN: None}, f"changed {CONN}: expected 100644"),
        ({"lib/new.c": "2" * 40}, f"missing lib/new.c: expected 100644 {'2' * 40}, found not there"),
        ({CONN: DELETED}, f"extra {CONN}: expected not there, found 100644"),
        ({"Makefile": DELETED}, "extra Makefile: expected not there"),
    ],
)
def test_any_other_tree_than_recorded_is_refused(
    tree: Path, scratch: Path, change: dict[str, str | None], reason: str
) -> None:
    report = apply_series(tree, [("p", director())], scratch)
    recorded = {path: blob for path, blob in {**effect(report), **change}.items() if blob}
    with pytest.raises(Refused) as caught:
        prove(report, git_tree.of_directory(tree), recorded)
    assert "another tree than recorded: 1 path(s) differ" in caught.value.what and reason in caught.value.what


def test_all_differences_are_listed_at_once(tree: Path, scratch: Path) -> None:
    report = apply_series(tree, [("p", director())], scratch)
    with pytest.raises(Refused, match=r"3 path\(s\) differ") as caught:
        prove(report, git_tree.of_directory(tree), {})
    assert all(path in caught.value.what for path in report.changed)


def test_a_mode_must_come_from_the_tree_or_the_patch(tree: Path, scratch: Path) -> None:
    listing = git_tree.of_directory(tree)
    report = apply_series(tree, [("p", edit(CONN, "int conn_40(void);", "int x;"))], scratch)
    after = report.changed[CONN]
    assert after is not None
    wrong = SeriesReport(report.patches, report.before, {CONN: Entry("100755", after.blob)})
    with pytest.raises(Refused, match="expected 100644"):
        prove(wrong, listing, effect(report))


def test_a_tree_that_was_touched_before_is_not_pristine(tree: Path, scratch: Path) -> None:
    listing = git_tree.of_directory(tree)
    (tree / CONN).write_text("int before;\n" + TREE[CONN])
    report = apply_series(tree, [("p", director())], scratch)
    with pytest.raises(Refused, match="not the pristine one") as caught:
        prove(report, listing, effect(report))
    assert f"changed {CONN}" in caught.value.what


def test_a_deletion_is_recorded_as_forty_zeros(tree: Path, scratch: Path) -> None:
    listing = git_tree.of_directory(tree)
    report = apply_series(tree, [("p", plain("Makefile", TREE["Makefile"], ""))], scratch)
    assert report.changed == {"Makefile": None}
    proof = prove(report, listing, {"Makefile": "0" * 40})
    assert proof.tree == git_tree.tree_id({path: item for path, item in listing.items() if path != "Makefile"})


def test_an_empty_series_leaves_the_pristine_tree(tree: Path, scratch: Path) -> None:
    listing = git_tree.of_directory(tree)
    assert prove(apply_series(tree, [], scratch), listing, {}).tree == git_tree.tree_id(listing)
