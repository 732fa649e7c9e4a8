"""The cause in a build log is found, whatever was printed before and after it.

The logs are in `fixtures/build_logs`: `== ` begins one and says what it holds, with the kind of failure before a colon,
and `> ` marks the line of the cause. `^[` and the like are control characters.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.packaging.log_errors import first_error
from pipeline.packaging.log_patterns import Kind, kind

LOGS = Path(__file__).parents[2] / "fixtures/build_logs"
MARK = "> "
SUMMARY = re.compile(r": \*\*\* \[|^error: Bad exit status|^RPM build errors")


def cases(but: str = "") -> list[object]:
    """Returns each log of the fixtures, with its file and title as its name."""
    found: list[object] = []
    for file in sorted(LOGS.glob("*.txt")):
        for case in re.split(r"(?m)^== ", file.read_text())[1:]:
            title, _, log = case.partition("\n")
            if file.stem != but:
                found.append(pytest.param(title, log.rstrip("\n").split("\n"), id=f"{file.stem}: {title}"))
    return found


def typed(text: str) -> str:
    """Returns `text` with its control characters."""
    return re.sub(r"\^([@-_])", lambda match: chr(ord(match[1]) - 64), text)


def unmarked(rows: list[str]) -> tuple[int, list[str]]:
    """Returns the line number of the cause, and the rows without its mark."""
    (at,) = (number for number, row in enumerate(rows, 1) if row.startswith(MARK))
    return at, [row.removeprefix(MARK) if number == at else row for number, row in enumerate(rows, 1)]


@pytest.mark.parametrize(("title", "rows"), cases())
def test_the_cause_comes_first_with_the_line_number_of_a_pager(tmp_path: Path, title: str, rows: list[str]) -> None:
    at, rows = unmarked(rows)
    (tmp_path / "log").write_bytes(typed("\n".join(rows)).encode())
    number, lines = first_error(tmp_path / "log")
    shown = re.sub(r"\x1b(\[[0-9;]*[mK]|\]8;[^\x1b]*\x1b\\)", "", typed(rows[at - 1]))
    assert (number, lines[0]) == (at, shown)
    wanted = title.partition(":")[0]
    assert kind(lines[0]) is (Kind[wanted] if wanted in Kind.__members__ else kind(lines[0]))


@pytest.mark.parametrize(("title", "rows"), cases(but="unknown"))
def test_the_cause_is_found_before_what_other_jobs_print(tmp_path: Path, title: str, rows: list[str]) -> None:
    at, rows = unmarked(rows)
    end = next((number for number in range(at, len(rows)) if SUMMARY.search(rows[number])), len(rows))
    others = [f"  CC      fs/other{number}.o" for number in range(40)]
    (tmp_path / "log").write_bytes(typed("\n".join([*rows[:end], *others, *rows[end:]])).encode())
    assert first_error(tmp_path / "log")[0] == at, title


def test_without_anything_like_an_error_the_tail_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {n}" for n in range(100)))
    number, lines = first_error(log)
    assert (number, lines[0], lines[-1]) == (81, "line 80", "line 99")


def test_a_log_that_is_no_text_is_no_reason_to_fail(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\xff\xfe\x00error: here\n")
    assert first_error(log)[0] == 1


def test_what_is_remembered_of_a_log_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"f{n}.c:1:1: error: number {n}\n" for n in range(5000)) + "make: *** [f4999.o] Error 1\n")
    assert first_error(log)[1][0] == "f4999.c:1:1: error: number 4999"


def test_a_line_that_a_probe_could_print_counts_only_near_a_summary(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("/bin/sh: 1: git: not found\n" + "made\n" * 200 + "gone\nmake: *** [x] Error 1\n")
    number, lines = first_error(log)
    assert (number, lines[-2:]) == (198, ["gone", "make: *** [x] Error 1"])


@pytest.mark.parametrize("form", ["a", "bytes \xff", "1%\rmade"])
def test_lines_are_counted_as_an_editor_does(tmp_path: Path, form: str) -> None:
    log = tmp_path / "log"
    log.write_bytes(f"{form}\x0c\x0b\x1c\u2028b\r\n".encode("latin-1", "replace") * 3 + b"x: error: here\r\nlast")
    assert first_error(log) == (4, ["x: error: here", "last"])
