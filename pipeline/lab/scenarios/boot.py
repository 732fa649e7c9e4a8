"""Boot each kernel, and check its release and the features of its role from inside."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.config.line_model import RoleName
from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import ScenarioContext
from pipeline.lab.topology import GuestPlan, Interface, Part

FULLNAT, TOA = "/proc/sys/net/ipv4/vs/fullnat_lport_min", "/proc/net/toa_stats"
TABLE_SIZE = "size=4194304"  # two to the power of 22
_PARTS = {RoleName.DIRECTOR: Part.DIRECTOR, RoleName.REALSERVER: Part.SERVER, RoleName.STOCK: Part.CLIENT}
_ERROR = 3  # the kernel's level of errors; smaller ones are worse
_RAW = re.compile(r"<(\d+)>(.*)")


def act(context: ScenarioContext) -> None:
    """Run the checks of all guests."""
    for guest in context.guests:
        check_role(context, guest.name, RoleName(context.roles[guest.name]))


def check_role(context: ScenarioContext, name: str, role: RoleName) -> None:
    """Check that a guest's kernel is the built one, with the features of `role` and of no other role."""
    machine = context[name]
    context.check(
        f"{name}: uname -r is the package's release", context.releases[name], machine.run("uname", "-r").out.strip()
    )
    machine.run("modprobe", "ip_vs")
    fullnat = machine.run("test", "-e", FULLNAT, accept=(0, 1)).status == 0
    hint = "the lvs patch is what gives it: `./inv patches` shows which role has which"
    context.check(f"{name}: IPVS has FULLNAT", role is RoleName.DIRECTOR, fullnat, hint=hint)
    if role is RoleName.DIRECTOR:
        first = machine.run("cat", "/proc/net/ip_vs").out.splitlines()[0]
        context.check(f"{name}: size of IPVS' connection table", TABLE_SIZE, first, passed=TABLE_SIZE in first)
    loaded = machine.run("modprobe", "toa", accept=tuple(range(256))).status == 0
    counted = machine.run("test", "-e", TOA, accept=(0, 1)).status == 0
    hint = "the toa patch is what gives it: was this kernel built with the director's?"
    context.check(f"{name}: toa loads and counts", role is RoleName.REALSERVER, loaded and counted, hint=hint)
    context.check(f"{name}: errors in the kernel's log", [], kernel_errors(machine.run("dmesg", "-r").out))


def kernel_errors(log: str) -> list[str]:
    """Return the lines of a raw kernel log with level error or worse, and warnings with a trace."""
    rows = filter(None, map(_RAW.match, log.splitlines()))
    return [row[2].strip() for row in rows if int(row[1]) & 7 <= _ERROR or "WARNING: " in row[2]]


def plan(roles: Sequence[str]) -> ScenarioPlan:
    """Plan one guest for each kernel of the line."""
    wires = (Interface("front"),)
    guests = tuple(
        GuestPlan(role, _PARTS[RoleName(role)], wires, optional_modules=("ip_vs", "toa"), role=role) for role in roles
    )
    return ScenarioPlan("boot", "Boot: every kernel starts and shows its role from inside", guests, act)
