"""Check that the guides' mistake, real servers with what makes a director, is detected although they boot."""

from __future__ import annotations

from dataclasses import replace

from pipeline.config.line_model import RoleName
from pipeline.lab.scenario_context import ScenarioContext
from pipeline.lab.scenarios import boot, fullnat
from pipeline.lab.topology import Part

_BOOT = {name.format("server1") for name in (boot.HAS_FULLNAT, boot.READS_TOA)}


def act(context: ScenarioContext) -> None:
    """Run the checks of `boot` and `fullnat` aside, and check that each detects the mistake."""
    aside = replace(context, checks=[], distributions=[])
    boot.check_role(aside, "server1", RoleName.REALSERVER)
    _check_detection(context, aside, "boot", _BOOT)
    aside = replace(context, checks=[], distributions=context.distributions)
    fullnat.prepare(aside)
    fullnat.check_with_toa(aside)
    starting = {fullnat.STARTING.format(name) for name in fullnat.SERVERS}
    missed = {fullnat.PRESERVED.format(family) for family in ("AF_INET", "AF_INET6")}
    _check_detection(context, aside, "fullnat", starting | missed)


def _check_detection(context: ScenarioContext, aside: ScenarioContext, name: str, wanted: set[str]) -> None:
    failed = {check.name for check in aside.checks if not check.passed}
    context.check(
        f"real servers made as directors: checks of {name} that fail", sorted(wanted), sorted(failed & wanted)
    )


PLAN = replace(
    fullnat.PLAN,
    name="guide",
    title="The guides' mistake: real servers made as directors are caught",
    of_one_line=True,
    act=act,
    guests=tuple(
        replace(guest, role=RoleName.DIRECTOR.value, optional_modules=("ip_vs", *guest.optional_modules))
        if guest.part is Part.SERVER
        else guest
        for guest in fullnat.PLAN.guests
    ),
)
