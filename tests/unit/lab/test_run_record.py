"""Records of the lab's runs: running, ended, interrupted, and what a later look finds of each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.core.locks import locked
from pipeline.lab import run_record
from pipeline.lab.report import results
from pipeline.lab.report.results import Report, RunState, State
from tests.fixtures import labruns
from tests.fixtures.commandline import ROOT

# A run that stays after its first scenario until it is killed.
STAYS = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pipeline.lab import run_record
from tests.fixtures import labruns
begun = labruns.report(labruns.passed(), pid=os.getpid()).model_copy(update={"scenarios": ()})
with run_record.recording(Path(sys.argv[2]), begun) as recorder:
    recorder.save(scenarios=(labruns.passed(),))
    print("begun", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def staying(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process whose run goes on."""
    with process.start([sys.executable, "-c", STAYS, str(ROOT), str(tmp_path / "run")]) as child:
        assert child.stdout is not None and child.stdout.readline() == b"begun\n"
        yield child


def page_of(work: Path) -> str:
    return (work / results.PAGE).read_text()


def states(reports: Path) -> list[RunState]:
    return [found.run.state for found in run_record.runs(reports)]


def test_a_run_that_goes_on_has_a_page_and_a_record_that_say_so(
    tmp_path: Path, staying: subprocess.Popen[bytes]
) -> None:
    (found,) = run_record.runs(tmp_path)
    assert (found.run.state, found.run.pid) == (RunState.RUNNING, staying.pid)
    assert found.run.states == {"boot": State.PASSED} and found.counts == "1 of 1 scenarios passed"
    assert "Running</span>: lab of el6" in page_of(found.path) and "right release" in page_of(found.path)


def test_a_run_that_was_killed_is_interrupted_and_its_page_says_so_after_the_next_one_began(
    tmp_path: Path, staying: subprocess.Popen[bytes]
) -> None:
    staying.send_signal(signal.SIGKILL)
    staying.wait()
    assert states(tmp_path) == [RunState.INTERRUPTED]
    assert "Running</span>" in page_of(tmp_path / "run"), "a look changes nothing"
    run_record.settle(tmp_path)
    assert "Interrupted</span>: lab of el6" in page_of(tmp_path / "run")
    assert "right release" in page_of(tmp_path / "run"), "what had ended is kept"
    assert states(tmp_path) == [RunState.INTERRUPTED]


def test_a_run_that_goes_on_is_left_alone(tmp_path: Path, staying: subprocess.Popen[bytes]) -> None:
    run_record.settle(tmp_path)
    assert "Running</span>" in page_of(tmp_path / "run") and states(tmp_path) == [RunState.RUNNING]


def test_a_killed_run_whose_number_another_process_has_now_is_interrupted(tmp_path: Path) -> None:
    with pytest.raises(KeyError), run_record.recording(tmp_path / "run", labruns.report(pid=os.getpid())) as recorder:
        raise KeyError
    recorder.save(state=RunState.RUNNING)  # as it was when it was killed; nobody holds its lock
    assert states(tmp_path) == [RunState.INTERRUPTED]
    with locked(tmp_path / "run" / run_record.LOCK):
        assert states(tmp_path) == [RunState.RUNNING]


@pytest.mark.parametrize(
    ("error", "why"), [(KeyboardInterrupt(), "stopped by a signal"), (OSError("no disk"), "no disk")]
)
def test_a_run_that_is_stopped_or_fails_is_interrupted_with_the_reason(
    tmp_path: Path, error: BaseException, why: str
) -> None:
    with pytest.raises(type(error)), run_record.recording(tmp_path / "run", labruns.report()):
        raise error
    assert states(tmp_path) == [RunState.INTERRUPTED]
    assert "Interrupted</span>" in page_of(tmp_path / "run") and why in page_of(tmp_path / "run")
    read = Report.model_validate_json((tmp_path / "run" / results.JSON).read_text())
    assert read.state is RunState.INTERRUPTED and not read.passed


def test_a_run_that_ended_is_recorded_by_its_scenarios(tmp_path: Path) -> None:
    labruns.recorded(tmp_path / "green", labruns.passed(), labruns.left_out(), started=1.0)
    labruns.recorded(tmp_path / "red", labruns.passed(), labruns.fullnat(), started=2.0)
    assert states(tmp_path) == [RunState.PASSED, RunState.FAILED]
    assert [found.counts for found in run_record.runs(tmp_path)] == [
        "1 of 1 scenarios passed",
        "1 of 2 scenarios passed",
    ]


def test_the_newest_run_of_each_line_is_found_whatever_else_lies_there(tmp_path: Path) -> None:
    reports = tmp_path / "reports" / "lab"
    labruns.recorded(reports / "el6" / "later", started=20.0)
    labruns.recorded(reports / "el6" / "earlier", labruns.fullnat(), started=10.0)
    labruns.recorded(reports / "lts61-small" / "one")
    (reports / "el6" / "latest").symlink_to("earlier")
    (reports / "el6" / "spoilt").mkdir()
    (reports / "el6" / "spoilt" / run_record.RUN).write_text("{}")
    (reports / "empty").mkdir()
    (reports / "file").write_text("")
    found = run_record.newest(tmp_path)
    assert {name: each.path.name for name, each in found.items()} == {"el6": "later", "lts61-small": "one"}
    assert run_record.newest(tmp_path / "nothing") == {}


def test_a_failure_counts_until_its_scenario_has_passed_with_the_same_snapshot(tmp_path: Path) -> None:
    def found() -> str:
        run = run_record.unresolved(tmp_path, "a")
        return run.path.name if run else ""

    failed, passed = labruns.fullnat(), labruns.passed("fullnat")
    labruns.recorded(tmp_path / "1", passed, labruns.left_out(), started=1.0, snapshot="a")
    assert found() == ""
    labruns.recorded(tmp_path / "2", failed, started=2.0, snapshot="a")
    labruns.recorded(tmp_path / "3", labruns.passed("boot"), started=3.0, snapshot="a")
    labruns.recorded(tmp_path / "4", passed, started=4.0, snapshot="b")
    assert found() == "2", "neither another scenario nor another snapshot makes up for it"
    labruns.recorded(tmp_path / "5", passed, started=5.0, snapshot="a")
    assert found() == ""
