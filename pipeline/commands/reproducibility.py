"""`--check-reproducible`: rebuild every package elsewhere, without the compiler cache, and compare the bytes.

Takes the plan that the run has made: nothing is fetched, proven or planned for the second build.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pipeline.commands.build_summary import failure
from pipeline.config import next_command
from pipeline.config.context import RunContext
from pipeline.config.line_model import Line, LineIdentity
from pipeline.core import documents, trees
from pipeline.core.fs import write_atomic
from pipeline.core.locks import locked
from pipeline.packaging import reproducible
from pipeline.packaging.graph import StepGraph
from pipeline.packaging.inventory import COMPARISON_MARK
from pipeline.packaging.reproducible import RebuildResult
from pipeline.packaging.scheduler import Outcome, Scheduler

REBUILD = f"{COMPARISON_MARK}rebuild"  # behind a line's name: the steps of its second builds


@dataclass(frozen=True)
class Rebuild:
    """The second build of a run. `first` ran the first one, `run` runs a plan with a scheduler and shows progress."""

    line: Line
    context: RunContext
    first: Scheduler
    run: Callable[[StepGraph, Scheduler], Mapping[str, Outcome]]

    def compare(self, graph: StepGraph, outcomes: Mapping[str, Outcome]) -> RebuildResult:
        """Rebuild the plan's packages and compare them with those of `outcomes`.

        Raises `BuildFailed` where packages differ, and what failed in the second build.
        """
        console = self.context.console
        left_out = {step.name: step.differs for step in graph.steps.values() if step.differs}
        for name, why in left_out.items():
            console.say(f"{name} is left out of the comparison: {why}")
        names = [name for name in graph.steps if name not in left_out]
        if not names:
            return RebuildResult(left_out=left_out)
        console.note(f"rebuilding without the compiler cache: {', '.join(names)}")
        wanted = graph.only(names)
        root = self.first.root.with_name(f"{self.first.root.name}{REBUILD}")
        second = replace(
            self.first, root=root, force=tuple(wanted.steps), force_reason="to be compared", compiler_cache=False
        )
        second.exchange = None  # what another host made says nothing about this second build
        second.attester = None  # what it makes is removed, and a statement is about what can be had
        with locked(root.with_name(f"{root.name}.lock")):
            made = self._rebuilt(wanted, second)
            before = {name: self.first.output(outcomes[name]) for name in names}
            after = {name: second.output(made[name]) for name in names}
            reports = self.context.settings.artifacts / "reports" / "reproducible" / self.line.name
            comparison = RebuildResult(reproducible.compare(before, after, reports), left_out)
            self._tell(comparison)
            reproducible.check(comparison.compared)
            trees.remove(root)  # nobody needs the same bytes twice
        return comparison

    def _rebuilt(self, graph: StepGraph, second: Scheduler) -> Mapping[str, Outcome]:
        outcomes = self.run(graph, second)
        if error := failure(outcomes):
            error.what = f"in the second build, that of the comparison: {error.what}"
            # No shell leads there.
            error.hint = next_command.command("build-all", ["--check-reproducible"], second.options)
            raise error
        return outcomes

    def _tell(self, comparison: RebuildResult) -> None:
        rows = [
            (c.file, c.first[:16], c.second[:16], "the same" if c.same else "DIFFERENT") for c in comparison.compared
        ]
        title = f"line {self.line.label}: built twice"
        self.context.console.table(("package", "sha256", "of the second build", "bytes"), rows, title)
        place = self.context.settings.artifacts / "evidence" / self.line.name / "reproducible.json"
        write_atomic(place, documents.to_json({**vars(LineIdentity(*self.line.identity)), **vars(comparison)}))
