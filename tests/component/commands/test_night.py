"""Whole nights of lines that cost nothing: what breaks one line takes nothing from another, and the outcome comes."""

from __future__ import annotations

import io
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from junitparser import JUnitXml

from pipeline.audit import dsse, freshness
from pipeline.commands import night
from pipeline.commands.night_line import LineRun
from pipeline.config.context import RunContext
from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.errors import ExitCode, UsageError
from pipeline.nights import notification, record
from pipeline.nights.record import Night, Verdict
from tests.component.commands.test_night_line import Lab, audited

__all__ = ["audited"]
LINES = ("lts61", "lts612")


@dataclass
class Whole:
    """Nights of two lines below a directory."""

    artifacts: Path
    said: str = ""

    def night(self, **settings: Any) -> tuple[ExitCode, Night]:
        """One night; its exit code and record."""
        out, err = io.StringIO(), io.StringIO()
        given = load({"artifacts": str(self.artifacts), "offline": True, **settings}, {})
        try:
            ended = night.run(LINES, "", RunContext(given, Console(quiet=True, out=out, err=err)))
        finally:
            self.said = out.getvalue() + err.getvalue()
        assert isinstance(ended.data, Night) and record.load(record.root(self.artifacts))[-1] == ended.data
        return ended.code, ended.data

    def latest(self, line: str) -> str:
        """The id of a line's latest snapshot."""
        return (self.artifacts / "repo" / line / "latest").readlink().name

    @property
    def suites(self) -> dict[str, int]:
        """The failures of each suite of the last night."""
        nights = record.root(self.artifacts)
        file = record.place_of(nights, record.load(nights)[-1].number) / record.JUNIT
        return {suite.name: sum(bool(case.result) for case in suite) for suite in JUnitXml.fromfile(str(file))}


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audited: list[str]) -> Iterator[Whole]:
    """Nights after a first one, in which both lines were released."""
    monkeypatch.setattr("pipeline.commands.night_line.LabCommand", Lab)
    opened = Whole(tmp_path / "artifacts")
    code, first = opened.night()
    assert code == ExitCode.OK and [line.verdict for line in first.lines] == [Verdict.GREEN] * 2
    yield opened


def test_the_first_of_two_lines_breaks_in_its_release_and_the_other_is_released(whole: Whole, tmp_path: Path) -> None:
    before, told = [whole.latest(line) for line in LINES], tmp_path / "told"
    file = whole.artifacts / "repo" / LINES[0] / "mirrorlist-director"
    file.unlink()
    file.mkdir()
    code, ended = whole.night(baseurl="http://new.example", notify_command=f"tee {told}")
    broken, other = ended.lines
    assert (code, broken.verdict, broken.released) == (ExitCode.HOST, Verdict.RED, False)
    assert (other.verdict, other.released, other.snapshot) == (Verdict.GREEN, True, whole.latest(LINES[1]))
    assert whole.latest(LINES[0]) == before[0] and whole.latest(LINES[1]) != before[1]
    assert [line["verdict"] for line in json.loads(told.read_text())["lines"]] == ["red", "green"]
    assert whole.suites == {LINES[0]: 1, LINES[1]: 0} and "release failed; latest stays" in whole.said
    assert record.settle(record.root(whole.artifacts)) == [], "the night came to its end"


@pytest.mark.parametrize("part", ["_build", "_smoke", "_audit", "_release"])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), OSError("no number"), RuntimeError("a mistake")])
def test_whatever_breaks_a_line_ends_that_line_alone(
    whole: Whole, part: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(LineRun, part)

    def breaking(self: LineRun, *given: Any) -> Any:
        if self.line.name == LINES[0]:
            raise error
        return real(self, *given)

    monkeypatch.setattr(LineRun, part, breaking)
    code, ended = whole.night()
    expected = ExitCode.HOST if isinstance(error, OSError) else ExitCode.BUG
    assert (code, [line.verdict for line in ended.lines]) == (expected, [Verdict.RED, Verdict.GREEN])
    failure = ended.lines[0].failure
    assert failure is not None and str(error.args[-1]) in failure.error and ended.ended


@pytest.mark.parametrize("part", ["send", "document", "is_due"])
def test_whatever_a_notification_raises_changes_no_outcome(
    whole: Whole, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise IndexError("a secret")

    monkeypatch.setattr(notification, part, failing)
    code, ended = whole.night(notify_command="true", notify_when="always")
    assert (code, ended.verdict, ended.notified) == (
        ExitCode.OK, Verdict.GREEN, "notification: failed: IndexError",
    )  # fmt: skip
    assert "the notification failed" in whole.said and "secret" not in whole.said


@pytest.mark.parametrize("settings", [{"notify_command": "   "}, {"notify_url": "nonsense"}])
def test_nobody_who_could_be_notified_ends_a_night_before_it_begins(whole: Whole, settings: dict[str, str]) -> None:
    known = record.load(record.root(whole.artifacts))
    with pytest.raises(UsageError):
        whole.night(baseurl="http://new.example", **settings)
    assert record.load(record.root(whole.artifacts)) == known


@pytest.mark.parametrize("change", [1_806_195_600, 1_824_944_400], ids=["spring", "autumn"])
def test_a_change_of_summer_time_in_the_midst_of_a_night_confuses_nothing(
    whole: Whole, change: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        clock = itertools.count(change - 300, 20)  # seconds: how often a night looks at its clock is its own affair
        assert time.localtime(change - 1).tm_isdst != time.localtime(change).tm_isdst
        monkeypatch.setattr(time, "time", lambda: float(next(clock)))
        code, ended = whole.night(baseurl="http://new.example")
        second = whole.night(baseurl="http://new.example")[1]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (code, ended.verdict) == (ExitCode.OK, Verdict.GREEN) and all(line.released for line in ended.lines)
    assert ended.begun < change < second.begun and (ended.date[-9:-6], second.number) == ("00:", 3)
    assert 0 <= ended.seconds < 600 and all(0 <= took < 600 for line in ended.lines for took in line.seconds.values())
    for line in LINES:
        stated = dsse.payload((whole.artifacts / "repo" / line / "attestations" / freshness.FILE).read_bytes())
        facts = json.loads(stated)["predicate"]
        assert facts["expires"] - facts["issued"] == 30 * freshness.DAY
    entries = json.loads((record.root(whole.artifacts) / record.INDEX_JSON).read_text())["nights"]
    assert [entry["night"] for entry in entries] == [3, 2, 1]
