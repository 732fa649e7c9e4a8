"""The statement of the latest snapshot: when it is made anew, its number, and what is no such statement."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.audit import dsse, freshness
from pipeline.publish import attestation_key
from pipeline.publish.attestation_key import AttestationKey
from pipeline.publish.verify import SUMS

FIRST, SECOND = "a" * 32, "b" * 32


class Line:
    """A line's directory in the repository, with two snapshots, and a key."""

    def __init__(self, place: Path, clock: pytest.MonkeyPatch) -> None:
        self.place, self.clock, self.now = place / "lts61", clock, int(time.time())
        for name in (FIRST, SECOND):
            (self.place / "snapshots" / name).mkdir(parents=True)
            (self.place / "snapshots" / name / SUMS).write_text(name)
        self.point(FIRST)
        self.key: AttestationKey = attestation_key.open_key("", place / "keys")

    def point(self, name: str) -> None:
        (self.place / "latest").unlink(missing_ok=True)
        (self.place / "latest").symlink_to(f"snapshots/{name}")

    def renew(self, seconds: int = 0, days: int = 30) -> freshness.Freshness | None:
        """What is stated so many seconds from now."""
        self.clock.setattr("pipeline.audit.freshness.time.time", lambda: float(self.now + seconds))
        latest = (self.place / "latest").resolve()
        written = freshness.renewed(latest, self.key.public.id, lambda: self.key, days)
        for path, statement in written.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(statement)
        return self.stated() if written else None

    def stated(self) -> freshness.Freshness:
        return freshness.read(freshness.path_in(self.place), self.key.public.pem)[0]


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(tmp_path, monkeypatch)


def test_it_is_stated_once_a_day_and_again_when_the_snapshot_or_the_days_change(line: Line) -> None:
    first = line.renew()
    assert first is not None and (first.snapshot, first.expires - first.issued) == (FIRST, 30 * freshness.DAY)
    assert line.renew(freshness.DAY - 1) is None
    assert line.renew(freshness.DAY) is not None
    assert line.renew(freshness.DAY, days=7) is not None
    line.point(SECOND)
    moved = line.renew(freshness.DAY, days=7)
    assert moved is not None and moved.snapshot == SECOND == line.stated().snapshot


@pytest.mark.parametrize("days", [2, 3, 4, 7, 30])
@pytest.mark.parametrize("late", [-1800, 0, 1800])
def test_nights_once_a_day_never_let_a_statement_expire(line: Line, days: int, late: int) -> None:
    now = 0
    line.renew(now, days=days)
    for night in range(8):
        now += freshness.DAY + late * (-1) ** night
        left = line.stated().expires - (line.now + now)
        assert left >= freshness.DAY // 2, f"night {night} finds {left} s left"
        line.renew(now, days=days)


def test_a_statement_for_one_day_is_renewed_after_six_hours(line: Line) -> None:
    line.renew(days=1)
    assert line.renew(6 * 3600 - 1, days=1) is None
    assert line.renew(6 * 3600, days=1) is not None


@pytest.mark.parametrize("seconds", [-400 * freshness.DAY, 0, 2 * freshness.DAY])
def test_its_number_grows_whatever_the_clock_does(line: Line, seconds: int) -> None:
    first = line.renew()
    line.point(SECOND)
    second = line.renew(seconds)
    assert first is not None and second is not None and second.sequence > first.sequence


def test_its_number_grows_although_the_one_before_was_lost(line: Line) -> None:
    first = line.renew()
    freshness.path_in(line.place).unlink()
    second = line.renew(1)
    assert first is not None and second is not None and second.sequence > first.sequence


def test_what_another_key_signed_is_neither_read_nor_counted(line: Line, tmp_path: Path) -> None:
    line.renew()
    strangers = attestation_key.open_key("", tmp_path / "strangers")
    path = freshness.path_in(line.place)
    path.write_bytes(dsse.sign(dsse.payload(path.read_bytes()), strangers))
    with pytest.raises(ValueError, match="signed with another key"):
        line.stated()
    assert line.renew() is not None and line.stated().snapshot == FIRST


@pytest.mark.parametrize("old", [b'"SHA256SUMS"', b"freshness:v1", b'"sequence"'])
def test_another_statement_of_the_same_key_is_none(line: Line, old: bytes) -> None:
    line.renew()
    path = freshness.path_in(line.place)
    path.write_bytes(
        dsse.sign(dsse.payload(path.read_bytes()).replace(old, b'"x"' if old[:1] == b'"' else b"x"), line.key)
    )
    with pytest.raises(ValueError, match="expected"):
        line.stated()
