"""A line in a night with a recipe that costs nothing: what fails in lab or audit never becomes the latest."""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import policy
from pipeline.commands.closing_summary import LabResult
from pipeline.commands.lab import LabCommand
from pipeline.commands.night import outcome
from pipeline.commands.night_line import LineRun
from pipeline.config.context import RunContext
from pipeline.core.console import Console
from pipeline.errors import ExitCode
from pipeline.nights import record
from pipeline.nights.record import Failure, LineNight, Night, Phase, Recorder, Verdict
from pipeline.publish import mirrorlist
from tests.component.commands.test_build import Bench, ToyJob
from tests.fixtures.rpms import person


class Lab(LabCommand):
    """The lab of a toy's build; what it plays passes, but for the scenarios `failing`."""

    failing: tuple[str, ...] = ()
    kind: type[ToyJob] = ToyJob

    @property
    def job(self) -> ToyJob:
        """The toy's build, one for each lab."""
        kept = self.__dict__.setdefault("_job", self.kind(self.line, self.context))
        assert isinstance(kept, ToyJob)
        return kept

    def after(self, snapshot: str, guests: str, *, always: bool = False) -> LabResult | None:
        """Passes or fails."""
        if self.context.settings.no_smoke:
            return None
        report = self.context.settings.artifacts / "report.html"
        report.write_text(f"played {snapshot}")
        return LabResult.of({"boot": "passed", "nat": "failed" if "nat" in self.failing else "passed"}, report,
                            reused=False)  # fmt: skip


