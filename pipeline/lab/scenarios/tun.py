"""Check TUN: as DR, but packets to the servers are encapsulated: ipip."""

from __future__ import annotations

from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import ScenarioContext
from pipeline.lab.scenarios import dr


def act(context: ScenarioContext) -> None:
    """Run the scenario."""
    dr.configure(context, "tun", "-i")
    context.check_distribution(
        "TUN, wlc: requests per server", {"server1": 5, "server2": 5}, context.request("client", dr.VIP, count=10)
    )
    tunnelled = [packet.ip for packet in context.packets("front") if packet.ipip and packet.ip]
    outer = sorted({outer.target for outer in tunnelled})
    inner = sorted({outer.innermost.target for outer in tunnelled})
    context.check("TUN: targets of the ipip packets", sorted(dr.SERVERS.values()), outer)
    context.check("TUN: targets of the packets inside", [dr.VIP], inner)
    dr.check_bypass(context, "TUN")


PLAN = ScenarioPlan(
    name="tun",
    title="TUN: tunnels to the servers, which answer the client themselves",
    guests=dr.guests(("ipip",)),
    act=act,
)
