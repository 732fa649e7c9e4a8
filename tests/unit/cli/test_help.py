"""The help: of this program alone, with every verb, word, option and default, at any width."""

from __future__ import annotations

import itertools

import pytest
from invoke.collection import Collection

import tasks
from pipeline.cli import help
from pipeline.cli.app import Program
from pipeline.config.command_line import Verb
from pipeline.config.settings import ROWS
from pipeline.errors import ExitCode

VERBS = {name: task.verb for name, task in Collection.from_module(tasks).tasks.items()}
OF_INVOKE = (
    "--echo",
    "--pty",
    "--hide",
    "--warn-only",
    "--dry ",
    "--list-format",
    "--debug",
    "--core-opts",
    "Core options",
)


@pytest.fixture(params=[40, 80, 200])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    for text in (help.program(VERBS), *map(help.verb, VERBS.values())):
        usage = ("Usage", "Example", "`./inv", "  --")  # what is typed has to be on one line
        wide = [line for line in text.splitlines() if len(line) > columns and not line.startswith(usage)]
        assert wide == []


def test_the_list_has_every_verb_in_its_group_and_the_one_that_does_everything_first() -> None:
    listed = help.verbs(VERBS)
    for verb in VERBS.values():
        assert f"\n  {verb.name} " in listed
        assert f"\n{verb.group.capitalize()}:\n" in listed
    assert listed.index("build-all") < listed.index("\n  fetch ") < listed.index("\n  build ")


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
def test_a_verb_s_help_has_its_words_options_defaults_and_an_example(
    verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = help.verb(verb)
    assert text.startswith(f"Usage: ./inv {verb.usage}\n")
    assert f"\nExample: ./inv {verb.example}\n" in text
    for parameter in verb.parameters.values():
        assert parameter.typed in text
        assert parameter.help, parameter.name
        if parameter.default:
            assert f"[{parameter.default}]" in text
    assert not [option for option in OF_INVOKE if option in text]


def test_a_value_follows_its_option_and_says_what_it_is() -> None:
    text = help.verb(VERBS["build-all"])
    for typed in (
        "--mirror=DIR|URL",
        "--jobs=NUMBER",
        "--kernel-config=full|small",
        "--stall=SECONDS",
        "LINE, --line=LINE",
    ):
        assert typed in text
    assert "--diff OLD NEW" in help.verb(VERBS["patches"])
    assert "build [LINE] NAME... [OPTIONS]" in help.verb(VERBS["build"])
    assert "[30]" in text and "[30.0]" not in text


def test_every_setting_is_in_a_group() -> None:
    groups = [row.group for row in ROWS]
    assert all(groups)
    assert len(set(groups)) == 1 + sum(1 for one, other in itertools.pairwise(groups) if one != other)


def test_the_programs_own_options_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    program = Program(Collection.from_module(tasks), "9")
    for words in ([], ["--list"], ["-l"]):
        assert program.run(words) == ExitCode.OK
    for words in (["--help"], ["-h"], ["help"]):
        assert program.run(words) == ExitCode.OK
    listed = help.verbs(VERBS) + "\n"
    out = capsys.readouterr().out
    assert out == listed * 3 + (help.program(VERBS) + "\n") * 3
    assert not [option for option in OF_INVOKE if option in out]
    assert program.run(["-V"]) == ExitCode.OK
    assert capsys.readouterr().out == "inv 9\n"
    for words in (["--help", "build"], ["--help=build"], ["help", "build"], ["build", "kernl", "--nonsense", "-h"]):
        assert program.run(words) == ExitCode.OK
        assert capsys.readouterr().out == help.verb(VERBS["build"]) + "\n"


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        ("--help fetsch", "verb 'fetsch': not found; did you mean fetch?", "./inv --help fetch"),
        ("help fetsch", "verb 'fetsch': not found; did you mean fetch?", "./inv help fetch"),
        ("--version a", "option --version: takes nothing besides; expected ./inv --version, got a", "./inv --version"),
        ("--print-completion-script bsh", "shell 'bsh': not found; did you mean bash?",
         "./inv --print-completion-script bash"),
        ("--print-completion-script", "shell '': not found", "./inv --print-completion-script bash"),
    ],
)  # fmt: skip
def test_a_mistake_in_these_options_is_told_as_others_are(
    words: str, what: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program = Program(Collection.from_module(tasks), "9")
    assert program.run(words.split()) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {what}\n") and err.endswith(f"  next: {hint}\n")
    assert program.run(hint.split()[1:]) == ExitCode.OK
