"""Check FULLNAT: both addresses rewritten; toa restores the client's on the servers."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.formats import pcap
from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import ANY_STATUS, ScenarioContext
from pipeline.lab.scenarios import ipvs
from pipeline.lab.topology import GuestPlan, Interface, Part

VIP, UDP_VIP, CLIENT, LOCAL = "192.168.192.10", "192.168.192.11", "192.168.192.1", "192.168.1.1"
SERVERS = {"server1": "192.168.1.10", "server2": "192.168.1.11"}
SERVICE, SERVICE6 = f"{VIP}:80", f"{VIP}:81"  # the second leads to listeners of AF_INET6
PORT, PORT6, UDP_PORT = 8080, 8081, 5300
BYTES = 4 << 20  # of the large download
# Checks' names.
STARTING, PRESERVED = "{}: reading TOA starts", "FULLNAT with toa: servers see the client's address and port, {}"
_MASKED = "a kernel without FULLNAT masquerades, or refuses the rules: is this the director's?"


def act(context: ScenarioContext) -> None:
    """Run the scenario."""
    prepare(context)
    listed = ipvs.list_servers(context["director"], SERVICE)
    wanted = [f"{SERVERS['server1']}:{PORT} FullNat 2", f"{SERVERS['server2']}:{PORT} FullNat 1"]
    context.check("FULLNAT: ipvsadm -Ln shows FullNat", wanted, listed, hint=_MASKED)
    check_no_routes(context)
    _check_without_toa(context)
    check_with_toa(context)
    _check_role(context)
    _check_toa_option(context)
    _check_local_addresses(context)
    _check_download(context)
    _check_udp(context)
    if context.dialect.director.has_synproxy:
        _check_synproxy(context)
    _check_port_exhaustion(context)
    if context.dialect.director.saves:
        _check_save_and_restore(context)


def prepare(context: ScenarioContext) -> None:
    """Configure director, rules and listeners, without sending requests."""
    director, words = context["director"], context.dialect.director
    settings = {"MODES": "fullnat", "VIP": f"{VIP} {UDP_VIP}", "VIP_DEVICE": "eth0"}
    ipvs.configure_role(director, "director", {**settings, "LOCAL_ADDRESS": LOCAL, "LOCAL_DEVICE": "eth1"})
    for service, port in ((SERVICE, PORT), (SERVICE6, PORT6)):
        weighted = zip(SERVERS.values(), (2, 1), strict=True)
        added = [f"-r {address}:{port} {words.forward} -w {weight}" for address, weight in weighted]
        add_service(context, f"-t {service}", added, scheduler="wrr")
    for name in SERVERS:
        context[name].run("modprobe", "ipv6", accept=(0, 1))
        context.start_tcp_server(name, PORT)
        context.start_tcp_server(name, PORT6, "6")


def add_service(
    context: ScenarioContext, service: str, servers: list[str], *, scheduler: str = "rr", local: str = LOCAL
) -> None:
    """Add a service with servers, each as ipvsadm's words for it, and a local address."""
    added = "\n".join(f"-a {service} {server}" for server in servers)
    words = context.dialect.director
    with_local = f"{words.add_local} {service} {words.local} {local}"
    ipvs.add_rules(context["director"], f"-A {service} -s {scheduler}\n{added}\n{with_local}")


def check_no_routes(context: ScenarioContext) -> None:
    """Check that the servers have no route to the client, without which nothing here proves FULLNAT."""
    for name in SERVERS:
        check_no_route(context, name)


def check_no_route(context: ScenarioContext, name: str, client: str = CLIENT) -> None:
    """Check that a server has no route to the client."""
    answer = context[name].run("ip", "route", "get", client, accept=(0, 1, 2))
    hint = "with a route, masquerading would seem to work too"
    context.check(f"{name}: a route to the client exists", False, answer.status == 0, hint=hint)


def _check_without_toa(context: ScenarioContext) -> None:
    for port, family in ((80, "AF_INET"), (81, "AF_INET6")):
        found = context.request("client", VIP, port, 3)
        seen = sorted({answer.observed_client[0] or answer.error for answer in found})
        context.check(f"FULLNAT without toa: servers see the local address, {family}", [LOCAL], seen)


