"""The next commands of real failures, typed: in a place with a blank and an umlaut, of a line outside the project."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import tasks
from pipeline.config import command_line, next_command
from pipeline.core import process
from pipeline.errors import ExitCode
from tests.fixtures.commandline import Ended, Inv
from tests.fixtures.toy import Toy, make_toy

VERBS = {task.verb.name: task.verb for task in vars(tasks).values() if hasattr(task, "verb")}
CHEAP = {
    "status",
    "lines",
    "clean",
    "store",
    "pin",
    "patches",
    "doctor",
    "logs",
}  # nothing is built or booted


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy") / "ein Stück")


class Place:
    """A place to work in, with the options that all of its runs are given."""

    def __init__(self, tmp_path: Path, toy: Toy) -> None:
        self.inv = Inv(tmp_path)
        self.line = ("--line-file", str(toy.line_file))
        self.artifacts = ("--artifacts", str(tmp_path / "für alle"))

    def run(self, *words: str) -> Ended:
        """A run that may end with any code of a known error."""
        argv, environment = self.inv.argv(*words), self.inv.environment()
        result = process.run(argv, env=environment, cwd=self.inv.cwd, timeout=self.inv.patience, accept=range(9))
        assert result.status != ExitCode.BUG, result.error_text
        return Ended(result.status, result.text, result.error_text)

    def typed(self, ended: Ended) -> Iterator[list[str]]:
        """The commands that a run printed, each as a shell would read it."""
        for found in next_command._COMMAND.finditer(ended.out + ended.err):
            words = shlex.split(found[1])
            if words[0] in VERBS:
                yield words


@pytest.fixture
def place(tmp_path: Path, toy: Toy) -> Place:
    return Place(tmp_path, toy)


@pytest.mark.parametrize(
    "typed",
    [
        "fetch",
        "fetch --offline",
        "patches",
        "build-all --offline",
        "build-all --only nothing",
        "build kernel --role nobody",
        "build-all --image fedora",
        "smoke",
        "boot --kernel-config small",
        "lab --scenario nat",
        "shell kernel:stock",
        "status",
        "logs",
        "logs kernel",
        "clean",
        "pin toy nothing",
        "mirror import nowhere",
        "mirror export there --offline",
        "image --image fedora",
        "lines",
        "test --real",
        "status --line nothing --verify",
        "doctor --kernel nowhere --offline",
    ],
)
def test_what_a_run_prints_can_be_typed_and_is_about_the_same_things(typed: str, place: Place) -> None:
    verb = VERBS[typed.partition(" ")[0]]
    line = place.line if "line-file" in verb.parameters else ()
    ended = place.run(*shlex.split(typed), *line, *place.artifacts)
    for words in place.typed(ended):
        (call,) = command_line.parse(words, VERBS)
        assert call.values.get("artifacts") == place.artifacts[1], words
        own = call.verb.parameters.get("line")
        if line and own and own.setting and "line" not in call.values:
            assert call.values.get("line-file") in (place.line[1], "DIR/lines/toy/toy.toml"), words
        if call.verb.name in CHEAP and not any(word.isupper() for word in words):
            again = place.run(*words)
            assert not again.err.startswith("error: option"), again.err
