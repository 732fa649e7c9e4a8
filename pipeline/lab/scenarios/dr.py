"""Check DR: the director changes only the frame's target; servers hold the VIP without answering ARP."""

from __future__ import annotations

from pipeline.formats import pcap
from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import ScenarioContext
from pipeline.lab.scenarios import ipvs
from pipeline.lab.topology import FIREWALL_MODULES, GuestPlan, Interface, Part

VIP, CLIENT = "172.16.16.172", "172.16.16.1"
SERVICE = f"{VIP}:80"
SERVERS = {"server1": "172.16.16.177", "server2": "172.16.16.178"}


def act(context: ScenarioContext) -> None:
    """Run the scenario with the VIP on lo of the servers, then with a redirect instead."""
    configure(context, "dr", "-g")
    context.check_distribution(
        "DR, wlc: requests per server", {"server1": 5, "server2": 5}, context.request("client", VIP, count=10)
    )
    _check_arp(context)
    check_bypass(context, "DR")
    _check_no_port_mapping(context)
    _check_redirect(context)


def configure(context: ScenarioContext, mode: str, forward: str, **server_settings: str) -> None:
    """Configure director and servers, start the servers, and add the service."""
    director = context["director"]
    ipvs.configure_role(director, "director", {"MODES": mode, "VIP": VIP, "VIP_DEVICE": "eth0"})
    for name in SERVERS:
        ipvs.configure_role(context[name], "realserver", {"MODES": mode, "VIP": VIP, **server_settings})
        context.start_tcp_server(name)
    added = "\n".join(f"-a -t {SERVICE} -r {address} {forward}" for address in SERVERS.values())
    ipvs.add_rules(director, f"-A -t {SERVICE} -s wlc\n{added}")


def _check_arp(context: ScenarioContext) -> None:
    context["client"].run("sh", "-c", f"ip neigh flush dev eth0; arping -c 3 -I eth0 {VIP}", timeout=15, accept=(0, 1))
    answering = sorted(pcap.claimants(context.packets("front"), VIP))
    context.check("DR: only the director answers ARP for the VIP", [context.mac("director")], answering)


def check_bypass(context: ScenarioContext, mode: str) -> None:
    """Check that answers from the VIP come from the servers' own cards, and none from the director's."""
    plain = (packet for packet in context.packets("front") if packet.tcp and not packet.ipip)
    senders = {packet.source_mac for packet in plain if packet.ip and packet.ip.source == VIP}
    context.check(f"{mode}: answers bypass the director", sorted(map(context.mac, SERVERS)), sorted(senders))


def _check_no_port_mapping(context: ScenarioContext) -> None:
    director, address = context["director"], SERVERS["server1"]
    ipvs.add_rules(director, f"-A -t {VIP}:81 -s rr\n-a -t {VIP}:81 -r {address}:8080 -g")
    listed = [row.split()[0].rpartition(":")[2] for row in ipvs.list_servers(director, f"{VIP}:81")]
    context.check("DR: a port cannot be mapped, 81 stays 81", ["81"], listed)


def _check_redirect(context: ScenarioContext) -> None:
    for name in SERVERS:
        machine = context[name]
        machine.run(ipvs.script("realserver"), "stop")
        settings = {"MODES": "dr", "VIP": VIP, "DR_RECEIVE": "redirect", "REDIRECT_PORTS": "tcp/80"}
        ipvs.configure_role(machine, "realserver", settings)
        held = machine.run("ip", "-4", "address", "show").out
        context.check(f"DR by a redirect: {name} has a VIP of its own", False, VIP in held)
    context.check_distribution(
        "DR by a redirect: requests per server", {"server1": 5, "server2": 5}, context.request("client", VIP, count=10)
    )


def guests(spare: tuple[str, ...] = ()) -> tuple[GuestPlan, ...]:
    """Return the guests of DR and TUN, all on one segment."""
    wires = {name: (Interface("front", (f"{address}/24",)),) for name, address in SERVERS.items()}
    return (
        GuestPlan("client", Part.CLIENT, (Interface("front", (f"{CLIENT}/24",)),)),
        GuestPlan(
            "director",
            Part.DIRECTOR,
            (Interface("front", ("172.16.16.2/24",)),),
            packages=("ipvsadm", "lvs-fnat-director"),
            modules=("ip_vs", "ip_vs_wlc", "ip_vs_rr"),
            vip=VIP,
        ),
        *(
            GuestPlan(
                name,
                Part.SERVER,
                wire,
                packages=("lvs-fnat-realserver",),
                optional_modules=spare,
                vip=f"{VIP} without ARP",
            )
            for name, wire in wires.items()
        ),
    )


PLAN = ScenarioPlan(
    name="dr",
    title="DR: direct routing, servers answer the client themselves",
    guests=guests(FIREWALL_MODULES),
    act=act,
)
