"""Nights of the toy: unchanged, changed, broken, alarmed and killed; the pages tell it, and latest is never red."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from junitparser import JUnitXml

from pipeline.core.locks import locked
from pipeline.errors import ExitCode
from pipeline.nights import record
from pipeline.nights.record import Phase, Upstream, Verdict
from pipeline.publish import mirrorlist
from tests.fixtures.badnights import BadNights, on_small_disk
from tests.fixtures.nights import NAME, Nights, filled

pytestmark = pytest.mark.timeout(1200)
BAD_NIGHTS, SEED = 8, 15


@pytest.fixture(scope="module")
def nights(images: Path) -> Iterator[Nights]:
    """Nights after a first one, in which everything was built."""
    with Nights.opened(images) as opened:
        ended = opened.night()
        assert f"night 1, {opened.all()[0].date}: green: toy green (changed, {opened.latest[:12]}" in ended.out
        yield opened


def test_three_nights_are_told_by_the_index_and_latest_is_never_red(nights: Nights) -> None:
    first = nights.latest
    nights.night()
    unchanged = nights.last()
    assert (unchanged.verdict, unchanged.snapshot, unchanged.ran, unchanged.changed) == (
        Verdict.GREEN, first, (), False,
    )  # fmt: skip
    assert unchanged.audit.reused and "Nothing changed." in nights.page

    nights.update("3.0.23")
    assert "openssl: update available: 3.0.22-1 -> 3.0.23-1" in nights.night().out
    assert (nights.last().upstream[0].state, nights.latest) == (Upstream.UPDATE, first), "reported, and not built"
    nights.night("--update")
    second = nights.last()
    assert second.ran == ("keepalived", "repository") and second.released
    assert nights.latest == second.snapshot != first == second.before

    nights.update("3.0.24", broken="all:\n\tfalse\n")
    nights.night("--update", expect=ExitCode.BUILD)
    red = nights.last()
    assert red.failure and (red.failure.phase, red.failure.step) == (Phase.BUILD, "keepalived")
    assert (red.verdict, red.released, nights.latest) == (Verdict.RED, False, second.snapshot)
    page, number = nights.page, nights.all()[-1].number
    assert f"Broken since night {number}, " in page and "build, step keepalived" in page
    assert f"Readers still get {second.snapshot}" in page
    nights.night(expect=ExitCode.BUILD)
    assert f"Broken since night {number}, " in nights.page, "still since the first of them"
    suite = next(iter(JUnitXml.fromfile(str(_place(nights) / record.JUNIT))))
    assert {case.name for case in suite if case.result} >= {"step keepalived"}

    nights.update("3.0.25")
    nights.night("--update")
    assert "Broken since" not in nights.page and nights.latest == nights.last().snapshot
    entries = json.loads((record.root(nights.artifacts) / record.INDEX_JSON).read_text())["nights"]
    assert [entry["verdict"] for entry in entries[:3]] == ["green", "red", "red"]
    assert entries[0]["lines"][NAME]["snapshot"] == nights.latest


def _place(nights: Nights) -> Path:
    return record.place_of(record.root(nights.artifacts), nights.all()[-1].number)


def test_a_pinned_file_that_changed_is_an_alarm_and_nothing_is_built(nights: Nights) -> None:
    latest = nights.latest
    with nights.changed_pin():
        ended = nights.night("--update", expect=ExitCode.REFUSED)
    line = nights.last()
    assert (line.verdict, line.steps, nights.latest) == (Verdict.ALARM, {}, latest)
    assert "was changed at its address; expected" in ended.err
    nights.night()
    assert nights.last().verdict is Verdict.GREEN


def test_a_dead_mirror_is_an_outcome_of_its_own_and_the_store_is_built_from(nights: Nights) -> None:
    latest = nights.latest
    with nights.dead_mirror():
        nights.night(expect=ExitCode.UNREACHABLE)
    line = nights.last()
    assert (line.verdict, line.snapshot, nights.latest) == (Verdict.UNREACHABLE, latest, latest)
    assert "Green, upstream unreachable" in nights.page


def test_two_nights_are_kept_apart_and_the_second_names_the_first(nights: Nights) -> None:
    before = len(nights.all())
    with locked(record.root(nights.artifacts) / record.LOCK):
        ended = nights.night(expect=ExitCode.LOCKED)
    assert "another one goes on" in ended.err and f"pid {os.getpid()}: " in ended.err
    assert len(nights.all()) == before


def test_a_failed_notification_is_reported_and_does_not_redden_the_night(nights: Nights, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    nights.night("--notify-when", "always", "--notify-command", f"cp /dev/stdin {told}")
    said = json.loads(told.read_text())
    assert (said["verdict"], said["lines"][0]["snapshot"]) == ("green", nights.latest)
    ended = nights.night("--notify-when", "always", "--notify-url", "http://127.0.0.1:9/secret-token")
    assert "the notification failed: address: failed: no connection" in ended.err
    assert "secret" not in (_place(nights) / record.RECORD).read_text().replace(nights.all()[-1].command, "")


def test_what_a_kept_night_needs_is_neither_cleaned_nor_collected(nights: Nights) -> None:
    kept = {line.snapshot for night in nights.all() if (line := night.line(NAME)) and line.snapshot}
    sources = {digest for night in nights.all() for line in night.lines for digest in line.sources}
    assert len(kept) >= 2
    nights.shop.inv("clean", "old")
    nights.shop.inv("store", "gc")
    place = nights.artifacts / "repo" / NAME / "snapshots"
    assert kept <= {path.name for path in place.iterdir()}
    assert all(nights.store().has(digest) for digest in sources)


def test_a_disk_that_is_full_during_the_release_leaves_everything_at_the_snapshot_before(nights: Nights) -> None:
    nights.night("--update")
    with on_small_disk(nights) as on_disk:
        place, before = on_disk.artifacts / "repo" / NAME, on_disk.latest
        leads = mirrorlist.leads(place)
        on_disk.update("3.0.90")
        inv = on_disk.shop.inv
        argv = [*inv.before, *filled("night.before-latest", *on_disk.words("--update"))]
        ended = subprocess.run(argv, env=inv.environment(), cwd=inv.cwd, capture_output=True, text=True, check=False)
        assert ended.returncode == ExitCode.HOST and "no disk space is left" in ended.stderr, ended.stderr
        (on_disk.artifacts / "ballast").unlink()
        assert mirrorlist.leads(place) == leads and set(leads.values()) == {before}
        failed = record.current(record.root(on_disk.artifacts))[-1].lines[0]
        assert failed.verdict is Verdict.KILLED, "its failure could not be recorded, and it is not green"
        assert (failed.phase, failed.released) == (Phase.RELEASE, False) and failed.snapshot != before
        on_disk.night("--update")
        assert set(mirrorlist.leads(place).values()) == {on_disk.latest} == {failed.snapshot}


def test_bad_nights_lose_nothing_release_nothing_red_and_fill_no_disk(nights: Nights) -> None:
    nights.night()
    begun = time.monotonic()
    with on_small_disk(nights) as on_disk:
        BadNights(on_disk, SEED, print).run(BAD_NIGHTS)
    print(f"{BAD_NIGHTS} nights took {time.monotonic() - begun:.0f} s")
    assert nights.shop.left() == {}
