"""Change services, servers and local addresses under traffic, unload IPVS under it, and end its network namespace.

What goes wrong here goes wrong in the kernel's memory: one with KASAN, lockdep and kmemleak shows it, any other only
what hangs, crashes or stays behind.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import ANY_STATUS, GUEST, Response, ScenarioContext, parse_responses
from pipeline.lab.scenarios import boot, fullnat, ipvs
from pipeline.lab.scenarios.fullnat import LOCAL, SERVICE, VIP
from pipeline.lab.vm.machine import Machine

SERVER, PORT, OTHER_PORT, HOLDING = "192.168.1.10", 8080, 8081, 8082
OTHER_LOCAL = "192.168.1.3"
CLIENTS, EACH = 20, 1000  # programs, and the connections of each, one after the other
SURE = 8  # of the programs; these use the service that is not changed
TIMEOUT = 900.0  # seconds; on two idle cores it takes 40, with a kernel that checks itself some minutes
HELD = 60  # seconds
_MEANT = "no destination available"  # what IPVS says of a service while its server is taken out
_TIME = re.compile(r" [\d.]+$")  # milliseconds until a connection failed
MODULES = ("ip_vs_wrr", "ip_vs_rr", "ip_vs")
# Connections of a server that was taken out wait for it, so the ones that are changed have a short patience. Not one
# shorter than a slow guest takes to answer: programs that wait for nobody send more than its queues are emptied of.
SHORT, LONGEST = 0.05, 2.0  # seconds
_TRAFFIC = f"""echo {{probes}} >/proc/sys/net/ipv4/neigh/eth0/mcast_solicit # of ARP, one a second
for number in $(seq {SURE}); do
    {GUEST} connect {VIP} 80 {EACH} --timeout {{seconds}} >/run/sure.$number &
done
for number in $(seq {CLIENTS - SURE}); do
    {GUEST} connect {VIP} 81 {EACH} --timeout {{short}} >/run/changed.$number &
done
wait
cat /run/sure.*
"""
_CHANGES = f"""cat >/run/changes <<'END'
service="-t {VIP}:81"
round=0
until [ -e /run/stop ]; do
    round=$((round + 1))
    ipvsadm -a $service -r {SERVER}:{OTHER_PORT} --fullnat -w 2
    ipvsadm --add-laddr $service --laddr {OTHER_LOCAL}:$((20000 + round % 1000))-$((21000 + round % 500))
    ipvsadm -e $service -r {SERVER}:{OTHER_PORT} --fullnat -w $((round % 3))
    ipvsadm --edit-laddr $service --laddr {OTHER_LOCAL}:30000-30200
    ipvsadm -d $service -r {SERVER}:{OTHER_PORT}
    ipvsadm --del-laddr $service --laddr {OTHER_LOCAL}
    ipvsadm --get-laddr -n >/dev/null
    cat /proc/net/ip_vs_conn >/dev/null
    ipvsadm -E $service -s $([ $((round % 2)) = 0 ] && echo rr || echo wrr)
    if [ $((round % 5)) = 0 ]; then
        ipvsadm -D $service
        ipvsadm -A $service -s rr
        ipvsadm -a $service -r {SERVER}:{PORT} --fullnat
        ipvsadm --add-laddr $service --laddr {LOCAL}
    fi
    echo $round >/run/rounds
