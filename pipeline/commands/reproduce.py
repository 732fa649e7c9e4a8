"""Run `inv reproduce`: rebuild a published snapshot from its statements and the store, and compare every package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.audit import audit, evidence, policy
from pipeline.audit.audit import Standing
from pipeline.audit.reproduction import Comparison, Package, Reproduction, StatedBuild, Verdict
from pipeline.commands.preparation import Earlier, Preparation
from pipeline.commands.task import Outcome
from pipeline.config import next_command
from pipeline.config.context import RunContext
from pipeline.config.line_model import Line, required
from pipeline.core import fs, trees
from pipeline.core.console import Console
from pipeline.core.locks import locked
from pipeline.errors import ExitCode, PipelineError, UsageError
from pipeline.packaging import progress
from pipeline.packaging.graph import StepGraph
from pipeline.packaging.inventory import COMPARISON_MARK
from pipeline.packaging.scheduler import Scheduler
from pipeline.recipes import guest_userland, registry

REPRODUCED = f"{COMPARISON_MARK}reproduced"  # behind a line's name: the steps of such rebuilds
_EXIT = {
    Verdict.IDENTICAL: ExitCode.OK,
    Verdict.CANNOT: ExitCode.HOST,
    Verdict.DIFFERENT: ExitCode.REFUSED,
}


def reproduce(context: RunContext, chosen: str) -> Outcome:
    """Rebuild the packages of a snapshot and compare them with the published ones; print the verdict of each.

    Raises `Refused` for a snapshot whose audit fails, and what keeps all of it from being rebuilt: `Unreachable`
    for a source that neither the store has nor anybody else.
    """
    path = evidence.find_snapshot(chosen, context.settings.artifacts)
    build = StatedBuild.of(audit.examine(path, policy.load(None), Standing.HELD))  # its age does not matter
    reports = context.settings.artifacts / "reports" / "reproduced" / build.document.id
    if reports.exists():
        trees.remove(reports)
    with fs.scratch(context.settings.artifacts / "scratch", "reproduce-") as place:
        try:
            packages = _rebuild(context, build, place, reports)
        except UsageError:
            raise
        except PipelineError as error:
            error.what = f"the snapshot {build.document.id} cannot be rebuilt: {error.what}"
            raise
    found = Reproduction(build.document.id, build.document.line, build.recipe.commit, tuple(packages))
    _print(context.console, found, build)
    return Outcome(found, _EXIT[found.verdict])


def _rebuild(context: RunContext, build: StatedBuild, place: Path, reports: Path) -> list[Package]:
    line = build.line(place, context.settings.line_file)
    context = _as_stated(context, build, line)
    recipe = registry.recipe(line)
    earlier = Earlier(build.answers(line), build.images)
    prepared = Preparation(line, context, required(line.data.build, "[build]").images, recipe.steps, earlier)
    whole = StepGraph(step for step in prepared.steps() if step.name != guest_userland.STEP)
    wanted = whole.only(context.settings.only) if context.settings.only else whole
    left_out = whole.steps.keys() - wanted.steps.keys()
    comparison = Comparison(build, wanted, build.obstacles(wanted), reports)
    names = [name for name in wanted.steps if not comparison.obstacles.get(name, ["stated by nobody"])]
    if not names:
        return list(comparison.packages({}, left_out))
    graph = wanted.only(names)
    console, artifacts = context.console, context.settings.artifacts
    runner = Scheduler(
        artifacts / "steps" / f"{line.name}{REPRODUCED}",
        context.settings.build_jobs,
        console.note,
        tuple(graph.steps),
        keep_going=True,
        options=next_command.options(context.settings, line.name),
        compiler_cache=False,
        force_reason="to be compared with the snapshot",
    )
    console.note(f"rebuilding without the compiler cache: {', '.join(graph.steps)}")
    with locked(runner.root.with_name(f"{runner.root.name}.lock")):
        with progress.progress_reported(graph, runner, console):
            outcomes = runner.run(graph)
        packages = list(comparison.packages(outcomes, left_out))
        if not any(outcome.error for outcome in outcomes.values()):
            trees.remove(runner.root)
    return packages


def _as_stated(context: RunContext, build: StatedBuild, line: Line) -> RunContext:
    """Return the context of a run with the settings that the snapshot was built with."""
    [*images] = build.images
    settings = replace(
        context.settings,
        line=line.name,
        line_file=line.files[0] if line.override else None,
        kernel_config="small" if build.document.small else "full",
        image=images[0] if images else context.settings.image,
        refresh=False,
    )
    return replace(context, settings=settings)


def _print(console: Console, found: Reproduction, build: StatedBuild) -> None:
    rows = [(p.package, p.step, p.published[:16], p.rebuilt[:16] or "-", str(p.verdict)) for p in found.packages]
    title = f"line {found.line}, snapshot {found.snapshot}: unsigned packages"
    console.table(("package", "step", "sha256", "of the rebuild", "verdict"), rows, title)
    for package in found.packages:
        for reason in package.reasons:
            console.say(f"{package.verdict}: {package.package}: {reason}")
        if package.kept:
            console.say(f"the rebuilt one is kept: {package.kept}")
    counts = [f"{sum(p.verdict is each for p in found.packages)} {each}" for each in Verdict]
    console.say(f"rebuilt by the statements of {found.snapshot}: {', '.join(counts)}")
    if found.verdict is Verdict.CANNOT and (command := build.worktree()):
        console.say(f"next: {command}")
