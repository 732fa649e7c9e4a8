"""Text of strangers is shown, never acted on: by a terminal, a shell, a page or a file of lines."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import neutral, templates
from pipeline.core.console import Console
from pipeline.core.process import clean_environment
from pipeline.errors import PipelineError, Refused
from pipeline.publish import snapshot_contents
from pipeline.publish.snapshot_contents import Document, MadeBy, Signer
from tests.fixtures.commandline import ROOT

ANY = st.text(st.characters(), max_size=60)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\r\nb\tc\n", "a\nb\tc\n"),
        ("\x1b[1;31mred\x1b[0m", r"\x1b[1;31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("50%\r100%\b\b", r"50%\r100%\x08\x08"),
        ("\x00\x7f\x85\x9b2J", r"\x00\x7f\x85\x9b2J"),
        ("\u202egnp.exe\u2066\u061c\u200f", r"\u202egnp.exe\u2066\u061c\u200f"),
        ("a\u200bb\ufeffc\u00add\ufe0f\u3164", r"a\u200bb\ufeffc\xadd\ufe0f\u3164"),
        ("one\u2028two\u2029three\x0bfour", r"one\u2028two\u2029three\x0bfour"),
        ("\ud800 and the byte \udc80", r"\ud800 and the byte \x80"),
        ("Z" + "\u0335" * 5, "Z" + "\u0335" * 3 + r"\u0335\u0335"),
        ("\U000e0041\ufffe", r"\U000e0041\ufffe"),
        ("Grüße, 東京, Việt, ✓ – …", "Grüße, 東京, Việt, ✓ – …"),
    ],
)
def test_what_cannot_be_seen_is_shown(raw: str, shown: str) -> None:
    assert neutral.text(raw) == shown


def test_an_overlong_line_is_cut_and_says_so() -> None:
    shown = neutral.text("x" * 1_000_000 + "\nshort")
    assert len(shown) <= neutral.LINE_MOST + 6 and shown.endswith("characters more]\nshort")


@given(ANY)
def test_nothing_acts_on_a_terminal_and_what_was_shown_once_stays_as_it_is(raw: str) -> None:
    shown = neutral.text(raw)
    assert all(letter.isprintable() or letter in "\n\t" for letter in shown)
    shown.encode()
    assert neutral.text(shown) == shown and neutral.line(neutral.line(raw)) == neutral.line(raw)
    assert neutral.line(raw).isprintable()


NAMES = st.one_of(ANY.filter(lambda name: "\0" not in name), st.sampled_from(["", "a b", "$(id)", "`id`", "';id;'"]))


@given(st.lists(st.binary(max_size=20).filter(lambda name: b"\0" not in name), min_size=1, max_size=4))
def test_a_command_to_copy_is_neutral_and_a_shell_reads_the_very_words(words: list[bytes]) -> None:
    told = neutral.command(map(os.fsdecode, words))
    assert neutral.line(told) == told
    read = subprocess.run(["bash", "-c", f"printf '%s\\0' {told}"], capture_output=True, check=True).stdout
    assert read.split(b"\0")[:-1] == words


@given(NAMES)
def test_what_names_any_path_is_shown_as_it_is_when_it_is_plain(name: str) -> None:
    word = neutral.word(name)
    assert neutral.text(word) == word
    assert word == name or word[0] in "'$"


# --- The console -----------------------------------------------------------------------------------------

EVIL = "\x1b]0;owned\x07[red]x[/red]\r\u202e\x9b2J\u200b\ud800\nerror: forged\n  next: rm -rf /"


def said(stream: io.StringIO) -> str:
    return stream.getvalue()


def test_nothing_that_is_said_acts_on_a_terminal_or_passes_for_a_line_of_ours() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out=out, err=err)
    console.say(EVIL)
    console.note(EVIL)
    console.warn(EVIL)
    console.table((EVIL, "b"), [(EVIL, 1)], EVIL)
    console.fail(Refused(EVIL, where=EVIL, why=EVIL, hint=EVIL))
    with console.progress() as progress:
        progress.meter(EVIL).note(EVIL)
    for told in (said(out), said(err)):
        assert all(letter.isprintable() or letter == "\n" for letter in told)
        told.encode()
        assert "[red]x[/red]" in told and r"\x1b]0;owned\x07" in told
    labelled = [line for line in said(err).splitlines() if line.startswith(("error:", "  next:"))]
    assert len(labelled) == 2 and all("owned" in line and "forged" not in line for line in labelled)
    assert not [line for line in said(out).splitlines() if line.startswith(("error", "next"))]


def test_a_json_document_holds_what_came_and_is_plain_ascii() -> None:
    out = io.StringIO()
    Console(json=True, out=out).result({EVIL: "\x7f\x85 \\\x7f" + EVIL})
    told = said(out)
    assert all(letter.isprintable() or letter == "\n" for letter in told) and told.isascii()
    assert json.loads(told) == {EVIL: "\x7f\x85 \\\x7f" + EVIL}


def test_what_is_drawn_on_a_terminal_holds_no_escape_but_the_drawing_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        console = Console(out=terminal, err=terminal)
        console.table(("patch",), [(EVIL,)], f"[bold]{EVIL}[/bold]")
        with console.progress() as progress:
            meter = progress.meter(EVIL)
            meter.start(1)
            meter.note(EVIL)
        seen = os.read(ours, 1 << 20)
    os.close(ours)
    told = seen.decode()
    assert "]0;owned" in told and "\x1b]" not in told and "\x07" not in told and "[bold]" in told
    assert not {"\u202e", "\x9b", "\u200b"} & set(told)
    assert told.count("[red]x[/red]") >= 3


def test_a_traceback_and_what_a_terminal_s_encoding_lacks_are_neutral_too() -> None:
    program = (
        "import sys, pipeline.cli.app as cli, pipeline.commands.task as task, tasks\n"
        "def broken(*given, **more): raise RuntimeError('\\x1b]0;owned\\x07 \\u2713 \\ud800')\n"
        "task._run = broken\n"
        "sys.argv = ['inv', 'status']\n"
        "cli.main()\n"
    )
    env = clean_environment(PYTHONPATH=str(ROOT), PYTHONIOENCODING="ascii")
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, env=env, check=False)
    assert ended.returncode == 1
    assert b"RuntimeError: \\x1b]0;owned\\x07 \\u2713 \\ud800" in ended.stderr and b"\x1b" not in ended.stderr


# --- Files of lines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["%(id)", "%{lua:x}", "one\ntwo", "a\rb", "\x1b[2J", "\u2028", "\x85"])
def test_a_spec_file_takes_no_variable_that_would_be_more_than_a_value(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jinja2 import DictLoader

    environment = templates._environment("spec", None)
    monkeypatch.setattr(environment, "loader", DictLoader({"specs/x.spec.j2": "Summary: {{ summary }}\n"}))
    assert templates.render("specs/x.spec.j2", summary="An ordinary one") == "Summary: An ordinary one\n"
    with pytest.raises(PipelineError, match="would be more than a value there"):
        templates.render("specs/x.spec.j2", summary=text)


def test_a_container_file_takes_no_second_line_in_a_variable() -> None:
    given = {"part": "os", "parts": ["os"], "vault": "http://x.example"}
    assert "baseurl=http://x.example/6.10/os" in templates.render("containers/centos6/vault.repo.j2", **given)
    with pytest.raises(PipelineError, match="more than a value"):
        templates.render("containers/centos6/vault.repo.j2", **{**given, "vault": "http://x\ngpgcheck=0"})


def test_the_texts_of_a_snapshot_get_no_line_from_a_label_or_a_key_s_name() -> None:
    document = Document(
        format=2,
        id="1",
        line="el6",
        label="el6\ngpgcheck=0\r\u2028[other]",
        notice="x\n[other]\x85baseurl=http://evil",
        small=False,
        readers="",
        baseurl="http://r.example",
        key=Signer("k", "Ada\n  FFFF \x1b[2J", "F" * 40, False),
        attestation=None,
        timestamp=1,
        made_by=MadeBy("1", "1", "0"),
        sets={"director": ()},
        packages={},
    )
    repo, readme = snapshot_contents.repo_file(document, "director"), snapshot_contents.readme(document)
    assert repo.split("\n").count("gpgcheck=1") == 1 and "gpgcheck=0" not in repo.split("\n")
    assert [row for row in repo.split("\n") if row.startswith("[")] == ["[el6-director]"]
    assert all(row.isprintable() for row in (*repo.split("\n"), *readme.split("\n")))
