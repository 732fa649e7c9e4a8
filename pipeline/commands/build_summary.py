"""Print the end of a build: steps, packages with their digests, the compiler cache, the repository.

Reads what the runner left and asks nothing else. Must not know how anything is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.config.line_model import Line
from pipeline.core.console import Console, human_bytes
from pipeline.errors import BuildFailed, HostLacks, PipelineError, Refused
from pipeline.packaging.ccache import CacheStatistics, total
from pipeline.packaging.reproducible import RebuildResult
from pipeline.packaging.scheduler import Outcome, State

SHORT = 16  # digits of a digest that a table shows


@dataclass(frozen=True)
class Package:
    """An unsigned package; `size` in bytes, `state` whether its step ran now or was reused."""

    step: str
    path: Path
    sha256: str
    size: int
    state: State

    def as_document(self) -> dict[str, Any]:
        """Return the document that `--json` prints."""
        document = {"step": self.step, "file": self.path.name, "sha256": self.sha256, "size": self.size}
        return {**document, "state": self.state.value, "unsigned": str(self.path)}


@dataclass
class Summary:
    """A finished run: its outcomes by step, and `seconds` it took. `publish` is the publishing step."""

    outcomes: Mapping[str, Outcome]
    publish: str
    seconds: float

    @cached_property
    def packages(self) -> list[Package]:
        """Every package there is of this run's steps, with the digest that its step's record has of it."""
        return [
            Package(outcome.step, outcome.out / "out" / name, entry.content, entry.stamp[0], outcome.state)
            for outcome in self.outcomes.values()
            if outcome.record
            for name, entry in sorted(outcome.record.output.items())
            if PurePosixPath(name).match("rpms/*.rpm")
        ]

    @cached_property
    def compiled(self) -> dict[str, CacheStatistics]:
        """Return the compiler cache's figures for each step that ran now and used it."""
        ran = {name: o.record for name, o in self.outcomes.items() if o.state is State.RAN and o.record}
        counts = {name: made.facts.get("ccache") for name, made in ran.items()}
        return {name: CacheStatistics(**count) for name, count in counts.items() if count}

    @cached_property
    def snapshot(self) -> dict[str, Any]:
        """Return the published snapshot; empty without one."""
        outcome = self.outcomes.get(self.publish)
        return dict(outcome.record.facts.get("snapshot", {})) if outcome and outcome.record else {}

    def as_document(self) -> dict[str, Any]:
        """Return the document that `--json` prints."""
        counts = total(self.compiled.values())
        return {
            "steps": {name: _step(outcome) for name, outcome in self.outcomes.items()},
            "packages": [package.as_document() for package in self.packages],
            "ccache": {**counts.as_dict(), "steps": {name: c.as_dict() for name, c in self.compiled.items()}},
            "snapshot": self.snapshot or None,
            "seconds": round(self.seconds, 2),
        }

    def tell(self, console: Console, title: str, publishing: str, *, steps: bool) -> None:
        """Print the summary. `publishing` is the command that signs and publishes; `steps` prints each one."""
        if steps or any(outcome.state is not State.REUSED for outcome in self.outcomes.values()):
            rows = [(o.step, o.state.value, f"{o.seconds:.1f} s", o.why) for o in self.outcomes.values()]
            console.table(("step", "what", "took", "because"), rows, title)
        if self.packages:
            headings = ("package", "size", "sha256", "what", "unsigned copy in")
            console.table(headings, [_row(package) for package in self.packages])
        for name, counted in self.compiled.items():
            console.say(f"{name}: the compiler cache had {counted}")
        if len(self.compiled) > 1:
            console.say(f"in all: the compiler cache had {total(self.compiled.values())}")
        self._tell_repository(console, publishing)
        reused = sum(outcome.state is State.REUSED for outcome in self.outcomes.values())
        count = f"{len(self.outcomes)} step{'s' * (len(self.outcomes) != 1)}"
        console.say(f"{count} in {self.seconds:.1f} s, {reused} of them reused")

    def _tell_repository(self, console: Console, publishing: str) -> None:
        snapshot = self.snapshot
        if self.publish not in self.outcomes and self.packages:
            console.say(f"neither signed nor published: `{publishing}` does both")
        if snapshot:
            kind = "development key, NOT for production" if snapshot["development"] else "key"
            console.say(f"signed by the {kind}: {snapshot['fingerprint']}")
            console.say(f"repository: {snapshot['latest']} -> {snapshot['path']}")
            console.say("next: put one of these into /etc/yum.repos.d of a machine; --baseurl sets where it looks")
            for file in sorted(Path(snapshot["path"]).glob("*.repo")):
                console.say(f"  {snapshot['latest']}/{file.name}")


def _row(package: Package) -> tuple[str, ...]:
    what = "built" if package.state is State.RAN else package.state.value
    size, digest = human_bytes(package.size), f"{package.sha256[:SHORT]}…"
    return package.path.name, size, digest, what, str(package.path.parent)


def _step(outcome: Outcome) -> dict[str, Any]:
    return {
        "state": outcome.state.value,
        "why": outcome.why,
        "key": outcome.key,
        "seconds": round(outcome.seconds, 2),
        "out": str(outcome.out / "out"),
    }


@dataclass(frozen=True)
class Forecast:
    """The forecast of a run: for each step whether it would run or be reused, and what decides it."""

    line: Line
    steps: Mapping[str, tuple[State, str]]

    def tell(self, console: Console) -> None:
        """Print a table of the steps."""
        rows = [
            (name, "would run" if state is State.RAN else state.value, why) for name, (state, why) in self.steps.items()
        ]
        console.table(("step", "what", "because"), rows, f"line {self.line.label}")

    def as_document(self) -> dict[str, Any]:
        """Return the document that `--json` prints."""
        steps = {name: {"would": state.value, "why": why} for name, (state, why) in self.steps.items()}
        return {**self.line.evidence(), "steps": steps}


@dataclass(frozen=True)
class BuildResult:
    """A build that ended well, with the comparison of two builds where there was one."""

    line: Line
    summary: Summary
    comparison: RebuildResult | None = None

    @property
    def snapshot(self) -> str:
        """Return the id of the published snapshot; empty without one."""
        return str(self.summary.snapshot.get("id", ""))

    def key(self, step: str) -> str:
        """Return the key of a step of this run; empty for one that was not in it."""
        outcome = self.summary.outcomes.get(step)
        return outcome.key if outcome else ""

    def as_document(self) -> dict[str, Any]:
        """Return the document that `--json` prints."""
        compared = self.comparison.as_document() if self.comparison else {}
        return {**self.line.evidence(), **self.summary.as_document(), **compared}


def failure(outcomes: Mapping[str, Outcome]) -> PipelineError | None:
    """Return the error of the failed steps, combined where there are several; None when none failed."""
    errors = [outcome.error for outcome in outcomes.values() if outcome.error is not None]
    return _together(errors) if errors else None


def _together(errors: Sequence[PipelineError]) -> PipelineError:
    if len(errors) == 1:
        return errors[0]
    # Two steps for which there is no room are the host's fault still.
    same = (kind for kind in (HostLacks, Refused) if all(isinstance(error, kind) for error in errors))
    return next(same, BuildFailed)("\n".join(map(str, errors)))
