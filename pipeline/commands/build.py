"""`inv build-all` and `inv build`: from verified sources to packages, and to a signed repository snapshot.

Puts the parts together and holds no knowledge of its own: sources, the proof of each series, the
builder image, the plan of the line's recipe, and the snapshot at its end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.commands import leftovers
from pipeline.commands.build_summary import Summary, failure, forecast
from pipeline.config import line_loader
from pipeline.config.context import RunContext
from pipeline.config.line_checks import required
from pipeline.config.line_model import BuildSpec, DebianSource, Line, RoleName
from pipeline.config.settings import TABLE, Settings
from pipeline.core import neutral, trees
from pipeline.core.fs import write_atomic
from pipeline.core.locks import locked
from pipeline.errors import Refused, UsageError
from pipeline.packaging import ccache as compilercache
from pipeline.packaging import job as sandboxed
from pipeline.packaging import progress, reproducible, step_record
from pipeline.packaging.graph import Plan, Step, Work
from pipeline.packaging.scheduler import SHELL_LOCK, Outcome, Scheduler, State
from pipeline.packaging.step_record import Phase
from pipeline.patching import series
from pipeline.recipes import guest_userland, modules, registry
from pipeline.recipes.base import BuildInputs, Recipe
from pipeline.recipes.builder_images import builder, check_image
from pipeline.sandbox import images
from pipeline.sandbox.runtime import Job, JobResult, Limits, Runtime
from pipeline.sources import preflight
from pipeline.sources.resolver import Sources, Verified

if TYPE_CHECKING:
    from pipeline.publish.snapshot_contents import Contents

PUBLISH = "repository"
AGAIN = "+again"  # behind a line's name, where no line's name can have it: its second builds
# What `inv build` takes, each a step or several: packages, and the programs of the lab's guests.
PACKAGES = ("kernel", "ipvsadm", "keepalived", "role-packages", guest_userland.STEP)
_TOOLS = ("ipvsadm", "keepalived")
_PUBLISHING = ("pipeline.publish.snapshot",)  # the modules that make a snapshot


class LazyRuntime:
    """The runtime asked for, looked for only when something has to be built."""

    def __init__(self, context: RunContext) -> None:
        self._session = context

    @cached_property
    def _chosen(self) -> Runtime:
        from pipeline.sandbox.choice import choose

        chosen = choose(self._session.settings.runtime, self._session.console)
        for left in chosen.reap():
            self._session.console.note(f"removed what a killed run left: {left}")
        return chosen

    @property
    def name(self) -> str:
        """As evidence names it."""
        return self._chosen.name

    def run(self, job: Job) -> JobResult:
        """Runs the job."""
        return self._chosen.run(job)

    def shell(self, job: Job) -> int:
        """The job on the person's terminal."""
        return self._chosen.shell(job)

    def reap(self) -> list[str]:
        """Nothing: that was done when it was chosen."""
        return []


