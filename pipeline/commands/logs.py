"""Run `inv logs`: list the logs of builds, print one, or follow that of a running step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.context import RunContext
from pipeline.core.console import Console, local_time
from pipeline.core.suggestion import unknown
from pipeline.errors import UsageError
from pipeline.packaging import inventory, step_record
from pipeline.packaging.inventory import Run, RunState

_PERIOD = 0.5  # seconds between two looks at a log that is followed
_PIECE = 1 << 16  # bytes printed at once


@dataclass(frozen=True)
class Log:
    """The log of the newest run of a step."""

    run: Run

    @property
    def path(self) -> Path:
        """Where it lies; a run that ends moves it."""
        return self.run.path / step_record.LOG

    def to_json(self) -> dict[str, object]:
        """Return it as `--json` prints it."""
        run = self.run
        return {"line": run.line, "step": run.step, "state": run.state, "begun": run.begun, "log": self.path}


def logs(context: RunContext, step: str, line: str, *, follow: bool) -> list[Log]:
    """Print the newest log of `step`, of any line unless one is given; list all logs where no step is named.

    `follow` prints what is added until the step ends; without a step, that of the running one.
    Raises `UsageError` where there is no such log.
    """
    artifacts, console = context.settings.artifacts, context.console
    known = [log for log in _all(artifacts) if line in ("", log.run.line)]
    if not step and not follow:
        _list(known, artifacts, console)
        return known
    if step:
        found = [log for log in known if log.run.step == step or log.run.step.startswith(f"{step}:")]
    else:
        found = [log for log in known if log.run.state is RunState.RUNNING]
    if not found:
        steps = list(dict.fromkeys(log.run.step for log in known))
        if step:
            raise unknown("step with a log", step, steps, hint="./inv logs", where=str(artifacts))
        why = f"steps with a log: {', '.join(steps) or 'none'}"
        raise UsageError("no step is running", where=str(artifacts), why=why, hint="./inv logs")
    newest = max(found, key=lambda log: (log.run.state is RunState.RUNNING, log.run.begun or 0.0))
    if not console.json:  # its document names the file
        _print(newest, console, follow=follow)
    return [newest]


def _all(artifacts: Path) -> list[Log]:
    """Return the newest log of each step, the newest last."""
    steps = (step for line in inventory.lines(artifacts) for step in inventory.steps(line))
    runs = ([run for run in inventory.runs(step) if (run.path / step_record.LOG).is_file()] for step in steps)
    return sorted((Log(found[-1]) for found in runs if found), key=lambda log: log.run.begun or 0.0)


def _list(known: Sequence[Log], artifacts: Path, console: Console) -> None:
    if not known:
        console.say(f"no step has been built in {artifacts} yet; next: ./inv build-all")
        return
    rows = [(log.run.line, log.run.step, log.run.state, local_time(log.run.begun), str(log.path)) for log in known]
    console.table(("line", "step", "last run", "begun", "log"), rows)
    console.say("print one: ./inv logs STEP; the running one as it grows: ./inv logs --follow")


def _print(log: Log, console: Console, *, follow: bool) -> None:
    """Print a log to its end. The open file stays the same one when the run ends and its directory is renamed."""
    console.note(f"{log.run.line} {log.run.step}, {log.run.state}: {log.path}")
    rest = b""
    with log.path.open("rb") as stream:
        while True:
            ended = not follow or not _is_running(log)
            while piece := stream.read(_PIECE):
                whole, newline, rest = (rest + piece).rpartition(b"\n")
                if newline:
                    console.excerpt(whole.decode(errors="replace"))
            if ended:
                break
            time.sleep(_PERIOD)
    if rest:
        console.excerpt(rest.decode(errors="replace"))


def _is_running(log: Log) -> bool:
    found = [run for run in inventory.runs(log.run.path.parent) if run.path == log.run.path]
    return any(run.state is RunState.RUNNING for run in found)
