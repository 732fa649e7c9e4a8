"""The runner: parallel, resumable, killed at any point, and able to say why each step ran."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import process
from pipeline.build.plan import Plan, Step, Work
from pipeline.build.runner import LOCK, Outcome, Runner, State
from pipeline.errors import Locked, PipelineError
from pipeline.locks import locked
from tests.fixtures.commandline import ROOT

Action = Callable[[Work], None]


def writes(text: str) -> Action:
    def action(work: Work) -> None:
        needed = "".join((path / "text").read_text() for path in work.needs.values())
        (work.out / "text").write_text(needed + text)

    return action


def fails(work: Work) -> None:
    raise PipelineError("it went wrong", hint="look at it")


def runner(root: Path, **options: object) -> Runner:
    said: list[str] = []
    return Runner(root, jobs=2, say=said.append, **options)  # type: ignore[arg-type]


def chain(kernel: str = "1") -> Plan:
    return Plan(
        [
            Step("kernel", writes("k"), {"source": kernel}),
            Step("tools", writes("t"), {}, ("kernel",)),
            Step("roles", writes("r")),
            Step("publish", writes("p"), {}, ("tools", "roles")),
        ]
    )


def states(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: outcome.state.value for name, outcome in outcomes.items()}


def text(outcomes: dict[str, Outcome], step: str) -> str:
    return (outcomes[step].out / "out/text").read_text()


def test_everything_runs_once_and_the_second_run_is_free(tmp_path: Path) -> None:
    first = runner(tmp_path).run(chain())
    assert set(states(first).values()) == {"ran"}
    assert text(first, "publish") == "ktrp"
    assert set(states(runner(tmp_path).run(chain())).values()) == {"reused"}


def test_only_what_depends_on_a_change_runs_again_and_says_which_input_changed(tmp_path: Path) -> None:
    runner(tmp_path).run(chain())
    told = runner(tmp_path).explain(chain("2"))
    assert told["kernel"] == (State.RAN, "changed: source")
    assert told["tools"] == (State.RAN, "changed: step kernel")
    assert told["roles"] == (State.REUSED, "nothing changed")
    assert states(runner(tmp_path).run(chain("2"))) == {
        "kernel": "ran", "roles": "reused", "tools": "ran", "publish": "ran",
    }  # fmt: skip
    assert set(states(runner(tmp_path).run(chain("1"))).values()) == {"reused"}, "the first result is still there"


def test_a_forced_step_runs_although_nothing_changed(tmp_path: Path) -> None:
    runner(tmp_path).run(chain())
    outcomes = runner(tmp_path, force=("tools",)).run(chain())
    assert states(outcomes)["tools"] == "ran"
    assert outcomes["tools"].why == "forced"
    assert text(outcomes, "tools") == "kt"


def test_a_failure_blocks_what_needs_it_and_is_kept_to_be_looked_at(tmp_path: Path) -> None:
    plan = Plan([Step("kernel", fails), Step("tools", writes("t"), {}, ("kernel",))])
    outcomes = runner(tmp_path).run(plan)
    assert states(outcomes) == {"kernel": "failed", "tools": "blocked"}
    assert outcomes["tools"].why == "kernel failed"
    meta = json.loads((tmp_path / "kernel/.failed/meta.json").read_text())
    assert (meta["state"], meta["error"]["next"]) == ("failed", "look at it")
    assert not list((tmp_path / "kernel").glob(".work-*"))


def test_keep_going_runs_what_does_not_depend_on_the_failure(tmp_path: Path) -> None:
    plan = Plan([Step("a", fails), Step("b", writes("b")), Step("c", writes("c"), {}, ("b",))])
    assert states(runner(tmp_path, keep_going=True).run(plan)) == {"a": "failed", "b": "ran", "c": "ran"}


def test_a_mistake_of_ours_is_raised_not_hidden(tmp_path: Path) -> None:
    def breaks(_: Work) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        runner(tmp_path).run(Plan([Step("a", breaks), Step("b", writes("b"), {}, ("a",))]))


def test_steps_run_side_by_side_as_far_as_their_weights_allow(tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=10)
    alone = threading.Lock()

    def meets(_: Work) -> None:
        together.wait()

    def heavy(work: Work) -> None:
        assert work.jobs == 2
        assert alone.acquire(blocking=False), "two steps that use every job ran at once"
        time.sleep(0.05)
        alone.release()

    side_by_side = Plan([Step("a", meets), Step("b", meets)])
    assert set(states(runner(tmp_path).run(side_by_side)).values()) == {"ran"}
    one_by_one = Plan([Step(name, heavy, weight=0) for name in ("c", "d", "e")])
    assert set(states(runner(tmp_path).run(one_by_one)).values()) == {"ran"}


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.component.test_runner import chain, runner, states
print(states(runner(Path(sys.argv[1])).run(chain())))
"""


