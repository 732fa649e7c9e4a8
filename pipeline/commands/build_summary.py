"""Print the end of a build: steps, packages with their digests, the compiler cache, the repository.

Reads the scheduler's results only. Must not know how anything is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline.config.line_model import Line, LineIdentity
from pipeline.core.units import human_bytes
from pipeline.errors import BuildFailed, HostLacks, PipelineError, Refused
from pipeline.packaging.ccache import CacheStatistics, total
from pipeline.packaging.scheduler import Outcome, State
from pipeline.publish.layout import PLACEHOLDER
from pipeline.recipes.base import CERTIFICATE

if TYPE_CHECKING:
    from pipeline.core.console import Console
    from pipeline.packaging.reproducible import RebuildResult
    from pipeline.packaging.step_record import Published

_WOULD = {State.RAN: "would run", State.TAKEN: "would be taken"}  # in a forecast
SHORT = 16  # digits of a digest that a table shows


@dataclass(frozen=True)
class Package:
    """An unsigned package at `unsigned`; `size` in bytes, `state` whether its step ran now or was reused."""

    step: str
    file: str
    sha256: str
    size: int
    state: State
    unsigned: Path


@dataclass
class Summary:
    """A finished run: its outcomes by step, and `seconds` it took.

    `publish` is the publishing step, `repository` the directory in which that publishes.
    """

    outcomes: Mapping[str, Outcome]
    publish: str
    repository: Path
    seconds: float

    @cached_property
    def packages(self) -> list[Package]:
        """Every package there is of this run's steps, with the digest that its step's record has of it."""
        return [
            Package(outcome.step, path.name, entry.content, entry.stamp[0], outcome.state, outcome.out / "out" / path)
            for outcome in self.outcomes.values()
            if outcome.record
            for name, entry in sorted(outcome.record.output.items())
            if (path := PurePosixPath(name)).match("rpms/*.rpm")
        ]

    @cached_property
    def certificates(self) -> dict[str, str]:
        """Return by which certificate the modules of each step are signed; a step whose modules are not is left out."""
        made = {name: outcome.record.inputs for name, outcome in self.outcomes.items() if outcome.record}
        return {name: inputs[CERTIFICATE] for name, inputs in made.items() if CERTIFICATE in inputs}

    @cached_property
    def compiled(self) -> dict[str, CacheStatistics]:
        """Return the compiler cache's figures for each step that ran now and used it."""
        ran = {name: o.record for name, o in self.outcomes.items() if o.state is State.RAN and o.record}
        return {name: made.facts.ccache for name, made in ran.items() if made.facts.ccache}

    @cached_property
    def snapshot(self) -> Published | None:
        """The published snapshot; None without one.

        By its place in this run's repository: the record of an earlier run may have that from another directory.
        """
        outcome = self.outcomes.get(self.publish)
        found = outcome.record.facts.snapshot if outcome and outcome.record else None
        if found is None:
            return None
        line = self.repository / found.latest.parent.name
        return replace(found, path=line / found.path.parent.name / found.id, latest=line / found.latest.name)

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {
            "steps": {name: _step(outcome) for name, outcome in self.outcomes.items()},
            "packages": self.packages,
            "certificates": self.certificates,
            "ccache": {**vars(total(self.compiled.values())), "steps": self.compiled},
            "snapshot": self.snapshot,
            "seconds": round(self.seconds, 2),
        }

    def tell(self, console: Console, title: str, publishing: str, *, steps: bool, held: bool = False) -> None:
        """Print the summary. `publishing` is the command that signs and publishes; `steps` prints each one.

        `held`: the snapshot does not become the latest.
        """
        if steps or any(outcome.state is not State.REUSED for outcome in self.outcomes.values()):
            rows = [(o.step, o.state.value, f"{o.seconds:.1f} s", o.why) for o in self.outcomes.values()]
            console.table(("step", "what", "took", "because"), rows, title)
        if self.packages:
            headings = ("package", "size", "sha256", "what", "unsigned copy in")
            console.table(headings, [_row(package) for package in self.packages])
        for name, certificate in self.certificates.items():
            console.say(f"{name}: modules signed by {certificate}")
        for name, counted in self.compiled.items():
            console.say(f"{name}: the compiler cache had {counted}")
        if len(self.compiled) > 1:
            console.say(f"in all: the compiler cache had {total(self.compiled.values())}")
        self._tell_repository(console, publishing, held=held)
        reused = sum(outcome.state is State.REUSED for outcome in self.outcomes.values())
        count = f"{len(self.outcomes)} step{'s' * (len(self.outcomes) != 1)}"
        console.say(f"{count} in {self.seconds:.1f} s, {reused} of them reused")

    def _tell_repository(self, console: Console, publishing: str, *, held: bool) -> None:
        snapshot = self.snapshot
        if self.publish not in self.outcomes and self.packages:
            console.say(f"neither signed nor published: `{publishing}` does both")
        if snapshot:
            kind = "development key, NOT for production" if snapshot.development else "key"
            console.say(f"signed by the {kind}: {snapshot.fingerprint}")
            if held:
                console.say(f"held, {snapshot.latest} stays as it is: {snapshot.path}")
                return
            console.say(f"repository: {snapshot.latest} -> {snapshot.path}")
            if snapshot.baseurl == PLACEHOLDER:
                console.say(f"the address in these files is a placeholder, {PLACEHOLDER}; publish with --baseurl URL")
            else:
                console.say(f"files for /etc/yum.repos.d of machines that take packages from {snapshot.baseurl}:")
            for file in sorted(snapshot.path.glob("*.repo")):
                console.say(f"  {snapshot.latest}/{file.name}")


