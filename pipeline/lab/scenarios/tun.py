"""TUN: as DR, but packets go to the servers in packets: ipip. domain.md, section 6."""

from __future__ import annotations

from pipeline.lab.plans import ScenarioPlan
from pipeline.lab.scenarios import dr
from pipeline.lab.stage import Stage


def act(stage: Stage) -> None:
    """Plays it."""
    dr.start(stage, "tun", "-i")
    stage.distribution("wlc, two servers", {"server1": 5, "server2": 5}, stage.ask("client", dr.VIP, count=10))
    tunnelled = [packet.ip for packet in stage.packets("front") if packet.ipip and packet.ip]
    outer = sorted({outer.target for outer in tunnelled})
    inner = sorted({outer.innermost.target for outer in tunnelled})
    stage.check("ipip leads to the servers", sorted(dr.SERVERS.values()), outer)
    stage.check("and carries packets to the VIP", [dr.VIP], inner)
    dr.bypasses(stage)


PLAN = ScenarioPlan(
    name="tun",
    title="TUN: tunnels to the servers, which answer the client themselves",
    guests=dr.guests(("ipip",)),
    act=act,
)