@dataclass
class BuildCommand:
    """One line's way from sources to a repository, in one session. `again`: builds that are only compared."""

    line: Line
    context: RunContext
    again: bool = False

    @cached_property
    def runner(self) -> Scheduler:
        """What runs the plan."""
        settings = self.context.settings
        return Scheduler(
            settings.artifacts / "steps" / f"{self.line.name}{AGAIN if self.again else ''}",
            settings.build_jobs,
            self.context.console.note,
            settings.force,
            settings.keep_going,
            self.options,
            self.context.console.warn,
            settings.verify,
        )

    @property
    def options(self) -> tuple[str, ...]:
        """What the command line needs to mean this line, these artifacts and these builds again."""
        settings = self.context.settings
        words = ["--line-file", str(settings.line_file)] if settings.line_file else ["--line", self.line.name]
        for row in (TABLE[name] for name in ("artifacts", "runtime", "image", "kernel-config")):
            value = getattr(settings, row.attribute)
            words += [] if value == row.default else [row.option, str(value)]
        return (*words, *(["--no-ccache"] if settings.no_ccache else []))

    @property
    def publishing(self) -> str:
        """The command line that builds and publishes the same by the same key."""
        rows, settings = (TABLE[name] for name in ("gpg-key", "baseurl")), self.context.settings
        given = {row.option: getattr(settings, row.attribute) for row in rows}
        words = [w for option, value in given.items() if value != TABLE[option[2:]].default for w in (option, value)]
        return neutral.command(["./inv", "build-all", *self.options, *words])

    @cached_property
    def recipe(self) -> Recipe:
        """How this line is built. Raises `FileProblems` where its file does not say it, or not all of it."""
        return registry.recipe(self.line)

    @property
    def build_spec(self) -> BuildSpec:
        """What the line says of its build."""
        return required(self.line.data.build, "[build]")

    def image(self, *, fresh: bool = False) -> images.Image:
        """The builder image, made when it is not there. Before that, what killed runs left goes."""
        leftovers.remove(self.context.settings.artifacts)
        return builder(self.context, self.build_spec.images, fresh=fresh)

    @property
    def small(self) -> bool:
        """Whether kernels get the small configuration."""
        return self.context.settings.kernel_config == "small"

    def plan(self) -> Plan:
        """Every step of this line. Fetches and proves the sources first: their digests are in the keys."""
        recipe, settings = self.recipe, self.context.settings
        sources = Sources(self.line, settings, self.context.console)
        found = sources.fetch(settings.image)  # before the image: making it takes a minute, and these may be refused
        proven = series.verify_patches(self.line, _by_name(found))
        trees = series.Trees(self.line, proven, _by_name(found), self.context)
        series.verify_roles(self.line, proven, trees)
        image = self.image()
        if image.name != settings.image and sources.has_own(image.name):
            found = sources.fetch(image.name)
        verified = _by_name(found)
        bench = sandboxed.BuildEnvironment(LazyRuntime(self.context), image, self.ccache(image.name), _limits(settings))
        steps = recipe.steps(BuildInputs(self.line, verified, proven, bench, trees.of, self.small))
        published = [step.name for step in steps if step.name != guest_userland.STEP]
        whole = Plan([*steps, self._publish_step(published)])
        return whole.only(settings.only) if settings.only else whole

    def ccache(self, image: str) -> Path | None:
        """Where this line file's compiler caches are; None where every file is to be compiled."""
        settings = self.context.settings
        without = self.again or settings.no_ccache
        return None if without else compilercache.directory(settings.artifacts / "ccache", self.line, image)

    def _publish_step(self, needs: Sequence[str]) -> Step:
        settings = self.context.settings
        inputs = {
            "line": self.line.label,
            "notice": self.line.notice,
            "gpg-key": settings.gpg_key or "development",
            "baseurl": settings.baseurl,
            "small": self.small,
            "old-readers": self.build_spec.old_readers,
        }
        return Step(PUBLISH, self._publish, inputs, tuple(needs), _PUBLISHING)

    def _publish(self, work: Work) -> None:
        from pipeline.publish import signers, signing, snapshot

        settings = self.context.settings
        wanted = self._contents(work)
        with signing.open_signer(settings.gpg_key, settings.artifacts / "keys") as signer:
            made = snapshot.make_snapshot(wanted, signer, settings.artifacts / "repo")
        signers.record(settings.artifacts, wanted.directory, made.fingerprint)
        document = {"id": made.id, "path": str(made.path), "latest": str(made.latest), "fingerprint": made.fingerprint}
        work.facts["snapshot"] = {**document, "development": made.development}
        work.elsewhere.extend([made.path, made.latest, signers.record_path(settings.artifacts, wanted.directory)])

    def _contents(self, work: Work) -> Contents:
        """Which package goes into which set: a role's kernel, and what that role needs beside it.

        Their names and digests are those of the records, whatever lies in the directories.
        """
        from pipeline.publish.snapshot_contents import BuiltPackage, Contents

        def built(step: str, prefix: str = "") -> list[BuiltPackage]:
            if step not in work.records:
                return []
            made = work.records[step]
            small = self.small and step.startswith("kernel:")
            again = neutral.command(["./inv", "build-all", "--force", step, *self.options])
            return [
                BuiltPackage(work.needs[step] / name, step, small, entry.content, made.key, again)
                for name, entry in sorted(made.output.items())
                if PurePosixPath(name).match(f"rpms/{prefix}*.rpm")
            ]

        tools = [package for name in _TOOLS for package in built(name)]
        beside = {
            RoleName.DIRECTOR: [*tools, *built("role-packages", "lvs-fnat-director")],
            RoleName.REALSERVER: built("role-packages", "lvs-fnat-realserver"),
            RoleName.STOCK: [*tools, *built("role-packages")],
        }
        data = self.line.data
        kernels = {role: built(f"kernel:{data.kernel_of(role)}") for role in data.roles}
        own = {
            role: [rpm for name in model.packages for rpm in built(f"{modules.STEP}:{name}")]
            for role, model in data.roles.items()
        }
        sets = {role.value: [*kernels[role], *own[role], *beside[role]] for role in data.roles}
        return Contents(
            line=self.line.name,
            label=self.line.label,
            sets=sets,
            notice=self.line.notice,
            old_readers=self.build_spec.old_readers,
            small=self.small,
            baseurl=self.context.settings.baseurl,
        )

    def made(self, name: str) -> Path:
        """The output of one step, which runs if it must. Raises its error."""
        with self.runner.shared_lock():
            outcomes = self._run_as_it_is(self.plan().only([name]))
        if error := failure(outcomes):
            raise error
        return self.runner.output(outcomes[name])

    def build(self, names: Sequence[str], role: str = "") -> dict[str, Any]:
        """The packages of these names only, of one role's kernel where one is given; nothing is published."""
        steps = _steps_of(self.line, names, role)
        settings = replace(self.context.settings, only=steps)
        return replace(self, context=replace(self.context, settings=settings)).build_all()

    def build_all(self) -> dict[str, Any]:
        """Does everything and returns it as `--json` prints it. Raises the first step's error that failed."""
        begun = time.monotonic()
        self._check_names()
        tried = self._must_publish()
        if tried:
            self._try_key()
        self._look()
        with self.runner.shared_lock():
            plan = self.plan()
            if self.context.settings.dry_run:
                told = forecast(plan, self.runner, self.context.console, f"line {self.line.label}")
                return {**self.line.evidence(), **told}
            if not tried and PUBLISH in plan.steps and self.runner.explain(plan)[PUBLISH][0] is State.RAN:
                self._try_key()
            outcomes, comparison = self._run(plan)
            return self._ended(Summary(outcomes, PUBLISH, time.monotonic() - begun), comparison)

    def _check_names(self) -> None:
        """Raises `UsageError` for a line, an image or steps that are not there, before anything is asked for."""
        settings = self.context.settings
        check_image(settings.image, self.build_spec.images)
        known = (*PACKAGES, *_steps_by_name(self.line), PUBLISH)
        for option, names in (("--only", settings.only), ("--force", settings.force)):
            if unknown := [name for name in names if name not in known]:
                what = f"{option}: no step is called {', '.join(unknown)}"
                raise UsageError(what, why=f"steps: {', '.join(known)}", hint="./inv build-all --dry-run shows them")

    def _must_publish(self) -> bool:
        """Whether this run is certain to publish with a person's key, before its plan is known."""
        from pipeline.publish import signers

        settings = self.context.settings
        if not settings.gpg_key or settings.dry_run or (settings.only and PUBLISH not in settings.only):
            return False
        return PUBLISH in settings.force or not signers.recorded_fingerprint(settings.artifacts, self._published_as)

    def _try_key(self) -> None:
        """Sign something now, so that a key that cannot is told before hours of building, not after them."""
        from pipeline.publish import signing

        settings = self.context.settings
        with signing.open_signer(settings.gpg_key, settings.artifacts / "keys"):
            pass

    @property
    def _published_as(self) -> str:
        """The line's directory in the repository."""
        from pipeline.publish.snapshot_contents import directory_of

        return directory_of(self.line.name, small=self.small)

    def _look(self) -> None:
        """Raises `Unreachable` within seconds where sources are missing and no address of theirs answers."""
        sources = Sources(self.line, self.context.settings, self.context.console)
        if missing := sources.unavailable():
            hint = "add --mirror DIR with the files in DIR, as `./inv mirror export DIR` makes it on another host"
            if self.context.settings.offline:
                hint = f"drop --offline, or {hint}"
            if others := [name for name in line_loader.names() if name != self.line.base and _is_of_debian(name)]:
                hint += f"; or build a kernel from Debian's archive: ./inv build-all --line {others[0]}"
            raise preflight.failure(missing, hint)

    def _ended(self, summary: Summary, comparison: Mapping[str, Any]) -> dict[str, Any]:
        settings = self.context.settings
        summary.tell(self.context.console, f"line {self.line.label}", self.publishing, steps=settings.explain)
        if error := failure(summary.outcomes):
            raise error
        return {**self.line.evidence(), **summary.as_dict(), **comparison}

    def _run(self, plan: Plan) -> tuple[dict[str, Outcome], dict[str, Any]]:
        """Runs the plan; where it was asked for, nothing is published before a second build gave the same packages."""
        packages = [name for name in plan.steps if name != PUBLISH]
        if not self.context.settings.check_reproducible or not packages:
            return self._run_as_it_is(plan), {}
        outcomes = self._run_as_it_is(plan.only(packages))
        if failure(outcomes):
            return outcomes, {}
        comparison = self._compare(plan.only(packages), outcomes)
        self.runner.force = tuple(name for name in self.runner.force if name == PUBLISH)
        return {**self._run_as_it_is(plan), **outcomes}, comparison

    def _run_as_it_is(self, plan: Plan) -> dict[str, Outcome]:
        with progress.progress_reported(plan, self.runner, self.context.console):
            return self.runner.run(plan)

    def _compare(self, plan: Plan, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
        """Builds the plan's packages again, each file compiled, elsewhere; what came of it, ready for JSON.

        Raises `BuildFailed` where packages differ.
        """
        console = self.context.console
        left_out = {step.name: step.differs for step in plan.steps.values() if step.differs}
        for name, why in left_out.items():
            console.say(f"{name} is left out of the comparison: {why}")
        names = [name for name in plan.steps if name not in left_out]
        if not names:
            return {"compared": [], "left_out": left_out}
        console.note(f"building again, without the compiler cache: {', '.join(names)}")
        other = replace(self, again=True)
        with locked(other.runner.root.with_name(f"{other.runner.root.name}.lock")):
            second = other.run_again(names)
            before, after = ({name: self.runner.output(made[name]) for name in names} for made in (outcomes, second))
            reports = self.context.settings.artifacts / "reports" / "reproducible" / self.line.name
            compared = reproducible.compare(before, after, reports)
            comparison = {"compared": [item.as_dict() for item in compared], "left_out": left_out}
            self._told_compared(compared, comparison)
            reproducible.check(compared)
            trees.remove(other.runner.root)  # nobody needs the same bytes twice
        return comparison

    def run_again(self, names: Sequence[str]) -> dict[str, Outcome]:
        """Builds the steps of these names whatever is there. Raises the error of one that failed."""
        plan = self.plan().only(names)
        self.runner.force = tuple(plan.steps)
        outcomes = self._run_as_it_is(plan)
        if error := failure(outcomes):
            error.what = f"in the second build, that of the comparison: {error.what}"
            error.hint = neutral.command(
                ["./inv", "build-all", "--check-reproducible", *self.options]
            )  # no shell leads there
            raise error
        return outcomes

    def _told_compared(self, compared: Sequence[reproducible.Comparison], comparison: Mapping[str, Any]) -> None:
        rows = [(c.file, c.first[:16], c.second[:16], "the same" if c.same else "DIFFERENT") for c in compared]
        title = f"line {self.line.label}: built twice"
        self.context.console.table(("package", "sha256", "of the second build", "bytes"), rows, title)
        place = self.context.settings.artifacts / "evidence" / self.line.name / "reproducible.json"
        write_atomic(place, json.dumps({**self.line.evidence(), **comparison}, indent=2) + "\n")


def _steps_by_name(line: Line) -> list[str]:
    """List the steps of kernels and of roles' packages."""
    return [
        *(f"kernel:{role}" for role in line.data.kernels),
        *(f"{modules.STEP}:{name}" for name in line.data.packages),
    ]


def _by_name(found: Sequence[Verified]) -> dict[str, Verified]:
    return {item.name: item for item in found}


def _is_of_debian(name: str) -> bool:
    """Whether every source of a line of the project comes from Debian's archive, which many hosts mirror."""
    return all(isinstance(source, DebianSource) for source in line_loader.load(name).data.sources.values())


def _limits(settings: Settings) -> Limits:
    return Limits(
        wall=settings.build_time,
        idle=settings.build_silence,
        memory=settings.build_memory << 20,
        size=settings.build_disk << 20,
        processes=settings.build_processes,
    )


def _steps_of(line: Line, names: Sequence[str], role: str) -> tuple[str, ...]:
    """The steps that packages of these names come from. Raises `UsageError` for names and roles that are not there."""
    unknown = [name for name in names if name not in PACKAGES]
    if unknown or not names:
        what = f"no package is called {', '.join(unknown)}" if unknown else "which packages?"
        raise UsageError(what, why=f"names: {', '.join(PACKAGES)}", hint="./inv build kernel --role stock")
    if not role:
        return tuple(names)
    if "kernel" not in names:
        raise UsageError("--role is for the kernel", why=f"asked for: {', '.join(names)}", hint="./inv build kernel")
    if role not in line.data.roles:
        raise UsageError(
            f"the line {line.name} has no role {role}",
            why=f"its roles: {', '.join(line.data.roles)}",
            hint="./inv lines",
        )
    kernel = f"kernel:{line.data.kernel_of(RoleName(role))}"
    return tuple(kernel if name == "kernel" else name for name in names)


def shell(line: Line, step: str, context: RunContext) -> dict[str, Any]:
    """A shell where a step failed: the same image, mounts and environment; `$BUILD_COMMAND` is the command."""
    directory = context.settings.artifacts / "steps" / line.name / step.replace(":", "-") / ".failed"
    _check_failed(directory, line, step, BuildCommand(line, context).options)
    job = replace(sandboxed.load_failed_job(directory), limits=_limits(context.settings))
    context.console.note(
        f"the sandbox of {step}, as it failed; `eval $BUILD_COMMAND` runs its command again; `exit` leaves"
    )
    with locked(directory.with_name(SHELL_LOCK), shared=True):  # so that it is not cleaned away meanwhile
        return {"status": LazyRuntime(context).shell(job)}


def _check_failed(directory: Path, line: Line, step: str, options: Sequence[str]) -> None:
    """Refuse to enter what another run left, or one whose record is damaged; what is not there is told later."""
    if directory.is_dir():
        try:
            known = step_record.read(directory)
            found = f"{known.line} {known.step}, {known.state}"
        except step_record.Damaged as error:
            found = f"a damaged one: {error}"
        # A full disk may have kept the record from saying how the run ended.
        if found not in (f"{line.name} {step}, {state}" for state in (Phase.FAILED, Phase.RUNNING)):
            raise Refused(
                f"{step_record.FILE}: not the record of the step that failed; expected {line.name} {step}, got {found}",
                where=str(directory),
                why="the shell's mounts and commands are those that were kept there",
                hint=neutral.command(["./inv", "build-all", "--only", step, *options]),
            )
