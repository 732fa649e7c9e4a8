"""Completion in real zsh and fish; bash's is a unit test, since every host has it."""

from __future__ import annotations

import os
import pty
import select
import time
from pathlib import Path

import pytest

from pipeline.core.process import clean_environment, run
from tests.fixtures.commandline import ROOT

PATIENCE = 60.0  # seconds for a shell on a busy machine


@pytest.mark.parametrize(
    ("typed", "reply"),
    [
        ("./inv fet", "fetch"),
        ("./inv fetch lts", "lts61 lts612"),
        ("./inv fetch --line=lts", "--line=lts61 --line=lts612"),
        ("./inv smoke --scenario na", "nat"),
        ("./inv build-all --gpg", "--gpg-key"),
        ("./inv build-all --line-file ./CONTR", "./CONTRIBUTING.md"),
    ],
)
def test_fish_completes(typed: str, reply: str, tmp_path: Path) -> None:
    script = './inv --print-completion-script fish | source; complete -C "$argv"'
    env = clean_environment(HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path), XDG_DATA_HOME=str(tmp_path))
    shown = run(["fish", "--no-config", "-c", script, typed], cwd=ROOT, env=env, timeout=PATIENCE).text
    assert [line.split("\t")[0] for line in shown.splitlines()] == reply.split()


class Zsh:
    """An interactive zsh in the checkout, with our completion."""

    def __init__(self, home: Path) -> None:
        self.shown = b""
        pid, self.terminal = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            os.execvpe("zsh", ["zsh", "-f", "-i"], clean_environment(HOME=str(home), TERM="dumb", PS1="ready> "))
        self.pid = pid
        self.type('eval "$(./inv --print-completion-script zsh)"; echo set "up"\n', "set up")

    def type(self, text: str, until: str) -> None:
        """Types what a person would, and waits for what the terminal must show."""
        self.shown = b""
        os.write(self.terminal, text.encode())
        end = time.monotonic() + PATIENCE
        while until.encode() not in self.shown:
            assert time.monotonic() < end, self.shown.decode()
            if select.select([self.terminal], [], [], 1)[0]:
                self.shown += os.read(self.terminal, 4096)

    def end(self) -> None:
        os.close(self.terminal)  # hangs it up
        os.waitpid(self.pid, 0)


@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("./inv fet\t", "./inv fetch "),
        ("./inv fetch lts\t\t", "lts61   lts612"),
        ("./inv fetch --line=el\t", "./inv fetch --line=el6"),
        ("./inv smoke --scenario na\t", "./inv smoke --scenario nat "),
        ("./inv build-all --line-file ./CONTR\t", "./inv build-all --line-file ./CONTRIBUTING.md"),
    ],
)
def test_zsh_completes(typed: str, becomes: str, tmp_path: Path) -> None:
    shell = Zsh(tmp_path)
    try:
        shell.type(typed, becomes)
    finally:
        shell.end()
