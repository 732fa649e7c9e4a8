"""What a running build says of how far it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.packaging import progress, step_record
from pipeline.packaging.graph import Plan, Step, Work
from pipeline.packaging.scheduler import Scheduler


def test_it_says_what_is_done_what_runs_and_how_long_it_still_takes(tmp_path: Path) -> None:
    said: list[str] = []
    runner = Scheduler(tmp_path, 1, lambda _: None)

    def plan(value: str) -> Plan:
        return Plan([Step("first", fill), Step("second", looks, {"value": value}, ("first",))])

    def fill(_: Work) -> None:
        """Done at once."""

    def looks(work: Work) -> None:
        begun = step_record.read(work.out.parent).begun
        said.append(progress.progress_line(plan(str(work.step.inputs["value"])), runner, begun + 3))

    assert progress.progress_line(plan("1"), runner, 0.0) == ""
    runner.run(plan("1"))
    assert said == ["1 of 2 steps done, running second"]
    place = next((tmp_path / "second").glob("[!.]*/meta.json")).parent
    replace(step_record.read(place), seconds=100.0).write(place)
    runner.run(plan("2"))
    assert said[1] == "1 of 2 steps done, running second (last time 100 s); about 97 s left"
    assert progress.progress_line(plan("2"), runner, 0.0) == ""
