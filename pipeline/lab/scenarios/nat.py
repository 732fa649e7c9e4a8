"""Check NAT: the director rewrites one address; answers return through the director."""

from __future__ import annotations

from itertools import pairwise

from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import GUEST, ScenarioContext
from pipeline.lab.scenarios import ipvs
from pipeline.lab.topology import GuestPlan, Interface, Part

VIP, DIP, CLIENT = "192.168.0.10", "192.168.100.10", "192.168.0.1"
SERVICE = f"{VIP}:80"
SERVERS = {"server1": "192.168.100.7", "server2": "192.168.100.9"}
FIRST, SECOND = (f"{address}:80" for address in SERVERS.values())


def act(context: ScenarioContext) -> None:
    """Run the scenario."""
    director = context["director"]
    settings = {"MODES": "nat", "VIP": VIP, "VIP_DEVICE": "eth0"}
    ipvs.configure_role(director, "director", settings)
    for name in SERVERS:
        context.start_tcp_server(name)
    ipvs.add_rules(director, f"-A -t {SERVICE} -s rr\n-a -t {SERVICE} -r {FIRST} -m\n-a -t {SERVICE} -r {SECOND} -m")
    _check_round_robin(context)
    ipvs.add_rules(director, f"-E -t {SERVICE} -s wrr\n-e -t {SERVICE} -r {FIRST} -m -w 3")
    context.check_distribution(
        "NAT, wrr 3 and 1: requests per server", {"server1": 12, "server2": 4}, context.request("client", VIP, count=16)
    )
    context.check(
        "NAT: ipvsadm -L lists the edited weights",
        [f"{FIRST} Masq 3", f"{SECOND} Masq 1"],
        ipvs.list_servers(director, SERVICE),
    )
    _check_save_and_restore(context)
    _check_drain(context)


def _check_round_robin(context: ScenarioContext) -> None:
    found = context.request("client", VIP, count=10)
    context.check_distribution("NAT, rr: requests per server", {"server1": 5, "server2": 5}, found)
    names = [answer.server for answer in found]
    context.check("NAT, rr: servers answer in turn", True, all(one != other for one, other in pairwise(names)))
    observed = sorted({answer.observed_client[0] or answer.error for answer in found})
    context.check("NAT: servers see the client's address", [CLIENT], observed)
    open_ones = context["client"].start(GUEST, "ask", VIP, "80", "/hold/5", "2", "--together")
    context.check_eventually(
        "NAT: the connection table names both servers of two open connections",
        sorted(SERVERS.values()),
        lambda: ipvs.connected_servers(context["director"], SERVERS.values()),
        3,
    )
    context["client"].stop(open_ones)


def _check_save_and_restore(context: ScenarioContext) -> None:
    director = context["director"]
    saved = director.run("ipvsadm", "-Sn").out
    director.run("ipvsadm", "-C")
    context.check("NAT: rules after ipvsadm -C", "", director.run("ipvsadm", "-Sn").out.strip())
    context.check("NAT: requests fail after ipvsadm -C", True, bool(context.request("client", VIP)[0].error))
    director.run("ipvsadm", "-R", stdin=saved.encode())
    context.check("NAT: ipvsadm -S, -C and -R give the same rules", saved, director.run("ipvsadm", "-Sn").out)
    found = context.request("client", VIP, count=4)
    context.check_distribution("NAT after ipvsadm -R: requests per server", {"server1": 3, "server2": 1}, found)


def _check_drain(context: ScenarioContext) -> None:
    ipvs.add_rules(context["director"], f"-e -t {SERVICE} -r {FIRST} -m -w 0")
    context.check_distribution(
        "NAT: a server with weight 0 gets no request", {"server2": 6}, context.request("client", VIP, count=6)
    )


PLAN = ScenarioPlan(
    name="nat",
    title="NAT: addresses rewritten one way, the director is the servers' gateway",
    guests=(
        GuestPlan("client", Part.CLIENT, (Interface("front", (f"{CLIENT}/24",)),)),
        GuestPlan(
            "director",
            Part.DIRECTOR,
            (Interface("front", ("192.168.0.2/24",)), Interface("back", (f"{DIP}/24",))),
            packages=("ipvsadm", "lvs-fnat-director"),
            modules=("ip_vs", "ip_vs_rr", "ip_vs_wrr"),
            vip=VIP,
        ),
        *(
            GuestPlan(name, Part.SERVER, (Interface("back", (f"{address}/24",)),), routes=(f"default via {DIP}",))
            for name, address in SERVERS.items()
        ),
    ),
    act=act,
)