def _row(package: Package) -> tuple[str, ...]:
    what = "built" if package.state is State.RAN else package.state.value
    size, digest = human_bytes(package.size), f"{package.sha256[:SHORT]}…"
    return package.file, size, digest, what, str(package.unsigned.parent)


@dataclass(frozen=True)
class StepResult:
    """The end of a step; `seconds` it took, `out` the directory of its output."""

    state: State
    why: str
    key: str
    seconds: float
    out: Path


def _step(outcome: Outcome) -> StepResult:
    return StepResult(outcome.state, outcome.why, outcome.key, round(outcome.seconds, 2), outcome.out / "out")


@dataclass(frozen=True)
class Forecast:
    """The forecast of a run: for each step whether it would run, be reused or taken, and what decides it.

    `missing_image` is the builder image that would be made first, empty for none. Until it is made its key is not
    known, so that every step counts as one that would run.
    """

    line: Line
    steps: Mapping[str, tuple[State, str]]
    missing_image: str = ""

    def tell(self, console: Console) -> None:
        """Print a table of the steps."""
        if self.missing_image:
            console.say(
                f"the builder image {self.missing_image} would be made first; "
                "when it turns out to be one that steps ran in before, those are reused"
            )
        rows = [(name, _WOULD.get(state, state.value), why) for name, (state, why) in self.steps.items()]
        console.table(("step", "what", "because"), rows, f"line {self.line.label}")

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        steps = {name: {"would": state, "why": why} for name, (state, why) in self.steps.items()}
        return {**vars(LineIdentity(*self.line.identity)), "missing_image": self.missing_image, "steps": steps}


@dataclass(frozen=True)
class BuildResult:
    """A build that ended well, with the comparison of two builds where there was one."""

    line: Line
    summary: Summary
    comparison: RebuildResult | None = None
    unsigned: Path | None = None

    @property
    def snapshot(self) -> str:
        """The id of the published snapshot; empty without one."""
        return self.summary.snapshot.id if self.summary.snapshot else ""

    def key(self, step: str) -> str:
        """Return the key of a step of this run; empty for one that was not in it."""
        outcome = self.summary.outcomes.get(step)
        return outcome.key if outcome else ""

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        compared = vars(self.comparison) if self.comparison else {}
        left = {"unsigned": self.unsigned} if self.unsigned else {}
        return {**vars(LineIdentity(*self.line.identity)), **self.summary.to_json(), **compared, **left}


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
