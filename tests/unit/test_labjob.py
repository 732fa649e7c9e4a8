"""What `smoke` and `lab` do around the scenarios, without any guest."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import lines, settings
from pipeline.console import Console
from pipeline.errors import UsageError
from pipeline.lab import scenarios
from pipeline.lab.stage import Stage
from pipeline.labjob import LabJob, by_hand
from pipeline.session import Session


class Entered:
    """A guest that notes that somebody opened a shell in it."""

    name = "client"
    shells = 0

    def shell(self, source: int, sink: int, size: object, *argv: str) -> int:
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


def stage(guest: Any) -> Stage:
    return Stage(scenarios.named("nat", ()), {"client": guest}, {}, {}, {}, {})


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


def job(tmp_path: Path, **options: Any) -> LabJob:
    given = settings.load({"artifacts": str(tmp_path), **options})
    return LabJob(lines.load("lts61"), Session(given, Console(out=io.StringIO())))


@pytest.mark.parametrize(
    ("options", "built"),
    [
        ({"no_smoke": True}, {"snapshot": {"id": "a"}, "steps": {}}),
        ({"only": ["ipvsadm"]}, {"snapshot": {"id": "a"}, "steps": {}}),
        ({}, {"snapshot": None, "steps": {}}),
        ({"dry_run": True}, {"steps": {}}),
    ],
)
def test_after_a_build_that_published_nothing_or_is_not_to_be_played_nothing_is(
    options: dict[str, Any], built: dict[str, Any], tmp_path: Path
) -> None:
    assert job(tmp_path, **options).after(built) == {}
    assert not (tmp_path / "reports").exists()


def test_scenarios_that_are_not_there_are_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no scenario natt") as caught:
        job(tmp_path).smoke(("nat", "natt"))
    assert "keepalived" in caught.value.why


def test_small_kernels_are_played_from_their_own_repository(tmp_path: Path) -> None:
    assert job(tmp_path).latest == tmp_path / "repo/lts61/latest"
    assert job(tmp_path, kernel_config="small").latest == tmp_path / "repo/lts61-small/latest"
