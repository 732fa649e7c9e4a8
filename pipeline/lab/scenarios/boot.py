"""Boot each kernel, and check its release and the features of its role from inside."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.config.line_model import RoleName
from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import ANY_STATUS, ScenarioContext
from pipeline.lab.topology import GuestPlan, Interface, Part

HAS_FULLNAT, READS_TOA = "{}: IPVS has FULLNAT", "{}: TOA is read"  # checks' names
_PARTS = {RoleName.DIRECTOR: Part.DIRECTOR, RoleName.REALSERVER: Part.SERVER, RoleName.STOCK: Part.CLIENT}
_ERROR = 3  # the kernel's level of errors; smaller ones are worse
_RAW = re.compile(r"<(\d+)>(.*)")
# The firmware's interpreter gives up after 30 seconds: that is of a slow host, and of nothing that was built.
_OF_SLOWNESS = re.compile(r"ACPI Error: .*AE_AML_LOOP_TIMEOUT")


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
    director, reader = context.dialect.director, context.dialect.reader
    fullnat = machine.run("test", "-e", director.feature, accept=(0, 1)).status == 0
    hint = "the director's patches are what gives it: `./inv patches` shows which role has which"
    context.check(HAS_FULLNAT.format(name), role is RoleName.DIRECTOR, fullnat, hint=hint)
    if role is RoleName.DIRECTOR:
        _check_director(context, name)
    started = machine.run("sh", "-c", reader.start, accept=ANY_STATUS).status == 0
    reading = machine.run("sh", "-c", reader.reads, accept=ANY_STATUS).status == 0
    hint = "the real server's patch or package is what gives it: was this one made as another role?"
    context.check(READS_TOA.format(name), role is RoleName.REALSERVER, started and reading, hint=hint)
    check_log(context, name)


def check_log(context: ScenarioContext, name: str, meant: str = "") -> None:
    """Check that a guest's kernel logged no error, but those that have the text `meant`."""
    found = kernel_errors(context[name].run("dmesg", "-r").out, slow=context.patience > 1)
    errors = [line for line in found if not meant or meant not in line]
    context.check(f"{name}: errors in the kernel's log", [], errors)


def _check_director(context: ScenarioContext, name: str) -> None:
    director, machine = context.dialect.director, context[name]
    if size := director.table:
        first = machine.run("cat", "/proc/net/ip_vs").out.splitlines()[0]
        context.check(f"{name}: size of IPVS' connection table", size, first, passed=size in first)
    if director.option_file:
        number = machine.run("cat", director.option_file, accept=(0, 1)).out.strip()
        context.check(f"{name}: number of the TCP option that IPVS writes", str(context.dialect.option), number)


def kernel_errors(log: str, *, slow: bool = False) -> list[str]:
    """Return the lines of a raw kernel log with level error or worse, and warnings with a trace.

    Of a `slow` guest, one that is given patience, not those that only its slowness makes.
    """
    rows = [row for row in map(_RAW.match, log.splitlines()) if row and not (slow and _OF_SLOWNESS.search(row[2]))]
    return [row[2].strip() for row in rows if int(row[1]) & 7 <= _ERROR or "WARNING: " in row[2]]


def plan(roles: Sequence[str]) -> ScenarioPlan:
    """Plan one guest for each kernel of the line."""
    wires = (Interface("front"),)
    guests = tuple(
        GuestPlan(role, _PARTS[RoleName(role)], wires, optional_modules=("ip_vs", "toa"), role=role) for role in roles
    )
    title = "Boot: every kernel starts and shows its role from inside"
    return ScenarioPlan("boot", title, guests, act, of_one_line=True)
