"""`./inv patches --classify`: the role, the option's number, and whether it is the line's."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import Any

import pytest

import tasks
from pipeline.commands import patches
from pipeline.commands.task import Outcome
from pipeline.config import line_loader
from pipeline.config.context import RunContext
from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.core.decoder import encode
from pipeline.errors import ExitCode, Refused, UsageError
from tests.fixtures.patches import plain


def toa(code: str, prefix: bytes = b"toy/") -> bytes:
    """A patch whose content proves the role realserver of el6."""
    touched = (("net/ipv4/tcp_ipv4.c", "a\nb\n", "a\nc\nb\n"), ("kernel/kallsyms.c", "a\nb\n", "a\nconfig TOA\nb\n"))
    made = plain("net/toa/toa.c", "", code) + b"".join(plain(*each) for each in touched)
    return made.replace(b" toy.orig/", b" " + prefix).replace(b" toy/", b" " + prefix)


class Classified:
    """What classifying says, in text and as JSON, and with which exit status."""

    def __init__(self, data: bytes, place: Path) -> None:
        file, self.out, self.err = place / "some.patch", io.StringIO(), io.StringIO()
        file.write_bytes(data)
        context = RunContext(load({"artifacts": place / "artifacts"}, {}), Console(out=self.out, err=self.err))
        ended: Any = tasks.patches.body.__wrapped__(context, None, str(file))
        assert isinstance(ended, Outcome)
        self.code, self.data = ended.code, encode(ended.data)


def test_the_lines_own_number_fits_and_is_said(tmp_path: Path) -> None:
    found = Classified(toa("#define TCPOPT_TOA 0xC8\n"), tmp_path)
    assert (found.code, found.data["role"], found.err.getvalue()) == (ExitCode.OK, "realserver", "")
    assert "realserver: fits; TCP option 200 (TCPOPT_TOA)\n" in found.out.getvalue()
    option = found.data["option"]
    assert (option["number"], option["expected"], option["right"]) == (200, 200, True)


@pytest.mark.parametrize(
    ("code", "said", "number"),
    [
        ("#define TCPOPT_TOA 254\n", "TCP option number 254 (TCPOPT_TOA in net/toa/toa.c, line", 254),
        ("#if 0\n#define TCPOPT_TOA 200\n#endif\nenum { TCPOPT_TOA = 254 };\n", "TCP option number 254 (", 254),
        ("#define TCPOPT_TOA (253+1)\n", "(253+1), which is 254), the line wants 200", 254),
        ("int x;\n", "TCP option number unknown (no TCPOPT_TOA is defined), the line wants 200", None),
        ("#define TCPOPT_TOA CONFIG_TOA_OPT\n", "TCP option number unknown (TCPOPT_TOA in net/toa/toa.c", None),
        ("#define TCPOPT_TOA 200\n#define TCPOPT_TOA 254\n", "TCP option number 200 and 254 (", None),
        ("#define TCPOPT_TOA 200\n#define TCPOPT_TOA X\n", "TCP option number unknown (", None),
    ],
)
def test_another_number_or_none_does_not_fit(tmp_path: Path, code: str, said: str, number: int | None) -> None:
    found = Classified(toa(code), tmp_path)
    assert (found.code, found.data["role"]) == (ExitCode.REFUSED, "realserver")
    assert "realserver: fits in all but the option's number; TCP option number" in found.out.getvalue()
    assert "realserver: fits;" not in found.out.getvalue()
    assert said in found.out.getvalue() and said in found.err.getvalue()
    assert (found.data["option"]["number"], found.data["option"]["right"]) == (number, False)


@pytest.mark.parametrize(("prefix", "depth"), [(b"", 0), (b"a/linux/", 2)])
def test_paths_of_another_depth_are_named_as_the_reason(tmp_path: Path, prefix: bytes, depth: int) -> None:
    with pytest.raises(Refused, match=f"its paths are those of patch -p{depth}, and only -p1 is read"):
        Classified(toa("#define TCPOPT_TOA 200\n", prefix), tmp_path)


def git(path: str, *lines: str, prefixes: tuple[str, str] = ("a/", "b/")) -> str:
    """A section as `git diff` writes it: of a new file of these lines, or one that adds them behind a first line."""
    old, new = (f"{prefix}{path}" for prefix in prefixes)
    if path.startswith("net/toa/"):
        head = f"new file mode 100644\nindex 0000000..1111111\n--- /dev/null\n+++ {new}\n@@ -0,0 +1,{len(lines)} @@\n"
        return f"diff --git {old} {new}\n{head}" + "".join(f"+{line}\n" for line in lines)
    head = f"index 1111111..2222222 100644\n--- {old}\n+++ {new}\n@@ -1,2 +1,{2 + len(lines)} @@\n"
    return f"diff --git {old} {new}\n{head} first\n" + "".join(f"+{line}\n" for line in lines) + " last\n"


def shape(*code: str, prefixes: tuple[str, str] = ("a/", "b/")) -> str:
    """The smallest patch that proves a real server."""
    rest = (("net/ipv4/tcp_ipv4.c", "one"), ("kernel/kallsyms.c", "config TOA"))
    sections = (("net/toa/toa.c", *(code or ("#define TCPOPT_TOA 200",))), *rest)
    return "".join(git(*section, prefixes=prefixes) for section in sections)


LETTER = "From: A <a@example.org>\nSubject: [PATCH 1/2] toa\n\nWords.\n---\n net/toa/toa.c | 1 +\n\n"
QUILT = "".join(
    f"Index: linux/{path}\n{'=' * 67}\n--- {old}\n+++ linux/{path}\n{hunk}"
    for path, old, hunk in (
        ("net/toa/toa.c", "/dev/null", "@@ -0,0 +1,1 @@\n+#define TCPOPT_TOA 200\n"),
        ("net/ipv4/tcp_ipv4.c", "linux.orig/net/ipv4/tcp_ipv4.c", "@@ -1,2 +1,3 @@\n a\n+config TOA\n b\n"),
        ("kernel/kallsyms.c", "linux.orig/kernel/kallsyms.c", "@@ -1,2 +1,3 @@\n a\n+c\n b\n"),
    )
)
READ = {
    "git": shape(),
    "format-patch": f"From {'1' * 40} Mon Sep 17 00:00:00 2001\n{LETTER}{shape()}-- \n2.30.2\n\n",
    "quilt": f"Description: the option\nOrigin: somewhere\n{QUILT}",
    "an escape in a line": shape("#define TCPOPT_TOA 200", "int x;\x1b[31mred"),
    "no line end": shape().replace(
        "+#define TCPOPT_TOA 200\n", "+#define TCPOPT_TOA 200\n\\ No newline at end of file\n"
    ),
    "a quoted name": shape() + git("x", "y").replace("a/x", '"a/\\303\\274"').replace("b/x", '"b/\\303\\274"'),
    "an expression": shape("#define BASE (0xBE + 2)", "#define TCPOPT_TOA ((__u8)(BASE | 0x8u))"),
    "another in #if 0": shape("#if 0", "#define TCPOPT_TOA 254", "#else", "#define TCPOPT_TOA 200", "#endif"),
}


@pytest.mark.parametrize("form", READ)
def test_every_form_that_says_the_same_to_all_programs_is_read(tmp_path: Path, form: str) -> None:
    found = Classified(READ[form].encode(), tmp_path)
    assert (found.code, found.data["role"], found.data["option"]["number"]) == (ExitCode.OK, "realserver", 200)


NOT_READ = {
    "it has DOS line ends": shape().replace("\n", "\r\n").encode(),
    "it begins with a byte order mark": b"\xef\xbb\xbf" + shape().encode(),
    "it is compressed with gzip": gzip.compress(shape().encode()),
    "its paths are those of patch -p0, and only -p1 is read": shape(prefixes=("", "")).encode(),
    "it was made without -N: a file is missing from it": b"Only in a\x1b[31m: evil\n",
    "leaves the tree through '..'": shape(prefixes=("a/../", "b/../")).encode(),
    "is an absolute path": shape(prefixes=("/", "/")).encode(),
}


@pytest.mark.parametrize("reason", NOT_READ)
def test_every_other_form_is_refused_with_the_reason_that_helps(tmp_path: Path, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        Classified(NOT_READ[reason], tmp_path)
    assert reason in caught.value.what and caught.value.hint


def test_what_is_no_file_with_an_end_is_the_persons_mistake(tmp_path: Path) -> None:
    context = RunContext(load({}, {}), Console(out=io.StringIO()))
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(10 << 30)
    named = (str(tmp_path / name) for name in ("", "fifo", "sparse"))
    for path in ("/dev/zero", "/nowhere", "/dev/null", "/proc/self/mem", "a\0b", *named):
        with pytest.raises(UsageError, match="the patch cannot be read"):
            patches.classify_file(path, line_loader.load("el6"), context)
