"""What a scenario's result says of its guests, without any that runs."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.line_model import LineData
from pipeline.lab import runner, scenarios
from pipeline.lab.report.results import State
from pipeline.lab.repository import Package
from pipeline.lab.topology import Part
from pipeline.lab.vm import initramfs
from pipeline.lab.vm.qemu import GuestFiles

PACKAGED = """
[sources]
[roles.stock]
[roles.director]
kernel = "stock"
packages = ["fullnat-modules"]
[roles.realserver]
kernel = "stock"
packages = ["reader"]
[packages.fullnat-modules]
kind = "module-set"
source = "linux"
summary = "x"
version = "1"
modules = ["ip_vs", "ip_vs_rr", "ip_vs_new"]
[packages.reader]
kind = "module-set"
source = "linux"
summary = "x"
version = "1"
modules = ["x"]
"""


def line_of(text: str) -> LineData:
    given = {"schema": 1, "name": "toy", "title": "x", "kernel": "6.1", "sources": {}}
    return LineData.model_validate({**given, **tomllib.loads(text)})


def played(name: str, sets: dict[str, str], line: LineData) -> Any:
    """A run of a scenario whose snapshot has every package, which tells its set."""
    plan = scenarios.load_scenario(name, tuple(line.roles))

    def package(role: str, name: str) -> Package:
        return Package(Path(f"{role}/{name}.rpm"), f"{name}-1-1.x86_64", f"sha256 of {name}", "6.1-1")

    repository = SimpleNamespace(package=package, nearest=package)
    environment: Any = SimpleNamespace(
        work=Path("reports/run"),
        repository=repository,
        capture=True,
        line=SimpleNamespace(data=line),
        userland=Path("userland"),
        builder=None,
        cache=Path("cache"),
        note=lambda _: None,
    )
    return runner._ScenarioRun(environment, plan, {guest.name: sets[guest.part.value] for guest in plan.guests}, {})


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scenario nat in a directory that is given relative to the current one, as artifacts may be."""
    monkeypatch.chdir(tmp_path)
    run = played("nat", dict.fromkeys(Part, "stock"), line_of("[roles.stock]"))
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


class Kernel:
    """A kernel with these modules, as what is beside it leaves it."""

    def __init__(self, contents: initramfs.Contents) -> None:
        self.modules = {"ip_vs", "ip_vs_rr", "ip_vs_wrr", "ipv6", *(path.stem for path in contents.beside)}

    def has(self, name: str) -> bool:
        return name in self.modules


@pytest.fixture
def contents(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, initramfs.Contents]]:
    """What each guest of a scenario is made of, by its name."""
    monkeypatch.setattr(initramfs, "unpacked_kernel", lambda contents, cache, note: Kernel(contents))
    sets = {"director": "director", "server": "realserver", "client": "stock"}

    def made(name: str) -> dict[str, initramfs.Contents]:
        run = played(name, sets, line_of(PACKAGED))
        packages = {
            g.name: [run.environment.repository.package(run.sets[g.name], p) for p in g.packages]
            for g in run.plan.guests
        }
        return {guest.name: run._contents(guest, packages[guest.name]) for guest in run.plan.guests}

    return made


def test_a_guest_has_the_packages_of_its_role_beside_the_stock_kernel(
    contents: Callable[[str], dict[str, initramfs.Contents]],
) -> None:
    for scenario in ("nat", "keepalived", "fullnat"):
        made = contents(scenario)
        beside = {name.rstrip("12"): [str(path) for path in guest.beside] for name, guest in made.items()}
        assert beside == {
            "client": [],
            "director": ["director/fullnat-modules.rpm"],
            "server": ["realserver/reader.rpm"],
        }
        assert all(guest.digest(path) == f"sha256 of {path.stem}" for guest in made.values() for path in guest.beside)


def test_each_role_boots_with_its_own_packages(contents: Callable[[str], dict[str, initramfs.Contents]]) -> None:
    beside = {name: [path.stem for path in guest.beside] for name, guest in contents("boot").items()}
    assert beside == {"stock": [], "director": ["fullnat-modules"], "realserver": ["reader"]}


def test_the_guides_mistake_has_the_directors_packages_on_real_servers_and_not_their_own(
    contents: Callable[[str], dict[str, initramfs.Contents]],
) -> None:
    server = contents("guide")["server1"]
    assert [str(path) for path in server.beside] == ["director/fullnat-modules.rpm"]
    assert [str(path) for path in server.packages] == ["realserver/lvs-fnat-realserver.rpm"]


def test_a_module_that_only_a_package_beside_the_kernel_has_is_taken_along(
    contents: Callable[[str], dict[str, initramfs.Contents]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kernel, "has", lambda self, name: name == "toa" and "reader" in self.modules)
    assert {name: guest.optional_modules for name, guest in contents("boot").items()} == {
        "stock": (),
        "director": (),
        "realserver": ("toa",),
    }