def check_with_toa(context: ScenarioContext) -> None:
    """Have servers read TOA; check the distribution, and that they observe the clients' own addresses and ports."""
    for name in SERVERS:
        start_reading(context, name)
    answers = context.request("client", VIP, 80, 30)
    context.check_distribution("FULLNAT, wrr 2 and 1: requests per server", {"server1": 20, "server2": 10}, answers)
    hint = "another number of the option than the director's, or a director's kernel on a real server, lose it silently"
    own = sum(answer.is_client_preserved for answer in answers)
    context.check(PRESERVED.format("AF_INET"), 30, own, hint=hint)
    own = sum(answer.is_client_preserved for answer in context.request("client", VIP, 81, 6))
    context.check(PRESERVED.format("AF_INET6"), 6, own, hint=hint)
    for name, wanted in (("server1", 24), ("server2", 12)):
        shown = context[name].run("sh", "-c", context.dialect.reader.stats, accept=ANY_STATUS)
        seen = "with TOA {}, without {}".format(*context.dialect.reader.count(shown.out))
        context.check(f"{name}: connections that are counted", f"with TOA {wanted}, without 0", seen, hint=hint)


def start_reading(context: ScenarioContext, name: str, trust: str = LOCAL) -> None:
    """Have a server read TOA of the local addresses `trust`, an address or a network."""
    script = f"TRUST={trust}\n{context.dialect.reader.start}"
    started = context[name].run("sh", "-c", script, accept=ANY_STATUS)
    found = "yes" if started.status == 0 else started.err.strip() or f"exit status {started.status}"
    context.check(STARTING.format(name), "yes", found, hint="was it made with the real server's patch or package?")


def _check_role(context: ScenarioContext) -> None:
    """Check that the role package finds TOA read, where it must not start without."""
    for name in SERVERS:
        ipvs.configure_role(context[name], "realserver", {"MODES": "fullnat", "TOA": "require"})
        status = context[name].run(ipvs.script("realserver"), "status", accept=ANY_STATUS).status
        context.check(f"{name}: exit status of the role's status with TOA=require", 0, status)


def _check_toa_option(context: ScenarioContext) -> None:
    inner = [found for packet in context.packets("back") if (found := pcap.toa(packet))]
    kinds = sorted({found.kind for found in inner})
    context.check("FULLNAT: TCP options of TOA on the inner wire", [context.dialect.option], kinds)
    context.check("FULLNAT: addresses in TOA's options", [CLIENT], sorted({found.address for found in inner}))
    outer = sum(pcap.toa(packet) is not None for packet in context.packets("front"))
    context.check("FULLNAT: packets with TOA's option on the outer wire", 0, outer)


def list_local_addresses(context: ScenarioContext) -> tuple[str, list[list[str]]]:
    """Return ipvsadm's list of the service's local addresses, and its rows for ours."""
    text = context["director"].run("ipvsadm", context.dialect.director.list_local, "-t", SERVICE).out
    return text, [line.split() for line in text.splitlines() if LOCAL in line]


def _check_local_addresses(context: ScenarioContext) -> None:
    words = context.dialect.director
    text, rows = list_local_addresses(context)
    context.check(f"FULLNAT: ipvsadm {words.list_local} lists the local address", True, bool(rows))
    columns = [column for column in words.columns if column in text]
    context.check(f"FULLNAT: columns of ipvsadm {words.list_local}", list(words.columns), columns)


def _check_download(context: ScenarioContext) -> None:
    wanted = context["server1"].run("sh", "-c", f"fnat-guest ask 127.0.0.1 {PORT} /bytes/{BYTES} 1 --body | sha256sum")
    seen = context["client"].run(
        "sh", "-c", f"fnat-guest ask {VIP} 80 /bytes/{BYTES} 1 --body --timeout 60 | sha256sum", timeout=90
    )
    context.check(f"FULLNAT: SHA-256 of {BYTES >> 20} MiB that arrive", wanted.out.split()[0], seen.out.split()[0])


def _check_udp(context: ScenarioContext) -> None:
    forward = context.dialect.director.forward
    added = [f"-r {address}:{UDP_PORT} {forward}" for address in SERVERS.values()]
    add_service(context, f"-u {UDP_VIP}:{UDP_PORT}", added)
    for name in SERVERS:
        context.start_udp_server(name, UDP_PORT)
    found = context.request("client", UDP_VIP, UDP_PORT, 4, udp=True)
    if defect := context.known_defects.get("udp"):
        answered = sum(not answer.error for answer in found)
        hint = "it works: take the known defect out of the line file"
        context.check(
            f"FULLNAT: UDP is known not to work: {defect}", "0 of 4 answered", f"{answered} of 4 answered", hint=hint
        )
    else:
        context.check_distribution("FULLNAT, UDP, rr: requests per server", {"server1": 2, "server2": 2}, found)


