"""`./inv patches --classify`: the role, the option's number, and whether it is the line's."""

from __future__ import annotations

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


def test_what_is_no_file_with_an_end_is_the_persons_mistake(tmp_path: Path) -> None:
    context = RunContext(load({}, {}), Console(out=io.StringIO()))
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(10 << 30)
    named = (str(tmp_path / name) for name in ("", "fifo", "sparse"))
    for path in ("/dev/zero", "/nowhere", "/dev/null", "/proc/self/mem", "a\0b", *named):
        with pytest.raises(UsageError, match="the patch cannot be read"):
            patches.classify_file(path, line_loader.load("el6"), context)
