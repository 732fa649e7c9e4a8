"""The runner: parallel, resumable, killed at any point, and able to say why each step ran."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import manifest, process
from pipeline.core.locks import locked
from pipeline.errors import Locked, PipelineError, Refused
from pipeline.packaging import step_record
from pipeline.packaging.ccache import CacheStatistics
from pipeline.packaging.graph import Step, StepGraph, Work
from pipeline.packaging.scheduler import LOCK, Outcome, Scheduler, State
from tests.fixtures.commandline import ROOT

Action = Callable[[Work], None]


def writes(text: str) -> Action:
    def action(work: Work) -> None:
        needed = "".join((path / "text").read_text() for path in work.needs.values())
        (work.out / "text").write_text(needed + text)

    return action


def fails(work: Work) -> None:
    raise PipelineError("it went wrong", hint="look at it")


def runner(root: Path, **options: object) -> Scheduler:
    said: list[str] = []
    return Scheduler(root, jobs=2, say=said.append, **options)  # type: ignore[arg-type]


def logs(work: Work) -> None:
    work.log.write_text("log")
    writes("k")(work)


def chain(kernel: str = "1") -> StepGraph:
    return StepGraph(
        [
            Step("kernel", logs, {"source": kernel}),
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
    plan = StepGraph([Step("kernel", fails), Step("tools", writes("t"), {}, ("kernel",))])
    outcomes = runner(tmp_path).run(plan)
    assert states(outcomes) == {"kernel": "failed", "tools": "blocked"}
    assert outcomes["tools"].why == "kernel failed"
    meta = json.loads((tmp_path / "kernel/.failed/meta.json").read_text())
    assert (meta["state"], meta["error"]["next"]) == ("failed", "look at it")
    assert not list((tmp_path / "kernel").glob(".work-*"))


def test_keep_going_runs_what_does_not_depend_on_the_failure(tmp_path: Path) -> None:
    plan = StepGraph([Step("a", fails), Step("b", writes("b")), Step("c", writes("c"), {}, ("b",))])
    assert states(runner(tmp_path, keep_going=True).run(plan)) == {"a": "failed", "b": "ran", "c": "ran"}


def test_a_mistake_of_ours_is_raised_not_hidden(tmp_path: Path) -> None:
    def breaks(_: Work) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        runner(tmp_path).run(StepGraph([Step("a", breaks), Step("b", writes("b"), {}, ("a",))]))


def test_steps_run_side_by_side_as_far_as_their_weights_allow(tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=60)
    alone = threading.Lock()

    def meets(_: Work) -> None:
        together.wait()

    def heavy(work: Work) -> None:
        assert work.jobs == 2
        assert alone.acquire(blocking=False), "two steps that use every job ran at once"
        time.sleep(0.05)
        alone.release()

    side_by_side = StepGraph([Step("a", meets), Step("b", meets)])
    assert set(states(runner(tmp_path).run(side_by_side)).values()) == {"ran"}
    one_by_one = StepGraph([Step(name, heavy, weight=0) for name in ("c", "d", "e")])
    assert set(states(runner(tmp_path).run(one_by_one)).values()) == {"ran"}


# --- What is reused is what was made ---------------------------------------------------------------------


def rewritten(path: Path, data: bytes) -> None:
    """Other bytes in a file's place, with its times."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def linked(path: Path, other: Path) -> None:
    """A link in the place of a file or directory that leads to it."""
    path.rename(other)
    path.symlink_to(other)


def piped(path: Path) -> None:
    """A FIFO in a file's place."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def taken_from(plan: StepGraph) -> Callable[[Path], None]:
    """Puts the record of another run in this one's place: that of the kernel in `plan`."""

    def take(place: Path) -> None:
        other = runner(place.parent.parent).run(plan)["kernel"].out
        shutil.copy(other / "meta.json", place / "meta.json")

    return take


