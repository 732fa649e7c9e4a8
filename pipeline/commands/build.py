"""`inv build-all` and `inv build`: from verified sources to packages, and to a signed repository snapshot.

Puts the parts together and holds no knowledge of its own: what the run prepares once, the plan of the line's recipe,
the second build that is compared, and the snapshot at its end.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands import sharing
from pipeline.commands.attesting import RunAttester
from pipeline.commands.build_summary import BuildResult, Forecast, Summary, failure
from pipeline.commands.preparation import Preparation
from pipeline.commands.publishing import DEVELOPMENT, Publishing, last_publications
from pipeline.config import line_loader, next_command
from pipeline.config.line_model import BuildSpec, DebianSource, Line, RoleName, required
from pipeline.core import resources
from pipeline.core.fs import read_limited
from pipeline.core.suggestion import unknown
from pipeline.errors import UsageError
from pipeline.packaging import progress
from pipeline.packaging.exchange import Exchange
from pipeline.packaging.forecast import forecast as forecast_of
from pipeline.packaging.graph import StepGraph
from pipeline.packaging.scheduler import Outcome, Scheduler, State
from pipeline.publish.layout import PUBLISH, UNSIGNED
from pipeline.recipes import guest_userland, registry
from pipeline.recipes.base import MODULES_STEP, Recipe
from pipeline.recipes.builder_images import check_image

if TYPE_CHECKING:
    from pipeline.config.context import RunContext
    from pipeline.packaging.reproducible import RebuildResult
    from pipeline.sandbox.runtime import Image

# What `inv build` takes, each a step or several: packages, and the programs of the lab's guests.
PACKAGES = ("kernel", "ipvsadm", "keepalived", "role-packages", guest_userland.STEP)


@dataclass
class BuildCommand:
    """One line's way from sources to a repository, in one run; `hold`: what is published does not become the latest."""

    line: Line
    context: RunContext
    hold: bool = False

    @cached_property
    def preparation(self) -> Preparation:
        """The parts that this run establishes once: sources, proofs, images, steps."""
        recipe = self.recipe
        return Preparation(self.line, self.context, self.build_spec.images, recipe.steps)

    @cached_property
    def publishing(self) -> Publishing:
        """The publication of this run."""
        settings = self.context.settings
        last, newest = last_publications(self.runner, small=settings.kernel_config == "small")
        attestation_key = newest.get("attestation-key", DEVELOPMENT)
        return Publishing(self.line, settings, self.options, self.build_spec.old_readers, last, attestation_key)

    @cached_property
    def runner(self) -> Scheduler:
        """The scheduler of the plan."""
        settings = self.context.settings
        return Scheduler(
            settings.artifacts / "steps" / self.line.name,
            settings.build_jobs,
            self.context.console.note,
            settings.force,
            settings.keep_going,
            self.options,
            self.context.console.warn,
            settings.verify,
            attester=self.attester,
            exchange=self._exchange,
        )

    @cached_property
    def attester(self) -> RunAttester:
        """The maker of the statements about this run's steps."""
        # The key is that of the last publication, which the runner reads: so only when a statement is looked at.
        settings = self.context.settings
        return RunAttester(
            *(self.line, self.preparation, settings.artifacts),
            lambda: self.publishing.attestation_key,
            settings.shared_keys,
        )

    @property
    def _exchange(self) -> Exchange | None:
        """The exchange of results with other hosts; None without a shared store."""
        store = sharing.opened(self.context)
        return Exchange(self.line.name, store, self.attester, self.context.console.warn) if store else None

    @property
    def options(self) -> tuple[str, ...]:
        """The options that commands about this line repeat."""
        return next_command.options(self.context.settings, self.line.name)

    @property
    def command(self) -> str:
        """The command line that builds and publishes the same by the same key."""
        return next_command.command("build-all", [], self.options)

    @cached_property
    def recipe(self) -> Recipe:
        """How this line is built. Raises `FileProblems` where its file does not say it, or not all of it."""
        return registry.recipe(self.line)

    @property
    def build_spec(self) -> BuildSpec:
        """The line's `[build]` table."""
        return required(self.line.data.build, "[build]")

    def image(self, *, fresh: bool = False) -> Image:
        """Return the builder image of the settings, made when it is not there."""
        return self.preparation.image(fresh=fresh)

    def plan(self) -> StepGraph:
        """Plan every step of this run, or those that the settings name with what they need."""
        steps = self.preparation.steps()
        published = [step.name for step in steps if step.name != guest_userland.STEP]
        whole = StepGraph([*steps, self.publishing.step(published)])
        only = self.context.settings.only
        return whole.only(only) if only else whole

    def userland(self) -> Path:
        """Return the programs of the lab's guests, built where they are not there. Raises the step's error."""
        name = guest_userland.STEP
        graph = StepGraph(self.preparation.steps(guest_userland.IMAGE)).only([name])
        runner = replace(self.runner, force=())  # this run has built what it was to build
        with runner.shared_lock():
            outcomes = self._run_plan(graph, runner)
        if error := failure(outcomes):
            raise error
        return runner.output(outcomes[name])

    def build(self, names: Sequence[str], role: str = "") -> BuildResult | Forecast:
        """Build the packages of these names only, of one role's kernel where one is given; publish nothing."""
        steps = _steps_of(self.line, names, role)
        settings = replace(self.context.settings, only=steps)
        return replace(self, context=replace(self.context, settings=settings)).build_all()

    def build_all(self) -> BuildResult | Forecast:
        """Build and publish, or forecast that for a dry run. Raises the first step's error that failed."""
        begun = time.monotonic()
        self._check_names()
        _ = self.preparation.module_key  # an unusable one is reported before hours of building
        self._check_sharing_and_keys()
        tried = self.publishing.is_certain()
        if tried:
            self.publishing.try_key()
        self.look()
        with self.runner.shared_lock():
            graph = self.plan()
            if self.context.settings.dry_run:
                image = self.image()
                forecast = Forecast(self.line, forecast_of(self.runner, graph), "" if image.key else image.name)
                forecast.tell(self.context.console)
                return forecast
            if not tried and PUBLISH in graph.steps and self.runner.explain(graph)[PUBLISH][0] is State.RAN:
                self.publishing.try_key()
            outcomes, comparison = self._run(graph)
            summary = self._summary(outcomes, begun)
            steps = self.context.settings.explain
            title = f"line {self.line.label}"
            summary.tell(self.context.console, title, self.command, steps=steps, held=self.hold)
            if error := failure(outcomes):
                raise error
            if summary.snapshot and not self.hold:
                self.make_latest(summary.snapshot.path)
            return BuildResult(self.line, summary, comparison, self._unsigned(outcomes))

    def _unsigned(self, outcomes: Mapping[str, Outcome]) -> Path | None:
        """Return the unsigned snapshot that this run left; None without one."""
        if UNSIGNED not in outcomes:
            return None
        identity = read_limited(self.runner.output(outcomes[UNSIGNED]) / "id", 100).decode().strip()
        return self.context.settings.artifacts / UNSIGNED / self.publishing.directory / identity

    def sign(self, path: Path) -> BuildResult:
        """Sign and publish an unsigned snapshot of this line, verified first, and make it the latest."""
        from pipeline.audit import unsigned_checks
        from pipeline.publish import attestation_key

        begun, own = time.monotonic(), self.attester.open_key().public
        known = {own.id: own.pem, **attestation_key.trusted(self.context.settings.shared_keys)}
        found = unsigned_checks.verify(path, known)
        graph = StepGraph([self.publishing.signing_step(path, found)])
        with self.runner.shared_lock():
            outcomes = self._run_plan(graph, self.runner)
            summary = self._summary(outcomes, begun)
            summary.tell(self.context.console, f"line {self.line.label}", self.command, steps=False)
            if error := failure(outcomes):
                raise error
            if summary.snapshot:
                self.make_latest(summary.snapshot.path)
            return BuildResult(self.line, summary)

    def _summary(self, outcomes: Mapping[str, Outcome], begun: float) -> Summary:
        return Summary(outcomes, PUBLISH, self.context.settings.artifacts / "repo", time.monotonic() - begun)

    def make_latest(self, snapshot: Path) -> None:
        """Make a snapshot of this line its latest: state that, point mirrorlists and link to it; or change nothing."""
        from pipeline.publish import snapshot as snapshots

        days = self.context.settings.valid_days
        snapshots.move_latest(snapshot, lambda path: self.attester.latest_statement(path, days))

    def _check_names(self) -> None:
        """Raise `UsageError` for an unknown line, image or step before any request."""
        settings = self.context.settings
        check_image(settings.image, self.build_spec.images)
        last = UNSIGNED if settings.sign_later else PUBLISH
        known = (*PACKAGES, *_steps_by_name(self.line), last)
        for option, names in (("--only", settings.only), ("--force", settings.force)):
            if wrong := [name for name in names if name not in known]:
                raise unknown(f"step of {option}", wrong, known, hint="`./inv build-all --dry-run` shows the steps")

    def _check_sharing_and_keys(self) -> None:
        """Raise `UsageError`, `Refused` or `Unreachable` for keys, a shared store and caches that cannot be used.

        Before hours of building.
        """
        _ = self.attester.key_id, self.attester.trusted, self.runner, self.preparation.remote_caches("")

    def look(self) -> None:
        """Raise `Unreachable` within seconds where sources are missing and none of their addresses answers.

        Raises `Refused` for one without a pin.
        """
        if missing := self.preparation.sources.unavailable():
            hint = "add --mirror DIR with the files in DIR, as `./inv mirror export DIR` makes it on another host"
            if self.context.settings.offline:
                hint = f"drop --offline, or {hint}"
            if others := [name for name in resources.line_names() if name != self.line.base and _is_of_debian(name)]:
                hint += f"; or build a kernel from Debian's archive: ./inv build-all --line {others[0]}"
            from pipeline.sources import preflight

            raise preflight.failure(missing, hint)

    def _run(self, graph: StepGraph) -> tuple[Mapping[str, Outcome], RebuildResult | None]:
        """Run the plan; where the settings say so, publish only what a second build gave the same bytes of."""
        packages = [name for name in graph.steps if name not in (PUBLISH, UNSIGNED)]
        if not self.context.settings.check_reproducible or not packages:
            return self._run_plan(graph, self.runner), None
        outcomes = self._run_plan(graph.only(packages), self.runner)
        if failure(outcomes):
            return outcomes, None
        from pipeline.commands.reproducibility import Rebuild

        rebuild = Rebuild(self.line, self.context, self.runner, self._run_plan)
        comparison = rebuild.compare(graph.only(packages), outcomes)
        self.runner.force = tuple(name for name in self.runner.force if name in (PUBLISH, UNSIGNED))
        return {**self._run_plan(graph, self.runner), **outcomes}, comparison

    def _run_plan(self, graph: StepGraph, runner: Scheduler) -> Mapping[str, Outcome]:
        self._check_sharing_and_keys()
        with progress.progress_reported(graph, runner, self.context.console):
            return runner.run(graph)


