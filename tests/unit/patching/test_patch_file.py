"""Reading patches: what is found in them, and what is refused with patch, file and line."""

from __future__ import annotations

import hashlib

import pytest

from pipeline.errors import ExitCode, Refused
from pipeline.patching.patch_file import Kind, parse
from tests.fixtures import patches
from tests.fixtures.patches import director, edit, git_link, git_new, git_rename

HUNK = b"@@ -1,3 +1,4 @@\n one\n two\n+new\n three\n"
HEAD = b"--- a/net/x.c\n+++ b/net/x.c\n"


def refusal(data: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        parse(data, "p.patch")
    assert caught.value.code == ExitCode.REFUSED
    assert "p.patch" in caught.value.what and caught.value.where.startswith("p.patch")
    return caught.value


def test_a_plain_diff_gives_files_kinds_hunks_and_counts() -> None:
    patch = parse(director(), "lvs.patch")
    assert [(c.path, c.kind, len(c.hunks), c.added, c.removed) for c in patch.files] == [
        ("include/linux/ip_vs.h", Kind.MODIFIED, 1, 2, 0),
        ("net/netfilter/ipvs/ip_vs_conn.c", Kind.MODIFIED, 1, 1, 0),
        ("net/netfilter/ipvs/ip_vs_synproxy.c", Kind.ADDED, 1, 1, 0),
    ]
    assert (patch.hunks, patch.added, patch.removed, patch.restored) == (3, 4, 0, 0)
    assert patch.sha256 == hashlib.sha256(director()).hexdigest()
    assert b"int fullnat(void);" in {line for _, line in patch.added_lines()}


def test_a_hunk_knows_its_line_in_the_patch_and_its_ranges() -> None:
    change = parse(director(), "lvs.patch").files[1]
    hunk = change.hunks[0]
    lines = director().splitlines()
    assert lines[hunk.line - 1].startswith(b"@@ -38,6 +38,7 @@")
    assert (hunk.number, hunk.old_start, hunk.old_count, hunk.new_start, hunk.new_count) == (1, 38, 6, 38, 7)
    assert director()[slice(*change.span)] == edit(
        "net/netfilter/ipvs/ip_vs_conn.c", "int conn_40(void);", "int fullnat(void);"
    )


def test_the_patch_id_outlives_moved_lines_but_not_changed_ones() -> None:
    moved = director().replace(b"@@ -38,6 +38,7 @@", b"@@ -138,6 +138,7 @@")
    other = director().replace(b"+int fullnat", b"+int fulLnat")
    ids = [parse(data, "p").patch_id for data in (director(), moved, other)]
    assert ids[0] == ids[1] != ids[2]
    assert all(number is not None and len(number) == 40 for number in ids)


def test_a_patch_without_diff_lines_has_no_patch_id() -> None:
    assert parse(HEAD + HUNK, "p").patch_id is None


@pytest.mark.parametrize(
    ("stamp", "epoch"),
    [
        ("1970-01-01 08:00:00.000000000 +0800", True),
        ("1970-01-01 00:00:00.000000000 +0000", True),
        ("1969-12-31 19:00:00.000000000 -0500", True),
        ("Thu Jan  1 00:00:00 1970", True),
        ("1970-01-01 08:00:00.000000000 +0700", False),
        ("2012-07-23 15:25:14.000000000 +0800", False),
    ],
)
def test_a_deleted_file_is_told_by_the_epoch_in_any_time_zone(stamp: str, epoch: bool) -> None:
    data = f"--- a/net/x.c\t{patches.STAMP}\n+++ b/net/x.c\t{stamp}\n@@ -1 +0,0 @@\n-gone\n".encode()
    if epoch:
        assert parse(data, "p").files[0].kind is Kind.DELETED
    else:
        assert "deleted or emptied" in refusal(data).what


def test_git_format_gives_renames_modes_links_and_empty_files() -> None:
    mode = b"diff --git a/s.sh b/s.sh\nold mode 100644\nnew mode 100755\n"
    both = b"diff --git a/m.sh b/m.sh\nold mode 100755\nnew mode 100644\n--- a/m.sh\n+++ b/m.sh\n" + HUNK
    gone = b"diff --git a/gone b/gone\ndeleted file mode 100644\n--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
    empty = b"diff --git a/e b/e\nnew file mode 100644\nindex 0000000..e69de29\n"
    data = git_rename("net/old.c", "net/new.c") + mode + both + gone + empty + git_link("lib/l", "../net/new.c")
    found = [(c.path, c.old_path, c.kind, c.new_mode, c.link) for c in parse(data, "p").files]
    assert found == [
        ("net/new.c", "net/old.c", Kind.RENAMED, None, False),
        ("s.sh", "s.sh", Kind.MODE_CHANGE, "100755", False),
        ("m.sh", "m.sh", Kind.MODIFIED, "100644", False),
        ("gone", "gone", Kind.DELETED, None, False),
        ("e", "e", Kind.ADDED, "100644", False),
        ("lib/l", "lib/l", Kind.ADDED, "120000", True),
    ]


def test_a_mail_from_git_format_patch_is_read_with_its_text_around_the_diff() -> None:
    mail = b"From 0123 Mon Sep 17 00:00:00 2001\nSubject: [PATCH] x\n\nA 1 line text.\n---\n net/x.c | 1 +\n\n"
    patch = parse(mail + b"diff --git a/net/x.c b/net/x.c\n" + HEAD + HUNK + b"-- \n2.39.5\n\n", "p")
    assert [change.path for change in patch.files] == ["net/x.c"]


def test_blank_context_lines_missing_at_the_very_end_are_put_back_and_counted() -> None:
    whole = HEAD + b"@@ -1,4 +1,5 @@\n one\n+new\n two\n \n \n"
    chopped = parse(whole.removesuffix(b" \n \n"), "p")
    assert (chopped.restored, chopped.complete) == (2, whole)
    assert chopped.files[0].hunks[0].body == parse(whole, "p").files[0].hunks[0].body


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(b"@@ -1,7 +1,8 @@\n one\n+new\n two\n three\n", id="four context lines are gone"),
        pytest.param(b"@@ -1,3 +1,5 @@\n one\n+new\n two\n three\n", id="an added line is gone"),
        pytest.param(b"@@ -1,3 +1,2 @@\n one\n two\n", id="a removed line is gone"),
        pytest.param(b"@@ -1,3 +1,4 @@\n", id="only the header is there"),
    ],
)
def test_anything_else_missing_at_the_end_is_a_truncated_hunk(end: bytes) -> None:
    error = refusal(HEAD + end)
    assert "file net/x.c: hunk #1 is cut short: its header at line 3 promises" in error.what


