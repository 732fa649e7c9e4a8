"""Turn a failed build into an error: the first error in the log, the reached limit, the next command.

Must not know which package was built.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import disk_space, neutral, trees
from pipeline.core.process import signal_name
from pipeline.core.units import human_bytes
from pipeline.errors import BuildFailed, HostLacks, PipelineError
from pipeline.packaging import log_errors, log_patterns
from pipeline.packaging.graph import Work
from pipeline.packaging.log_patterns import Kind
from pipeline.sandbox.runtime import TMPFS_MOUNTS, EndReason, JobResult, Limits

_MAX_WIDTH = 200  # characters shown of a line of a log
_TAIL_LINES = 6  # last lines shown of a build that had to be ended


@dataclass(frozen=True)
class BuildContext:
    """The surroundings of a build: its top directory, its limits, the runtime's name."""

    top: Path
    limits: Limits
    runtime: str


def build_error(work: Work, result: JobResult, context: BuildContext) -> PipelineError:
    """Return the error for a build that failed."""
    if result.reason is EndReason.DISK or _is_disk_full(work, context):
        return _disk_full(work, context)
    if result.reason is EndReason.ENGINE_LOST:
        return _engine_lost(work, context)
    if result.reason is EndReason.EXIT:
        return _exit_status(work, result, context)
    return _limit_reached(work, result, context)


def _exit_status(work: Work, result: JobResult, context: BuildContext) -> BuildFailed:
    number, lines = log_errors.first_error(work.log)
    how = f"exit status {result.status}" if result.status >= 0 else f"killed by {signal_name(-result.status)}"
    return BuildFailed(
        "\n".join([f"{work.step.name} failed ({how})", *_indented(lines)]),
        where=f"{_kept_log(work)}:{number}",
        why=_sandbox_cause(lines[0] if lines else "", context.limits),
        hint=f"less +{number} {neutral.word(_kept_log(work))}; or look around in the sandbox: {_shell_command(work)}",
    )


def _sandbox_cause(line: str, limits: Limits) -> str:
    """Return the sandbox's part in an error; empty for an error with another cause."""
    memory = f"{human_bytes(limits.memory)} of memory: --build-memory"
    rows = {
        Kind.NETWORK: "a build has no network: what it needs must be a pinned source of the line, or in the image",
        Kind.PROCESSES: f"a build may have {limits.processes} processes at once: --build-processes",
        Kind.MEMORY: f"a build may have {memory}",
        Kind.KILLED: f"killed for lack of memory, by the host or by the limit: a build may have {memory}; "
        "fewer processes at once need less: --build-jobs",
        Kind.FILE_SIZE: f"a file may have {human_bytes(limits.file)}",
        Kind.DISK: "no disk space where it writes: "
        f"{', '.join(TMPFS_MOUNTS)} are in memory and hold {human_bytes(limits.temporary)} each",
    }
    return rows.get(log_patterns.kind(line), "")


def _limit_reached(work: Work, result: JobResult, context: BuildContext) -> BuildFailed:
    limits = context.limits
    what, option = {
        EndReason.WALL: (f"ran longer than {limits.wall:g} s", "--build-time"),
        EndReason.IDLE: (f"printed nothing for {limits.idle:g} s", "--build-silence"),
        EndReason.LOG: (f"printed more than {human_bytes(limits.log)}", ""),
        EndReason.SIZE: (f"wrote more than {human_bytes(limits.size)}", "--build-disk"),
        EndReason.MEMORY: (f"used more than {human_bytes(limits.memory)} of memory", "--build-memory"),
    }[result.reason]
    number, lines = log_errors.tail(work.log, _TAIL_LINES)
    return BuildFailed(
        "\n".join([f"{work.step.name} {what} and was killed ({result.reason.value}); last lines:", *_indented(lines)]),
        where=f"{_kept_log(work)}:{number}",
        why=f"the limit is {option}" if option else "",
        hint=f"less +G {neutral.word(_kept_log(work))}; or look around in the sandbox: {_shell_command(work)}",
    )


def _is_disk_full(work: Work, context: BuildContext) -> bool:
    """Return whether free space is below the limit at which the watchdog ends a build."""
    return disk_space.free(work.scratch) < context.limits.free


def _disk_full(work: Work, context: BuildContext) -> HostLacks:
    """Remove the build's files, which would keep the disk full, and return the error."""
    left = disk_space.free(work.scratch)
    with contextlib.suppress(OSError):
        trees.remove(context.top)
    return HostLacks(
        f"disk space: expected {human_bytes(context.limits.free)} free, got {human_bytes(left)}; "
        f"{work.step.name} was killed",
        where=str(work.scratch.parent.parent.resolve()),
        why=f"without the build's files, which were removed, {human_bytes(disk_space.free(work.scratch))} are free",
        hint=disk_space.HINT,
    )


def _engine_lost(work: Work, context: BuildContext) -> HostLacks:
    return HostLacks(
        f"{context.runtime}: connection to the container lost while building {work.step.name}",
        where=str(_kept_log(work)),
        why="the step must be rebuilt; earlier steps are kept",
        hint="start the engine and repeat the command; "
        f"or without any engine: {work.command('build-all', '--runtime', 'bubblewrap')}",
    )


def _shell_command(work: Work) -> str:
    """Return the command that opens a shell in the sandbox."""
    return work.command("shell", work.step.name)


def _kept_log(work: Work) -> Path:
    """Return the log's path once the step has failed."""
    return work.log.parent.with_name(".failed") / work.log.name


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line[:_MAX_WIDTH]}" for line in lines]