def _steps_by_name(line: Line) -> list[str]:
    """List the steps of kernels and of roles' packages."""
    return [
        *(f"kernel:{role}" for role in line.data.kernels),
        *(f"{MODULES_STEP}:{name}" for name in line.data.packages),
    ]


def _is_of_debian(name: str) -> bool:
    """Return whether every source of a line of the project comes from Debian's archive, which has many mirrors."""
    return all(isinstance(source, DebianSource) for source in line_loader.load(name).data.sources.values())


def _steps_of(line: Line, names: Sequence[str], role: str) -> tuple[str, ...]:
    """Return the steps of packages with these names. Raises `UsageError` for unknown names and roles."""
    if wrong := [name for name in names if name not in PACKAGES]:
        raise unknown("package", wrong, PACKAGES, hint="./inv build kernel --role stock")
    if not names:
        what = "packages: none named; expected one or more"
        raise UsageError(what, why=f"names: {', '.join(PACKAGES)}", hint="./inv build kernel --role stock")
    if not role:
        return tuple(names)
    if "kernel" not in names:
        what = f"--role: expected kernel among the packages, got {', '.join(names)}"
        raise UsageError(what, hint="./inv build kernel")
    if role not in line.data.roles:
        raise unknown(f"role of the line {line.name}", role, line.data.roles, hint="./inv lines")
    kernel = f"kernel:{line.data.kernel_of(RoleName(role))}"
    return tuple(kernel if name == "kernel" else name for name in names)
