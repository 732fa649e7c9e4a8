"""Run scenarios: make the guests' images, start them, run the scenario, and collect the results.

Must not know the report, nor the origin of the repository.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config.line_model import LabScenario, Line, RoleName
from pipeline.errors import TestsFailed, UsageError
from pipeline.lab import dialects, scenarios
from pipeline.lab.failures import CommandFailed, GuestLost
from pipeline.lab.report import results, sequence_diagram
from pipeline.lab.repository import Package, Repository
from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import ScenarioContext
from pipeline.lab.topology import GuestPlan, Part
from pipeline.lab.vm import console_lines, initramfs, network
from pipeline.lab.vm.machine import Machine
from pipeline.lab.vm.network import Accelerator, Boot, Lab, NicSpec
from pipeline.sandbox.runtime import Image

READY_TIMEOUT = 120.0  # seconds until every guest answers; under emulation on two busy cores six guests take 30


@dataclass(frozen=True)
class Published:
    """A line and the verified snapshot of its packages."""

    line: Line
    repository: Repository


@dataclass(frozen=True)
class LabEnvironment:
    """The environment of all scenarios of a run. `work` holds consoles and captures, `note` reports progress.

    `servers` is what real servers are made of, where that is not the line of the other guests.
    """

    line: Line
    repository: Repository
    userland: Path
    builder: Image
    cache: Path
    work: Path
    accelerator: Accelerator
    note: Callable[[str], None]
    keep: Callable[[ScenarioContext], None] | None = None  # called before the guests end
    capture: bool = False  # whether the packets of each segment are kept
    patience: float = 1.0  # how many times as long as usual guests may take
    servers: Published | None = None

    def published(self, part: Part) -> Published:
        """Return what guests of a part are made of."""
        return self.servers if self.servers and part is Part.SERVER else Published(self.line, self.repository)


def run_scenario(environment: LabEnvironment, name: str) -> results.Scenario:
    """Run a scenario to its end; raises only for missing host features, never for findings."""
    row = _row(environment, name)
    plan = scenarios.load_scenario(name, environment.repository.roles)
    if row.left_out:
        return results.Scenario(name=name, title=plan.title, state=results.State.LEFT_OUT, why=row.left_out)
    return run_plan(environment, plan, row)


def _row(environment: LabEnvironment, name: str) -> LabScenario:
    """Return the roles of a scenario's parts, or why a line leaves it out, each as the line of the part says it."""
    missing = LabScenario.model_validate({"left-out": "the line file has no table for it"})
    row = environment.line.data.lab.get(name, missing)
    if environment.servers is None:
        return row
    other = environment.servers.line.data.lab.get(name, missing)
    return row.model_copy(update={"server": other.server, "left_out": row.left_out or other.left_out})


def run_plan(environment: LabEnvironment, plan: ScenarioPlan, row: LabScenario) -> results.Scenario:
    """Run a plan to its end, as `run_scenario` does, with the roles that `row` names for the parts of its guests."""
    sets = {guest.name: _role(row, guest, plan.name) for guest in plan.guests}
    return _ScenarioRun(environment, plan, sets, row.known).run()


def _role(row: LabScenario, guest: GuestPlan, name: str) -> str:
    """Return the role whose set has the guest's packages."""
    role = getattr(row, guest.part.value, None) or guest.role  # a line names none for routers
    if not role:
        raise UsageError(f"the line names no kernel for {guest.part}s", hint=f"[lab.{name}] in the line file")
    return str(role)