@dataclass
class Scene:
    """A bench whose latest snapshot is of an ordinary build, and nights after it."""

    bench: Bench
    nights: list[Night] = field(default_factory=list)

    def night(self, failing: tuple[str, ...] = (), **settings: Any) -> LineNight:
        """One night of the line."""
        job = self.bench.job(offline=True, **settings)
        number, root = len(self.nights) + 1, record.root(self.bench.artifacts)
        recorder = Recorder(record.place_of(root, number), Night(number, 0.0, 1, "nightly"))
        self.place = recorder.place
        context = RunContext(job.context.settings, Console(quiet=True, out=io.StringIO(), err=io.StringIO()))
        run = LineRun(job.line, context, recorder, self.nights, policy.load(None))
        lab = type("Lab", (Lab,), {"failing": failing, "kind": self.bench.kind})
        run.lab = lab(job.line, context)
        run.lab.job.hold = True
        found = run.run()
        self.nights.append(recorder.night)
        return found

    @property
    def latest(self) -> str:
        return self.bench.latest.resolve().name


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    bench = Bench(tmp_path)
    bench.build_all()
    return Scene(bench)


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The snapshots whose audit was carried out, each of which passed: toys have no evidence of their roles."""
    seen: list[str] = []

    def examine(self: LineRun, subject: str, name: str) -> None:
        (self.recorder.place / name).write_text("the audit's page")
        (self.recorder.place / name).with_suffix(".json").write_text("its data")
        self.now = replace(self.now, audit=record.Part("1 pass", name, subject=subject))
        seen.append(self.now.snapshot)

    monkeypatch.setattr(LineRun, "_examine", examine)
    return seen


def test_a_snapshot_that_fails_in_the_lab_is_held_and_its_page_kept(scene: Scene, audited: list[str]) -> None:
    before = scene.latest
    line = scene.night(("nat",), baseurl="http://new.example")
    assert (line.verdict, line.released, scene.latest) == (Verdict.RED, False, before)
    assert line.failure and (line.failure.phase, line.failure.code) == (Phase.SMOKE, ExitCode.TEST)
    assert line.snapshot != before and f"--snapshot {line.snapshot}" in line.failure.next
    assert (scene.place / line.smoke.page).read_text() == f"played {line.snapshot}" and audited == []
    assert scene.night(baseurl="http://new.example").released and scene.latest == line.snapshot


def test_a_snapshot_that_fails_its_audit_is_held(scene: Scene) -> None:
    before = scene.latest
    line = scene.night(no_smoke=True, baseurl="http://new.example")
    assert (line.verdict, line.released, scene.latest) == (Verdict.RED, False, before)
    assert line.failure and (line.failure.phase, line.failure.code) == (Phase.AUDIT, ExitCode.REFUSED)
    data = json.loads((scene.place / line.audit.page).with_suffix(".json").read_text())
    assert (data["facts"]["verdict"], data["facts"]["snapshot"]) == ("fail", line.snapshot)
    assert "<html" in (scene.place / line.audit.page).read_text() and line.smoke.text == "not played: --no-smoke"


def test_the_audit_of_the_same_snapshot_is_not_repeated_and_its_page_stays(scene: Scene, audited: list[str]) -> None:
    first, second = scene.night(), scene.night()
    assert audited == [first.snapshot] and second.audit.reused and second.verdict is Verdict.GREEN
    assert (scene.place / second.audit.page).read_text() == "the audit's page"
    assert (scene.place / second.audit.page).with_suffix(".json").read_text() == "its data"
    scene.night(baseurl="http://new.example")
    assert len(audited) == 2


def test_an_audit_that_passed_counts_until_the_release_key_expires(
    scene: Scene, audited: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = str(person("short-lived", expires="2d").secret)
    scene.night(gpg_key=key)
    assert scene.night(gpg_key=key).audit.reused and len(audited) == 1
    later = time.time() + 3 * 86_400
    monkeypatch.setattr("pipeline.audit.release_key.time.time", lambda: later)
    assert not scene.night(gpg_key=key).audit.reused and len(audited) == 2


def test_the_first_failed_step_is_told_with_its_error(scene: Scene, audited: list[str]) -> None:
    scene.bench.kind.failing = ("ipvsadm",)
    line = scene.night()
    assert line.verdict is Verdict.GREEN, "nothing changed, so that the step is not run"
    scene.bench.artifacts.joinpath("steps/lts61/ipvsadm").rename(scene.bench.artifacts / "gone")
    line = scene.night()
    assert line.failure == Failure(Phase.BUILD, "ipvsadm", "ipvsadm failed", "", "look at it", ExitCode.BUILD)
    assert line.steps["ipvsadm"].state == "failed" and not line.released


@pytest.mark.parametrize("point", ["night.recorded", "night.before-latest"])
def test_what_is_no_error_of_ours_leaves_a_record_that_runs(
    scene: Scene, audited: list[str], point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(name: str) -> None:
        if name == point:
            raise KeyboardInterrupt

    latest = scene.latest
    monkeypatch.setattr("pipeline.core.faults.point", stop)
    with pytest.raises(KeyboardInterrupt):
        scene.night(baseurl="http://new.example")
    assert scene.latest == latest
    (night,) = record.load(record.root(scene.bench.artifacts))
    assert not night.ended and record.settle(record.root(scene.bench.artifacts))[0].ended
    assert record.load(record.root(scene.bench.artifacts))[0].lines[0].verdict is Verdict.KILLED


def test_a_night_that_is_killed_once_latest_moved_is_recorded_as_the_release_that_it_is(
    scene: Scene, audited: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(name: str) -> None:
        if name == "night.after-latest":
            raise KeyboardInterrupt

    nights = record.root(scene.bench.artifacts)
    monkeypatch.setattr("pipeline.core.faults.point", stop)
    with pytest.raises(KeyboardInterrupt):
        scene.night(baseurl="http://new.example")
    (line,) = record.load(nights)[0].lines
    assert (line.verdict, line.released) == (Verdict.RUNNING, False), "what is not done yet is not recorded as done"
    for (settled,) in (record.current(nights)[0].lines, record.settle(nights)[0].lines):
        assert (settled.verdict, settled.released, settled.snapshot) == (Verdict.GREEN, True, scene.latest)


def test_a_release_that_fails_half_way_is_red_and_latest_stays_with_all_mirrorlists(
    scene: Scene, audited: list[str]
) -> None:
    place = scene.bench.latest.parent
    before, (first, *_, last) = mirrorlist.leads(place), sorted(place.glob("mirrorlist-*"))
    kept = last.read_bytes()
    last.unlink()
    last.mkdir()
    line = scene.night(baseurl="http://new.example")
    assert (line.verdict, line.released, line.before) == (Verdict.RED, False, scene.latest)
    assert line.failure and (line.failure.phase, line.failure.code) == (Phase.RELEASE, ExitCode.HOST)
    assert "directory" in line.failure.error and mirrorlist.leads(place) == {**before, last.name: ""}
    told = outcome(scene.nights[-1], Path("page"), place.parent)
    assert f"release failed; latest stays, but {last.name} leads to nothing" in told
    last.rmdir()
    last.write_bytes(kept)
    assert "release failed; latest stays; smoke" in outcome(scene.nights[-1], Path("page"), place.parent)
    assert scene.night(baseurl="http://new.example").released
    assert set(mirrorlist.leads(place).values()) == {scene.latest} != {before["latest"]} and first.is_file()


def test_a_night_tells_what_latest_is_and_not_what_it_should_be(
    scene: Scene, audited: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_afterwards(name: str) -> None:
        if name == "night.after-latest":
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("pipeline.core.faults.point", fail_afterwards)
    line = scene.night(baseurl="http://new.example")
    assert (line.verdict, line.released, line.snapshot) == (Verdict.RED, True, scene.latest)
    told = outcome(scene.nights[-1], Path("page"), scene.bench.latest.parent.parent)
    assert f"release failed; latest is {scene.latest}; smoke" in told


def test_a_mistake_of_this_program_reddens_the_line_and_its_trace_is_kept(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(self: LineRun) -> None:
        raise KeyError("nothing of this name")

    monkeypatch.setattr(LineRun, "_audit", mistaken)
    line = scene.night()
    assert line.verdict is Verdict.RED and line.failure and line.failure.code == ExitCode.BUG
    assert "KeyError" in line.failure.error and "in mistaken" in Path(line.failure.where).read_text()
