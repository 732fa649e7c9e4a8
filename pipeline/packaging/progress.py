"""Report a running build's progress: finished and running steps, their compilations, and the remaining time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.console import Console
from pipeline.core.units import human_seconds
from pipeline.packaging import compilations, step_record
from pipeline.packaging.graph import Step, StepGraph
from pipeline.packaging.scheduler import Scheduler

PERIOD = 60.0  # seconds between two lines where no line is refreshed
_REFRESH = 1.0  # seconds between two states of the refreshed line
_FIRST_GUESS = 20  # compilations before the remaining time is derived from their speed


@contextmanager
def progress_reported(graph: StepGraph, runner: Scheduler, console: Console) -> Iterator[None]:
    """Report the progress while the body runs: in one refreshed line on a terminal, else every `PERIOD` seconds."""
    done = threading.Event()
    progress = Progress(graph, runner)

    def beat() -> None:
        while not done.wait(_REFRESH if console.refreshes else PERIOD):
            if line := progress.line(time.time()):
                (console.status if console.refreshes else console.note)(line)
        console.status("")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@dataclass
class Progress:
    """The progress of a plan that `runner` runs."""

    graph: StepGraph
    runner: Scheduler
    _steps: dict[Path, _RunningStep] = field(default_factory=dict)

    def line(self, now: float) -> str:
        """Return the progress at the time `now`, in seconds since 1970; empty while no step runs."""
        running = self._running()
        if not running:
            return ""
        done = sum(name in self.runner.outcomes for name in self.graph.steps)
        return f"{done} of {len(self.graph.steps)} steps done; {'; '.join(step.text(now) for step in running)}"

    def _running(self) -> list[_RunningStep]:
        """Return the running steps, another run's included that this one waits for."""
        found: dict[Path, _RunningStep] = {}
        for step in self.graph.steps.values():
            if step.name in self.runner.outcomes:
                continue
            for path in self.runner.directory(step).glob(f".work-*/{step_record.FILE}"):
                with suppress(step_record.Damaged):
                    place = path.parent
                    begun = step_record.read(place).begun
                    found[place] = self._steps.get(place) or _RunningStep.of(step, place, begun, self.runner)
        self._steps = found
        return list(found.values())


@dataclass
class _RunningStep:
    """A step that runs in a directory since the time `begun`. `last`: seconds of the last run, 0 for none.

    `before`: how many compilations the last run had, 0 for none; `total`: how many there will be, 0 while that is not
    known.
    """

    name: str
    begun: float
    last: float
    before: int
    counter: compilations.CompilationCounter
    total: int = 0
    _first: tuple[float, int] | None = None  # the time and the count at the first look that saw a compilation

    @classmethod
    def of(cls, step: Step, place: Path, begun: float, runner: Scheduler) -> _RunningStep:
        known = runner.last_record(step)
        before = known.facts.compilations if known else 0
        return cls(step.name, begun, (known and known.seconds) or 0.0, before, compilations.CompilationCounter(place))

    def text(self, now: float) -> str:
        """Return where the step is at the time `now`."""
        self.counter.update()
        parts = [f"{self.name} {human_seconds(now - self.begun)}"]
        if self.counter.done:
            self._first = self._first or (now, self.counter.done)
            self.total = self.before or self.counter.planned()
            of = f" of {self.total:,}" if self.total >= self.counter.done else ""
            parts.append(f"{self.counter.done:,}{of} compiled")
        if left := self._left(now):
            parts.append(f"about {human_seconds(left)} left")
        if self.counter.last:
            parts.append(self.counter.last)  # last, since a narrow terminal cuts the line
        return ", ".join(parts)

    def _left(self, now: float) -> float:
        """Estimate the remaining seconds by the speed of the compilations, else by the last run; 0 for unknown."""
        if self._first is None:
            return max(self.last - (now - self.begun), 0.0)
        since, before = self._first
        done, remaining = self.counter.done - before, self.total - self.counter.done
        return (now - since) * remaining / done if remaining > 0 and done >= _FIRST_GUESS else 0.0
