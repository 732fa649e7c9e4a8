"""What `smoke` and `lab` do around the scenarios, without any guest."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tasks
from pipeline.commands.closing_summary import LabResult
from pipeline.commands.lab import LabCommand, by_hand
from pipeline.config import line_loader, line_names, settings
from pipeline.config.context import RunContext
from pipeline.core import fs, manifest
from pipeline.core.console import Console
from pipeline.core.decoder import encode
from pipeline.errors import UsageError
from pipeline.lab import dialects, run_record, scenarios
from pipeline.lab.report import page, results
from pipeline.lab.scenario_context import ScenarioContext
from tests.fixtures.built import Built


class Entered:
    """A guest that notes that somebody opened a shell in it."""

    name = "client"
    shells = 0

    def open_shell(self, source: int, sink: int, size: object, *argv: str) -> int:
        self.shells += 1
        return 0


def typed(*lines: str) -> Callable[[str], str]:
    """Somebody who types these lines and then leaves."""
    left: Iterator[str] = iter(lines)

    def read(_: str) -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return read


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Iterator[Entered]:
    with Path("/dev/null").open() as nothing:  # pytest's own standard input has no descriptor
        monkeypatch.setattr("sys.stdin", nothing)
        yield Entered()


def stage(guest: Any) -> ScenarioContext:
    dialect = dialects.of_line(line_loader.load("lts61").data)
    return ScenarioContext(scenarios.load_scenario("nat", ()).guests, {"client": guest}, {}, {}, {}, {}, dialect)


def test_a_guests_name_opens_a_shell_in_it_and_exit_ends(guest: Entered, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with capsys.disabled():
        by_hand(stage(guest), typed("client", "client", "exit", "client"), said.append)
    assert guest.shells == 2
    assert "client" in said[0] and any("fnat-guest ask" in line for line in said)


def test_another_name_is_answered_with_those_there_are(guest: Entered) -> None:
    said: list[str] = []
    by_hand(stage(guest), typed("", "director"), said.append)
    assert guest.shells == 0
    assert said[-1] == "there is no guest director; guests: client; exit ends the lab"


def job(tmp_path: Path, **options: Any) -> LabCommand:
    given = settings.load({"artifacts": str(tmp_path), **options})
    return LabCommand(line_loader.load("lts61"), RunContext(given, Console(out=io.StringIO())))


@pytest.mark.parametrize(("options", "snapshot"), [({"no_smoke": True}, "a"), ({"only": ["ipvsadm"]}, "a"), ({}, "")])
def test_after_a_build_that_published_nothing_or_is_not_to_be_played_nothing_is(
    options: dict[str, Any], snapshot: str, tmp_path: Path
) -> None:
    assert job(tmp_path, **options).after(snapshot, "k") is None
    assert not (tmp_path / "reports").exists()


def test_scenarios_that_are_not_there_are_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="scenario 'natt': not found; did you mean nat") as caught:
        job(tmp_path).smoke(("nat", "natt"))
    assert "keepalived" in caught.value.why


def test_small_kernels_are_played_from_their_own_repository(tmp_path: Path) -> None:
    assert job(tmp_path).latest == tmp_path / "repo/lts61/latest"
    assert job(tmp_path, kernel_config="small").latest == tmp_path / "repo/lts61-small/latest"


def test_another_snapshot_of_the_line_is_booted_and_that_of_another_line_is_not(tmp_path: Path) -> None:
    built = Built(tmp_path)
    for line, name in (("lts61", "a" * 32), ("lts61", "b" * 32), ("lts612", "c" * 32)):
        built.snapshot(line, name, published=1.0)
    assert job(tmp_path)._chosen_snapshot().name == "b" * 32
    assert job(tmp_path, snapshot="aaaaaa")._chosen_snapshot().name == "a" * 32
    with pytest.raises(UsageError, match="expected one of lts61, got one of lts612"):
        job(tmp_path, snapshot="c" * 32)._chosen_snapshot()


def mixed(tmp_path: Path, **options: Any) -> LabCommand:
    given = settings.load({"artifacts": str(tmp_path), "line": "lts61", "kernel_config": "small", **options})
    return tasks._lab(RunContext(given, Console(out=io.StringIO(), err=io.StringIO())))


def test_real_servers_are_those_of_the_line_that_is_named_from_its_own_repository(tmp_path: Path) -> None:
    assert mixed(tmp_path).servers is None
    file = tmp_path / "house.toml"
    file.write_text('schema = 1\nextends = "el6"\nname = "house"\n')
    line_names.claim(line_loader.load(None, file), tmp_path)
    for name in ("el6", "house"):
        command = mixed(tmp_path, server_line=name)
        assert command.servers is not None and command.servers.line.name == name
        assert command.servers.latest == tmp_path / f"repo/{name}-small/latest"
        assert command.reports == tmp_path / f"reports/lab/lts61-small+{name}-small"
        with pytest.raises(UsageError, match="no repository to boot from") as caught:
            command.servers._repository()
        assert f"./inv build-all {'--line-file' if name == 'house' else '--line el6'}" in caught.value.hint


def test_real_servers_of_the_directors_own_line_are_no_other_lines(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected another line than the director's, got lts61"):
        mixed(tmp_path, server_line="lts61")


# --- A run that passed ------------------------------------------------------------------------------------

BUILT = ("a", "k")  # the snapshot's id, the key of the guests' programs


def played_after(tmp_path: Path) -> LabResult:
    """What the lab after the build comes to, which is played."""
    result = job(tmp_path).after(*BUILT)
    assert result is not None
    return result


def outcome(snapshot: str = "a", state: results.State = results.State.PASSED) -> results.Report:
    scenario = results.Scenario(name="boot", title="Boot", state=state)
    ended = results.RunState.PASSED if state is results.State.PASSED else results.RunState.FAILED
    known = {"line": "l", "fingerprint": "F", "accelerator": "tcg", "accelerator_why": ""}
    return results.Report(snapshot=snapshot, state=ended, scenarios=(scenario,), **known)  # type: ignore[arg-type]


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The directories of runs that were played, each of which passed; one has been recorded."""
    runs: list[Path] = []

    def play(self: LabCommand, names: object, *, snapshot: Path) -> tuple[results.Report, Path]:
        assert snapshot == self.latest.parent / "snapshots" / BUILT[0]
        work = self.reports / f"run{len(runs)}"
        work.mkdir(parents=True)
        page.write(outcome(), work)
        runs.append(work)
        return outcome(), work

    monkeypatch.setattr(LabCommand, "_play", play)
    assert played_after(tmp_path).reused is False
    yield runs