def _check_synproxy(context: ScenarioContext) -> None:
    director = context["director"]
    director.run("ipvsadm", "-E", "-t", SERVICE, "-s", "wrr", "-j", "enable")
    listed = [line for line in director.run("ipvsadm", "-Ln").out.splitlines() if SERVICE in line]
    context.check("FULLNAT: ipvsadm -Ln shows synproxy", True, any("synproxy" in line for line in listed))
    found = context.request("client", VIP, 80, 6)
    context.check_distribution(
        "FULLNAT through the SYN proxy: requests per server", {"server1": 4, "server2": 2}, found
    )
    own = sum(answer.is_client_preserved for answer in found)
    context.check("FULLNAT through the SYN proxy: servers see the client's address and port", 6, own)
    director.run("ipvsadm", "-E", "-t", SERVICE, "-s", "wrr", "-j", "disable")


def _check_port_exhaustion(context: ScenarioContext) -> None:
    """Two local ports for each server and address: what comes beyond is refused, and the director lives."""
    director, words = context["director"], context.dialect.director
    named = f"SERVICE={SERVICE}\nLOCAL={LOCAL}\n"
    context.run_script(director, f"{named}FIRST=60000\nLAST=60001\n{words.limit_ports}")
    held = context["client"].run(
        *("fnat-guest", "ask", VIP, "80", "/hold/2", "24", "--together", "--timeout", "4"), timeout=30, accept=(0, 1)
    )
    refused = sum(line.startswith("error") for line in held.out.splitlines())
    context.check(
        "FULLNAT with all local ports used: some requests get an error",
        True,
        0 < refused < 24,
        hint=f"{refused} of 24 refused",
    )
    if words.counts_failures:
        _, rows = list_local_addresses(context)
        counted = sum(int(row[-1]) for row in rows)
        name, wanted = "FULLNAT with all local ports used: connections that are counted", f"{refused} or more"
        context.check(name, wanted, counted, passed=counted >= refused)
    context.run_script(director, named + words.free_ports)
    retried = [answer.error or "answered" for answer in context.request("client", VIP, 80, 3)]
    context.check("FULLNAT with local ports free again: requests", ["answered"] * 3, retried)


def _check_save_and_restore(context: ScenarioContext) -> None:
    director = context["director"]
    saved = director.run("ipvsadm", "-Sn").out
    director.run("ipvsadm", "-C")
    director.run("ipvsadm", "-R", stdin=saved.encode())
    context.check("FULLNAT: ipvsadm -S, -C and -R give the same rules", saved, director.run("ipvsadm", "-Sn").out)
    own = sum(answer.is_client_preserved for answer in context.request("client", VIP, 80, 3))
    context.check("FULLNAT after ipvsadm -R: servers see the client's address and port", 3, own)


def plan_guests(
    servers: Mapping[str, str], schedulers: tuple[str, ...] = ("rr",), packages: tuple[str, ...] = ()
) -> tuple[GuestPlan, ...]:
    """Plan a client, a director between the two networks, and servers with their addresses and packages."""
    return (
        GuestPlan("client", Part.CLIENT, (Interface("front", (f"{CLIENT}/24",)),)),
        GuestPlan(
            "director",
            Part.DIRECTOR,
            (Interface("front", ("192.168.192.2/24",)), Interface("back", ("192.168.1.2/24",))),
            packages=("ipvsadm", "lvs-fnat-director"),
            modules=("ip_vs", *(f"ip_vs_{name}" for name in schedulers)),
            vip=VIP,
        ),
        *(
            GuestPlan(
                name,
                Part.SERVER,
                (Interface("back", (f"{address}/24",)),),
                packages=packages,
                optional_modules=("ipv6", "toa"),
            )
            for name, address in servers.items()
        ),
    )


PLAN = ScenarioPlan(
    name="fullnat",
    title="FULLNAT: both addresses rewritten, servers without a route to the client see it all the same",
    guests=plan_guests(SERVERS, ("wrr", "rr"), ("lvs-fnat-realserver",)),
    act=act,
)