def of_another_step(place: Path) -> None:
    """The record of the step roles, whose output is as good."""
    [roles] = place.parents[1].glob("roles/[!.]*/meta.json")
    shutil.copy(roles, place / "meta.json")


def of_another_line(place: Path) -> None:
    """The record of the same step and key, and the same output, in another line."""
    made = step_record.read(place)
    replace(made, line="other").write(place)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "output, a byte": (lambda p: rewritten(p / "out/text", b"x"), "its output was changed: out/text: SHA-256 "),
    "output, emptied": (
        lambda p: (p / "out/text").write_bytes(b""),
        "its output was changed: out/text: 0 bytes; expected ",
    ),
    "output, a link": (
        lambda p: linked(p / "out/text", p / "text"),
        "its output was changed: out/text: a link; expected a file",
    ),
    "output, missing": (lambda p: (p / "out/text").unlink(), "its output was changed: out/text: missing"),
    "output, more": (lambda p: (p / "out/more").touch(), "its output was changed: out/more: not expected there"),
    "output, gone": (lambda p: shutil.rmtree(p / "out"), "its output was changed: out: missing"),
    "output, elsewhere": (
        lambda p: linked(p / "out", p / "in"),
        "its output was changed: out: no directory and 1 more",
    ),
    "log, a byte": (lambda p: rewritten(p / "log", b"LOG"), "its output was changed: log: SHA-256 "),
    "log, gone": (lambda p: (p / "log").unlink(), "its output was changed: log: missing"),
    "record, emptied": (lambda p: (p / "meta.json").write_text(""), "its record is damaged: empty"),
    "record, cut": (
        lambda p: os.truncate(p / "meta.json", (p / "meta.json").stat().st_size // 2),
        "its record is damaged: not a JSON document",
    ),
    "record, edited": (
        lambda p: (p / "meta.json").write_text((p / "meta.json").read_text().replace("never run", "always run")),
        "its record is damaged: its seal does not match its content",
    ),
    "record, deep": (lambda p: (p / "meta.json").write_text("[" * 99_999), "its record is damaged: not a JSON"),
    "record, gone": (lambda p: (p / "meta.json").unlink(), "its record is damaged: it is missing"),
    "record, a pipe": (
        lambda p: piped(p / "meta.json"),
        "its record is damaged: it cannot be read: expected a regular file, got a FIFO",
    ),
    "record, of before": (
        lambda p: (p / "meta.json").write_text('{"step": "kernel", "state": "done"}'),
        "its record is damaged: no seal",
    ),
    "record, sealed by hand": (
        lambda p: (p / "meta.json").write_text(manifest.seal({"step": "kernel", "state": "done"})),
        "its record is damaged: it has another format",
    ),
    "record, of another key": (taken_from(chain("2")), "its record is damaged: it is that of line kernel "),
    "record, of another step": (of_another_step, "its record is damaged: it is that of line roles "),
    "record, of another line": (of_another_line, "its record is damaged: it is that of other kernel "),
    "record, of a dead run": (
        lambda p: replace(step_record.read(p), state=step_record.Phase.RUNNING).write(p),
        "its record is damaged: it is that of line kernel ",
    ),
    "record, of nothing": (
        lambda p: replace(step_record.read(p), made={}).write(p),
        "its record is damaged: it does not say what was made",
    ),
    "a file in its place": (
        lambda p: p.rename(p.with_name("other")) and p.write_text("a file"),
        "its record is damaged: it cannot be read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_as_its_step_made_it_is_told_kept_aside_and_made_anew(tmp_path: Path, damage: str) -> None:
    line, (spoil, problem) = tmp_path / "line", DAMAGES[damage]
    place = runner(line).run(chain())["kernel"].out
    spoil(place)
    known = runner(line).last_record(chain().steps["tools"])
    warned: list[str] = []
    state, why = runner(line).explain(chain())["kernel"]
    assert (state, why.endswith("; built anew")) == (State.RAN, True) and why.startswith(problem), why
    outcomes = runner(line, warn=warned.append).run(chain())
    assert (states(outcomes)["kernel"], outcomes["kernel"].why, warned) == ("ran", why, [f"kernel: {why}"])
    assert text(outcomes, "publish") == "ktrp" and states(outcomes)["tools"] == "reused"
    assert runner(line).last_record(chain().steps["tools"]) == known
    [kept] = place.parent.glob(".damaged-*")
    assert kept.name == f".damaged-{place.name}"
    assert set(states(runner(line).run(chain())).values()) == {"reused"}


def test_of_what_was_damaged_the_last_one_is_kept(tmp_path: Path) -> None:
    for number in ("1", "2", "1"):
        place = runner(tmp_path).run(chain(number))["kernel"].out
        (place / "out/text").write_text(f"spoilt {number}")
        runner(tmp_path).run(chain(number))
    [kept] = tmp_path.glob("kernel/.damaged-*")
    assert (kept / "out/text").read_text() == "spoilt 1"


def test_a_copy_is_read_once_and_reused_then_by_its_stamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner(tmp_path / "line").run(chain())
    shutil.copytree(tmp_path / "line", tmp_path / "copy" / "line", symlinks=True)
    read: list[Path] = []
    real = manifest.sha256_at

    def reading(path: Path) -> tuple[str, os.stat_result]:
        read.append(path)
        return real(path)

    monkeypatch.setattr(manifest, "sha256_at", reading)
    assert set(states(runner(tmp_path / "copy" / "line").run(chain())).values()) == {"reused"}
    assert len(read) == 5, "the steps' texts, and the kernel's log"
    assert set(states(runner(tmp_path / "copy" / "line").run(chain())).values()) == {"reused"}
    assert len(read) == 5


def test_bytes_that_changed_behind_their_stamps_are_found_when_everything_is_read(tmp_path: Path) -> None:
    place = runner(tmp_path).run(chain())["kernel"].out
    known = step_record.read(place)
    entry = replace(known.output["text"], content="0" * 64)
    replace(known, made={**known.made, "out": {"text": entry}}).write(place)
    assert states(runner(tmp_path).run(chain()))["kernel"] == "reused"
    assert states(runner(tmp_path, content=True).run(chain()))["kernel"] == "ran"


def test_an_output_that_changes_between_its_check_and_its_use_is_not_used(tmp_path: Path) -> None:
    used: list[str] = []

    def spoils(work: Work) -> None:
        [kernel] = tmp_path.glob("kernel/[!.]*/out/text")
        kernel.write_text("other")

    def plan() -> StepGraph:
        uses = Step("tools", lambda work: used.append("tools"), {}, ("kernel", "spoils"))
        return StepGraph([Step("kernel", writes("k")), Step("spoils", spoils, {}, ("kernel",)), uses])

    outcomes = runner(tmp_path, options=("--line", "el6")).run(plan())
    error = outcomes["tools"].error
    assert isinstance(error, Refused) and error.what.startswith("kernel: its output was changed while this run used it")
    assert (used, error.hint) == ([], "./inv build-all --line el6")
    assert states(runner(tmp_path).run(plan())) == {"kernel": "ran", "spoils": "reused", "tools": "ran"}


@pytest.mark.parametrize("how", ["damaged", "forced"])
def test_where_a_step_gives_other_bytes_the_second_time_what_was_made_from_the_first_is_made_anew(
    tmp_path: Path, how: str
) -> None:
    def plan(kernel: str) -> StepGraph:
        return StepGraph([Step("kernel", writes(kernel)), Step("tools", writes("t"), {}, ("kernel",))])

    def rebuilt(kernel: str) -> dict[str, Outcome]:
        if how == "damaged":
            next(tmp_path.glob("kernel/[!.]*/out/text")).write_text("spoilt")
        return runner(tmp_path, force=("kernel",) if how == "forced" else ()).run(plan(kernel))

    runner(tmp_path).run(plan("k"))
    assert states(rebuilt("k")) == {"kernel": "ran", "tools": "reused"}
    again = rebuilt("x")
    assert (states(again), text(again, "tools")) == ({"kernel": "ran", "tools": "ran"}, "xt")
    assert again["tools"].why == "made from another output of kernel"


def test_what_a_step_published_elsewhere_counts_as_made_by_it(tmp_path: Path) -> None:
    there, latest = tmp_path / "repo" / "one", tmp_path / "repo" / "latest"

    def publishes(work: Work) -> None:
        there.mkdir(parents=True, exist_ok=True)
        (there / "README").write_text("one")
        latest.unlink(missing_ok=True)
        latest.symlink_to("one")
        work.elsewhere.extend([there, latest])

    def why() -> str:
        outcome = runner(tmp_path / "line").run(StepGraph([Step("publish", publishes)]))["publish"]
        return outcome.why

    why()
    assert why() == "nothing changed"
    (there / "README").write_text("two")
    assert why().startswith(f"its output was changed: {there}/README: SHA-256 ")
    latest.unlink()
    latest.symlink_to("two")
    assert why() == f"its output was changed: {latest}: target two; expected one; built anew"
    shutil.rmtree(there)
    assert why() == f"its output was changed: {there}: missing; built anew"
    assert not list(tmp_path.glob("line/publish/.damaged-*")), "its own output was never damaged"


def test_an_output_that_no_manifest_can_hold_fails_its_step(tmp_path: Path) -> None:
    outcome = runner(tmp_path).run(StepGraph([Step("kernel", lambda work: piped(work.out / "pipe"))]))["kernel"]
    assert "kernel: its output cannot be kept: pipe is neither file, link nor directory" in str(outcome.error)


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.component.packaging.test_scheduler import chain, runner, states
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

    assert states(runner(tmp_path).run(StepGraph([Step("kernel", tries)]))) == {"kernel": "ran"}
    with locked(tmp_path / LOCK, wait=False):
        pass


def test_what_a_step_says_of_its_run_is_in_the_metadata_whether_it_fails_or_not(tmp_path: Path) -> None:
    def tells(work: Work) -> None:
        work.facts.ccache = CacheStatistics(1, 2)
        assert work.options == ("--line", "el6")

    def tells_and_fails(work: Work) -> None:
        tells(work)
        fails(work)

    plan = StepGraph([Step("good", tells), Step("bad", tells_and_fails)])
    outcomes = runner(tmp_path, options=("--line", "el6"), keep_going=True).run(plan)
    metas = [json.loads((path / "meta.json").read_text()) for path in (outcomes["good"].out, tmp_path / "bad/.failed")]
    assert [(meta["state"], meta["facts"]["ccache"]["hits"]) for meta in metas] == [("done", 1), ("failed", 1)]
    assert all(meta["seconds"] >= 0 and meta["begun"] > 0 for meta in metas)
    assert StepGraph([Step("good", tells)]).keys["good"] == outcomes["good"].key, "facts are no input"


def test_what_a_failed_step_left_is_out_of_reach_of_others_and_has_no_special_bit(tmp_path: Path) -> None:
    def leaves_a_door(work: Work) -> None:
        (work.scratch / "door").touch()
        (work.scratch / "door").chmod(0o6755)
        fails(work)

    runner(tmp_path).run(StepGraph([Step("bad", leaves_a_door)]))
    scratch = tmp_path / "bad/.failed/scratch"
    assert [path.stat().st_mode & 0o7777 for path in (scratch, scratch / "door")] == [0o700, 0o755]


def test_two_runs_at_once_do_each_step_once(tmp_path: Path) -> None:
    counted: list[str] = []

    def counts(work: Work) -> None:
        counted.append(work.step.name)
        time.sleep(0.1)

    def run() -> None:
        runner(tmp_path).run(StepGraph([Step("kernel", counts), Step("tools", counts, {}, ("kernel",))]))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counted) == ["kernel", "tools"]
