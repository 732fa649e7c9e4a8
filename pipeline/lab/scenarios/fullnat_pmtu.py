"""Check path MTU discovery and other ICMP errors through FULLNAT, on either leg, without and with conntrack.

A router on both legs has links with a smaller MTU than the ends know of. Each transfer has a virtual and a local
address of its own: an end that has learned a path MTU tells the other in its MSS, and nothing is left to be found out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import GUEST, ScenarioContext
from pipeline.lab.scenarios import counters, fullnat, fullnat_offload, ipvs
from pipeline.lab.topology import GuestPlan, Interface, Part

CLIENT, SERVER = "192.168.190.1", "192.168.191.10"
CLIENT_SIDE, SERVER_SIDE = "192.168.192", "192.168.1"  # the director's networks
PORT, UDP_PORT = 8080, 5300  # at the second nobody listens
MTU, SMALL_MTU, TOA_LENGTH = 1500, 1300, 8
BYTES = 10 << 20
DOWNLOAD = 60  # seconds
TIMEOUTS = 2  # of TCP in a transfer, which take 0.2 s and 0.4 s; a way that is lost has as many as there is time for
LINKS = {"front": (0, 1), "back": (2, 3)}  # the router's cards on each leg
_FILTER = "".join(f"iptables -A {chain} -m conntrack --ctstate INVALID -j DROP\n" for chain in ("INPUT", "OUTPUT"))


@dataclass(frozen=True)
class Case:
    """A transfer: the leg with the smaller MTU, the direction, and whether the director tracks connections."""

    number: int
    tracked: bool
    leg: str
    up: bool

    @property
    def vip(self) -> str:
        """The virtual address."""
        return f"{CLIENT_SIDE}.{10 + self.number}"

    @property
    def local(self) -> str:
        """The local address."""
        return f"{SERVER_SIDE}.{10 + self.number}"

    @property
    def name(self) -> str:
        """The beginning of checks' names."""
        tracked = ", conntrack" if self.tracked else ""
        return f"FULLNAT, MTU {SMALL_MTU} at the {self.leg}{tracked}, {'upload' if self.up else 'download'}"

    @property
    def sender(self) -> tuple[str, str, int]:
        """The sender, the peer that it knows, and the path MTU that it must learn."""
        if not self.up:
            return "server", self.local, SMALL_MTU
        return "client", self.vip, SMALL_MTU - (TOA_LENGTH if self.leg == "back" else 0)


CASES = tuple(Case(number, *case) for number, case in enumerate(product((False, True), LINKS, (True, False))))


def act(context: ScenarioContext) -> None:
    """Run the scenario."""
    director, forward = context["director"], context.dialect.director.forward
    settings = {
        "MODES": "fullnat",
        "VIP": " ".join(case.vip for case in CASES),
        "VIP_DEVICE": "eth0",
        "LOCAL_ADDRESS": " ".join(case.local for case in CASES),
        "LOCAL_DEVICE": "eth1",
    }
    ipvs.configure_role(director, "director", settings)
    for case in CASES:
        for service, port in ((f"-t {case.vip}:80", PORT), (f"-u {case.vip}:{UDP_PORT}", UDP_PORT)):
            fullnat.add_service(context, service, [f"-r {SERVER}:{port} {forward}"], local=case.local)
    context.run_script(context["router"], "echo 1 >/proc/sys/net/ipv4/ip_forward")
    context.start_tcp_server("server", PORT)
    fullnat.start_reading(context, "server", f"{SERVER_SIDE}.0/24")
    fullnat.check_no_route(context, "server", CLIENT)
    for case in CASES:
        if case.tracked and not CASES[case.number - 1].tracked:
            context.run_script(director, f"echo 1 >/proc/sys/net/ipv4/vs/conntrack\n{_FILTER}")
        _check_case(context, case)
    # Rules on the connections' state have conntrack look at packets, else there is nothing to be right about.
    dropped = [row.split()[0] for row in director.run("iptables", "-nvxL").out.splitlines() if "INVALID" in row]
    context.check("director: packets that are invalid to conntrack, at INPUT and OUTPUT", ["0", "0"], dropped)


