"""The guides' mistake on purpose: the lvs patch on the real servers. It boots; it must be caught all the same."""

from __future__ import annotations

from dataclasses import replace

from pipeline.config.line_model import RoleName
from pipeline.lab.scenario_context import ScenarioContext
from pipeline.lab.scenarios import boot, fullnat
from pipeline.lab.topology import Part


def act(context: ScenarioContext) -> None:
    """Plays what `boot` and `fullnat` look at, aside, and notes that each of them found it."""
    aside = replace(context, checks=[], distributions=[])
    boot.evidence(aside, "server1", RoleName.REALSERVER)
    _caught(context, aside, "boot", {"server1: FULLNAT in IPVS", "server1: toa loads and counts"})
    aside = replace(context, checks=[], distributions=context.distributions)
    fullnat.prepare(aside)
    fullnat.with_toa(aside)
    missed = "servers see the client's address and port, AF_INET"
    _caught(context, aside, "fullnat", {"server1: toa loads", "server2: toa loads", missed, f"{missed}6"})


def _caught(context: ScenarioContext, aside: ScenarioContext, name: str, wanted: set[str]) -> None:
    failed = {check.name for check in aside.checks if not check.passed}
    context.check(f"{name} catches it by", sorted(wanted), sorted(failed & wanted))


PLAN = replace(
    fullnat.PLAN,
    name="guide",
    title="The guides' mistake: real servers with the director's kernel are caught",
    act=act,
    guests=tuple(
        replace(guest, role=RoleName.DIRECTOR.value, spare=("ip_vs", *guest.spare))
        if guest.part is Part.SERVER
        else guest
        for guest in fullnat.PLAN.guests
    ),
)