def test_a_hunk_cut_in_the_middle_names_hunk_and_line() -> None:
    error = refusal(HEAD + HUNK + b"@@ -20,3 +21,4 @@\n one\n" + b"diff -up a/y b/y\n--- a/y\n+++ b/y\n" + HUNK)
    assert "hunk #2 is cut short: its header at line 8 promises 2 more old and 3 more new lines" in error.what
    assert error.where == "p.patch:10"


@pytest.mark.parametrize("data", [HEAD + HUNK, git_link("l", "net"), git_rename("a", "b")])
def test_a_patch_that_ends_in_the_middle_of_a_line_is_truncated(data: bytes) -> None:
    assert "in the middle of a line" in refusal(data[:-1]).what


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a/../../etc/passwd", "leaves the tree through '..'"),
        ("a/net/../../../x", "leaves the tree through '..'"),
        ("/etc/passwd", "is an absolute path"),
        ("a//etc/passwd", "an empty or '.' component"),
        ("a/./x", "an empty or '.' component"),
        ("x", "no directory that -p1 could remove"),
        ("a/.git/hooks/post-checkout", "inside a .git directory"),
        ("a/sub/.GIT/config", "inside a .git directory"),
        ("a/net/x\x07.c", "control characters"),
        ("a/net/x\x1b[2J.c", "control characters"),
        ("a/net/x\u202ec.h", "control characters"),
        ("a/net/two words.c", "blanks"),
        ('"a/net/x\\nfile"', "control characters"),
        ('"a/\\056./\\056./etc/passwd"', "leaves the tree through '..'"),
    ],
)
def test_a_name_that_leaves_the_tree_is_refused_on_either_side(name: str, reason: str) -> None:
    raw = name.encode()
    for old, new, line in ((raw, b"b/net/x.c", 1), (b"a/net/x.c", raw, 2)):
        error = refusal(b"--- " + old + b"\n+++ " + new + b"\n" + HUNK)
        assert reason in error.what and error.where == f"p.patch:{line}"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (git_rename("../secret", "net/x"), "leaves the tree through '..'"),
        (git_rename("net/x", "../../out"), "leaves the tree through '..'"),
        (b"diff --git a/net/x b/net/x\nrename from /etc/passwd\nrename to net/x\n", "is an absolute path"),
        (b"diff --git a/net/x b/net/y\nrename from net/z\nrename to net/y\n", "the rename names other files"),
        (b"diff --git a/net/x b/net/y\n--- a/net/x\n+++ b/net/y\n" + HUNK, "without a rename"),
        (b"diff --git a/net/x b/net/y\ncopy from net/x\ncopy to net/y\n", "it copies a file"),
        (b"diff --git a/n/x b/n/x\n--- a/n/x\n+++ b/n/y\n" + HUNK, "the '---' and '+++' lines n/x and n/y"),
        (b"--- a/net/x.c\n+++ b/net/y.c\n" + HUNK, "name two files: net/x.c and net/y.c"),
        (b"Index: a/evil.c\n" + HEAD + HUNK, "'Index:' line names another file"),
        (b"Index: net/x.c\n" + HEAD + HUNK, "'Index:' line names another file"),
    ],
)
def test_old_names_and_renames_are_judged_as_strictly_as_new_ones(data: bytes, reason: str) -> None:
    assert reason in refusal(data).what


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/etc/passwd", "points to an absolute path"),
        ("../../out", "leaves the tree"),
        ("..", None),
        ("../../..", "leaves the tree"),
        ("sub/../../../x", "'..' after a directory"),
        ("../.git/config", ".git directory"),
        ("../include", None),
    ],
)
def test_a_symbolic_link_may_only_point_into_the_tree(target: str, reason: str | None) -> None:
    data = git_link("lib/link", target)
    if reason is None:
        assert parse(data, "p").files[0].link
    else:
        assert reason in refusal(data).what


