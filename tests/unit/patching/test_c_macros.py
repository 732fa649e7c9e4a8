"""The number a patch gives a macro: as a compiler meets it in the patched files, or not known; never a guess."""

from __future__ import annotations

import pytest

from pipeline.patching.c_macros import Definition, definitions
from pipeline.patching.patch_file import parse
from tests.fixtures.patches import plain

OPT = "TCPOPT_TOA"
DEFINED = f"#define {OPT}"


def found(code: str, path: str = "net/toa/toa.c", more: bytes = b"") -> list[Definition]:
    return list(definitions(parse(plain(path, "", code) + more, "p.patch"), OPT))


def numbers(code: str, path: str = "net/toa/toa.c", more: bytes = b"") -> list[int | None]:
    return [item.number for item in found(code, path, more)]


@pytest.mark.parametrize(
    "text",
    [
        *("254", "0xFE", "0376", "0b11111110", "254U", "254uL", "(254)", "((254))", "254 /* ours */", "254 // ours"),
        *("(253+1)", "253 + 1", "(127 << 1)", "~1 & 0xff", "508 / 2", "-2 & 255", "(u8)510", "((__u8) 254)"),
        *("\\\n\t254", "25\\\n4", "/* 200 */ 254", "MINE\n#define MINE 254"),
        *(
            "(uint32_t)254",
            "(size_t) 254",
            "(unsigned short)65790",
            "(u_int8_t)-2",
            "(int)254",
            "(const __u16)(200 + 54)",
        ),
        "(MINE)\n#define MINE (OURS - 1)\n#define OURS 255",
    ],
)
def test_a_number_is_read_however_c_lets_it_be_written(text: str) -> None:
    assert numbers(f"{DEFINED} {text}\n") == [254]


@pytest.mark.parametrize(
    "text",
    [
        *("", "089", '"200"', "200 +", "(200", "OTHER", "f(200)", "sizeof(x)", "200 / 0", "1 << 99", "0xg", "2OO"),
        *(
            "CONFIG_X",
            OPT,
            "A\n#define A B\n#define B A",
            "(x)200",
            "(char)200",
            "(s8)200",
            "(signed char)200",
            "0 == 0 ? 200 : 254",
        ),
        *("(" * 160 + "1" + ")" * 160, "1+" * 200 + "1", "(1+" * 90 + "1" + ")" * 90),
    ],
)
def test_what_is_not_understood_is_not_known(text: str) -> None:
    assert numbers(f"{DEFINED} {text}\n") == [None]


def test_macros_that_would_take_for_ever_do_not() -> None:
    chain = "".join(f"#define M{n} {'+'.join([f'M{n + 1}'] * 40)}\n" for n in range(16))
    assert numbers(f"{DEFINED} M0\n{chain}#define M16 1\n") == [None]


DEAD = [
    f"#if 0\n{DEFINED} 200\n#endif\n",
    f"#if (0)\n{DEFINED} 200\n#endif\n",
    f"#if 0x0L && FOO\n{DEFINED} 200\n#endif\n",
    f"#if !1\n{DEFINED} 200\n#endif\n",
    f"#if 1\nint a;\n#else\n{DEFINED} 200\n#endif\n",
    f"#if 1\n#elif X\n{DEFINED} 200\n#else\n{DEFINED} 201\n#endif\n",
    f"#if 0\n#if 1\n{DEFINED} 200\n#endif\n{DEFINED} 201\n#endif\n",
    f"#if 0\n#ifdef X\n#else\n{DEFINED} 200\n#endif\n#endif\n",
    f"#if 0 /* on\n*/\n#  define {OPT} 200\n#endif\n",
    f"# if 0\n{DEFINED} 200\n# endif\n",
    f"%:if 0\n{DEFINED} 200\n#endif\n",
    f"#if \\\n0\n{DEFINED} 200\n#endif\n",
    f"/* {DEFINED} 200\n{DEFINED} 201\n*/\n",
    f"// \\\n{DEFINED} 200\n",
    f'char *x = "\\\n{DEFINED} 200";\n',
    f"int a; // #if 1 /*\n#if 0\n{DEFINED} 200\n#endif\n",
    f"#if 0\nenum {{ {OPT} = 200 }};\n#endif\n",
    f"{DEFINED} 200\n#undef {OPT}\n",
    f"#if 1\n#elifdef X\n{DEFINED} 200\n#else\n{DEFINED} 201\n#endif\n",
    f"// \\ \t\n{DEFINED} 200\n",
]


@pytest.mark.parametrize("dead", DEAD)
def test_what_is_not_compiled_does_not_count(dead: str) -> None:
    assert numbers(dead + "int x;\n") == []
    assert numbers(f"{dead}{DEFINED} 254\n") == [254]


