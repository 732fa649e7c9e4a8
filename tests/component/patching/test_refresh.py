"""A series on a tree that moved: what moved is made anew, and what does not apply is told and changes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.errors import Refused
from pipeline.formats.git_tree import blob_id
from pipeline.patching import apply
from pipeline.patching.apply import DELETED
from pipeline.patching.refresh import MovedHunk, Place, RefreshedPatch, refresh
from tests.fixtures.patches import changed, git_new, plain, source, write

CONN, FLAG, NEW = "net/conn.c", "include/flag.h", "net/fullnat.c"
TREE = {CONN: source("conn"), FLAG: source("flag")}
MAIL = (
    b"From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n"
    b"From: Ada Example <ada@example.org>\nSubject: [PATCH] ipvs: know FULLNAT\n\nWhy it is so.\n---\n"
    b" net/conn.c | 1 +\n 1 file changed, 1 insertion(+)\n\n"
)
SIGNATURE = b"-- \n2.39.5\n"


def made(before: Mapping[str, str], after: Mapping[str, str], width: int = 7) -> bytes:
    """What changes between two trees, as a mail in git's format."""
    sections = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path, ""), after.get(path, "")
        if old == new:
            continue
        ids = [blob_id(text.encode())[:width] if text else "0" * width for text in (old, new)]
        mode = "" if old and new else "new file mode 100644\n" if new else "deleted file mode 100644\n"
        index = f"index {'..'.join(ids)}" + (" 100644" if old and new else "")
        hunks = plain(path, old, new).partition(b"@@ ")[2].decode()
        names = (f"a/{path}" if old else "/dev/null", f"b/{path}" if new else "/dev/null")
        head = f"diff --git a/{path} b/{path}\n{mode}{index}\n--- {names[0]}\n+++ {names[1]}\n"
        sections.append(head + _with_functions(f"@@ {hunks}", old))
    return MAIL + "".join(sections).encode() + SIGNATURE


def _with_functions(hunks: str, old: str) -> str:
    """The hunks as git writes them: behind each header the last line above that looks like a function's."""
    return re.sub(r"(?m)^@@ -(\d+).*", lambda match: _function(match[0], int(match[1]), old), hunks)


def _function(head: str, line: int, old: str) -> str:
    above = [row for row in old.splitlines()[: max(line - 1, 0)] if row.startswith("int ")]
    return f"{head} {above[-1]}" if above else head


ONE = {**TREE, CONN: changed(TREE[CONN], "int conn_40(void);", "int fullnat(void);")}
TWO = {**ONE, CONN: changed(ONE[CONN], "int fullnat(void);", "int laddr(void);"), NEW: "int whole(void);\n"}
SERIES = [("0001-one.patch", made(TREE, ONE)), ("0002-two.patch", made(ONE, TWO))]


class Trial:
    """A series, refreshed for a tree in a place of its own."""

    def __init__(self, place: Path, tree: Mapping[str, str], series: list[tuple[str, bytes]] = SERIES) -> None:
        self.pristine = write(place / "pristine", tree)
        self.series, self.place = series, Place(self.pristine, place / "scratch", place / "rejects", "linux_6.1.10.tar")

    def found(self) -> list[RefreshedPatch]:
        return refresh(self.series, self.place)

    def refusal(self) -> Refused:
        with pytest.raises(Refused) as caught:
            self.found()
        return caught.value


def proven(found: list[RefreshedPatch], pristine: Path, scratch: Path) -> apply.SeriesReport:
    """The refreshed series as `apply` takes it, which refuses fuzz; each patch leaves what was found."""
    report = apply.apply_series(pristine, [(item.name, item.new.data) for item in found], scratch)
    for item, done in zip(found, report.patches, strict=True):
        left = {file.path: file.after.blob if file.after else DELETED for file in done.files}
        assert left == item.effect
    return report


def shifted(tree: Mapping[str, str], path: str, lines: int) -> dict[str, str]:
    """The tree with lines at the head of one file."""
    return {**tree, path: "".join(f"/* {number} */\n" for number in range(lines)) + tree[path]}


def test_on_its_own_tree_a_series_stays_byte_for_byte(tmp_path: Path) -> None:
    found = Trial(tmp_path, TREE).found()
    assert [(item.state, item.moved, item.new.data) for item in found] == [
        ("unchanged", (), data) for _, data in SERIES
    ]
    assert found[1].effect == {path: blob_id(TWO[path].encode()) for path in (CONN, NEW)}