def test_a_changed_symbolic_link_is_judged_by_its_new_target() -> None:
    marker = b"\\ No newline at end of file\n"
    body = b"@@ -1 +1 @@\n-here\n" + marker + b"+/etc/shadow\n" + marker
    data = b"diff --git a/l b/l\nindex 4d1ae35..7937c68 120000\n--- a/l\n+++ b/l\n" + body
    assert "file l: the symbolic link l points to an absolute path: '/etc/shadow'" in refusal(data).what


@pytest.mark.parametrize("link_first", [True, False])
def test_no_file_may_be_placed_below_a_link_that_the_patch_makes(link_first: bool) -> None:
    link, below = git_link("net/door", "../include"), git_new("net/door/x.h", "int x;")
    error = refusal(link + below if link_first else below + link)
    assert "net/door/x.h is placed below net/door, a symbolic link that the patch makes" in error.what


def test_no_file_may_be_placed_below_a_renamed_file() -> None:
    assert (
        "placed below net/door, a file of the patch"
        in refusal(git_rename("l", "net/door") + git_new("net/door/x", "y")).what
    )


@pytest.mark.parametrize(
    "data",
    [
        b"diff --git a/x b/x\nindex 1234567..89abcde 100644\nGIT binary patch\nliteral 3\nKcmZ\n\nliteral 0\n\n",
        b"diff --git a/x b/x\nindex 1234567..89abcde 100644\nBinary files a/x and b/x differ\n",
        b"Binary files toy.orig/logo.png and toy/logo.png differ\n",
        edit("Makefile", "all:", "\techo") + b"Binary files toy.orig/logo.png and toy/logo.png differ\n",
    ],
)
def test_a_binary_change_is_refused(data: bytes) -> None:
    assert "it holds a binary change" in refusal(data).what


def test_a_file_with_nul_bytes_is_no_text_patch() -> None:
    error = refusal(HEAD + HUNK.replace(b"+new", b"+n\0w"))
    assert "NUL bytes" in error.what and error.where == "p.patch:6"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"404 Not Found\n", "it is not a patch: no file header is in it"),
        (b"--- only\n", "it is not a patch"),
    ],
)
def test_what_is_no_patch_is_said_to_be_none(data: bytes, reason: str) -> None:
    assert reason in refusal(data).what