def killed_run(root: Path, point: str) -> int:
    environment = process.clean_environment(FNAT_TRACE_KILL=point)
    argv = [sys.executable, "-c", PROGRAM, str(root), str(ROOT)]
    with process.start(argv, env=environment) as child:
        return child.wait()


POINTS = ("step.begin", "step.metadata-written", "step.done", "step.before-rename", "step.after-rename")


@pytest.mark.parametrize("point", [f"{name}:{count}" for name in POINTS for count in (1, 2, 3, 4)])
def test_killed_at_any_point_the_next_run_completes_and_nothing_is_left(tmp_path: Path, point: str) -> None:
    assert killed_run(tmp_path, point) == -9
    dead = [json.loads(path.read_text()) for path in tmp_path.glob("*/.work-*/meta.json")]
    assert all(meta["state"] in ("running", "done") for meta in dead), "a dead run can be read"
    outcomes = runner(tmp_path).run(chain())
    assert text(outcomes, "publish") == "ktrp"
    left = [path.name for path in tmp_path.glob("*/.*")]
    assert left == []


def test_while_a_run_lasts_nobody_can_have_the_line_for_himself(tmp_path: Path) -> None:
    def tries(_: Work) -> None:
        with pytest.raises(Locked), locked(tmp_path / LOCK, wait=False):
            pass

    assert states(runner(tmp_path).run(Plan([Step("kernel", tries)]))) == {"kernel": "ran"}
    with locked(tmp_path / LOCK, wait=False):
        pass


def test_what_a_step_says_of_its_run_is_in_the_metadata_whether_it_fails_or_not(tmp_path: Path) -> None:
    def tells(work: Work) -> None:
        work.facts["ccache"] = {"hits": 1, "misses": 2}
        assert work.options == ("--line", "el6")

    def tells_and_fails(work: Work) -> None:
        tells(work)
        fails(work)

    plan = Plan([Step("good", tells), Step("bad", tells_and_fails)])
    outcomes = runner(tmp_path, options=("--line", "el6"), keep_going=True).run(plan)
    metas = [json.loads((path / "meta.json").read_text()) for path in (outcomes["good"].out, tmp_path / "bad/.failed")]
    assert [(meta["state"], meta["facts"]["ccache"]["hits"]) for meta in metas] == [("done", 1), ("failed", 1)]
    assert all(meta["seconds"] >= 0 and meta["begun"] > 0 for meta in metas)
    assert Plan([Step("good", tells)]).keys["good"] == outcomes["good"].key, "facts are no input"


def test_what_a_failed_step_left_is_out_of_reach_of_others_and_has_no_special_bit(tmp_path: Path) -> None:
    def leaves_a_door(work: Work) -> None:
        (work.scratch / "door").touch()
        (work.scratch / "door").chmod(0o6755)
        fails(work)

    runner(tmp_path).run(Plan([Step("bad", leaves_a_door)]))
    scratch = tmp_path / "bad/.failed/scratch"
    assert [path.stat().st_mode & 0o7777 for path in (scratch, scratch / "door")] == [0o700, 0o755]


def test_two_runs_at_once_do_each_step_once(tmp_path: Path) -> None:
    counted: list[str] = []

    def counts(work: Work) -> None:
        counted.append(work.step.name)
        time.sleep(0.1)

    def run() -> None:
        runner(tmp_path).run(Plan([Step("kernel", counts), Step("tools", counts, {}, ("kernel",))]))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counted) == ["kernel", "tools"]
