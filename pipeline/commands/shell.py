"""`inv shell`: a shell in the sandbox of a failed step, with the same image, mounts and environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.commands.preparation import LazyRuntime, limits
from pipeline.config import next_command
from pipeline.config.context import RunContext
from pipeline.config.line_model import Line
from pipeline.core.locks import locked
from pipeline.errors import Refused
from pipeline.packaging import job, step_record
from pipeline.packaging.scheduler import SHELL_LOCK
from pipeline.packaging.step_record import Phase


@dataclass(frozen=True)
class ShellResult:
    """The exit status of a shell that a person has left."""

    status: int


def shell(line: Line, step: str, context: RunContext, options: Sequence[str]) -> ShellResult:
    """Open a shell where the step failed; `$BUILD_COMMAND` in it is the command that failed.

    `options` are what a command line needs to mean the same line. Raises `UsageError` where nothing failed, and
    `Refused` for another run's leftovers.
    """
    directory = context.settings.artifacts / "steps" / line.name / step.replace(":", "-") / ".failed"
    _check_failed(directory, line, step, options)
    failed_job = replace(job.load_failed_job(directory), limits=limits(context.settings))
    context.console.note(
        f"the sandbox of {step}, as it failed; `eval $BUILD_COMMAND` runs its command again; `exit` leaves"
    )
    with locked(directory.with_name(SHELL_LOCK), shared=True):  # so that it is not cleaned away meanwhile
        return ShellResult(LazyRuntime(context).shell(failed_job))


def _check_failed(directory: Path, line: Line, step: str, options: Sequence[str]) -> None:
    """Refuse to enter another run's leftovers, or a step with a damaged record; report missing ones later."""
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
                hint=next_command.command("build-all", ["--only", step], options),
            )