def _failed(work: Path) -> None:
    page.write(outcome(state=results.State.FAILED), work)


def _link(work: Path) -> None:
    (work / "report.json").rename(work / "x")
    (work / "report.json").symlink_to("x")


def _resealed(work: Path, **changed: object) -> None:
    """Writes a record that is whole and says something else."""
    known: Any = manifest.unseal((work / "passed.json").read_text())
    written = changed.pop("written", known["written"])
    what = {**known["what"], **changed}
    (work / "passed.json").write_text(manifest.seal({**known, "what": what, "written": written}))


def _of_a_failed_run(work: Path) -> None:
    """The record is that of the report, and the report tells of a run that failed."""
    _failed(work)
    _resealed(work, written={name: fs.sha256_of(work / name) for name in ("report.json", "report.html")})


PASSED: dict[str, Callable[[Path], object]] = {
    "an emptied record": lambda work: (work / "passed.json").write_text(""),
    "an edited record": lambda work: (work / "passed.json").write_text(
        (work / "passed.json").read_text().replace('"k"', '"j"')
    ),
    "a record without a seal": lambda work: (work / "passed.json").write_text("{}"),
    "no record": lambda work: (work / "passed.json").unlink(),
    "the record of another line": lambda work: _resealed(work, line="other"),
    "the record of another snapshot": lambda work: _resealed(work, snapshot="b"),
    "the record of other scenarios": lambda work: _resealed(work, scenarios={}),
    "the record of another lab": lambda work: _resealed(work, code="0"),
    "an emptied page": lambda work: (work / "report.html").write_text(""),
    "no page": lambda work: (work / "report.html").unlink(),
    "an edited page": lambda work: (work / "report.html").write_text((work / "report.html").read_text() + " "),
    "a link in the report's place": _link,
    "the report of a run that failed": _failed,
    "record and report of a run that failed": _of_a_failed_run,
}


@pytest.mark.parametrize("how", PASSED)
def test_only_the_record_and_the_report_of_a_run_that_passed_save_the_lab(
    tmp_path: Path, played: list[Path], how: str
) -> None:
    PASSED[how](played[0])
    assert (played_after(tmp_path).reused, len(played)) == (False, 2)
    assert played_after(tmp_path).reused is True and len(played) == 2


def test_a_run_that_passed_saves_the_lab(tmp_path: Path, played: list[Path]) -> None:
    assert encode(played_after(tmp_path)) == {
        "report": str(job(tmp_path).reports / "passed/report.html"),
        "reused": True,
        "scenarios": 1,
        "failed": [],
    }
    assert len(played) == 1 and list(run_record.problems(tmp_path)) == []
    (played[0] / "report.html").write_text("")
    assert [path.name for path, _ in run_record.problems(tmp_path)] == ["report.html"]