done
: >/run/ended
END
"""
# Connections that stay open, and those that come and go, until the network is taken from under them.
_ENDLESS = f"""{GUEST} connect {VIP} 82 200 --together --timeout {HELD} >/dev/null 2>&1 &
{GUEST} post {VIP} 83 1000000000 --timeout 5 >/dev/null 2>&1 &
while :; do {GUEST} connect {VIP} 80 100 --timeout 0.2; done >/dev/null 2>&1
"""
_KMEMLEAK = """mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug || exit 0
cd /sys/kernel/debug
[ -e kmemleak ] || exit 0
"""
# Left on, it looks through all memory a minute after boot and each ten minutes, which takes an emulated guest minutes.
_NO_SCANS = f"{_KMEMLEAK}echo scan=off >kmemleak"
_LEAKS = f"""{_KMEMLEAK}sleep 6 # what is younger counts as in use
echo scan >kmemleak
sleep 6
echo scan >kmemleak
cat kmemleak
"""


def act(context: ScenarioContext) -> None:
    """Run the scenario."""
    for machine in context.machines.values():
        machine.run("sh", "-c", _NO_SCANS, timeout=60)
    director = context["director"]
    settings = {"MODES": "fullnat", "VIP": VIP, "VIP_DEVICE": "eth0"}
    locals_ = {"LOCAL_ADDRESS": f"{LOCAL} {OTHER_LOCAL}", "LOCAL_DEVICE": "eth1"}
    ipvs.configure_role(director, "director", {**settings, **locals_})
    _add_services(context)
    for port, seconds in ((PORT, 0), (OTHER_PORT, 0), (HOLDING, HELD)):
        context.start_closing_server("server", port, seconds)
    context.start_tcp_server("server", 80)
    fullnat.start_reading(context, "server")
    _check_changes(context)
    _check_unloading(context)
    _check_namespace(context)
    context.check(
        "director: memory that nothing refers to any more", "", director.run("sh", "-c", _LEAKS, timeout=60).out
    )
    for guest in context.machines:
        boot.check_log(context, guest, _MEANT)


def _add_services(context: ScenarioContext) -> None:
    forward = context.dialect.director.forward
    for service, port in ((SERVICE, PORT), (f"{VIP}:81", PORT), (f"{VIP}:82", HOLDING), (f"{VIP}:83", 80)):
        fullnat.add_service(context, f"-t {service}", [f"-r {SERVER}:{port} {forward}"])


def _check_changes(context: ScenarioContext) -> None:
    """Change one service all the time while connections come to it, and to another that must not feel it."""
    director, client = context["director"], context["client"]
    context.run_script(director, _CHANGES)
    director.start("sh", "/run/changes")
    script = _traffic(context.patience)
    found = parse_responses(client.run("sh", "-c", script, timeout=TIMEOUT, accept=ANY_STATUS).out)
    # The last round must be over: an ipvsadm that finds no IPVS loads it, into the midst of unloading.
    context.run_script(director, ": >/run/stop\nuntil [ -e /run/ended ]; do usleep 50000; done", timeout=120)
    context.check(
        "FULLNAT beside changes: connections whose client the server sees", str(SURE * EACH), _with_reasons(found)
    )
    rounds = int(director.run("cat", "/run/rounds").out)
    context.check("director: rounds of changes meanwhile", "10 or more", rounds, passed=rounds >= 10)


def _traffic(patience: float) -> str:
    short = min(SHORT * patience, LONGEST)
    return _TRAFFIC.format(seconds=int(60 * patience), short=short, probes=int(3 * patience))


def _with_reasons(found: Sequence[Response]) -> str:
    """Return how many connections were good, and of the others how many for which reason."""
    bad = [row for row in found if not row.is_client_preserved]
    reasons = Counter(_TIME.sub("", row.error) or f"seen as one of {row.observed_client[0]}" for row in bad)
    return "; ".join([str(len(found) - len(bad)), *(f"{number}: {why}" for why, number in reasons.most_common(5))])


def _check_unloading(context: ScenarioContext) -> None:
    """Unload the modules while packets come, and load them once more."""
    director = context["director"]
    context["client"].start("sh", "-c", _ENDLESS)
    _check_traffic(context, "director: 100 connections before unloading")
    director.run("ipvsadm", "-C")
    _check_unloaded(context, "director: modules of IPVS after modprobe -r under traffic")
    director.run("modprobe", "ip_vs")
    _add_services(context)
    _check_traffic(context, "director: 100 connections after loading IPVS once more")


def _check_namespace(context: ScenarioContext) -> None:
    """Give a network namespace of its own the cards and the rules, and end it while packets come."""
    director = context["director"]
    director.run("ipvsadm", "-C")
    director.start("unshare", "-n", "sh", "-c", "echo $$ >/run/namespace; exec sleep 1000")
    moved = "".join(f"ip link set eth{card} netns $number\n" for card in (0, 1))
    until = "until [ -s /run/namespace ]; do usleep 10000; done\nread -r number </run/namespace\n"
    number = context.run_script(director, f"{until}{moved}echo $number").strip()
    inside = [
        *("ip link set lo up", "ip link set eth0 up", "ip link set eth1 up"),
        *(f"ip address add {address} dev eth0" for address in ("192.168.192.2/24", f"{VIP}/32")),
        *(f"ip address add {address} dev eth1" for address in ("192.168.1.2/24", f"{LOCAL}/32")),
    ]
    rules = []
    for service, port in ((SERVICE, PORT), (f"{VIP}:82", HOLDING), (f"{VIP}:83", 80)):
        rules += [f"ipvsadm -A -t {service} -s rr", f"ipvsadm -a -t {service} -r {SERVER}:{port} --fullnat"]
        rules.append(f"ipvsadm --add-laddr -t {service} --laddr {LOCAL}")
    script = "\n".join([*inside, *rules])
    director.run("nsenter", "-t", number, "-n", "sh", "-ec", script, timeout=30)
    context["client"].start("sh", "-c", _ENDLESS)
    _check_traffic(context, "director: 100 connections in a network namespace", inside=number)
    director.run("kill", "-9", number)
    _check_unloaded(context, "director: modules of IPVS after modprobe -r with the network namespace gone")


def _check_traffic(context: ScenarioContext, name: str, inside: str = "") -> None:
    """Check that there are connections now, else what follows proves nothing."""
    prefix = ["nsenter", "-t", inside, "-n"] if inside else []

    def has_many() -> bool:
        return _connections(context["director"], prefix) >= 100

    context.check_eventually(name, True, has_many, 30.0)


def _connections(director: Machine, prefix: list[str]) -> int:
    return len(director.run(*prefix, "cat", "/proc/net/ip_vs_conn").out.splitlines()) - 1


def _check_unloaded(context: ScenarioContext, name: str) -> None:
    def loaded() -> list[str]:
        context["director"].run("modprobe", "-r", *MODULES, accept=ANY_STATUS)
        rows = context["director"].run("cat", "/proc/modules").out.splitlines()
        return [row.split()[0] for row in rows if row.startswith("ip_vs")]

    context.check_eventually(name, [], loaded, 30.0)


PLAN = ScenarioPlan(
    name="fullnat-churn",
    title="FULLNAT: changed, unloaded and taken down under traffic",
    guests=fullnat.plan_guests({"server": SERVER}, ("rr", "wrr")),
    act=act,
    captured_frames=2000,
)
