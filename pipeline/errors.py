"""Define the typed errors: whose fault each is, the next command, and the exit code.

Knows nothing of kernels or commands: every other module raises these, and only
`pipeline.cli.app` turns them into text and an exit status.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the program; docs/exit-codes.md is generated from them."""

    OK = 0
    BUG = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    BUILD = 5
    TEST = 6
    HOST = 7
    LOCKED = 8

    @property
    def meaning(self) -> str:
        """The meaning of the code in one sentence, for help and docs."""
        return _MEANINGS[self]


# Foreign lines inside an error that look like its labels.
_LABEL = re.compile(r"(?m)(?<=\n) {0,3}(?=(?:error|warning|where|why|next):)")

_MEANINGS = {
    ExitCode.OK: "everything requested was done",
    ExitCode.BUG: "a mistake in this program; please report it with the log",
    ExitCode.USAGE: "a mistake on the command line or in a line file",
    ExitCode.UNREACHABLE: "a source was unreachable at every address",
    ExitCode.REFUSED: "verification failed: digest, signature, role or tree",
    ExitCode.BUILD: "a build step failed",
    ExitCode.TEST: "a test or a lab scenario failed",
    ExitCode.HOST: "the host lacks a program, a permission or disk space",
    ExitCode.LOCKED: "another run holds what this one needs",
}


def difference(expected: Iterable[str], got: Iterable[str]) -> str:
    """Return the names that only one of both has, for the text of an error; empty without any."""
    missing, unexpected = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    rows = (("missing", missing), ("unexpected", unexpected))
    return "; ".join(f"{title}: {', '.join(names)}" for title, names in rows if names)


@dataclass(frozen=True)
class ErrorDocument:
    """An error as JSON has it; `error` is its class, `next` its hint."""

    error: str
    exit_code: int
    what: str
    where: str
    why: str
    next: str


class PipelineError(Exception):
    """Base class of all errors that a person can act on.

    `what` happened, `where` (file:line, URL or path), `why` it matters, and `hint`: the next
    command to type. Only `what` is required.
    """

    code = ExitCode.BUG

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.hint = what, where, why, hint

    def __str__(self) -> str:
        parts = (("where", self.where), ("why", self.why), ("next", self.hint))
        rows = [f"  {label}: {text}".replace("\n", "\n    ") for label, text in parts if text]
        return "\n".join([_LABEL.sub("    ", self.what), *rows])

    def document(self) -> ErrorDocument:
        """Return what records keep of the error."""
        return ErrorDocument(type(self).__name__, int(self.code), self.what, self.where, self.why, self.hint)

    def to_json(self) -> dict[str, object]:
        """Return the error as `--json` prints it."""
        return vars(self.document())


class Mistake(PipelineError):
    """A defect of this program."""

    code = ExitCode.BUG


class UsageError(PipelineError):
    """A command line or line file that requests something missing or contradictory."""

    code = ExitCode.USAGE


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a file that a person edits: `file:line`, the problem, the allowed values."""

    file: str
    line: int
    what: str
    allowed: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" + (f"; allowed: {self.allowed}" if self.allowed else "")


class FileProblems(UsageError):
    """All mistakes of a line or settings file at once."""

    def __init__(self, title: str, problems: list[Problem], *, hint: str = "") -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join([title, *(f"  {p}" for p in self.problems)]), hint=hint)

    def to_json(self) -> dict[str, object]:
        """Return the error as `--json` prints it, with one object per mistake."""
        return {**super().to_json(), "problems": self.problems}


class Unreachable(PipelineError):
    """A source that no configured address delivered."""

    code = ExitCode.UNREACHABLE


class Refused(PipelineError):
    """Content that failed verification."""

    code = ExitCode.REFUSED


class BuildFailed(PipelineError):
    """A build step that failed or produced other output than requested."""

    code = ExitCode.BUILD


class HostLacks(PipelineError):
    """A host without a required program, permission or enough disk space."""

    code = ExitCode.HOST


class Locked(PipelineError):
    """A lock that another run holds."""

    code = ExitCode.LOCKED


class TestsFailed(PipelineError):
    """A failed test run or lab scenario."""

    __test__ = False  # not a test class, whatever pytest thinks of its name
    code = ExitCode.TEST
