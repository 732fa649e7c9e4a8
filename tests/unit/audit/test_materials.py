"""What a statement tells of the time before its step ran."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from pipeline.commands.attesting import RunAttester
from pipeline.commands.preparation import Preparation
from pipeline.config import git_checkout, line_loader
from pipeline.config.git_checkout import Checkout


def test_the_commit_is_the_one_that_the_run_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = iter([Checkout("a" * 40, False), Checkout("b" * 40, True)])
    monkeypatch.setattr(git_checkout, "of_project", lambda: next(commits))
    attester = RunAttester(line_loader.load("lts612"), cast(Preparation, None), tmp_path, lambda: "")
    for _ in range(3):
        attester.begin()
    assert attester._statements.materials._checkout == Checkout("a" * 40, False)
    assert next(commits).commit == "b" * 40, "it was asked once, and before any statement"
