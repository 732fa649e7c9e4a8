"""How a build's bad end becomes an error: what went wrong, where the log says so, which limit it was, what to type.

Must not know which package was built.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import disk_space, neutral, trees
from pipeline.core.console import human_bytes
from pipeline.core.process import signal_name
from pipeline.errors import BuildFailed, HostLacks, PipelineError
from pipeline.packaging import log_errors
from pipeline.packaging.graph import Work
from pipeline.sandbox.runtime import TEMPORARY, End, Ended, Limits

_WIDEST = 200  # characters shown of a line of a log
_SHOWN = 6  # last lines shown of a build that had to be ended
_NETWORK = re.compile(
    r"(?i)Network is unreachable|Temporary failure in name resolution|could ?n.t resolve|Could not resolve"
    r"|Name or service not known|unable to resolve"
)
_PROCESSES = re.compile(r"(?i)fork.*(Resource temporarily unavailable|Cannot allocate memory)|cannot fork")
_MEMORY = re.compile(r"(?i)cannot allocate memory|memory exhausted|out of memory|bad_alloc")
_FILE = re.compile(r"File too large|File size limit exceeded")
_FULL = re.compile(r"No space left on device")


@dataclass(frozen=True)
class Place:
    """Where a build ran: its top directory, its limits, the runtime's name."""

    top: Path
    limits: Limits
    runtime: str


def failure(work: Work, ended: Ended, place: Place) -> PipelineError:
    """The error of a build that ended badly."""
    if ended.reason is End.DISK or _has_filled_the_disk(work, place):
        return _disk(work, place)
    if ended.reason is End.GONE:
        return _gone(work, place)
    if ended.reason is End.EXIT:
        return _exit(work, ended, place)
    return _limit(work, ended, place)


def _exit(work: Work, ended: Ended, place: Place) -> BuildFailed:
    number, lines = log_errors.first_error(work.log)
    how = f"exit status {ended.status}" if ended.status >= 0 else f"killed by {signal_name(-ended.status)}"
    return BuildFailed(
        "\n".join([f"{work.step.name} failed ({how})", *_shown(lines)]),
        where=f"{_kept(work)}:{number}",
        why=_meaning(lines[0] if lines else "", place.limits),
        hint=f"less +{number} {neutral.word(_kept(work))}; or look around in the sandbox: {_shell(work)}",
    )


def _meaning(line: str, limits: Limits) -> str:
    """What the sandbox has to do with an error; empty for one that has its cause elsewhere."""
    memory = f"a build may have {human_bytes(limits.memory)} of memory: --build-memory"
    rows = (
        (_NETWORK, "a build has no network: what it needs must be a pinned source of the line, or in the image"),
        (_PROCESSES, f"a build may have {limits.processes} processes at once: --build-processes"),
        (_MEMORY, memory),
        (_FILE, f"a file may have {human_bytes(limits.file)}"),
        (_FULL, f"{', '.join(TEMPORARY)} are in memory and hold {human_bytes(limits.temporary)} each"),
    )
    return next((why for pattern, why in rows if pattern.search(line)), "")


def _limit(work: Work, ended: Ended, place: Place) -> BuildFailed:
    limits = place.limits
    said, option = {
        End.WALL: (f"took longer than {limits.wall:g} s", "--build-time"),
        End.IDLE: (f"printed nothing for {limits.idle:g} s", "--build-silence"),
        End.LOG: (f"printed more than {human_bytes(limits.log)}", ""),
        End.SIZE: (f"wrote more than {human_bytes(limits.size)}", "--build-disk"),
        End.MEMORY: (f"wanted more than {human_bytes(limits.memory)} of memory", "--build-memory"),
    }[ended.reason]
    number, lines = log_errors.tail(work.log, _SHOWN)
    return BuildFailed(
        "\n".join([f"{work.step.name} {said} and was ended ({ended.reason.value}); its last words:", *_shown(lines)]),
        where=f"{_kept(work)}:{number}",
        why=f"if that is as it must be, allow more: {option}" if option else "",
        hint=f"less +G {neutral.word(_kept(work))}; or look around in the sandbox: {_shell(work)}",
    )


def _has_filled_the_disk(work: Work, place: Place) -> bool:
    """Whether the disk is as full now as would have ended the build at the next look."""
    return disk_space.free(work.scratch) < place.limits.free


def _disk(work: Work, place: Place) -> HostLacks:
    """What the build had written is removed: it would keep the disk full, and there is nothing to learn from it."""
    left = disk_space.free(work.scratch)
    with contextlib.suppress(OSError):
        trees.remove(place.top)
    return HostLacks(
        f"no disk space is left: {work.step.name} was ended",
        where=str(work.scratch.parent.parent.resolve()),
        why=f"{human_bytes(place.limits.free)} must stay free there, {human_bytes(left)} were; "
        f"with what it had written removed {human_bytes(disk_space.free(work.scratch))} are",
        hint=disk_space.HINT,
    )


def _gone(work: Work, place: Place) -> HostLacks:
    words = re.sub(r" --runtime \S+", "", f" {neutral.command(work.options)}")
    return HostLacks(
        f"{place.runtime} went away, or took the container away, while it built {work.step.name}",
        where=str(_kept(work)),
        why="what it had begun is lost; the steps done before are kept",
        hint="see that the engine runs, then run the same command again; "
        f"or without any engine: ./inv build-all --runtime bubblewrap{words}",
    )


def _shell(work: Work) -> str:
    """The command that looks around in the sandbox."""
    return neutral.command(["./inv", "shell", work.step.name, *work.options])


def _kept(work: Work) -> Path:
    """Where the log lies once the step has failed."""
    return work.log.parent.with_name(".failed") / work.log.name


def _shown(lines: list[str]) -> list[str]:
    return [f"    {line[:_WIDEST]}" for line in lines]
