"""What a scenario's result says of its guests, without any that runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.lab import runner, scenarios
from pipeline.lab.report.results import State
from pipeline.lab.vm.qemu import GuestFiles


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scenario nat in a directory that is given relative to the current one, as artifacts may be."""
    monkeypatch.chdir(tmp_path)
    plan = scenarios.load_scenario("nat", ("stock",))
    repository = SimpleNamespace(package=lambda role, name: SimpleNamespace(release="6.1-1"))
    environment: Any = SimpleNamespace(work=Path("reports/run"), repository=repository, capture=True)
    run = runner._ScenarioRun(environment, plan, {guest.name: "stock" for guest in plan.guests}, {})
    run.directory.mkdir(parents=True)
    return run


def test_consoles_and_captures_are_named_from_the_directory_of_the_report(scenario: Any) -> None:
    plan, place = scenario.plan, scenario.directory.resolve()  # where guests' files are, whatever it was given as
    running = {}
    for guest in plan.guests:
        files = GuestFiles(place, place, guest.name)
        files.console.write_text("fnat: guest ready\n")
        qemu = SimpleNamespace(watcher=SimpleNamespace(findings=tuple))
        running[guest.name] = SimpleNamespace(files=files, release="6.1", marks={}, qemu=qemu)
    lab = SimpleNamespace(guests=running)
    guests = [scenario._guest_result(lab, guest) for guest in plan.guests]
    assert [guest.console_file for guest in guests] == [f"nat/{guest.name}.console" for guest in plan.guests]
    assert all((scenario.environment.work / guest.console_file).is_file() for guest in guests)
    found = scenario._scenario_result(State.BROKEN, "w", guests, {}, 1.0, 2.0)
    assert found.captures == {}
    captures = {"front": scenario.directory / "front.pcap"}
    captures["front"].write_bytes(bytes.fromhex("d4c3b2a1 0200 0400 00000000 00000000 ffff0000 01000000"))
    found = scenario._scenario_result(State.BROKEN, "w", guests, captures, 1.0, 2.0)
    assert found.captures == {"front": "nat/front.pcap"}


def test_the_result_has_each_guests_vip_and_routes(scenario: Any) -> None:
    lab = SimpleNamespace(guests={})
    guests = {guest.name: scenario._guest_result(lab, guest) for guest in scenario.plan.guests}
    assert (guests["director"].vip, guests["client"].vip) == ("192.168.0.10", "")
    assert guests["server1"].routes == ("default via 192.168.100.10",)
    assert guests["server1"].console_file == ""
