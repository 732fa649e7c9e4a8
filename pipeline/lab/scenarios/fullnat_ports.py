"""Check that local ports go from closed connections to new ones, and that connections are refused when all are held.

A closed connection stays in the director's table for two minutes, and in the server's TIME_WAIT for one: 1,000 ports
would be gone after 1,000 connections, unless they are taken from closed ones. Several clients at once keep the guests
busy, which under emulation spend most of the time waiting for each other.
"""

from __future__ import annotations

from collections import Counter

from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import ANY_STATUS, GUEST, Response, ScenarioContext, parse_responses
from pipeline.lab.scenarios import counters, fullnat, ipvs
from pipeline.lab.scenarios.fullnat import LOCAL, SERVICE, VIP

SERVER = "192.168.1.10"
CLOSING, HOLDING = 8080, 8081  # the server's ports: connections are closed at once, and after HELD seconds
HOLDING_SERVICE = f"{VIP}:81"
FIRST, LAST = 60000, 60999
PORTS = LAST - FIRST + 1
CLIENTS, EACH = 20, 1000  # programs, and the connections of each, one after the other
AT_ONCE = 1200
HELD = 6  # seconds; with one retransmission the client gives up what is refused after 3
LONGEST = 1.0  # seconds, after which a SYN is retransmitted
TIMEOUT = 300.0  # seconds; on two idle cores it takes 30
EXPIRY = 10.0  # seconds
_CONNECT = f"""for number in $(seq {CLIENTS}); do
    {GUEST} connect {VIP} 80 {EACH} --timeout 20 >/run/client.$number &
done
wait
cat /run/client.*
"""


def act(context: ScenarioContext) -> None:
    """Run the scenario."""
    director, words = context["director"], context.dialect.director
    settings = {"MODES": "fullnat", "VIP": VIP, "VIP_DEVICE": "eth0"}
    ipvs.configure_role(director, "director", {**settings, "LOCAL_ADDRESS": LOCAL, "LOCAL_DEVICE": "eth1"})
    for service, port, seconds in ((SERVICE, CLOSING, 0), (HOLDING_SERVICE, HOLDING, HELD)):
        fullnat.add_service(context, f"-t {service}", [f"-r {SERVER}:{port} {words.forward}"])
        named = f"SERVICE={service}\nLOCAL={LOCAL}\nFIRST={FIRST}\nLAST={LAST}\n"
        context.run_script(director, named + words.limit_ports)
        context.start_closing_server("server", port, seconds)
    fullnat.start_reading(context, "server")
    _check_reuse(context)
    _check_refusal(context)
    _check_expiry(context)


def local_ports(text: str) -> list[tuple[int, ...]]:
    """Parse ipvsadm's list of local addresses: used ports, free ones, and failures, by service."""
    return [tuple(map(int, line.split()[-3:])) for line in text.splitlines() if f" {LOCAL}:" in line]


def _errors(responses: list[Response]) -> list[str]:
    """Return how often each error occurred; its last word is a time."""
    counts = Counter(response.error.rpartition(" ")[0] for response in responses if response.error)
    return [f"{count} {error}" for error, count in counts.items()]


def _check_preserved(context: ScenarioContext, name: str, wanted: int, responses: list[Response]) -> None:
    own = sum(response.is_client_preserved for response in responses)
    context.check(f"{name}: the server sees the client's address and port", wanted, own)


def _check_reuse(context: ScenarioContext) -> None:
    before = {guest: counters.read(context[guest]) for guest in ("client", "server")}
    found = parse_responses(context.run_script(context["client"], _CONNECT, timeout=TIMEOUT))
    counted = {guest: counters.since(before[guest], context[guest]) for guest in before}
    name = f"FULLNAT, {CLIENTS * EACH} connections over {PORTS} ports"
    context.check(f"{name}: connections that fail", [], _errors(found))
    _check_preserved(context, name, CLIENTS * EACH, found)
    repeated = [f"{guest} {counts['TcpExtTCPSynRetrans']}" for guest, counts in counted.items()]
    context.check(f"{name}: SYNs that are retransmitted", [f"{guest} 0" for guest in counted], repeated)
    # On a busy host guests may stand still for a second; then nothing was lost.
    longest = max(response.milliseconds for response in found) / 1000
    timeouts = sum(counts["TcpExtTCPTimeouts"] for counts in counted.values())
    limit, taken = f"less than {LONGEST:g} s, or 0 timeouts of TCP", f"{longest:.3f} s, {timeouts} timeouts of TCP"
    context.check(f"{name}: the longest connection", limit, taken, passed=longest < LONGEST or not timeouts)


def _check_refusal(context: ScenarioContext) -> None:
    """Hold all ports at once: what comes beyond is refused and counted."""
    client = context["client"]
    context.run_script(client, "echo 1 >/proc/sys/net/ipv4/tcp_syn_retries")
    before = counters.read(client)
    words = (GUEST, "connect", VIP, "81", str(AT_ONCE), "--together", "--timeout", "60")
    found = parse_responses(client.run(*words, timeout=90, accept=(0, 1)).out)
    name = f"FULLNAT, {AT_ONCE} connections at once over {PORTS} ports"
    _check_preserved(context, name, PORTS, found)
    refused = AT_ONCE - PORTS
    context.check(f"{name}: connections that are refused", [f"{refused} error Operation timed out"], _errors(found))
    tried = refused + counters.since(before, client)["TcpExtTCPSynRetrans"]
    listed = local_ports(context["director"].run("ipvsadm", context.dialect.director.list_local).out)
    context.check(f"{name}: failures that ipvsadm lists for the SYNs", [0, tried], [each[-1] for each in listed])


def _check_expiry(context: ScenarioContext) -> None:
    """Have the connections expire with their server, in place of two minutes after they were closed."""
    director = context["director"]
    context.run_script(director, "echo 1 >/proc/sys/net/ipv4/vs/expire_nodest_conn")
    for service, port in ((SERVICE, CLOSING), (HOLDING_SERVICE, HOLDING)):
        director.run("ipvsadm", "-d", "-t", service, "-r", f"{SERVER}:{port}")
    remaining = "tail -n +2 /proc/net/ip_vs_conn | wc -l"
    context.check_eventually(
        "director: connections in the table after the servers were taken out",
        0,
        lambda: int(context.run_script(director, remaining)),
        EXPIRY,
    )
    listed = local_ports(director.run("ipvsadm", context.dialect.director.list_local).out)
    used = [f"{used} used, {free} free" for used, free, _ in listed]
    context.check("director: local ports after expiry", [f"0 used, {PORTS} free"] * 2, used)
    director.run("ipvsadm", "-C")
    director.run("modprobe", "-r", "ip_vs_rr", "ip_vs", accept=ANY_STATUS)
    loaded = [line.split()[0] for line in director.run("cat", "/proc/modules").out.splitlines()]
    left = [name for name in loaded if name.startswith("ip_vs")]
    context.check("director: modules of IPVS after modprobe -r", [], left)


PLAN = ScenarioPlan(
    name="fullnat-ports",
    title="FULLNAT: local ports that are used again, all in use, and free again",
    guests=fullnat.plan_guests({"server": SERVER}),
    act=act,
    captured_frames=2000,
)
