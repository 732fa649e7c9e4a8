"""Run a plan: in parallel as dependencies and the job limit allow, publishing each step by one rename.

A step's directory is artifacts/steps/<line>/<step>/<key>/ with `out/`, `log` and its record, `meta.json`. Work goes
on in `.work-<key>`, whose record is written before anything else, so that a dead run can be read;
what failed stays in `.failed` until the step is tried again, for people and for `inv shell`. With an attester the
signed statement of the run, `statement.intoto.json`, lies beside the record: made when the step ran, reused with it.

A result counts when its record is that of this line, step and key, and everything in it is as the step made it. One
that does not is kept as `.damaged-<key>`, of each step the last one, and the step is done anew. So is a step whose
result has no statement by the attester's key, since a statement tells what was seen while the step ran, and nobody can
say that afterwards; the old result stays until the new one takes its place.

Who works on a step holds its `lock` alone. Who relies on results of the line shares the line's `lock`, so
that nothing is cleaned away between one step that made it and another that reads it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.config import next_command
from pipeline.core import faults, fs, manifest, process, trees
from pipeline.core.disk_space import writing
from pipeline.core.locks import locked
from pipeline.errors import BuildFailed, PipelineError, Refused
from pipeline.packaging import attestation, step_record
from pipeline.packaging.attestation import Attester
from pipeline.packaging.compilations import CompilationCounter
from pipeline.packaging.exchange import Exchange
from pipeline.packaging.graph import Step, StepGraph, Work
from pipeline.packaging.step_record import Damaged, Phase, Record

_STOP_TIMEOUT = 1.5  # seconds for steps to clean up after a request to stop

LOCK = "lock"
TAKEN = "taken from the shared store"
DAMAGED = ".damaged-"  # before the key: what was no longer as its step had made it
SHELL_LOCK = "shell.lock"  # beside a step's lock: shared by those who look around in what failed


class State(StrEnum):
    """The end states of a step."""

    RAN = "ran"
    REUSED = "reused"
    TAKEN = "taken"  # from the shared store
    FAILED = "failed"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class Outcome:
    """A step after the run: `why` names the deciding reason, `seconds` the duration, `out` the directory.

    `record` describes the content; None for a failed step.
    """

    step: str
    key: str
    state: State
    why: str
    seconds: float
    out: Path
    error: PipelineError | None = None
    record: Record | None = None


@dataclass(frozen=True)
class StoredResult:
    """The stored result of a step: its record where it can be used, or the problem with it.

    Neither where nothing lies there. `moved`: stamps of `record` are newer than those that are written. `elsewhere`:
    the problem is with what was published, or with the key of the statement, and not with what lies here.
    """

    record: Record | None = None
    problem: str = ""
    moved: bool = False
    elsewhere: bool = False


@dataclass
class Scheduler:
    """A scheduler of plans below `root`. `jobs` is the budget that weights draw from; `say` gets a line per event.

    `options` are what a verb needs to mean the same line, for the commands that errors tell. `warn` gets what a
    person must know although the run goes on; None for `say`. `content`: what is reused is read whole, whatever its
    stamps say. Without `compiler_cache` every file is compiled. `attester` makes the
    statements, None for none. `exchange` shares results with other hosts. `force_reason` is why `force` names steps.
    `outcomes` are those of the last or current run.
    """

    root: Path
    jobs: int
    say: Callable[[str], None]
    force: tuple[str, ...] = ()
    keep_going: bool = False
    options: tuple[str, ...] = ()
    warn: Callable[[str], None] | None = None
    content: bool = False
    compiler_cache: bool = True
    force_reason: str = "forced"
    attester: Attester | None = None
    exchange: Exchange | None = None
    outcomes: dict[str, Outcome] = field(init=False, default_factory=dict)
    _records: dict[str, Record] = field(init=False, default_factory=dict)
    _free_jobs: int = field(init=False, default=0)
    _bugs: list[Exception] = field(init=False, default_factory=list)
    _change: threading.Condition = field(init=False, default_factory=threading.Condition)

    def shared_lock(self) -> AbstractContextManager[None]:
        """Lock all results below `root` against being cleaned away."""
        return locked(self.root / LOCK, shared=True)

    def directory(self, step: Step) -> Path:
        """Return the directory of the step's runs."""
        return self.root / step.directory

    def published(self, step: Step, key: str) -> Path:
        """Return the directory, existing or not, of the step's output with this key."""
        return self.directory(step) / key

    def explain(self, graph: StepGraph) -> dict[str, tuple[State, str]]:
        """Return for each step a run's action, and the deciding reason; nothing is run."""
        actions: dict[str, tuple[State, str]] = {}
        for name, step in graph.steps.items():
            found = self.stored(step, graph.keys[name])
            if found.record and not self.is_forced(name):
                actions[name] = (State.REUSED, "nothing changed")
            else:
                actions[name] = (State.RAN, self._why(graph, step, found))
        return actions

    def stored(self, step: Step, key: str) -> StoredResult:
        """Check the stored output of the step with this key, without changing anything."""
        place = self.published(step, key)
        if not os.path.lexists(place):
            return StoredResult()
        found = check_stored(place, self.root.name, step.name, key, content=self.content)
        if found.record and self.attester and (problem := attestation.problem(found.record, self.attester)):
            return StoredResult(problem=problem, elsewhere=True)
        return found

    def run(self, graph: StepGraph) -> dict[str, Outcome]:
        """Run all steps and return their outcomes. Failures are reported there, not raised, so that all can be read."""
        self._free_jobs = self.jobs
        self.outcomes = outcomes = dict[str, Outcome]()
        threads = [
            threading.Thread(target=self._run_thread, args=(graph, step, outcomes), daemon=True, name=name)
            for name, step in graph.steps.items()
        ]
        with self.shared_lock():
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
        return {name: outcomes[name] for name in graph.steps}

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        """Let the steps clean up; a step that waits for another run's lock cannot be interrupted."""
        process.stop_all()
        with self._change:
            self._change.notify_all()
        until = time.monotonic() + _STOP_TIMEOUT
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run_thread(self, graph: StepGraph, step: Step, outcomes: dict[str, Outcome]) -> None:
        try:
            outcome = self._run_when_ready(graph, step, outcomes)
        except process.Stopped:
            return
        except Exception as error:  # noqa: BLE001 - a mistake of ours, raised where the run was started
            self._bugs.append(error)
            place = self.published(step, graph.keys[step.name])
            outcome = Outcome(step.name, graph.keys[step.name], State.FAILED, "a mistake in this program", 0.0, place)
        with self._change:
            outcomes[step.name] = outcome
            self._change.notify_all()

    def _run_when_ready(self, graph: StepGraph, step: Step, outcomes: Mapping[str, Outcome]) -> Outcome:
        weight = min(step.weight or self.jobs, self.jobs)
        key = graph.keys[step.name]
        with self._change:
            self._change.wait_for(lambda: all(need in outcomes for need in step.needs) or self._is_stopped(outcomes))
            blocking = [n for n in step.needs if n in outcomes and outcomes[n].state in (State.FAILED, State.BLOCKED)]
            if blocking or self._is_stopped(outcomes):
                why = f"{', '.join(blocking)} failed" if blocking else "another step failed"
                return Outcome(step.name, key, State.BLOCKED, why, 0.0, self.published(step, key))
            self._change.wait_for(lambda: self._free_jobs >= weight or self._is_stopped(outcomes))
            if self._is_stopped(outcomes):
                return Outcome(step.name, key, State.BLOCKED, "another step failed", 0.0, self.published(step, key))
            self._free_jobs -= weight
        try:
            return self._run_step(graph, step, key, weight)
        finally:
            with self._change:
                self._free_jobs += weight
                self._change.notify_all()

    def _is_stopped(self, outcomes: Mapping[str, Outcome]) -> bool:
        process.raise_if_stopped()
        return not self.keep_going and any(o.state is State.FAILED for o in outcomes.values())

    def _run_step(self, graph: StepGraph, step: Step, key: str, jobs: int) -> Outcome:
        begun = time.monotonic()
        place = self.published(step, key)
        faults.point("step.begin")
        # Another run may be at it: then its result is ours.
        with locked(self.directory(step) / LOCK, waiting=lambda holder: self._report_waiting(step, holder)):
            found = self._refresh_stamps(place, self.stored(step, key))
            others = self._changed_needs(step, found.record) if found.record else []
            usable = found.record if found.record and not others and not self.is_forced(step.name) else None
            if taken := self._taken(step, key, usable, found.problem if not found.elsewhere else ""):
                took = time.monotonic() - begun
                return self._ended(Outcome(step.name, key, State.TAKEN, TAKEN, took, place, record=taken))
            if usable:
                return self._ended(Outcome(step.name, key, State.REUSED, "nothing changed", 0.0, place, record=usable))
            why = f"made from another output of {', '.join(others)}" if others else self._why(graph, step, found)
            (self.warn if found.problem and self.warn else self.say)(f"{step.name}: {why}")
            if found.problem and not found.elsewhere:
                self._set_aside(place)
            try:
                made = self._execute(graph, step, key, jobs, why)
            except PipelineError as error:
                took = time.monotonic() - begun
                self.say(f"{step.name}: failed after {took:.0f} s")
                return Outcome(step.name, key, State.FAILED, why, took, place, error)
            made = self._taken(step, key, made) or made
        took = time.monotonic() - begun
        self.say(f"{step.name}: done in {took:.1f} s")
        return self._ended(Outcome(step.name, key, State.RAN, why, took, place, record=made))

    def _ended(self, outcome: Outcome) -> Outcome:
        """Note what a step made, for those that need it."""
        if outcome.record:
            self._records[outcome.step] = outcome.record
        return outcome

    def _taken(self, step: Step, key: str, known: Record | None, problem: str = "") -> Record | None:
        """Put the shared store's result into the place of the step where it has another one than the `known` one.

        Offer the known one where the store has none. `problem` is that of a damaged result, which is kept aside.
        Return None where what is here stays.
        """
        if self.exchange is None or step.local:
            return None
        place, forced = self.published(step, key), self.is_forced(step.name)
        if known:
            shared = self.exchange.settle(place, known, keep=forced)
        elif forced:
            return None
        else:
            used = {name: self._records[name].digest for name in step.needs}
            shared = self.exchange.find(step.name, step.directory, key, used)
        if shared is None:
            return None
        self._remove_leftovers(place.parent)
        work = place.with_name(f".work-{key}")
        with writing(place.parent):
            work.mkdir(parents=True)
            taken = self.exchange.take(shared, work, self.root)
            if taken is None:
                fs.remove(work)
                return None
            if problem:
                (self.warn or self.say)(f"{step.name}: {problem}; taken anew")
                self._set_aside(place)
            self._replace(work, place)
        self.say(f"{step.name}: {TAKEN}, made with the key {taken.attested[:16]}…")
        return taken

    def _remove_leftovers(self, directory: Path) -> None:
        """Remove what earlier runs left of a step whose lock is held; what failed too: it may be why disk is full."""
        for leftover in (*directory.glob(".work-*"), *directory.glob(".old-*"), *directory.glob(".failed")):
            fs.remove(leftover)

    def _report_waiting(self, step: Step, holder: str) -> None:
        self.say(f"{step.name}: another run is at it, and its result will be ours: {holder}")

    def _refresh_stamps(self, place: Path, found: StoredResult) -> StoredResult:
        """Record the current time stamps, so that the next check need not read the content."""
        if found.record and found.moved:
            with contextlib.suppress(OSError):  # a full disk: the next look reads the content once more
                found.record.write(place)
        return found

    def _changed_needs(self, step: Step, known: Record) -> list[str]:
        """Return the needs whose output changed since the step was built from it, with the same key.

        So it is where a step that was damaged, or forced to run, did not give the same bytes again.
        """
        return [name for name in step.needs if known.used.get(name) != self._records[name].digest]

    def _set_aside(self, place: Path) -> None:
        """Keep a damaged result for inspection; only the last one of a step."""
        for left in place.parent.glob(f"{DAMAGED}*"):
            fs.remove(left)
        place.rename(place.with_name(f"{DAMAGED}{place.name}"))

    def _execute(self, graph: StepGraph, step: Step, key: str, jobs: int, why: str) -> Record:
        directory = self.directory(step)
        work = directory / f".work-{key}"
        self._remove_leftovers(directory)
        work.mkdir(parents=True)
        needs = {name: self.published(graph.steps[name], graph.keys[name]) / step_record.OUT for name in step.needs}
        records = {name: self._records[name] for name in step.needs}
        out, scratch, log = work / step_record.OUT, work / "scratch", work / step_record.LOG
        given = Work(
            step,
            out,
            scratch,
            log,
            needs,
            jobs,
            options=self.options,
            records=records,
            compiler_cache=self.compiler_cache,
            note=self.say,
            format_command=next_command.command,
        )
        begun = Record(
            line=self.root.name,
            step=step.name,
            key=key,
            state=Phase.RUNNING,
            root=str(self.root.absolute()),
            begun=time.time(),
            pid=os.getpid(),
            why=why,
            inputs=graph.parts[step.name],
            used={name: made.digest for name, made in records.items()},
            options=self.options,
        )
        try:
            with writing(directory):
                ended = self._perform(given, work, begun)
        except PipelineError as error:
            error.where = error.where.replace(str(work), str(directory / ".failed"))  # it moves there now
            with contextlib.suppress(OSError):  # a full disk may be the reason
                self._finished_record(given, begun, Phase.FAILED, error=error.document()).write(work)
            with contextlib.suppress(OSError):  # what keeps its bits is out of reach all the same: see `_act`
                trees.clear_special_bits(given.scratch)
            self._replace(work, directory / ".failed")
            raise
        faults.point("step.before-rename")
        self._replace(work, directory / key)
        faults.point("step.after-rename")
        return ended

    def _perform(self, work: Work, place: Path, begun: Record) -> Record:
        """Run the step's action in its directory `place`, whose record tells the progress at any time."""
        work.out.mkdir()
        work.scratch.mkdir(mode=0o700)  # no other user can open a build's output, whatever its mode
        begun.write(place)
        faults.point("step.metadata-written")
        for name, out in work.needs.items():
            self._check(name, out.parent, work.records[name])
        if self.attester:
            self.attester.begin()
        work.step.action(work)
        # Counted here, so that what counts is in no step's key: see `fingerprint`.
        work.facts.compilations = CompilationCounter(place).finish()
        trees.remove(work.scratch)
        faults.point("step.done")
        try:
            made = step_record.scan(place, work.elsewhere)
        except ValueError as error:
            raise BuildFailed(f"{work.step.name}: its output cannot be kept: {error}", where=str(place)) from None
        ended = self._attested(work, place, self._finished_record(work, begun, Phase.DONE, made=made))
        ended.write(place)
        return ended

    def _attested(self, work: Work, place: Path, ended: Record) -> Record:
        """Write the statement of a run that is over, and return the record with it; the same without an attester."""
        if self.attester is None:
            return ended
        statement = self.attester.statement(work, ended)
        copies = {step_record.STATEMENT: place / step_record.STATEMENT}
        copies |= {str(path.absolute()): path for path in work.statements}
        for path in copies.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            fs.write_atomic(path, statement)
        faults.point("step.attested")
        made = {root: manifest.scan(path) for root, path in copies.items()}
        return replace(ended, made={**ended.made, **made}, attested=self.attester.key_id)

    def _finished_record(self, work: Work, begun: Record, state: Phase, **more: Any) -> Record:
        seconds = round(time.time() - begun.begun, 2)
        return replace(begun, state=state, seconds=seconds, facts=work.facts, **more)

    def output(self, outcome: Outcome) -> Path:
        """Return the output of a step that succeeded, for use. Raises `Refused` where it changed since."""
        if outcome.record:
            self._check(outcome.step, outcome.out, outcome.record)
        return outcome.out / step_record.OUT

    def _check(self, name: str, place: Path, known: Record) -> None:
        """Raise `Refused` where an output that this run made or checked has changed since."""
        differences, _ = step_record.compare(place, known, content=self.content)
        if differences:
            raise Refused(
                f"{name}: its output was changed while this run used it: {differences[0]}",
                where=str(place),
                why=f"what uses it would be made from something else than {name} made",
                hint=next_command.command("build-all", [], self.options),
            )

    def _replace(self, work: Path, place: Path) -> None:
        if place.exists():
            old = place.with_name(f".old-{place.name.lstrip('.')}")
            place.rename(old)
            work.rename(place)
            trees.remove(old)
        else:
            work.rename(place)

    def is_forced(self, name: str) -> bool:
        """Return whether a step runs although nothing changed."""
        return any(name == forced or name.startswith(f"{forced}:") for forced in self.force)

    def last_record(self, step: Step) -> Record | None:
        """Return the record of the newest successful run of this step, with any key; None without one."""
        return max(self.records(step.directory), key=lambda one: one.begun, default=None)

    def records(self, directory: str) -> Iterator[Record]:
        """Yield the records of a step's successful runs, with any key; `directory` is its name as a file name."""
        for path in (self.root / directory).glob(f"[!.]*/{step_record.FILE}"):
            with contextlib.suppress(Damaged):
                yield step_record.read(path.parent)

    def _why(self, graph: StepGraph, step: Step, found: StoredResult) -> str:
        """Return the inputs that changed since the last run of this step, or the problem with its output."""
        if self.is_forced(step.name):
            return self.force_reason
        if found.problem:
            return f"{found.problem}; built anew"
        last = self.last_record(step)
        if not last:
            return "never run before"
        before, now = last.inputs, graph.parts[step.name]
        changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        return f"changed: {', '.join(changed)}"


def check_stored(place: Path, line: str, step: str, key: str, *, content: bool = False) -> StoredResult:
    """Check whether the directory `place` holds the result of this line, step and key, whole and unchanged.

    What a stamp tells to be unchanged is read with `content` only.
    """
    try:
        known = step_record.read(place)
    except Damaged as error:
        return StoredResult(problem=f"its record is damaged: {error}")
    if (known.line, known.step, known.key, known.state) != (line, step, key, Phase.DONE):
        what = f"{known.line} {known.step} {known.key}, {known.state}"
        return StoredResult(problem=f"its record is damaged: it is that of {what}; expected {line} {step} {key}, done")
    if step_record.OUT not in known.made:
        return StoredResult(problem="its record is damaged: it does not say what was made")
    root = str(place.parents[1].absolute())
    if any(path.startswith("/") for path in known.made) and known.root != root:
        return StoredResult(problem=f"its output was published for {known.root}; expected {root}", elsewhere=True)
    differences, current = step_record.compare(place, known, content=content)
    if differences:
        more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
        elsewhere = all(difference.path.startswith("/") for difference in differences)
        return StoredResult(problem=f"its output was changed: {differences[0]}{more}", elsewhere=elsewhere)
    return StoredResult(current, moved=current is not known)
