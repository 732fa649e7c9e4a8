"""A run of the lab around its scenarios, and the lab at the end of build-all: records, pages, the closing summary."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.commands import closing_summary
from pipeline.commands.build import BuildCommand
from pipeline.commands.build_summary import BuildResult, Summary
from pipeline.commands.closing_summary import LabResult
from pipeline.commands.lab import LabCommand
from pipeline.config import line_loader, settings
from pipeline.config.context import RunContext
from pipeline.core import manifest, process
from pipeline.core.console import Console
from pipeline.errors import TestsFailed, UsageError
from pipeline.lab import run_record, runner
from pipeline.lab.report.results import Report, RunState, Scenario, State
from pipeline.packaging.scheduler import Outcome
from pipeline.packaging.scheduler import State as StepState
from pipeline.packaging.step_record import Facts, Phase, Published, Record
from pipeline.publish.layout import PLACEHOLDER
from tests.fixtures import labruns

Play = Callable[[str], Scenario]


class Lab:
    """A line's lab whose scenarios are played by `play`, over a snapshot called `a`."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out = io.StringIO()
        given = settings.load({"artifacts": str(place)})
        self.command = LabCommand(line_loader.load("lts61"), RunContext(given, Console(out=self.out)))
        self.play: Play = labruns.passed
        self.begun = 0
        self.servers: Any = None
        monkeypatch.setattr(LabCommand, "environment", lambda _, *, keep, snapshot: self.environment())
        monkeypatch.setattr(runner, "run_scenario", lambda _, name: self.play(name))

    def environment(self) -> Any:
        self.begun += 1
        work = self.command.reports / f"run{self.begun}"
        work.mkdir(parents=True)
        repository = SimpleNamespace(id="a", fingerprint="F", sets={})
        accelerator = SimpleNamespace(name="tcg", why="/dev/kvm is not there")
        return SimpleNamespace(
            repository=repository, accelerator=accelerator, work=work, keep=None, servers=self.servers
        )

    @property
    def latest(self) -> Path:
        return self.command.reports / "latest"

    @property
    def report(self) -> Report:
        return Report.model_validate_json((self.latest / "report.json").read_text())

    @property
    def states(self) -> list[RunState]:
        return [found.run.state for found in run_record.runs(self.command.reports)]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


def test_the_report_of_a_mixed_pair_names_both_lines_snapshots_and_packages(lab: Lab, tmp_path: Path) -> None:
    package = SimpleNamespace(nevra="kernel-2.6.32-220.el6.x86_64", sha256="0" * 64)
    repository = SimpleNamespace(id="b", fingerprint="E", sets={"realserver": {"kernel": package}})
    lab.servers = SimpleNamespace(line=line_loader.load("el6"), repository=repository)
    lab.command = replace(lab.command, servers=replace(lab.command, line=lab.servers.line))
    report = lab.command.smoke(())
    assert lab.latest == tmp_path / "reports/lab/lts61+el6/latest"
    assert report.line == "lts61 with real servers of el6"
    assert (report.snapshot, report.server_snapshot, report.fingerprint, report.server_fingerprint) == tuple("abFE")
    assert report.packages == {package.nevra: package.sha256}
    played = [scenario.name for scenario in report.scenarios]
    assert "fullnat" in played and not {"boot", "roles", "guide"} & set(played)
    text = (lab.latest / "report.html").read_text()
    assert "lab of lts61 with real servers of el6" in text and "Servers&#39; snapshot" in text


def test_a_scenario_of_each_lines_own_is_refused_for_a_mixed_pair(lab: Lab) -> None:
    mixed = replace(lab.command, servers=replace(lab.command, line=line_loader.load("el6")))
    with pytest.raises(UsageError, match="two lines can play together, got boot") as caught:
        mixed.smoke(("fullnat", "boot"))
    assert caught.value.why.startswith("those are nat, dr, tun, fullnat")


def test_a_run_is_there_as_running_while_its_scenarios_are_played(lab: Lab) -> None:
    found: list[tuple[RunState, str]] = []

    def play(name: str) -> Scenario:
        found.append((lab.report.state, (lab.latest / "report.html").read_text()))
        return labruns.passed(name)

    lab.play = play
    assert lab.command.smoke(("boot",)).passed
    ((state, page),) = found
    assert state is RunState.RUNNING and "Running</span>: lab of" in page
    assert lab.states == [RunState.PASSED] and "Passed</span>: lab of" in (lab.latest / "report.html").read_text()


def test_a_run_says_when_where_and_by_what_it_was_and_leads_to_the_one_before(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["inv", "smoke", "lts61", "--mirror", "http://ada:secret@m.example/"])
    lab.command.smoke(("boot",))
    first = lab.report
    lab.command.smoke(("boot",))
    second = lab.report
    assert first.command == "./inv smoke lts61 --mirror http://m.example/"
    assert first.pid == os.getpid() and first.started > 1_700_000_000 and os.uname().nodename in first.host
    assert len(first.commit) == 40, "of this checkout"
    assert (first.previous, second.previous) == ("", "../run1/report.html")
    assert (lab.latest.resolve() / second.previous).is_file()


def test_a_scenario_that_fails_fails_the_run_and_one_that_raises_interrupts_it(lab: Lab) -> None:
    lab.play = lambda name: labruns.fullnat(name=name)
    with pytest.raises(TestsFailed, match="scenarios failed: nat"):
        lab.command.smoke(("nat",))

    def raising(name: str) -> Scenario:
        if name == "nat":
            raise OSError("no space")
        return labruns.passed(name)

    lab.play = raising
    with pytest.raises(OSError, match="no space"):
        lab.command.smoke(("boot", "nat"))
    assert lab.states == [RunState.FAILED, RunState.INTERRUPTED]
    assert lab.report.why == "no space" and "Interrupted</span>" in (lab.latest / "report.html").read_text()