@pytest.mark.parametrize("width", [7, 12, 40])
def test_what_moved_is_made_anew_as_git_would_make_it(tmp_path: Path, width: int) -> None:
    """The mail around it stays, and its index lines are as long as they were."""
    series = [("0001-one.patch", made(TREE, ONE, width)), ("0002-two.patch", made(ONE, TWO, width))]
    trial = Trial(tmp_path, shifted(TREE, CONN, 5), series)
    found = trial.found()
    before, one, two = (shifted(tree, CONN, 5) for tree in (TREE, ONE, TWO))
    assert [item.new.data for item in found] == [made(before, one, width), made(one, two, width)]
    assert found[0].moved == (MovedHunk(CONN, 1, 38, 43, 0, ()),)
    assert [item.state for item in found] == ["1 of 1 hunks moved", "1 of 2 hunks moved"]
    assert all(item.same_lines for item in found)
    assert proven(found, trial.pristine, tmp_path / "again").offsets == 0


def test_a_refreshed_series_is_refreshed_once(tmp_path: Path) -> None:
    tree = shifted(TREE, CONN, 5)
    first = Trial(tmp_path / "one", tree).found()
    again = Trial(tmp_path / "two", tree, [(item.name, item.new.data) for item in first]).found()
    assert {item.state for item in again} == {"unchanged"}


def test_a_file_that_changed_elsewhere_gets_new_index_lines_only(tmp_path: Path) -> None:
    trial = Trial(tmp_path, {**TREE, CONN: TREE[CONN] + "int later(void);\n"})
    found = trial.found()
    assert [item.state for item in found] == ["its index lines only"] * 2
    old, new = SERIES[0][1].splitlines(), found[0].new.data.splitlines()
    assert [line[:6] for line, other in zip(old, new, strict=True) if line != other] == [b"index "]
    proven(found, trial.pristine, tmp_path / "again")


def test_without_index_lines_such_a_patch_stays(tmp_path: Path) -> None:
    series = [("one", plain(CONN, TREE[CONN], ONE[CONN]))]
    [found] = Trial(tmp_path, {**TREE, CONN: TREE[CONN] + "int later(void);\n"}, series).found()
    assert found.new.data == series[0][1]
    assert found.effect == {CONN: blob_id((ONE[CONN] + "int later(void);\n").encode())}


def test_a_plain_diff_that_moved_is_made_anew_in_gits_format(tmp_path: Path) -> None:
    trial = Trial(tmp_path, shifted(TREE, CONN, 5), [("one", plain(CONN, TREE[CONN], ONE[CONN]))])
    [found] = trial.found()
    assert re.search(rb"^index [0-9a-f]{40}\.\.[0-9a-f]{40} 100644$", found.new.data, re.MULTILINE)
    proven([found], trial.pristine, tmp_path / "again")


def test_a_hunk_whose_outer_context_changed_goes_there_and_is_told(tmp_path: Path) -> None:
    tree = shifted({**TREE, CONN: TREE[CONN].replace("conn_42(void)", "conn_42(int)")}, CONN, 2)
    trial = Trial(tmp_path, tree)
    first, second = found = trial.found()
    assert first.state == "1 of 1 hunks moved, 1 with fuzz"
    assert first.fuzzy == (MovedHunk(CONN, 1, 38, 40, 2, ("-int conn_42(void);", "+int conn_42(int);")),)
    assert first.same_lines and first.old.added == first.new.added
    assert b" int conn_42(int);\n" in first.new.data
    assert second.new.data != SERIES[1][1]
    assert proven(found, trial.pristine, tmp_path / "again").offsets == 0, "and none with fuzz: that would be refused"


def test_a_hunk_that_does_not_apply_is_told_with_what_stands_there(tmp_path: Path) -> None:
    tree = {**TREE, CONN: TREE[CONN].replace("conn_40(void)", "conn_40(int)").replace("conn_41(void)", "conn_41(int)")}
    trial = Trial(tmp_path, shifted(tree, CONN, 3))
    error = trial.refusal()
    assert error.what.splitlines() == [
        "patch 0001-one.patch: 1 of 1 hunks does not apply to linux_6.1.10.tar, the first of its series",
        f"  {CONN}: hunk #1 (line 14 of the patch) does not apply; expected at line 38, the most alike is at line 41",
        *("    -int conn_40(void);", "    -int conn_41(void);", "    +int conn_40(int);", "    +int conn_41(int);"),
    ]
    reject = trial.place.rejects / "0001-one.rej"
    assert error.where == str(reject) and str(reject) in error.hint
    text = reject.read_text()
    assert "\n+int fullnat(void);\n" in text and "\n#     43  int conn_40(int);\n" in text
    assert f"--- a/{CONN}\n+++ b/{CONN}\n@@ -38,6 +38,7 @@\n" in text


