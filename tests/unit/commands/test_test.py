"""What `./inv test` has pytest do."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import test
from pipeline.config.context import RunContext
from pipeline.config.settings import load
from pipeline.core import process, resources
from pipeline.core.console import Console
from pipeline.errors import TestsFailed, UsageError
from pipeline.host import programs

TESTS = resources.data_root() / "tests"


class Pytest:
    """In pytest's place: what it is called with, and the exit status it gives."""

    def __init__(self) -> None:
        self.status = 0
        self.argv: list[str] = []
        self.environment: dict[str, str] = {}

    def show(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> int:
        assert cwd == resources.data_root()
        self.argv, self.environment = list(argv), dict(env)
        return self.status


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Pytest:
    stand_in = Pytest()
    monkeypatch.setattr(process, "run_attached", stand_in.show)
    monkeypatch.setattr(programs, "ensure", lambda groups, console: None)
    return stand_in


def context(**given: Any) -> RunContext:
    return RunContext(load(given, {}), Console(quiet=True, out=io.StringIO()))


def test_all_tests_or_those_of_one_kind_and_name_are_run(called: Pytest) -> None:
    test.run(context().console, "", "")
    assert called.argv == [sys.executable, "-m", "pytest", f"{TESTS}"]
    test.run(context().console, "unit", "settings")
    assert called.argv == [sys.executable, "-m", "pytest", f"{TESTS / 'unit'}", "-k", "settings"]
    assert test.REAL_EL6 not in called.environment


def test_tests_that_failed_are_an_error_of_their_own(called: Pytest) -> None:
    called.status = 1
    with pytest.raises(TestsFailed, match="pytest exit status 1"):
        test.run(context().console, "", "")


# --- On real material ------------------------------------------------------------------------------------


def test_real_material_without_a_place_that_has_it_is_refused_with_the_command(called: Pytest, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        test.accept_real(context(line_file=str(tmp_path / "own.toml")), "")
    assert "./inv test --real --mirror DIR" in refused.value.hint
    assert called.argv == []


def test_the_acceptance_checks_get_the_pinned_line_and_how_it_is_built(called: Pytest, tmp_path: Path) -> None:
    given = context(mirror=[str(tmp_path), "http://127.0.0.1/files"], artifacts=str(tmp_path / "artifacts"))
    test.accept_real(given, "")
    assert called.argv == [sys.executable, "-m", "pytest", str(TESTS / test.ACCEPTANCE), "-n", "0", "-vv"]
    assert (TESTS / test.ACCEPTANCE).is_file()
    named, building = json.loads(called.environment[test.REAL_EL6])
    mirrors = ["--mirror", str(tmp_path), "--mirror", "http://127.0.0.1/files"]
    assert named == [*mirrors, "--line", "el6", "--artifacts", str(tmp_path / "artifacts")]
    assert building == ["--runtime", "auto", "--image", "auto", "--kernel-config", "full"]
    assert called.environment["PATH"] == os.environ["PATH"]


def test_a_line_file_stands_for_the_line_and_places_hold_wherever_the_checks_run(
    called: Pytest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").touch()
    chosen = {"runtime": "docker", "image": "centos6", "kernel_config": "small"}
    test.accept_real(context(mirror=["m"], line_file="own.toml", artifacts="artifacts", **chosen), "boots")
    assert called.argv[-2:] == ["-k", "boots"]
    named, building = json.loads(called.environment[test.REAL_EL6])
    assert named == [
        *("--mirror", str(tmp_path / "m")),
        "--line-file",
        str(tmp_path / "own.toml"),
        "--artifacts",
        str(tmp_path / "artifacts"),
    ]
    assert building == ["--runtime", "docker", "--image", "centos6", "--kernel-config", "small"]


def test_the_acceptance_checks_say_what_they_do_before_they_begin(called: Pytest, tmp_path: Path) -> None:
    said = io.StringIO()
    settings = load({"mirror": [str(tmp_path)]}, {})
    test.accept_real(RunContext(settings, Console(out=io.StringIO(), err=said)), "")
    assert test.ACCEPTANCE in said.getvalue()