class _ScenarioRun:
    """One running scenario."""

    def __init__(
        self, environment: LabEnvironment, plan: ScenarioPlan, sets: Mapping[str, str], known: Mapping[str, str]
    ) -> None:
        self.environment, self.plan, self.sets, self.known = environment, plan, sets, known
        self.roles = {guest.name: guest.role or sets[guest.name] for guest in plan.guests}
        self.directory = environment.work / plan.name
        self.macs = {guest.name: _mac_addresses(plan, guest) for guest in plan.guests}
        self.published = {guest.name: environment.published(guest.part) for guest in plan.guests}
        self.kernels = {
            name: self.published[name].repository.package(role, "kernel") for name, role in self.roles.items()
        }
        self.beside = {name: self._role_packages(self.published[name], role) for name, role in self.roles.items()}
        self.context: ScenarioContext | None = None

    @staticmethod
    def _role_packages(published: Published, role: str) -> tuple[Package, ...]:
        """Return the packages that make the role, where it has no kernel of its own."""
        names = published.line.data.packages_of(RoleName(role))
        return tuple(published.repository.package(role, name) for name in names)

    def run(self) -> results.Scenario:
        """Run the scenario and return its result."""
        begun, clock = time.time(), time.monotonic()
        captures = {segment: self.directory / f"{segment}.pcap" for segment in self.plan.segments}
        state, why = results.State.PASSED, ""
        self.directory.mkdir(parents=True)
        with network.running_lab(self.directory, self.environment.accelerator, self.environment.patience) as lab:
            for segment, file in captures.items():
                lab.add_segment(segment, capture=file, frames=self.plan.captured_frames)
            try:
                self._execute(lab, captures)
            except GuestLost as lost:
                state, why = results.State.FAILED if lost.finding else results.State.BROKEN, str(lost)
            except TestsFailed as error:
                state, why = results.State.BROKEN, str(error)
            guests = [self._guest_result(lab, guest) for guest in self.plan.guests]
        result = self._scenario_result(state, why, guests, captures, begun, time.monotonic() - clock)
        for path in [] if self.environment.capture else list(captures.values()):
            path.unlink(missing_ok=True)
        return result

    def _execute(self, lab: Lab, captures: Mapping[str, Path]) -> None:
        machines = {guest.name: self._start_guest(lab, guest) for guest in self.plan.guests}
        lab.wait_until_ready(READY_TIMEOUT)
        releases = {name: f"{kernel.release}.x86_64" for name, kernel in self.kernels.items()}
        dialect = dialects.of_line(self.environment.line.data, self.environment.published(Part.SERVER).line.data)
        self.context = ScenarioContext(
            self.plan.guests,
            machines,
            captures,
            self.macs,
            releases,
            self.roles,
            dialect,
            self.known,
            patience=self.environment.patience,
        )
        self.context.configure_networks()
        for name in machines:
            guest = lab.guests[name]
            self.environment.note(
                f"{self.plan.name}: {name} is ready after {guest.marks['ready']:.1f} s: {guest.release}"
            )
        try:
            self.plan.act(self.context)
        except CommandFailed as error:
            self._keep(str(error))
            raise
        self._keep("")

    def _keep(self, failed: str) -> None:
        if self.context and self.environment.keep:
            if failed:
                self.environment.note(f"{self.plan.name}: {failed}")
            self.environment.keep(self.context)

    def _start_guest(self, lab: Lab, guest: GuestPlan) -> Machine:
        repository = self.published[guest.name].repository
        packages = [repository.nearest(self.sets[guest.name], name) for name in guest.packages]
        image = initramfs.make_image(self._contents(guest, packages), self.environment.cache, self.environment.note)
        boot = Boot(image.kernel, image.initramfs, guest.memory(image.config), image.virtio, guest.counted)
        cards = [NicSpec(wire.segment, mac) for wire, mac in zip(guest.interfaces, self.macs[guest.name], strict=True)]
        return lab.add_guest(guest.name, boot, cards)

    def _contents(self, guest: GuestPlan, packages: Sequence[Package]) -> initramfs.Contents:
        environment, own, beside = self.environment, self.kernels[guest.name], self.beside[guest.name]
        contents = initramfs.Contents(
            userland=environment.userland,
            kernel=own.path,
            modules=guest.modules,
            packages=tuple(package.path for package in packages),
            beside=tuple(package.path for package in beside),
            builder_image=environment.builder,
            digests={package.path: package.sha256 for package in (own, *packages, *beside)},
        )
        kernel = initramfs.unpacked_kernel(contents, environment.cache, environment.note)
        return replace(contents, optional_modules=tuple(filter(kernel.has, guest.optional_modules)))

    def _guest_result(self, lab: Lab, guest: GuestPlan) -> results.Guest:
        running = lab.guests.get(guest.name)
        cards = tuple(
            results.Card(segment=wire.segment, device=f"eth{number}", mac=mac, addresses=wire.addresses)
            for number, (wire, mac) in enumerate(zip(guest.interfaces, self.macs[guest.name], strict=True))
        )
        return results.Guest(
            name=guest.name,
            part=guest.part.value,
            role=self.roles[guest.name],
            kernel=running.release if running else "",
            cards=cards,
            marks=running.marks if running else {},
            vip=guest.vip,
            routes=guest.routes,
            console=console_lines.whole(running.files.console.read_bytes()) if running else "",
            console_file=self._beside_report(running.files.console) if running else "",
            findings=running.qemu.watcher.findings() if running else (),
        )

    def _scenario_result(
        self,
        state: results.State,
        why: str,
        guests: list[results.Guest],
        captures: Mapping[str, Path],
        begun: float,
        seconds: float,
    ) -> results.Scenario:
        checks = self.context.checks if self.context else []
        try:
            packets = sequence_diagram.first_connection(captures, 80, guests)
        except TestsFailed as flood:
            packets, state, why = (), results.State.BROKEN, why or str(flood)
        findings = [finding for guest in guests for finding in guest.findings]
        failed = sum(not check.passed for check in checks)
        if state is results.State.PASSED and (failed or findings or not checks):
            state = results.State.FAILED
            why = f"{failed} of {len(checks)} checks did not hold" if failed else "nothing was checked"
            why = f"{findings[0].guest}: {findings[0].meaning}" if findings and not failed else why
        return results.Scenario(
            name=self.plan.name,
            title=self.plan.title,
            state=state,
            why=why,
            started=begun,
            seconds=seconds,
            guests=tuple(guests),
            checks=tuple(checks),
            distributions=tuple(self.context.distributions if self.context else ()),
            measurements=tuple(self.context.measurements if self.context else ()),
            sequence=packets,
            captures={name: self._beside_report(file) for name, file in captures.items() if self.environment.capture},
        )

    def _beside_report(self, file: Path) -> str:
        """Return the path of a file of this scenario from the directory of the report."""
        return f"{self.plan.name}/{file.name}"


def _mac_addresses(plan: ScenarioPlan, guest: GuestPlan) -> tuple[str, ...]:
    """Return locally administered addresses, `52:54:00:NN:00:CC`: guest from 1 and card from 0."""
    number = plan.guests.index(guest) + 1
    return tuple(f"52:54:00:{number:02x}:00:{card:02x}" for card in range(len(guest.interfaces)))
