"""Run the role packages as an init system does: start, stop and status, twice each; foreign configuration stays."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import ANY_STATUS, ScenarioContext
from pipeline.lab.topology import FIREWALL_MODULES, GuestPlan, Interface, Part
from pipeline.lab.vm.machine import Machine

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "director": {"MODES": "nat", "VIP": "192.168.0.10", "VIP_DEVICE": "eth0"},
    "realserver": {"MODES": "dr", "VIP": "192.168.0.10", "DR_RECEIVE": "redirect", "REDIRECT_PORTS": "tcp/80"},
}
RUNNING, STOPPED, UNCONFIGURED = 0, 3, 6  # LSB's exit statuses
_FOREIGN_CONFIGURATION = """
ip address add 10.9.9.9/32 dev lo
iptables -t nat -A PREROUTING -d 10.9.9.9 -p tcp --dport 99 -j REDIRECT --to-ports 98
iptables -A INPUT -s 10.8.8.8 -j DROP
"""
_STATE = """
ip -4 address show | grep inet
ip -4 route show
iptables-save 2>/dev/null | grep ^-
ipvsadm -Sn 2>/dev/null
true
"""
_UNIT_KEYS = {"start": "ExecStart", "reload": "ExecReload", "stop": "ExecStopPost"}


def act(context: ScenarioContext) -> None:
    """Run the scenario for both roles."""
    for role, settings in SETTINGS.items():
        _role(context, role, settings)


def _role(context: ScenarioContext, role: str, settings: Mapping[str, str]) -> None:
    machine = context[role]
    commands = _commands(machine, role)
    seen = machine.run(*commands["start"], accept=ANY_STATUS).status
    context.check(f"{role}: exit status of start without configuration", UNCONFIGURED, seen)
    context.run_script(machine, _FOREIGN_CONFIGURATION)
    if role == "director":
        context.run_script(machine, "ipvsadm -A -t 10.9.9.9:99 -s rr")
    before = _state(machine)
    machine.write_file(
        f"/etc/lvs-fnat/{role}.conf", "".join(f"{key}={value}\n" for key, value in settings.items()).encode()
    )
    steps = (("status", STOPPED), ("start", 0), ("start", 0), ("status", RUNNING), ("status", RUNNING))
    for verb, status in steps:
        context.check(f"{role}: exit status of {verb}", status, machine.run(*commands[verb], accept=ANY_STATUS).status)
    missing = [line for line in before if line not in _state(machine)]
    context.check(f"{role}: settings of others that are gone while it runs", [], missing)
    context.check(f"{role}: start changes the network's settings", True, _state(machine) != before)
    for verb, status in (("stop", 0), ("stop", 0), ("status", STOPPED), ("status", STOPPED)):
        context.check(
            f"{role}: exit status of {verb} when stopping",
            status,
            machine.run(*commands[verb], accept=ANY_STATUS).status,
        )
    context.check(f"{role}: settings after stop are those before start", before, _state(machine))


def _state(machine: Machine) -> list[str]:
    return [line.strip() for line in machine.run("sh", "-c", _STATE).out.splitlines()]


def _commands(machine: Machine, role: str) -> dict[str, tuple[str, ...]]:
    """Return the init system's command for each verb: the SysV script, or the commands of the unit."""
    name = f"lvs-fnat-{role}"
    init, unit = f"/etc/rc.d/init.d/{name}", f"/usr/lib/systemd/system/{name}.service"
    if machine.run("test", "-e", init, accept=(0, 1)).status == 0:
        return {verb: (init, verb) for verb in ("start", "stop", "status", "reload")}
    rows = dict(line.split("=", 1) for line in machine.read_file(unit).decode().splitlines() if "=" in line)
    found = {verb: tuple(shlex.split(rows[key])) for verb, key in _UNIT_KEYS.items()}
    return {**found, "status": (found["start"][0], "status")}  # systemd remembers; the script looks


PLAN = ScenarioPlan(
    name="roles",
    title="Role packages: start, stop and status as an init system calls them",
    of_one_line=True,
    guests=(
        GuestPlan(
            "director",
            Part.DIRECTOR,
            (Interface("front", ("192.168.0.2/24",)),),
            packages=("ipvsadm", "lvs-fnat-director"),
            modules=("ip_vs", "ip_vs_rr"),
            optional_modules=FIREWALL_MODULES,
        ),
        GuestPlan(
            "realserver",
            Part.SERVER,
            (Interface("front", ("192.168.0.7/24",)),),
            packages=("lvs-fnat-realserver",),
            optional_modules=FIREWALL_MODULES,
        ),
    ),
    act=act,
)