def _check_case(context: ScenarioContext, case: Case) -> None:
    for leg, cards in LINKS.items():
        mtu = SMALL_MTU if leg == case.leg else MTU
        context.run_script(context["router"], "\n".join(f"ip link set eth{card} mtu {mtu}" for card in cards))
    sender, peer, learned = case.sender
    mtus = [_path_mtu(context, sender, peer)]
    before = {guest.name: counters.read(context[guest.name]) for guest in context.guests}
    (_check_upload if case.up else _check_download)(context, case)
    counted = {guest: counters.since(before[guest], context[guest]) for guest in before}
    mtus.append(_path_mtu(context, sender, peer))
    context.check(f"{case.name}: path MTU as the {sender} knows it, before and after", [MTU, learned], mtus)
    timeouts = counted[sender]["TcpExtTCPTimeouts"]
    context.check(f"{case.name}: timeouts of TCP", f"{TIMEOUTS} or fewer", timeouts, passed=timeouts <= TIMEOUTS)
    fragments = sum(counts["IpFragCreates"] + counts["IpReasmReqds"] for counts in counted.values())
    context.check(f"{case.name}: fragments made or received by any guest", 0, fragments)
    (answer,) = context.request("client", case.vip, UDP_PORT, udp=True)
    error = answer.error.rpartition(" ")[0]
    context.check(f"{case.name}: error of a datagram to a closed port", "error Connection refused", error)
    table = context["director"].run("sh", "-c", "cat /proc/net/nf_conntrack || :").out
    both = re.compile(rf" tcp .* src={CLIENT} dst={case.vip} .* src={SERVER} dst={case.local} ")
    context.check(f"{case.name}: conntrack has both ends of connections", case.tracked, bool(both.search(table)))


def _path_mtu(context: ScenarioContext, guest: str, peer: str) -> int:
    return int(context[guest].run(GUEST, "path-mtu", peer).out)


def _check_upload(context: ScenarioContext, case: Case) -> None:
    found = fullnat_offload.upload(context, "client", case.vip, BYTES)
    context.check(f"{case.name}: length and digest", found.sent or f"{BYTES} bytes", found.received)
    own = found.answer.error or found.answer.is_client_preserved
    context.check(f"{case.name}: the server sees the client's address and port", True, own)


def _check_download(context: ScenarioContext, case: Case) -> None:
    wanted = context["server"].run("sh", "-c", f"{GUEST} bytes {BYTES} | sha256sum").out.split()[0]
    script = f"{GUEST} ask {case.vip} 80 /bytes/{BYTES} 1 --body --timeout {DOWNLOAD} | sha256sum"
    seen = context["client"].run("sh", "-c", script, timeout=DOWNLOAD + 15).out.split()[0]
    context.check(f"{case.name}: SHA-256 of what arrives", wanted, seen)


PLAN = ScenarioPlan(
    name="fullnat-pmtu",
    title="FULLNAT: a smaller MTU on either leg, and ICMP errors, without and with conntrack",
    guests=(
        GuestPlan(
            "client",
            Part.CLIENT,
            (Interface("clients", (f"{CLIENT}/24",)),),
            routes=(f"{CLIENT_SIDE}.0/24 via 192.168.190.254",),
        ),
        GuestPlan(
            "router",
            Part.ROUTER,
            (
                Interface("clients", ("192.168.190.254/24",)),
                Interface("front", (f"{CLIENT_SIDE}.254/24",)),
                Interface("back", (f"{SERVER_SIDE}.254/24",)),
                Interface("servers", ("192.168.191.254/24",)),
            ),
            role="stock",
        ),
        GuestPlan(
            "director",
            Part.DIRECTOR,
            (Interface("front", (f"{CLIENT_SIDE}.2/24",)), Interface("back", (f"{SERVER_SIDE}.2/24",))),
            packages=("ipvsadm", "lvs-fnat-director"),
            modules=("ip_vs", "ip_vs_rr"),
            optional_modules=("iptable_filter", "xt_conntrack"),
            routes=(f"192.168.190.0/24 via {CLIENT_SIDE}.254", f"192.168.191.0/24 via {SERVER_SIDE}.254"),
            vip=CASES[0].vip,
        ),
        GuestPlan(
            "server",
            Part.SERVER,
            (Interface("servers", (f"{SERVER}/24",)),),
            optional_modules=("ipv6", "toa"),
            routes=(f"{SERVER_SIDE}.0/24 via 192.168.191.254",),
        ),
    ),
    act=act,
    captured_frames=2000,
)