def test_results_that_cannot_be_written_end_the_run_before_the_next_scenario(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[str] = []
    stopped = threading.Event()
    monkeypatch.setattr(process, "stop_all", stopped.set)  # guests end, and with them the scenarios that are played

    def play(name: str) -> Scenario:
        played.append(name)
        if name == "boot":
            (lab.latest / "report.json").unlink()
            (lab.latest / "report.json").mkdir()
        else:
            stopped.wait(10)
        return labruns.passed(name)

    lab.play = play
    with pytest.raises(OSError, match=r"report\.json"):
        lab.command.smoke(("boot", "nat", "dr", "tun"))
    assert "tun" not in played


# --- After a build ----------------------------------------------------------------------------------------


def test_a_build_whose_snapshot_failed_in_the_lab_says_so_before_it_is_played_again(lab: Lab) -> None:
    said: list[str] = []

    def play(name: str) -> Scenario:
        said.append(lab.out.getvalue())
        return labruns.fullnat(name=name)

    lab.play = play
    words = "the lab failed with this snapshot before: "
    first = lab.command.after("a", "k")
    assert first and not first.passed and words not in said[0]
    said.clear()
    lab.command.after("a", "k")
    assert f"{words}{lab.command.reports}/run1/report.html" in said[0]
    lab.out.truncate(0)
    lab.command.after("b", "k")
    assert words not in lab.out.getvalue(), "another snapshot did not fail"


def built(published: Published | None) -> BuildResult:
    """A build of two packages, which are published where that is given."""
    entry = manifest.Entry(manifest.Kind.FILE, 0o644, "0" * 64, (1, 2, 3, 4))
    made = {"out": {f"rpms/{name}.rpm": entry for name in "ab"}}
    packages = Record("lts61", "kernel", "k", Phase.DONE, 0.0, 1, facts=Facts(), made=made)
    outcomes = {"kernel": Outcome("kernel", "k", StepState.RAN, "", 1.0, Path("/k"), record=packages)}
    if published:
        record = Record("lts61", "repository", "r", Phase.DONE, 0.0, 1, facts=Facts(snapshot=published))
        outcomes["repository"] = Outcome("repository", "r", StepState.RAN, "", 1.0, Path("/r"), record=record)
    return BuildResult(line_loader.load("lts61"), Summary(outcomes, "repository", Path("/repo"), 2.0))


def snapshot(*, development: bool = False, baseurl: str = "http://r.example") -> Published:
    return Published("a", Path("old/lts61/snapshots/a"), Path("old/lts61/latest"), "F", development, baseurl)


PASSED = LabResult(Path("/page"), False, 6, ())
CLOSINGS: Mapping[str, tuple[Published | None, LabResult | None, tuple[str, ...]]] = {
    "unpublished": (None, None, ("snapshot  none", "lab       not played", "./inv build-all --line lts61")),
    "not played": (snapshot(), None, ("lab       not played", "not tried", "./inv smoke --line lts61")),
    "failed": (
        snapshot(),
        LabResult(Path("/page"), False, 6, ("nat",)),
        ("5 of 6 scenarios passed; page: /page", "failed in the lab", "./inv lab --scenario nat --line lts61"),
    ),
    "nothing applies": (snapshot(), LabResult(Path("/page"), False, 0, ()), ("0 of 0", "./inv smoke --line lts61")),
    "before": (snapshot(), LabResult(Path("/page"), True, 6, ()), ("6 of 6 scenarios passed, played before",)),
    "for trying": (
        snapshot(development=True),
        PASSED,
        ("development key", "./inv build-all --gpg-key FINGERPRINT --line lts61"),
    ),
    "no address": (
        snapshot(baseurl=PLACEHOLDER),
        PASSED,
        ("without an address", "./inv build-all --baseurl URL --line lts61"),
    ),
    "whole": (
        snapshot(),
        PASSED,
        (
            "snapshot  a, in /repo/lts61/snapshots/a",
            "a signed repository for http://r.example",
            "cp /repo/lts61/latest/*.repo /etc/yum",
        ),
    ),
}


@pytest.mark.parametrize("which", CLOSINGS)
def test_the_end_of_everything_is_one_summary_with_the_next_command(which: str) -> None:
    published, played, wanted = CLOSINGS[which]
    out = io.StringIO()
    closing_summary.tell(Console(out=out), built(published), played, 754.2, ("--line", "lts61"))
    text = out.getvalue()
    assert [part for part in ("packages  2", "time      12 min 34 s", *wanted) if part not in text] == []
    assert text.count("next") == 1 and "next" in text.splitlines()[-1]


def test_before_the_lab_was_played_no_next_command_is_told() -> None:
    out = io.StringIO()
    built(snapshot()).summary.tell(Console(out=out), "line l", "./inv build-all", steps=False)
    assert "machines that take packages from http://r.example" in out.getvalue()
    assert "next" not in out.getvalue()


@pytest.mark.parametrize("fails", [False, True])
def test_build_all_ends_with_the_summary_whatever_the_lab_found(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(BuildCommand, "build_all", lambda _: built(snapshot()))
    lab.play = lambda name: labruns.fullnat(name=name) if fails and name == "nat" else labruns.passed(name)
    if fails:
        with pytest.raises(TestsFailed, match="scenarios failed: nat"):
            lab.command.build_all()
    else:
        played = lab.command.build_all().lab
        assert played and played.passed
    count = len(lab.command.line.data.lab)
    assert f"{count - fails} of {count} scenarios passed; page: " in lab.out.getvalue()
    assert json.loads((lab.latest / "report.json").read_text())["state"] == ("failed" if fails else "passed")
    assert lab.report.scenarios[0].state is State.PASSED