ALIVE = [
    f"#if 1\n{DEFINED} 254\n#endif\n",
    f"#if 0\n#else\n{DEFINED} 254\n#endif\n",
    f"#if 0\n#elif 1\n{DEFINED} 254\n#else\n{DEFINED} 200\n#endif\n",
    f'char *x = "/*";\n{DEFINED} 254\nchar *y = "*/";\n',
    f"#ifndef TOA_H\n#define TOA_H\n{DEFINED} 254\n#endif\n",
    f"#ifndef {OPT}\n{DEFINED} 254\n#endif\n",
    f"enum {{ {OPT} = 254 }};\n",
    f"enum option {{\n\tFIRST = 253, /* one\n before */\n\t{OPT},\n}};\n",
    f"static const u8 {OPT} = 254;\n",
    f"int a; /* }} */\n%:  define {OPT} 254\n",
    f"/* *\\ \n/\n{DEFINED} 254\n/* */\n",
    "enum {\n" + "".join(f"\tA{n},\n" for n in range(254)) + f"\t{OPT}\n}};\n",
]


@pytest.mark.parametrize("alive", ALIVE)
def test_what_is_compiled_counts_without_a_condition(alive: str) -> None:
    assert [(item.number, item.condition) for item in found(alive)] == [(254, "")]


def test_what_depends_on_something_else_says_on_what() -> None:
    both = found(f"#ifdef NEVER\n{DEFINED} 200\n#else\n{DEFINED} 254\n#endif\n")
    assert [(item.number, item.condition) for item in both] == [(200, "#ifdef NEVER"), (254, "#else")]
    assert found(f"#if defined(X) || 0\n{DEFINED} 200\n#endif\n")[0].condition == "#if defined(X) || 0"


@pytest.mark.parametrize("middle", ["int f(int x)\n{\n\treturn x == TCPOPT_TOA;\n}\n", "int a;\n"])
def test_what_code_met_before_the_macro_was_undefined_counts(middle: str) -> None:
    assert numbers(f"{DEFINED} 254\n{middle}#undef {OPT}\n{DEFINED} 200\n") == [254, 200]
    assert numbers(f"#define A 254\n{DEFINED} A\n{middle}#undef A\n#define A 200\n") == [200, 254]


def test_what_was_undefined_in_another_hunk_counts_since_code_between_them_is_not_seen() -> None:
    old = "".join(f"int a{n};\n" for n in range(20))
    new = f"{DEFINED} 254\n{old}#undef {OPT}\n{DEFINED} 200\n"
    assert [item.number for item in definitions(parse(plain("a.c", old, new), "p"), OPT)] == [254, 200]


def test_a_branch_by_elifndef_depends_on_its_condition() -> None:
    (only,) = found(f"#if 0\n#elifndef X\n{DEFINED} 254\n#endif\n")
    assert (only.number, only.condition) == (254, "#elifndef X")


def test_two_numbers_are_both_found_in_one_file_or_several() -> None:
    assert numbers(f"{DEFINED} 200\n{DEFINED} 254\n") == [200, 254]
    assert numbers(f"{DEFINED} 200\n", more=plain("net/toa/toa.h", "", f"{DEFINED} 254\n")) == [200, 254]
    assert numbers(f"{DEFINED} MINE\n#ifdef X\n#define MINE 200\n#else\n#define MINE 254\n#endif\n") == [200, 254]


def test_a_makefile_may_give_it_and_text_that_is_no_code_may_not() -> None:
    forms = [f"-D{OPT}=254", f'-D"{OPT}=254"', f"-D \\\n{OPT}=254", f"-D{OPT}=25\\\n4", f"-Wp,-D,{OPT}=254"]
    for form in (*forms, f"--define-macro={OPT}=254", f"$(D)\nX := {OPT}=254"):
        assert numbers(f"ccflags-y += {form}\n", "net/toa/Makefile") == [254]
        assert numbers(f"ccflags-y += {form}\n", "net/toa/flags.mk") == [254]
    assert numbers(f"ifdef {OPT}\nccflags-y += -U{OPT}\nendif\n", "net/toa/Makefile") == []
    assert numbers(f"# -D{OPT}=254\n", "net/toa/Makefile") == []
    assert numbers(f"{DEFINED} 254\n", "Documentation/toa.txt") == []


@pytest.mark.parametrize("name", ["options.def", "toa.h_shipped", "toa.x", "options"])
def test_a_file_of_any_name_may_be_included(name: str) -> None:
    assert numbers(f"{DEFINED} 254\n", f"net/toa/{name}") == [254]


def test_a_line_that_the_patch_leaves_counts_and_one_that_it_removes_does_not() -> None:
    old = f"int a;\n{DEFINED} 200\nint b;\n"
    for new, number in ((old.replace("200", "254"), 254), (f"{old}int c;\n", 200)):
        assert [item.number for item in definitions(parse(plain("a.h", old, new), "p"), OPT)] == [number]


def test_a_hunk_that_begins_inside_a_comment_is_read_from_its_end() -> None:
    lines = [f"{DEFINED} 200", " * end of a comment */", "int a;"]
    body = "".join(f" {line}\n" for line in lines)
    data = f"--- a/a.h\n+++ b/a.h\n@@ -50,3 +50,4 @@\n{body}+int b;\n".encode()
    assert definitions(parse(data, "p"), OPT) == ()


def test_a_definition_says_where_it_is() -> None:
    (only,) = found(f"int a;\n{DEFINED} (253+1)\n")
    assert (only.path, only.text) == ("net/toa/toa.c", "(253+1)")
    assert plain("net/toa/toa.c", "", f"int a;\n{DEFINED} (253+1)\n").splitlines()[only.line - 1].endswith(b"(253+1)")
