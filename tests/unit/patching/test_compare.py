"""Two versions of a patch: the same effect wherever it lands, or which lines differ."""

from __future__ import annotations

from pipeline.config.line_model import RoleName
from pipeline.patching.compare import SHOWN, Comparison, Verdict, compare
from pipeline.patching.patch_file import parse
from tests.fixtures.patches import RULES, TREE, changed, director, git_link, git_new, plain, realserver


def compared(a: bytes, b: bytes) -> Comparison:
    return compare(parse(a, "a.patch"), parse(b, "b.patch"), RULES)


CONN = "net/netfilter/ipvs/ip_vs_conn.c"


def test_moved_lines_and_other_context_are_the_same_effect() -> None:
    old = TREE[CONN]
    new = changed(changed(old, "int conn_10(void);", "int a;"), "int conn_14(void);", "int b;")
    moved = plain(CONN, "int earlier(void);\n" * 30 + old, "int earlier(void);\n" * 30 + new)
    for other in (moved, plain(CONN, old, new, context=1), plain(CONN, old, new, context=8)):
        assert other != plain(CONN, old, new)
        result = compared(plain(CONN, old, new), other)
        assert result.same_effect and [file.verdict for file in result.files] == [Verdict.SAME]


def test_each_file_is_told_by_who_has_it_in_order_of_path() -> None:
    result = compared(
        director() + git_new("only/a", "x"), director().replace(b"int fullnat", b"int half") + git_new("b", "x")
    )
    assert {file.path: file.verdict for file in result.files} == {
        "b": Verdict.ONLY_B,
        "include/linux/ip_vs.h": Verdict.SAME,
        CONN: Verdict.DIFFERENT,
        "net/netfilter/ipvs/ip_vs_synproxy.c": Verdict.SAME,
        "only/a": Verdict.ONLY_A,
    }
    assert [file.path for file in result.files] == sorted(file.path for file in result.files)
    assert [file.path for file in result.differing] == ["b", CONN, "only/a"]
    assert not result.same_effect


def test_the_differing_lines_say_who_has_them() -> None:
    result = compared(director(), director().replace(b"+int fullnat(void);", b"+int half(void);"))
    (file,) = result.differing
    assert (file.lines, file.left_out) == (("A +int fullnat(void);", "B +int half(void);"), 0)


def test_the_output_is_bounded_and_says_how_much_is_left_out() -> None:
    result = compared(git_new("x", *(f"a{n}" for n in range(100))), git_new("x", *(f"b{n}" for n in range(100))))
    assert len(result.files[0].lines) == SHOWN and result.files[0].left_out == 200 - SHOWN


def test_the_same_lines_in_another_place_of_the_file_differ() -> None:
    old = "".join(f"line {n}\n" for n in range(40))
    two = changed(changed(old, "line 10", "x"), "line 30", "y")
    joined = changed(old, "line 10", "x", "y")
    (file,) = compared(plain("f", old, two), plain("f", old, joined)).files
    assert file.verdict is Verdict.DIFFERENT and file.lines == ()
    assert file.about == ("the same lines, grouped around other unchanged lines",)


def test_a_mode_a_kind_and_a_missing_line_end_make_a_difference() -> None:
    one = compared(git_new("s", "x"), git_new("s", "x", mode="100755")).files[0]
    assert one.verdict is Verdict.DIFFERENT and one.about == ("mode: 100644 in A, 100755 in B",)
    (two,) = compared(git_new("s", "x"), git_new("s", "x", newline=False)).files
    assert two.lines == ("A +x", "B +x (no newline at end of file)")
    three = compared(git_new("s", "x", newline=False), git_link("s", "x")).files[0]
    assert "symbolic link: False in A, True in B" in three.about


def test_each_side_tells_its_role_and_option_number() -> None:
    result = compared(director(), realserver(254))
    assert (result.a.role, result.b.role) == (RoleName.DIRECTOR, RoleName.REALSERVER)
    assert (result.a.options, result.b.options) == ({"TCPOPT_ADDR": (200,)}, {"TCPOPT_TOA": (254,)})
    assert result.a.by.startswith("by content: it adds")
    assert result.a.sha256 != result.b.sha256 and result.a.patch_id != result.b.patch_id
