"""The statement of a step: made when the step runs, kept and reused with its result, and never made up afterwards."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.errors import PipelineError
from pipeline.packaging import step_record
from pipeline.packaging.graph import Step, StepGraph, Work
from pipeline.packaging.scheduler import Outcome, Scheduler, State
from pipeline.packaging.step_record import Record
from tests.fixtures.commandline import ROOT


@dataclass
class Notary:
    """An attester whose statements say how many it has made; one without a name has no key yet."""

    key_id: str
    made: list[str] = field(default_factory=list)
    broken: bool = False
    trusted: tuple[str, ...] = ()
    begun: int = 0

    def begin(self) -> None:
        self.begun += 1

    def statement(self, work: Work, record: Record) -> bytes:
        if self.broken:
            raise PipelineError("the key is gone", hint="look for it")
        self.key_id = self.key_id or "first"
        assert record.state == "done" and record.output, "what was made is known"
        assert (work.out / "text").exists()
        self.made.append(record.step)
        return f"{self.key_id} {record.step} {len(self.made)}".encode()


def plan(publishes: Path | None = None) -> StepGraph:
    def writes(work: Work) -> None:
        (work.out / "text").write_text(work.step.name)

    def publishes_it(work: Work) -> None:
        writes(work)
        if publishes:
            work.statements.append(publishes / "copy.json")

    return StepGraph([Step("kernel", writes), Step("publish", publishes_it, {}, ("kernel",))])


def run(root: Path, notary: Notary | None, graph: StepGraph | None = None) -> dict[str, Outcome]:
    return Scheduler(root, 2, lambda _: None, attester=notary).run(graph or plan())


def states(outcomes: dict[str, Outcome]) -> list[str]:
    return [outcome.state.value for outcome in outcomes.values()]


def statement(outcome: Outcome) -> str:
    return (outcome.out / step_record.STATEMENT).read_text()


def test_a_statement_is_made_with_the_step_and_reused_with_it(tmp_path: Path) -> None:
    notary = Notary("a")
    first = run(tmp_path, notary)
    assert states(first) == ["ran", "ran"] and statement(first["kernel"]) == "a kernel 1"
    again = run(tmp_path, notary)
    assert states(again) == ["reused", "reused"] and statement(again["kernel"]) == "a kernel 1"
    assert notary.made == ["kernel", "publish"]


def test_an_attester_looks_around_before_a_step_runs_and_not_where_none_does(tmp_path: Path) -> None:
    notary, seen = Notary("a"), list[int]()

    def writes(work: Work) -> None:
        seen.append(notary.begun)
        (work.out / "text").write_text("x")

    for _ in range(2):
        run(tmp_path, notary, StepGraph([Step("kernel", writes)]))
    assert (seen, notary.begun) == ([1], 1)


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        (None, "b", "no statement was made when it ran; built anew"),
        ("a", "b", "its statement is signed with the key a…; expected b…; built anew"),
        ("a", "", "its statement is signed with the key a…; expected one that is still to be made; built anew"),
    ],
)
def test_a_result_without_a_statement_of_the_key_is_built_anew_and_the_reason_told(
    tmp_path: Path, before: str | None, now: str, says: str
) -> None:
    old = run(tmp_path, Notary(before) if before else None)
    runner = Scheduler(tmp_path, 2, lambda _: None, attester=Notary(now))
    assert runner.explain(plan())["kernel"] == (State.RAN, says)
    new = runner.run(plan())
    assert states(new) == ["ran", "ran"] and new["kernel"].why == says
    assert statement(new["kernel"]).startswith(f"{now or 'first'} kernel")
    assert old["kernel"].key == new["kernel"].key, "a statement is no input"
    assert not list(tmp_path.glob("*/.*-*")), "the old result was not damaged"


def test_without_an_attester_a_result_with_a_statement_is_as_good_as_any(tmp_path: Path) -> None:
    run(tmp_path, Notary("a"))
    assert states(run(tmp_path, None)) == ["reused", "reused"]


@pytest.mark.parametrize("damage", ["changed", "removed"])
def test_a_damaged_statement_damages_its_result(tmp_path: Path, damage: str) -> None:
    place = run(tmp_path, Notary("a"))["kernel"].out / step_record.STATEMENT
    place.write_text("b kernel 9") if damage == "changed" else place.unlink()
    found = run(tmp_path, Notary("a"))["kernel"]
    assert found.state is State.RAN and found.why.startswith("its output was changed: statement.intoto.json: ")
    assert list(tmp_path.glob("kernel/.damaged-*"))


def test_a_copy_that_was_published_belongs_to_the_result(tmp_path: Path) -> None:
    beside = tmp_path / "repo" / "attestations"
    first = run(tmp_path / "steps", Notary("a"), plan(beside))
    assert (beside / "copy.json").read_text() == statement(first["publish"]) == "a publish 2"
    assert states(run(tmp_path / "steps", Notary("a"), plan(beside))) == ["reused", "reused"]
    (beside / "copy.json").unlink()
    assert states(run(tmp_path / "steps", Notary("a"), plan(beside))) == ["reused", "ran"]
    assert (beside / "copy.json").exists()


def test_a_statement_that_cannot_be_made_fails_its_step(tmp_path: Path) -> None:
    outcomes = run(tmp_path, Notary("a", broken=True))
    assert states(outcomes) == ["failed", "blocked"]
    assert outcomes["kernel"].error is not None and outcomes["kernel"].error.what == "the key is gone"
    assert states(run(tmp_path, Notary("a"))) == ["ran", "ran"]


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.component.packaging.test_attested_steps import Notary, run
run(Path(sys.argv[1]), Notary("a"))
"""


@pytest.mark.parametrize("point", ["step.done", "step.attested", "step.before-rename", "step.after-rename"])
def test_killed_around_a_statement_the_next_run_completes(tmp_path: Path, point: str) -> None:
    environment = process.clean_environment(FNAT_TRACE_KILL=f"{point}:1")
    with process.start([sys.executable, "-c", PROGRAM, str(tmp_path), str(ROOT)], env=environment) as child:
        assert child.wait() == -9
    outcomes = run(tmp_path, Notary("a"))
    assert statement(outcomes["kernel"]).startswith("a kernel") and statement(outcomes["publish"])
    assert not list(tmp_path.glob("*/.*"))
    assert states(run(tmp_path, Notary("a"))) == ["reused", "reused"]