@pytest.mark.parametrize(
    ("data", "reason", "line"),
    [
        (HEAD + HUNK.replace(b"+1,4", b"+1,3"), "hunk #1 is longer than its header at line 3 says", 7),
        (HEAD + HUNK + b"+more\n", "hunk #1 is longer than its header at line 3 says", 8),
        (HEAD + HUNK + b" more\n", "hunk #1 is longer", 8),
        (HEAD + b"@@ -1,x +1 @@\n one\n", "the header of hunk #1 is malformed", 3),
        (HEAD + b"@@ -1,2 +1", "it is cut short: the patch ends in the middle of a line", 3),
        (HEAD + b"@@ -1,2 +1,3 @@ int f(vo", "it is cut short: the patch ends in the middle of a line", 3),
        (b"diff --git a/net/a b.c b/net/a b.c\n" + HUNK, "the file name 'net/a b.c' holds blanks", 1),
        (b"diff --git net/a b.c net/a b.c\n" + HUNK, "the file name 'a b.c' holds blanks", 1),
        (b'diff --git "a/net/a b.c" "b/net/a b.c"\n' + HUNK, "holds blanks", 1),
        (b"--- a/net/a b.c\n+++ b/net/a b.c\n" + HUNK, "holds blanks", 1),
        (b"diff --git a/x.c\n" + HUNK, "does not name two files", 1),
        (HEAD + b"@@ -0,2 +1 @@\n one\n", "the header of hunk #1 makes no sense", 3),
        (HEAD + b"@@ -0,0 +0,0 @@\n", "makes no sense", 3),
        (HEAD, "the header is followed by no hunk", 3),
        (HEAD + HUNK + HUNK, "hunk #2 lies before the end of the one above", 8),
        (b"--- /dev/null\n+++ b/net/x.c\n" + HUNK, "says the file is new, its hunk changes existing lines", 3),
        (b"--- a/net/x.c\n+++ /dev/null\n" + HUNK, "says the file is deleted, its hunk leaves lines", 3),
        (b"--- /dev/null\n+++ /dev/null\n" + HUNK, "both sides are /dev/null", 1),
        (b"diff --git a/x b/x\nnew file mode 100644\n--- a/x\n+++ b/x\n" + HUNK, "the header says /dev/null and x", 3),
        (b"diff --git a/x b/x\nnew file mode 160000\n", "the file mode '160000' is none of", 2),
        (b"diff --git a/x b/x\nold mode 100644\nnew mode 120000\n", "by a mode change", 4),
        (b"diff --git a/x b/x\nold mode 100644\n", "says only one of 'old mode' and 'new mode'", 3),
        (b"diff --git a/x b/x\n+++ b/x\n" + HUNK, "lacks its '---' or '+++' line", 2),
        (HEAD + HUNK + HEAD + HUNK, "net/x.c is named by an earlier section too, at line 1", 8),
        (b"--- a/x\r\n+++ b/x\r\n" + HUNK, "DOS line ends", 1),
    ],
)
def test_header_and_hunks_must_agree(data: bytes, reason: str, line: int) -> None:
    error = refusal(data)
    assert reason in error.what and error.where == f"p.patch:{line}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"  --- a/evil\n  +++ b/evil\n  @@ -1 +1 @@\n  -a\n  +b\n", "outside a file's section"),
        (b"- --- a/evil\n- +++ b/evil\n", "outside a file's section"),
        (b"Xdiff --git a/evil b/evil\n", "outside a file's section"),
        (b"***************\n*** 1 ****\n--- 1 ----\n", "outside a file's section"),
        (b"Prereq: 1.2\n", "outside a file's section"),
        (b"1,2d\n", "ed script"),
        (b"3c4\n< a\n---\n> b\n", "ed script or a normal diff"),
        (b"Only in toy: forgotten.c\n", "made without -N"),
    ],
)
def test_what_another_program_would_apply_is_refused_in_the_text(text: bytes, reason: str) -> None:
    assert reason in refusal(text + HEAD + HUNK).what
    assert reason in refusal(HEAD + HUNK + b"\n" + text).what


def test_unidiff_and_git_are_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of ours that overlooks a file is found out by each of the witnesses."""
    from pipeline.patching import patch_file
    from pipeline.patching.parser import Scan, scan

    monkeypatch.setattr(patch_file, "scan", lambda data, name: Scan(scan(data, name).files[1:], 0))
    assert "unidiff reads the patch differently: it sees" in refusal(director()).what
    monkeypatch.setattr(patch_file, "_ask_unidiff", lambda *_: None)
    assert "git apply reads the patch differently: it sees" in refusal(director()).what


def test_an_octal_name_is_the_same_for_all_readers() -> None:
    data = (
        b'diff --git "a/net/\\303\\244.c" "b/net/\\303\\244.c"\n--- "a/net/\\303\\244.c"\n+++ "b/net/\\303\\244.c"\n'
        + HUNK
    )
    assert parse(data, "p").files[0].path == "net/\u00e4.c"


def test_contents_need_not_be_utf8() -> None:
    patch = parse(HEAD + HUNK.replace(b"+new", b"+caf\xe9 \x85 end"), "p")
    assert [line for _, line in patch.added_lines()] == [b"caf\xe9 \x85 end"]
