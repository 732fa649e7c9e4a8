"""Runs a plan: in parallel as far as needs and jobs allow, each step published by one rename.

A step's directory is artifacts/steps/<line>/<step>/<key>/ with `out/`, `log` and `meta.json`. Work goes on
in `.work-<key>`, whose metadata is written before anything else, so that a dead run can be read;
what failed stays in `.failed` until the step is tried again, for people and for `inv shell`.

Who works on a step holds its `lock` alone. Who relies on results of the line shares the line's `lock`, so
that nothing is cleaned away between one step that made it and another that reads it.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline import process, trace, trees
from pipeline.build.plan import Plan, Step, Work
from pipeline.errors import PipelineError
from pipeline.files import write_atomic
from pipeline.locks import locked
from pipeline.room import writing

_STOPPING = 1.5  # seconds for steps to clean up when the run was told to stop

LOCK = "lock"
SHELL_LOCK = "shell.lock"  # beside a step's lock: shared by those who look around in what failed


class State(StrEnum):
    """What became of a step."""

    RAN = "ran"
    REUSED = "reused"
    FAILED = "failed"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class Outcome:
    """A step after the run: `why` says what decided it, `seconds` how long it took, `out` its output."""

    step: str
    key: str
    state: State
    why: str
    seconds: float
    out: Path
    error: PipelineError | None = None


@dataclass
class Runner:
    """Runs plans below `root`. `jobs` is the budget that weights draw from; `say` gets a line per event.

    `options` are what a verb needs to mean the same line, for the commands that errors tell.
    """

    root: Path
    jobs: int
    say: Callable[[str], None]
    force: tuple[str, ...] = ()
    keep_going: bool = False
    options: tuple[str, ...] = ()
    _free: int = field(init=False, default=0)
    _bugs: list[Exception] = field(init=False, default_factory=list)
    _change: threading.Condition = field(init=False, default_factory=threading.Condition)

    def using(self) -> AbstractContextManager[None]:
        """Keeps every result below `root` from being cleaned away."""
        return locked(self.root / LOCK, shared=True)

    def directory(self, step: Step) -> Path:
        """Where the step's runs are."""
        return self.root / step.directory

    def published(self, step: Step, key: str) -> Path:
        """Where the step's output of this key is, or will be."""
        return self.directory(step) / key

    def explain(self, plan: Plan) -> dict[str, tuple[State, str]]:
        """For each step what a run would do, and which input decides it; nothing is run."""
        told: dict[str, tuple[State, str]] = {}
        for name, step in plan.steps.items():
            if self._is_done(step, plan.keys[name]) and not self._forced(name):
                told[name] = (State.REUSED, "nothing changed")
            else:
                told[name] = (State.RAN, self._why(plan, step))
        return told

    def run(self, plan: Plan) -> dict[str, Outcome]:
        """Every step's outcome. What fails is reported there, not raised, so that the rest can be read too."""
        self._free = self.jobs
        outcomes: dict[str, Outcome] = {}
        threads = [
            threading.Thread(target=self._thread, args=(plan, step, outcomes), daemon=True, name=name)
            for name, step in plan.steps.items()
        ]
        with self.using():
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    while thread.is_alive():  # in short waits, so that Ctrl-C is heard
                        thread.join(0.2)
            except KeyboardInterrupt:
                self._stop(threads)
                raise
        if self._bugs:
            raise self._bugs[0]
        return {name: outcomes[name] for name in plan.steps}

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        """Lets the steps clean up behind themselves; one that waits for another run's lock cannot hear us."""
        process.stop_all()
        with self._change:
            self._change.notify_all()
        until = time.monotonic() + _STOPPING
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _thread(self, plan: Plan, step: Step, outcomes: dict[str, Outcome]) -> None:
        try:
            outcome = self._when_ready(plan, step, outcomes)
        except process.Stopped:
            return
        except Exception as error:  # noqa: BLE001 - a mistake of ours, raised where the run was started
            self._bugs.append(error)
            place = self.published(step, plan.keys[step.name])
            outcome = Outcome(step.name, plan.keys[step.name], State.FAILED, "a mistake in this program", 0.0, place)
        with self._change:
            outcomes[step.name] = outcome
            self._change.notify_all()

    def _when_ready(self, plan: Plan, step: Step, outcomes: Mapping[str, Outcome]) -> Outcome:
        weight = min(step.weight or self.jobs, self.jobs)
        key = plan.keys[step.name]
        with self._change:
            self._change.wait_for(lambda: all(need in outcomes for need in step.needs) or self._stopped(outcomes))
            blocking = [n for n in step.needs if n in outcomes and outcomes[n].state in (State.FAILED, State.BLOCKED)]
            if blocking or self._stopped(outcomes):
                why = f"{', '.join(blocking)} failed" if blocking else "another step failed"
                return Outcome(step.name, key, State.BLOCKED, why, 0.0, self.published(step, key))
            self._change.wait_for(lambda: self._free >= weight or self._stopped(outcomes))
            if self._stopped(outcomes):
                return Outcome(step.name, key, State.BLOCKED, "another step failed", 0.0, self.published(step, key))
            self._free -= weight
        try:
            return self._step(plan, step, key, weight)
        finally:
            with self._change:
                self._free += weight
                self._change.notify_all()

    def _stopped(self, outcomes: Mapping[str, Outcome]) -> bool:
        process.go_on()
        return not self.keep_going and any(o.state is State.FAILED for o in outcomes.values())

    def _step(self, plan: Plan, step: Step, key: str, jobs: int) -> Outcome:
        begun = time.monotonic()
        place = self.published(step, key)
        trace.point("step.begin")
        # Another run may be at it: then its result is ours.
        with locked(self.directory(step) / LOCK, waiting=lambda holder: self._waits(step, holder)):
            if self._is_done(step, key) and not self._forced(step.name):
                return Outcome(step.name, key, State.REUSED, "nothing changed", 0.0, place)
            why = self._why(plan, step)
            self.say(f"{step.name}: {why}")
            try:
                self._do(plan, step, key, jobs, why)
            except PipelineError as error:
                took = time.monotonic() - begun
                self.say(f"{step.name}: failed after {took:.0f} s")
                return Outcome(step.name, key, State.FAILED, why, took, place, error)
        took = time.monotonic() - begun
        self.say(f"{step.name}: done in {took:.1f} s")
        return Outcome(step.name, key, State.RAN, why, took, place)

    def _waits(self, step: Step, holder: str) -> None:
        self.say(f"{step.name}: another run is at it, and its result will be ours: {holder}")

    def _do(self, plan: Plan, step: Step, key: str, jobs: int, why: str) -> None:
        directory = self.directory(step)
        work = directory / f".work-{key}"
        # Ours alone: we hold the lock. What failed before goes too: it may be why there is no room.
        for leftover in (*directory.glob(".work-*"), *directory.glob(".old-*"), *directory.glob(".failed")):
            trees.remove(leftover)
        meta = {"step": step.name, "key": key, "inputs": plan.parts[step.name], "why": why, "pid": os.getpid()}
        meta |= {"options": self.options}
        work.mkdir(parents=True)
        needs = {name: self.published(plan.steps[name], plan.keys[name]) / "out" for name in step.needs}
        given = Work(step, work / "out", work / "scratch", work / "log", needs, jobs, options=self.options)
        begun = time.time()
        meta |= {"facts": given.facts, "begun": begun}
        try:
            with writing(directory):
                self._act(given, work, meta)
        except PipelineError as error:
            error.where = error.where.replace(str(work), str(directory / ".failed"))  # it moves there now
            with contextlib.suppress(OSError):  # a full disk may be the reason
                seconds = round(time.time() - begun, 2)
                self._write_meta(work, {**meta, "state": "failed", "seconds": seconds, "error": error.as_dict()})
            with contextlib.suppress(OSError):  # what keeps its bits is out of reach all the same: see `_act`
                trees.disarm(given.scratch)
            self._replace(work, directory / ".failed")
            raise
        trace.point("step.before-rename")
        self._replace(work, directory / key)
        trace.point("step.after-rename")

    def _act(self, work: Work, place: Path, meta: Mapping[str, Any]) -> None:
        """Has the step fill its directory `place`, whose metadata says at any time how far it is."""
        work.out.mkdir()
        work.scratch.mkdir(mode=0o700)  # nobody else reaches what a build leaves, whatever its mode
        self._write_meta(place, {**meta, "state": "running"})
        trace.point("step.metadata-written")
        work.step.action(work)
        trees.remove(work.scratch)
        trace.point("step.done")
        seconds = round(time.time() - meta["begun"], 2)
        self._write_meta(place, {**meta, "state": "done", "seconds": seconds})

    def _replace(self, work: Path, place: Path) -> None:
        if place.exists():
            old = place.with_name(f".old-{place.name.lstrip('.')}")
            place.rename(old)
            work.rename(place)
            trees.remove(old)
        else:
            work.rename(place)

    def _write_meta(self, work: Path, meta: Mapping[str, Any]) -> None:
        write_atomic(work / "meta.json", json.dumps(meta, indent=1, default=str) + "\n")

    def _is_done(self, step: Step, key: str) -> bool:
        return (self.published(step, key) / "meta.json").is_file()

    def _forced(self, name: str) -> bool:
        return any(name == forced or name.startswith(f"{forced}:") for forced in self.force)

    def last(self, step: Step) -> dict[str, Any]:
        """The metadata of the newest run of this step that was done, of any key; empty without one."""
        known = [read_meta(path) for path in self.directory(step).glob("[!.]*/meta.json")]
        return max(known, key=lambda meta: float(meta.get("begun", 0)), default={})

    def _why(self, plan: Plan, step: Step) -> str:
        """Which inputs differ from the last run of this step."""
        if self._forced(step.name):
            return "forced"
        last = self.last(step)
        if not last:
            return "never run before"
        before, now = last.get("inputs", {}), plan.parts[step.name]
        changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        return f"changed: {', '.join(changed)}"


def read_meta(path: Path) -> dict[str, Any]:
    """A step's metadata; empty when it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
