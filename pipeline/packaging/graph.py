"""Plan steps, their dependencies, and the keys that decide whether a stored result counts.

A step's key is the digest of everything that can change its output: its named inputs, the keys
of the steps it needs, and the code of the modules that make it. Must not know what is built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from pipeline.core import decoder, fingerprint, neutral
from pipeline.core.cache import KEY_DIGITS
from pipeline.core.suggestion import unknown
from pipeline.errors import UsageError
from pipeline.packaging.step_record import Facts, Record


def _with_all_options(verb: str, words: Sequence[str], options: Sequence[str]) -> str:
    return neutral.command(["./inv", verb, *words, *options])


@dataclass(frozen=True)
class StatedExecution:
    """An execution of a step that another host stated: its key, and the digest of the signed statement."""

    key: str
    statement_sha256: str


@dataclass(frozen=True)
class Work:
    """The input of a step's action: an empty `out` to fill, a `scratch` of its own, its log, and its needs' outputs.

    `records` are those of its needs: which files their outputs must hold. `elsewhere` is for the paths that the
    action published outside of `out`: they count as made by the step. `statements` is for paths outside of `out` that
    get a copy of the signed statement about this run; `stated` is for executions on other hosts, by step,
    whose packages the action used. `facts` is for what is true of this run and
    not of its output. `options` are what a person must add to a verb to mean the same line. Without `compiler_cache`
    every file is compiled. `note` prints a line for the person who waits.
    `format_command` makes a command of a verb, its words and those of `options` that the verb takes.
    """

    step: Step
    out: Path
    scratch: Path
    log: Path
    needs: Mapping[str, Path]
    jobs: int
    facts: Facts = field(default_factory=Facts)
    options: tuple[str, ...] = ()
    records: Mapping[str, Record] = field(default_factory=dict)
    elsewhere: list[Path] = field(default_factory=list)
    statements: list[Path] = field(default_factory=list)
    stated: dict[str, StatedExecution] = field(default_factory=dict)
    compiler_cache: bool = True
    note: Callable[[str], None] = lambda _: None
    format_command: Callable[[str, Sequence[str], Sequence[str]], str] = _with_all_options

    def command(self, verb: str, *words: str) -> str:
        """Return the command `./inv VERB WORDS` about the same line."""
        return self.format_command(verb, words, self.options)


@dataclass(frozen=True)
class Step:
    """One node of the graph. `inputs` are named values, as documents hold them, `code` the modules of the output.

    The key covers these modules with all that they import (`fingerprint`).
    `weight` is how many of the build jobs it uses: 0 for all of them. `differs` is why two builds of it
    cannot have the same bytes, empty where they must. A `local` one changes its host: no other host's result will do.
    """

    name: str
    action: Callable[[Work], None] = field(repr=False)
    inputs: Mapping[str, object] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    weight: int = 1
    differs: str = ""
    local: bool = False

    @property
    def directory(self) -> str:
        """The step's name as a file name."""
        return self.name.replace("/", "-").replace(":", "-")


class StepGraph:
    """Steps by name in topological order, with their keys.

    Raises `UsageError` for an unknown need and for a cycle.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        by_name = {step.name: step for step in steps}
        self.steps = {step.name: step for step in _in_order(by_name)}
        self.keys: dict[str, str] = {}
        self.parts: dict[str, dict[str, str]] = {}
        for step in self.steps.values():
            self.parts[step.name] = self._parts(step)
            self.keys[step.name] = key_of(self.parts[step.name])

    def _parts(self, step: Step) -> dict[str, str]:
        """Return all inputs of the key under the names that `--explain` uses."""
        return {
            **{
                name: value if isinstance(value, str) else json.dumps(decoder.encode(value), sort_keys=True)
                for name, value in step.inputs.items()
            },
            **{f"step {name}": self.keys[name] for name in step.needs},
            "code": fingerprint.digest(*step.code),
        }

    def only(self, names: Sequence[str]) -> StepGraph:
        """Return the part of the graph that ends in the steps whose names begin with one of `names`.

        Raises `UsageError` for names that no step has.
        """
        found = {name: [step for step in self.steps if step == name or step.startswith(f"{name}:")] for name in names}
        if wrong := [name for name, steps in found.items() if not steps]:
            raise unknown("step", wrong, self.steps, hint="`./inv build-all --dry-run` shows the steps")
        ends = [step for steps in found.values() for step in steps]
        wanted: set[str] = set()
        todo = list(ends)
        while todo:
            name = todo.pop()
            wanted.add(name)
            todo += [need for need in self.steps[name].needs if need not in wanted]
        return StepGraph(step for name, step in self.steps.items() if name in wanted)


def _in_order(steps: Mapping[str, Step]) -> Iterator[Step]:
    missing = sorted({need for step in steps.values() for need in step.needs} - steps.keys())
    try:
        for name in TopologicalSorter({name: step.needs for name, step in steps.items()}).static_order():
            if name not in missing:
                yield steps[name]
    except CycleError as error:
        why = f"a cycle: {' -> '.join(error.args[1])}"
    else:
        why = f"unknown: {', '.join(missing)}" if missing else ""
    if why:
        raise UsageError("the plan cannot be put in order", why=why)


def key_of(parts: Mapping[str, str]) -> str:
    """Return the key of a step with these inputs."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]
