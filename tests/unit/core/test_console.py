"""What a person sees, and what a program that reads `--json` sees."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.console import PLAIN_INTERVAL, Console
from pipeline.core.decoder import encode
from pipeline.errors import ExitCode, FileProblems, Locked, Problem, Refused, UsageError


def console(*, json: bool = False, quiet: bool = False) -> Console:
    return Console(json=json, quiet=quiet, out=io.StringIO(), err=io.StringIO())


def said(of: Console) -> tuple[str, str]:
    """What went to standard output and to standard error."""
    assert isinstance(of.out, io.StringIO) and isinstance(of.err, io.StringIO)
    return of.out.getvalue(), of.err.getvalue()


def everything(to: Console) -> None:
    """Says one thing of each kind."""
    to.say("result")
    to.note("note")
    to.warn("careful")
    to.table(("a", "b"), [("1", "2")], "title")
    to.result({"answer": 42})
    to.fail(Refused("wrong", where="here", why="it matters", hint="do this"))


def test_plain_output_has_results_on_one_stream_and_notes_on_the_other() -> None:
    plain = console()
    everything(plain)
    out, err = said(plain)
    assert out == "result\ntitle\na  b\n-  -\n1  2\n"
    assert err == "note\nwarning: careful\nerror: wrong\n  where: here\n  why: it matters\n  next: do this\n"


def test_quiet_keeps_the_result_the_warnings_and_the_errors() -> None:
    quiet = console(quiet=True)
    everything(quiet)
    out, err = said(quiet)
    assert out.startswith("result\n")
    assert "note" not in err
    assert "warning: careful\n" in err and "error: wrong\n" in err


def test_json_leaves_standard_output_to_documents() -> None:
    machine = console(json=True)
    machine.say("result")
    machine.note("note")
    machine.table(("a",), [("1",)])
    machine.result({"path": Path("/x"), "number": 1})
    out, err = said(machine)
    assert json.loads(out) == {"path": "/x", "number": 1}
    assert err == "note\n"


def test_json_says_errors_in_both_places() -> None:
    machine = console(json=True, quiet=True)
    machine.fail(Locked("busy", where="lock", why="pid 7", hint="wait"))
    out, err = said(machine)
    assert json.loads(out) == {
        "error": "Locked",
        "exit_code": int(ExitCode.LOCKED),
        "what": "busy",
        "where": "lock",
        "why": "pid 7",
        "next": "wait",
    }
    assert err.startswith("error: busy\n")


def test_json_of_a_files_mistakes_lists_each_with_its_place() -> None:
    problems = [Problem("b.toml", 9, "two"), Problem("a.toml", 3, "one", "this, that")]
    error = FileProblems("2 mistakes", problems)
    assert encode(error)["problems"] == [
        {"file": "a.toml", "line": 3, "what": "one", "allowed": "this, that"},
        {"file": "b.toml", "line": 9, "what": "two", "allowed": ""},
    ]
    assert str(error).splitlines()[1:] == ["  a.toml:3: one; allowed: this, that", "  b.toml:9: two"]


def test_an_error_with_nothing_more_to_say_is_one_line() -> None:
    plain = console()
    plain.fail(UsageError("no such thing"))
    assert said(plain) == ("", "error: no such thing\n")


def test_nothing_but_json_is_silent_about_data() -> None:
    plain = console()
    plain.result({"answer": 42})
    assert said(plain) == ("", "")


def test_columns_stand_under_their_headings_and_rows_end_without_blanks() -> None:
    plain = console()
    plain.table(("name", "n", "last"), [("a", 1000, ""), ("longer", 2, "x")])
    assert said(plain)[0].splitlines() == [
        "name    n     last",
        "------  ----  ----",
        "a       1000",
        "longer  2     x",
    ]


def test_a_table_without_rows_still_has_its_headings() -> None:
    plain = console()
    plain.table(("name", "n"), [])
    assert said(plain)[0] == "name  n\n----  -\n"


def test_a_table_on_a_terminal_is_drawn_and_takes_its_text_literally(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        Console(out=terminal).table(("patch", "how"), [("lvs", "[bold]by content[/bold]")], "line el6")
        text = re.sub(r"\x1b\[[0-9;]*m", "", os.read(ours, 65536).decode())
    os.close(ours)
    assert "line el6" in text
    assert "[bold]by content[/bold]" in text
    assert "─" in text


def test_progress_off_a_terminal_comes_as_lines_no_more_often_than_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("pipeline.core.console.time.monotonic", lambda: now[0])
    plain = console()
    with plain.progress() as progress:
        meter = progress.meter("file")
        meter.start(4096)
        for _ in range(3):
            now[0] += PLAIN_INTERVAL / 2
            meter.advance(1024)
        meter.note("another mirror")
    assert said(plain)[1].splitlines() == [
        "file: at 0 B of 4.0 KiB",
        "file: 2.0 KiB (50 %)",
        "file: another mirror",
    ]


def test_quiet_progress_says_nothing() -> None:
    quiet = console(quiet=True)
    with quiet.progress() as progress:
        meter = progress.meter("file")
        meter.start(None)
        meter.advance(1 << 30)
        meter.note("retry")
    assert said(quiet) == ("", "")


def on_terminal(show: Callable[[Console], None]) -> str:
    """What a terminal of 40 columns gets."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        show(Console(out=stream, err=stream))
    data = b""
    with contextlib.suppress(OSError):  # EIO once everything is read
        while piece := os.read(ours, 1 << 16):
            data += piece
    os.close(ours)
    return data.decode()


def test_a_status_line_stays_below_what_is_printed_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")

    def show(console: Console) -> None:
        console.status("half done")
        console.note("a note")
        console.status("done \x1b[2J" + "x" * 100)
        console.status("")

    data = on_terminal(show)
    clear = "\r\x1b[K"
    assert data.startswith(f"{clear}half done{clear}a note\r\n{clear}half done{clear}done \\x1b[2Jxxx")
    assert data.endswith(clear)
    assert max(len(piece) for piece in data.split(clear)) == 39, "a line that wraps could not be cleared"


def test_a_download_has_a_bar_from_its_first_byte_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")

    def show(console: Console) -> None:
        with console.progress() as progress:
            progress.meter("refused")
            progress.meter("fetched").start(10, 10)

    data = on_terminal(show)
    assert "fetched" in data and "refused" not in data


def test_without_a_terminal_there_is_no_status_line() -> None:
    plain = console()
    plain.status("half done")
    assert said(plain) == ("", "")


def test_a_line_goes_out_in_one_piece_so_that_those_of_several_threads_do_not_mix() -> None:
    pieces: list[str] = []

    class Recorder(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return super().write(text)

    shared = Console(out=Recorder(), err=Recorder())
    shared.note("a note")
    shared.say("a result")
    assert pieces == ["a note\n", "a result\n"]
