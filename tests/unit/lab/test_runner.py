"""What a scenario's result says of its guests, without any that runs."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.config.line_model import LineData
from pipeline.lab import runner, scenarios
from pipeline.lab.report.results import State
from pipeline.lab.repository import Package
from pipeline.lab.topology import GuestPlan, Part
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


def published(line: LineData, place: str = "") -> Any:
    """A line and a snapshot that has every package, which tells its set."""

    def package(role: str, name: str) -> Package:
        return Package(Path(place, role, f"{name}.rpm"), f"{name}-1-1.x86_64", f"sha256 of {name}", "6.1-1")

    return SimpleNamespace(
        line=SimpleNamespace(data=line), repository=SimpleNamespace(package=package, nearest=package, roles=())
    )


def environment_of(line: LineData, servers: Any = None) -> runner.LabEnvironment:
    own, unused = published(line), cast("Any", None)
    return runner.LabEnvironment(
        line=own.line,
        repository=own.repository,
        userland=Path("userland"),
        builder=unused,
        cache=Path("cache"),
        work=Path("reports/run"),
        accelerator=unused,
        note=lambda _: None,
        capture=True,
        servers=servers,
    )


def played(name: str, sets: dict[str, str], line: LineData, servers: Any = None) -> Any:
    """A run of a scenario."""
    plan = scenarios.load_scenario(name, tuple(line.roles))
    roles = {guest.name: sets[guest.part.value] for guest in plan.guests}
    return runner._ScenarioRun(environment_of(line, servers), plan, roles, {})


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


# --- Real servers of another line -------------------------------------------------------------------------

SETS = {"director": "director", "server": "realserver", "client": "stock"}
OWN_KERNELS = "[roles.stock]\n[roles.director]\n[roles.realserver]\n"


def test_real_servers_of_another_line_have_its_kernel_and_packages_and_other_guests_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(initramfs, "unpacked_kernel", lambda contents, cache, note: Kernel(contents))
    mixed = {
        "old": played("fullnat", SETS, line_of(PACKAGED), published(line_of(OWN_KERNELS), "old")),
        "new": played("fullnat", SETS, line_of(OWN_KERNELS), published(line_of(PACKAGED), "new")),
    }
    made = {name: {g.name: run._contents(g, []) for g in run.plan.guests} for name, run in mixed.items()}
    for name, guests in made.items():
        kernels = {guest: str(contents.kernel) for guest, contents in guests.items()}
        assert kernels == {
            "client": "stock/kernel.rpm",
            "director": "director/kernel.rpm",
            "server1": f"{name}/realserver/kernel.rpm",
            "server2": f"{name}/realserver/kernel.rpm",
        }
    beside = {name: {g: [*map(str, c.beside)] for g, c in guests.items()} for name, guests in made.items()}
    assert beside["old"] == {
        "client": [],
        "director": ["director/fullnat-modules.rpm"],
        "server1": [],
        "server2": [],
    }
    assert beside["new"]["director"] == [] and beside["new"]["server1"] == ["new/realserver/reader.rpm"]


LAB = """
[lab.fullnat]
director = "director"
server = "realserver"
[lab.fullnat.known]
udp = "it has no checksum"
[lab.nat]
left-out = "not tried"
"""
OTHER_LAB = '[lab.fullnat]\nserver = "stock"\n[lab.fullnat.known]\nicmp = "x"\n[lab.nat]\n[lab.dr]\n[lab.tun]\n'


def test_each_lines_table_of_a_scenario_names_the_roles_of_its_own_guests_or_leaves_it_out() -> None:
    own, other = line_of(OWN_KERNELS + LAB), line_of(OWN_KERNELS + OTHER_LAB)
    mixed = environment_of(own, published(other))
    row = runner._row(mixed, "fullnat")
    assert (row.director, row.server, row.left_out) == ("director", "stock", "")
    assert row.known == {"udp": "it has no checksum"}, "what does not work is the director's"
    assert runner._row(environment_of(own), "fullnat").server == "realserver"
    result = runner.run_scenario(mixed, "nat")
    assert (result.state, result.why) == (State.LEFT_OUT, "not tried")
    assert runner.run_scenario(environment_of(other, published(own)), "nat").why == "not tried"
    assert runner.run_scenario(mixed, "dr").why == "the line file has no table for it"


def test_a_guest_whose_kernel_watches_its_memory_has_more_of_it() -> None:
    guest = GuestPlan("client", Part.CLIENT, ())
    assert guest.memory({"CONFIG_KASAN": "y"}) == 4 * guest.memory({"CONFIG_KASAN": "n"}) == 4 * guest.memory({})
