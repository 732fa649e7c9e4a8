"""The first real error of a build log is found, whatever came after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.packaging.log_errors import first_error

NOISE = [
    "  CC      kernel/fork.o",
    "checking for error.h... yes",
    "gcc -Werror -c a.c",
    "warning: error: is only a word",
]
ECHOES = ["make[2]: *** [scripts/Makefile.build:250: a.o] Error 1", "make: *** [Makefile:2010: .] Error 2"]


@pytest.mark.parametrize(
    "error",
    [
        "net/toa/toa.c:12:10: fatal error: net/toa.h: No such file or directory",
        "kernel/fork.c:3:1: error: expected declaration",
        "ld: main.o: undefined reference to `nl_connect'",
        "make[1]: *** No rule to make target 'missing.o', needed by 'all'.  Stop.",
        "/var/tmp/rpm-tmp.x: line 31: bison: command not found",
        "cc1: No space left on device",
        "Hunk #2 FAILED at 40.",
        "can't find file to patch at input line 4",
        "configure: error: Cannot find libssl",
        "error: Failed build dependencies:",
        "bash: connect: Network is unreachable",
        "curl: (6) Could not resolve host: example.org",
        "make: fork: Resource temporarily unavailable",
        "gcc: fatal error: cannot execute 'cc1': vfork: Resource temporarily unavailable",
        "cat: write error: File too large",
        "Out of memory!",
    ],
)
def test_the_first_error_is_shown_not_its_echo(tmp_path: Path, error: str) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join([*NOISE, error, *ECHOES, "error: Bad exit status from /var/tmp/rpm-tmp.x (%build)"]))
    number, lines = first_error(log)
    assert (number, lines[0]) == (len(NOISE) + 1, error)


def test_without_anything_like_an_error_the_tail_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {n}" for n in range(100)))
    number, lines = first_error(log)
    assert (number, lines[0], lines[-1]) == (81, "line 80", "line 99")


def test_a_log_that_is_no_text_is_no_reason_to_fail(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\xff\xfe\x00error: here\n")
    assert first_error(log)[0] == 1
