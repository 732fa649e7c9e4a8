"""Records of nights: numbers, order whatever the clock says, killed ones, and since when a line is broken."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import fs
from pipeline.errors import ExitCode, Refused
from pipeline.nights import index, record, retention
from pipeline.nights.record import Failure, LineNight, Night, NightStep, Phase, Verdict

DAY = 86_400
CODES = {Verdict.RED: ExitCode.BUILD, Verdict.ALARM: ExitCode.REFUSED}


def line(verdict: Verdict, snapshot: str = "", *, directory: str = "lts61", released: bool = False) -> LineNight:
    failure = Failure(Phase.BUILD, "ipvsadm", "failed", "", "", int(CODES[verdict])) if verdict in CODES else None
    steps = {"ipvsadm": NightStep("ran", "changed", 1.0, f"key of {snapshot}")}
    sources = (f"source of {snapshot}",)
    return LineNight(
        directory, directory, verdict, snapshot=snapshot, released=released, failure=failure, steps=steps,
        sources=sources,
    )  # fmt: skip


def night(number: int, *lines: LineNight, begun: float = 0.0, ended: bool = True) -> Night:
    return Night(number, begun or number * DAY, 1, "nightly", ended=ended, lines=lines)


@pytest.fixture
def nights(tmp_path: Path) -> Path:
    return record.root(tmp_path)


def written(nights: Path, *known: Night) -> None:
    for each in known:
        record.write(record.place_of(nights, each.number), each)


def test_what_is_written_is_read_back_and_a_damaged_record_hides_no_other(nights: Path) -> None:
    known = [night(1, line(Verdict.GREEN, "a", released=True)), night(2, line(Verdict.RED)), night(3)]
    written(nights, *known)
    assert record.load(nights) == known
    path = record.place_of(nights, 2) / record.RECORD
    path.write_text(path.read_text().replace("red", "green"))
    assert record.load(nights) == [known[0], known[2]]
    assert record.next_number(nights) == 4


def test_numbers_order_nights_when_the_clock_is_set_back(nights: Path) -> None:
    written(nights, night(9, begun=900 * DAY), night(10, begun=DAY))
    assert [each.number for each in record.load(nights)] == [9, 10]
    assert record.next_number(nights) == 11
    assert record.load(nights)[1].date == "1970-01-02 00:00 UTC"


def test_a_night_without_an_end_is_settled_as_killed_with_the_phase_it_was_in(nights: Path) -> None:
    running = replace(line(Verdict.RUNNING), phase=Phase.SMOKE)
    green = line(Verdict.GREEN, "a", directory="el6", released=True)
    written(nights, night(1, green), night(2, green, running, ended=False))
    (killed,) = record.settle(nights)
    assert (killed.number, [each.verdict for each in killed.lines]) == (2, [Verdict.GREEN, Verdict.KILLED])
    assert killed.why and record.load(nights)[1] == killed and record.settle(nights) == []


@pytest.mark.parametrize(
    ("verdicts", "worst", "code"),
    [
        ((Verdict.GREEN, Verdict.GREEN), Verdict.GREEN, ExitCode.OK),
        ((Verdict.GREEN, Verdict.UNREACHABLE), Verdict.UNREACHABLE, ExitCode.UNREACHABLE),
        ((Verdict.UNREACHABLE, Verdict.RED), Verdict.RED, ExitCode.BUILD),
        ((Verdict.RED, Verdict.KILLED), Verdict.RED, ExitCode.BUILD),
        ((Verdict.ALARM, Verdict.RED, Verdict.GREEN), Verdict.ALARM, ExitCode.REFUSED),
    ],
)
def test_the_worst_line_gives_verdict_and_exit_code(
    verdicts: tuple[Verdict, ...], worst: Verdict, code: ExitCode
) -> None:
    lines = [line(verdict, directory=f"line{number}") for number, verdict in enumerate(verdicts)]
    for found in (night(1, *lines), night(1, *reversed(lines))):
        assert (found.verdict, found.code) == (worst, code)


@pytest.mark.parametrize(
    ("verdicts", "since"),
    [
        ((Verdict.GREEN, Verdict.RED, Verdict.KILLED, Verdict.ALARM), 2),
        ((Verdict.RED, Verdict.UNREACHABLE, Verdict.RED), 3),
        ((Verdict.RED, Verdict.GREEN), None),
        ((Verdict.RED, Verdict.KILLED), 1),
        ((Verdict.KILLED,), None),
    ],
)
def test_a_line_is_broken_since_the_first_red_night_after_a_green_one(
    verdicts: tuple[Verdict, ...], since: int | None
) -> None:
    known = [night(number, line(verdict)) for number, verdict in enumerate(verdicts, 1)]
    found = record.broken_since([*known, night(9, line(Verdict.GREEN, directory="el6"))], "lts61")
    assert (found.number if found else None) == since


def test_the_last_nights_are_kept_and_beyond_them_each_line_s_last_release(nights: Path, tmp_path: Path) -> None:
    written(
        nights,
        night(1, line(Verdict.GREEN, "a", released=True), line(Verdict.GREEN, "x", directory="el6", released=True)),
        night(2, line(Verdict.GREEN, "b", released=True)),
        night(3, line(Verdict.RED, "c")),
        night(4, line(Verdict.RED)),
    )
    assert retention.prune(nights, 10) == []
    assert retention.prune(nights, 2) == [] and retention.prune(nights, 1) == [3]
    kept = retention.kept(tmp_path)
    assert kept.snapshots == {("lts61", "a"), ("el6", "x"), ("lts61", "b")}
    assert ("lts61", "key of b") in kept.steps and "source of b" in kept.sources
    assert not any("c" in name for _, name in kept.snapshots)
    assert record.next_number(nights) == 5


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _gone(path: Path) -> None:
    path.rename(path.with_name(record.JUNIT))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "fifo": _fifo,
    "changed": lambda path: path.write_text(path.read_text().replace("green", "red")),
    "gone": _gone,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_record_that_cannot_be_read_is_named_and_all_that_it_may_refer_to_stays(
    nights: Path, tmp_path: Path, damage: str
) -> None:
    written(nights, *(night(number, line(Verdict.GREEN, f"s{number}", released=True)) for number in (1, 2, 3)))
    path = record.place_of(nights, 2) / record.RECORD
    DAMAGES[damage](path)
    (named,) = record.unreadable(nights)
    assert (named.number, named.file) == (2, path) and f"rm -r {path.parent}" in str(named)
    assert record.settle(nights) == [] and retention.prune(nights, 1) == [1] and record.unreadable(nights) == [named]
    kept = retention.kept(tmp_path)
    assert kept.has_snapshot("lts61", "s2") and kept.has_step("lts61", "key of s2")
    with pytest.raises(Refused, match="night 2: its record cannot be read"):
        retention.sources(tmp_path)
    assert index.write(nights).read_text().count("night 2: its record cannot be read") == 1
    assert json.loads((nights / record.INDEX_JSON).read_text())["unreadable"][0]["night"] == 2
    fs.remove(path.parent)
    assert retention.sources(tmp_path) == {"source of s3"} and not retention.kept(tmp_path).has_snapshot("lts61", "s2")


def test_a_night_that_could_not_record_its_begin_is_no_damaged_one(nights: Path) -> None:
    place = record.place_of(nights, 1)
    place.mkdir(parents=True)
    (place / f".{record.RECORD}.12345678").write_text("{")
    assert record.unreadable(nights) == [] and record.settle(nights) == [] and not place.exists()
