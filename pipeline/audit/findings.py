"""Collect the findings of an audit: what was checked, of what, with which result, and why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.errors import PipelineError


class Result(StrEnum):
    """The result of one check, from good to bad."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One result. `subject` is the file, statement or source that was checked, `reason` one sentence."""

    check: str
    subject: str
    result: Result
    reason: str


@dataclass
class Findings:
    """The findings so far, in the order of the checks."""

    rows: list[Finding] = field(default_factory=list)

    def good(self, check: str, subject: str, reason: str) -> None:
        """Record what holds."""
        self.rows.append(Finding(check, subject, Result.PASS, reason))

    def warn(self, check: str, subject: str, reason: str) -> None:
        """Record what a person must judge."""
        self.rows.append(Finding(check, subject, Result.WARN, reason))

    def fail(self, check: str, subject: str, reason: str) -> None:
        """Record what does not hold."""
        self.rows.append(Finding(check, subject, Result.FAIL, reason))

    def require(self, check: str, subject: str, problem: str, reason: str) -> bool:
        """Record `problem` as a failure, or `reason` where there is none; return whether it holds."""
        if problem:
            self.fail(check, subject, problem)
        else:
            self.good(check, subject, reason)
        return not problem

    @contextlib.contextmanager
    def failing(self, check: str, subject: str) -> Iterator[None]:
        """Record what the block refuses, or finds damaged, as a failure of this check, and go on."""
        try:
            yield
        except PipelineError as error:
            self.fail(check, subject, ": ".join(filter(None, (error.what, error.why))))
        except (OSError, ValueError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.fail(check, subject, text)

    @property
    def worst(self) -> Result:
        """The worst result."""
        order = list(Result)
        return max((row.result for row in self.rows), key=order.index, default=Result.FAIL)