def test_a_later_patch_that_does_not_apply_is_told_with_those_before(tmp_path: Path) -> None:
    series = [SERIES[0], ("0002-two.patch", edit_of(ONE, "int gone(void);"))]
    error = Trial(tmp_path, TREE, series).refusal()
    assert "patch 0002-two.patch: 1 of 1 hunks does not apply" in error.what
    assert error.what.splitlines()[0].endswith("after 0001-one.patch")


def edit_of(tree: Mapping[str, str], line: str) -> bytes:
    """A patch of a file that has `line` where the tree has none."""
    other = changed(tree[CONN], "int conn_20(void);", line)
    return plain(CONN, other, other.replace(f"{line}\n", "int here(void);\n"))


def test_every_hunk_that_does_not_apply_is_told(tmp_path: Path) -> None:
    series = [("one", edit_of(TREE, "int gone(void);") + plain(FLAG, "int none(void);\n", "int any(void);\n"))]
    trial = Trial(tmp_path, TREE, series)
    assert "patch one: 2 of 2 hunks do not apply" in trial.refusal().what
    assert trial.place.rejects.joinpath("one.rej").read_text().count("@@ -") == 2


def test_a_file_that_went_is_told(tmp_path: Path) -> None:
    assert f"{CONN} is not in the tree" in Trial(tmp_path, {FLAG: TREE[FLAG]}).refusal().what


def test_new_deleted_and_executable_files_go_along(tmp_path: Path) -> None:
    gone = f"diff --git a/{FLAG} b/{FLAG}\ndeleted file mode 100644\n".encode() + plain(FLAG, TREE[FLAG], "").partition(
        b"\n"
    )[2].replace(b"toy.orig/", b"a/").replace(b"+++ toy/" + FLAG.encode(), b"+++ /dev/null")
    data = gone + edit_section() + git_new("run.sh", "#!/bin/sh", mode="100755")
    trial = Trial(tmp_path, shifted(TREE, CONN, 5), [("one", data)])
    [found] = trial.found()
    assert found.effect[FLAG] == DELETED and found.effect["run.sh"] == blob_id(b"#!/bin/sh\n")
    assert b"new file mode 100755" in found.new.data
    proven([found], trial.pristine, tmp_path / "again")


def edit_section() -> bytes:
    """The change of `ONE` in git's format."""
    return made(TREE, ONE).removeprefix(MAIL).removesuffix(SIGNATURE)


def test_a_patch_that_would_say_something_else_is_marked(tmp_path: Path) -> None:
    """As one that removes a line and adds it again, which git leaves out."""
    data = plain(CONN, TREE[CONN], ONE[CONN]).replace(
        b" int conn_40(void);", b"-int conn_40(void);\n+int conn_40(void);"
    )
    [found] = Trial(tmp_path, shifted(TREE, CONN, 5), [("one", data)]).found()
    assert not found.same_lines


def test_text_between_two_files_is_not_lost(tmp_path: Path) -> None:
    data = edit_section() + b"And now the header.\n\n" + plain(FLAG, TREE[FLAG], TREE[FLAG] + "int end(void);\n")
    error = Trial(tmp_path, shifted(TREE, CONN, 5), [("one", data)]).refusal()
    assert error.what.startswith("patch one: there is text between its files")


def test_the_trees_attributes_do_not_change_what_is_made(tmp_path: Path) -> None:
    """Git would take DOS line ends for plain ones, and what is made would not apply."""
    tree = {**TREE, CONN: TREE[CONN].replace("\n", "\r\n"), ".gitattributes": "* text\n"}
    new = tree[CONN].replace("int conn_40(void);", "int fullnat(void);")
    attributes = plain(".gitattributes", tree[".gitattributes"], tree[".gitattributes"] + "*.x text\n")
    trial = Trial(tmp_path, tree, [("one", attributes + plain(CONN, tree[CONN], new))])
    write(trial.pristine, {CONN: "/* */\r\n" + tree[CONN]})
    found = trial.found()
    assert [item.state for item in found] == ["1 of 2 hunks moved"]
    proven(found, trial.pristine, tmp_path / "again")
