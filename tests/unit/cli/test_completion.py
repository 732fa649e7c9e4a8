"""Completion of command lines: what may follow, and in a real shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from invoke.collection import Collection

import tasks
from pipeline.cli import completion
from pipeline.core import resources
from pipeline.core.process import clean_environment
from pipeline.lab.scenarios import NAMES
from tests.fixtures.commandline import ROOT

VERBS = {name: task.verb for name, task in Collection.from_module(tasks).tasks.items()}
LINES = resources.line_names()


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("", sorted(VERBS)),
        ("b", ["boot", "build", "build-all"]),
        ("--", sorted(completion.OF_PROGRAM)),
        ("--help sto", ["store"]),
        ("--print-completion-script ", ["bash", "fish", "zsh"]),
        ("fetch ", LINES),
        ("fetch lts61", ["lts61", "lts612"]),
        ("fetch --line ", LINES),
        ("fetch --line=", [f"--line={line}" for line in LINES]),
        ("fetch --of", ["--offline"]),
        ("fetch --offline --of", []),
        ("fetch --artifacts ", []),
        ("fetch lts61 smoke --sc", ["--scenario"]),
        ("smoke lts61 --scenario ", sorted(NAMES)),
        ("smoke lts61 --server-line el", ["el6"]),
        ("smoke --scenario nat --scen", ["--scenario"]),
        ("build-all --kernel-config=s", ["--kernel-config=small"]),
        ("build-all --image ", ["auto", *resources.image_names()]),
        ("build-all --only kernel:r", ["kernel:realserver"]),
        ("build lts61 kernel i", ["ipvsadm"]),
        ("build kernel --role d", ["director"]),
        ("clean lts61 f", ["failed"]),
        ("mirror ", sorted(["export", "import", *LINES])),
        ("store v", ["verify"]),
        ("shell lts612 key", []),
        ("test --only e", ["e2e"]),
    ],
)
def test_what_may_follow(typed: str, found: list[str]) -> None:
    assert completion.candidates(typed.split(" "), VERBS) == found


def in_bash(script: str, cwd: Path) -> str:
    env = clean_environment(PATH="/usr/bin:/bin", HOME=str(cwd))
    argv = ["bash", "--norc", "-c", script, "bash", str(cwd / "a checkout")]
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("typed", "reply"),
    [
        ("fetch lts", "lts61 lts612"),
        ("fetch --line=lts", "lts61 lts612"),  # bash replaces what follows the =
        ("build-all --only kernel:r", "realserver"),
        ("smoke lts61 --scenario guid", "guide"),
        ("bui", "build build-all"),
        ("lab --ke", "--keep --kernel-config"),
    ],
)
def test_bash_completes_the_program_of_a_checkout(typed: str, reply: str, tmp_path: Path) -> None:
    checkout = tmp_path / "a checkout"
    checkout.symlink_to(ROOT)
    script = (
        'eval "$("$1/inv" --print-completion-script bash)"; complete -p inv >&2\n'
        f'COMP_LINE="${{1// /\\\\ }}/inv {typed}"; COMP_POINT=${{#COMP_LINE}}\n'
        '_inv; echo "${COMPREPLY[*]}"'
    )
    assert in_bash(script, tmp_path).split() == reply.split()


@pytest.mark.parametrize("shell", completion.SCRIPTS)
def test_each_script_asks_the_program_that_is_typed(shell: str) -> None:
    script = completion.SCRIPTS[shell]
    assert "--complete --" in script and "inv" in script


def test_the_launcher_completes_nothing_before_it_was_set_up(tmp_path: Path) -> None:
    """A key pressed in a shell must not install anything."""
    (tmp_path / "inv").write_bytes((ROOT / "inv").read_bytes())
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "run.txt").write_text("nothing==1\n")
    ended = subprocess.run(
        ["sh", tmp_path / "inv", "--complete", "--", "fe"], capture_output=True, text=True, check=True, timeout=60
    )
    assert (ended.stdout, ended.stderr) == ("", "")
    assert not (tmp_path / ".venv").exists()
