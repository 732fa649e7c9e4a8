"""Report a running build's progress: finished steps, running steps, and the remaining time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipeline.core.console import Console
from pipeline.packaging import step_record
from pipeline.packaging.graph import Plan, Step
from pipeline.packaging.scheduler import Scheduler

PERIOD = 20.0  # seconds between two lines


@contextmanager
def progress_reported(plan: Plan, runner: Scheduler, console: Console) -> Iterator[None]:
    """Report the progress every `PERIOD` seconds while the body runs."""
    done = threading.Event()
    begun = time.monotonic()

    def beat() -> None:
        while not done.wait(PERIOD):
            if line := progress_line(plan, runner, time.time()):
                console.note(f"{time.monotonic() - begun:.0f} s: {line}")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def progress_line(plan: Plan, runner: Scheduler, now: float) -> str:
    """Return the progress at the time `now`, in seconds since 1970; empty while no step runs.

    The time that is left is known once every step that is not done has run before.
    """
    running = {name: work for name, step in plan.steps.items() if (work := _running_record(runner, step))}
    if not running:
        return ""
    waiting = [name for name in plan.steps if not runner.published(plan.steps[name], plan.keys[name]).is_dir()]
    last = {name: runner.last_record(plan.steps[name]) for name in waiting}
    usual = {name: known.seconds if known else None for name, known in last.items()}
    parts = [f"{name}{f' (last time {usual[name]:.0f} s)' if usual.get(name) else ''}" for name in running]
    known = [seconds for seconds in usual.values() if seconds is not None]
    remaining = sum(known) - sum(now - work.begun for work in running.values())
    eta = f"; about {remaining:.0f} s left" if len(known) == len(waiting) and remaining > 0 else ""
    return f"{len(plan.steps) - len(waiting)} of {len(plan.steps)} steps done, running {', '.join(parts)}{eta}"


def _running_record(runner: Scheduler, step: Step) -> step_record.Record | None:
    """Return the record of the step's current run; None when there is none."""
    for path in runner.directory(step).glob(f".work-*/{step_record.FILE}"):
        with suppress(step_record.Damaged):
            return step_record.read(path.parent)
    return None
