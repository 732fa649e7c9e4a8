"""Commands that a run prints: what they repeat of it, and what they leave alone."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tasks  # its verbs are what commands are held against
from pipeline.config import command_line, next_command, settings
from pipeline.config.settings import ROWS, Settings
from pipeline.errors import UsageError

ROOT = Path(__file__).parents[3]
HERE = Settings(artifacts=Path("a dir/für"), line_file=Path("own's.toml"), line="", kernel_config="small")
REPEATED = "--line-file 'own'\"'\"'s.toml' --artifacts 'a dir/für'"


@pytest.mark.parametrize(
    ("text", "completed"),
    [
        ("./inv fetch", f"./inv fetch {REPEATED}"),
        ("./inv status", "./inv status --artifacts 'a dir/für'"),
        ("./inv lines", "./inv lines --artifacts 'a dir/für'"),
        ("`./inv clean old` removes it", "`./inv clean old --artifacts 'a dir/für'` removes it"),
        ("run ./inv fetch --offline, or ./inv store gc; then wait",
         f"run ./inv fetch --offline {REPEATED}, or ./inv store gc --artifacts 'a dir/für'; then wait"),
        ("mv 'a b' c && ./inv build-all", f"mv 'a b' c && ./inv build-all {REPEATED} --kernel-config small"),
        ("./inv build-all lts61 --kernel-config full",
         "./inv build-all lts61 --kernel-config full --artifacts 'a dir/für'"),
        ("./inv pin mine kernel-srpm", f"./inv pin mine kernel-srpm {REPEATED}"),
        ("./inv fetch --line-file $'\\xff' --artifacts x", "./inv fetch --line-file $'\\xff' --artifacts x"),
        ("./inv fetch 'a, b'", f"./inv fetch 'a, b' {'--artifacts'} 'a dir/für'"),
        ("./inv --help fetch", "./inv --help fetch"),
        ("./inv fetch verifies the sources", "./inv fetch verifies the sources"),
        ("./inv fetch el6 patches el6", "./inv fetch el6 patches el6"),
        ("/some/inv fetch and TMPDIR=DIR ./inv ...", "/some/inv fetch and TMPDIR=DIR ./inv ..."),
    ],
)  # fmt: skip
def test_a_command_gets_what_this_run_was_given_and_its_verb_takes(text: str, completed: str) -> None:
    assert next_command.complete(text, HERE) == completed
    assert next_command.complete(completed, HERE) == completed


def test_a_line_s_name_is_repeated_unless_it_is_the_default() -> None:
    assert next_command.complete("./inv fetch", Settings()) == "./inv fetch"
    assert next_command.complete("./inv fetch", Settings(line="lts61")) == "./inv fetch --line lts61"
    assert next_command.complete("./inv fetch el6", Settings(line="lts61")) == "./inv fetch el6"
    assert next_command.complete("./inv clean", Settings(line="lts61")) == "./inv clean"


OTHERS: Mapping[str, Any] = {
    "flag": True,
    "text": "other",
    "whole": 7,
    "seconds": 7.5,
    "path": Path("x"),
    "list": ("a", "-b"),
}


# Verbs that need some.
WORDS = {
    "audit": "x",
    "ci": "systemd",
    "cluster": "up",
    "cves": "x",
    "diff": "x y",
    "mirror": "export d",
    "pin": "el6 x",
    "publish": "--to x",
    "reproduce": "x",
    "shell": "x",
    "sign": "x",
    "store": "gc",
    "trace": "x y",
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_setting_that_outlives_the_run_is_repeated_as_it_is_read(row: settings.Setting) -> None:
    value = row.choices[-1] if row.choices else OTHERS[row.kind]
    changes: dict[str, Any] = {row.attribute: value}
    given = replace(Settings(), **changes)
    for verb in command_line.VERBS.values():
        if row.name not in verb.parameters or row.name == "line-file" or not verb.parameters[row.name].setting:
            continue
        words = WORDS.get(verb.name, "")
        completed = next_command.complete(f"./inv {verb.name} {words}".rstrip(), given)
        (call,) = command_line.parse(shlex.split(completed)[1:], command_line.VERBS)
        once = row.name in next_command.ONCE
        assert (row.name in call.values) is not once
        if not once:
            assert getattr(settings.load({row.attribute: call.values[row.name]}, {}), row.attribute) == value


def test_what_is_done_once_are_settings() -> None:
    assert {row.name for row in ROWS} > next_command.ONCE


@pytest.mark.parametrize("url", ["http://me:secret@host/", "ftp://:secret@host/x"])
def test_no_password_is_repeated(url: str) -> None:
    given = Settings(mirror=("there", url), debian_mirror=url, artifacts=Path("a"))
    assert next_command.complete("./inv fetch", given) == "./inv fetch --artifacts a"
    assert next_command.options(given, "el6") == ("--line", "el6", "--artifacts", "a")
    with pytest.raises(UsageError) as caught:
        command_line.parse(["fetch", "--mirorr", url], command_line.VERBS)
    assert "secret" not in caught.value.hint and "host/" in caught.value.hint


def test_a_command_takes_of_the_repeated_options_those_of_its_verb() -> None:
    repeated = next_command.options(replace(HERE, no_ccache=True, mirror=("m",), gpg_key="F"), "mine")
    assert next_command.command("shell", ["kernel:stock"], repeated) == (
        f"./inv shell kernel:stock {REPEATED} --kernel-config small"
    )
    assert next_command.command("smoke", ["--gpg-key", "X"], repeated) == (
        f"./inv smoke --gpg-key X {REPEATED} --mirror m --kernel-config small"
    )
    assert "--no-ccache" in next_command.command("build-all", [], repeated)


def commands(file: Path) -> list[str]:
    """The commands in the texts of a module; `X` stands for what is filled in."""
    inside: set[int] = set()
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node) if part is not node}
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = node.value
        else:
            continue
        found += [each[1] for each in next_command._COMMAND.finditer(text) if re.match(r" [a-z]", each[1])]
    return found


def test_every_command_in_a_text_is_a_whole_one_that_its_verb_takes() -> None:
    """What a sentence goes on with would be words of the command, and nothing could complete it: use backquotes."""
    files = [ROOT / "tasks.py", *(ROOT / "pipeline").rglob("*.py")]
    found = [(file, words) for file in files for words in commands(file)]
    assert len(found) > 60
    for file, words in found:
        if words != " pin":  # the verb's name, where the page of exit codes needs it
            assert command_line.parse(re.findall(next_command._WORD, words), command_line.VERBS), f"{file}: {words}"


def test_the_tasks_are_the_verbs() -> None:
    assert {name.replace("_", "-") for name in vars(tasks) if hasattr(getattr(tasks, name), "verb")} <= set(
        command_line.VERBS
    )
