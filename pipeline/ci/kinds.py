"""Define what a kind of CI is: the options it takes, the files it reads, and the commands that put them to use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pipeline.config import next_command
from pipeline.config.line_model import Line
from pipeline.config.settings import Settings
from pipeline.core import neutral
from pipeline.errors import UsageError
from pipeline.packaging.graph import StepGraph

_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")


@dataclass(frozen=True)
class TimeOfDay:
    """A time of every day, in UTC, so that no change of summer time skips or repeats it."""

    hour: int
    minute: int

    @classmethod
    def parse(cls, text: str) -> TimeOfDay:
        """Read `HH:MM`. Raises `UsageError`."""
        found = _TIME.fullmatch(text)
        if found is None:
            what = f"--at: {text!r}; expected a time of the day in UTC, as 03:17"
            raise UsageError(what, hint="./inv --help ci")
        return cls(int(found[1]), int(found[2]))

    @property
    def cron(self) -> str:
        """The time as crontab(5) has it."""
        return f"{self.minute} {self.hour} * * *"

    @property
    def calendar(self) -> str:
        """The time as systemd.time(7) has it."""
        return f"*-*-* {self.hour:02}:{self.minute:02}:00 UTC"


def _no_plan(line: Line) -> StepGraph:
    raise UsageError(f"line {line.name}: its steps are not planned; expected a kind that needs none")


@dataclass(frozen=True)
class Request:
    """The lines to run, the settings that the runs repeat, the time, and the options of the kind.

    `plan` returns the steps of a line, which takes its sources.
    """

    lines: tuple[Line, ...]
    settings: Settings
    at: TimeOfDay
    options: Mapping[str, str]  # of those that the kind takes, the ones that were given
    plan: Callable[[Line], StepGraph] = _no_plan

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the lines."""
        return tuple(line.name for line in self.lines)

    def words(self, verb: str, *words: str) -> tuple[str, ...]:
        """Return the words and options behind `./inv` of a command of these settings.

        An address to notify may hold a secret, and files that are rendered are read by others.
        """
        settings = replace(self.settings, notify_url="")
        return next_command.completed_words(verb, words, next_command.without_line(settings))

    def made_by(self, kind: str, *besides: str) -> str:
        """Return the command that renders the same files once more, with the words `besides` at its end."""
        at = f"{self.at.hour:02}:{self.at.minute:02}"
        options = [word for name, value in self.options.items() for word in (f"--{name}", value)]
        return neutral.command(["./inv", *self.words("ci", kind, *self.names, "--at", at, *options), *besides])


class Kind(Protocol):
    """A service that runs our verbs, or the part of an operating system that does."""

    @property
    def takes(self) -> frozenset[str]:
        """The options of the verb `ci` that are of this kind, beside those of every kind."""

    def files(self, request: Request) -> Mapping[str, str]:
        """Return the content of each file by its path below the directory of the output.

        Raises `UsageError` for what the service could not run.
        """

    def commands(self, request: Request, output: Path) -> Sequence[str]:
        """Return the commands to type next, in order, each as it is typed."""
