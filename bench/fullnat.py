"""Measure FULLNAT against NAT: `python bench/fullnat.py ARTIFACTS [--kernel-config small]`.

ARTIFACTS has a published snapshot of lts61. Client, director and server are guests; three methods take turns on them:
NAT, FULLNAT, and NAT with the client's address replaced by iptables, which takes connection tracking. Each figure is
FULLNAT's divided by the other's within this one run, the median of the rounds, for the processor all rounds together:

    requests a second, one after the other            aim >= 0.95
    bytes a second of a download                      aim >= 0.95
    the director's processor time for both            aim <= 1.05, the reciprocal of the same
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from guests import play

from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import ScenarioContext
from pipeline.lab.scenarios import ipvs
from pipeline.lab.topology import FIREWALL_MODULES, GuestPlan, Interface, Part
from pipeline.lab.vm.guest import Guest

ROUNDS, REQUESTS, BYTES = 7, 200, 16 << 20
CLIENT, VIP, DIP, SERVER = "192.168.192.1", "192.168.192.10", "192.168.1.2", "192.168.1.10"
METHODS = {"NAT": (80, "-m", 0), "FULLNAT": (81, "--fullnat", 0), "NAT and SNAT": (82, "-m", 1)}
Figures = tuple[float, float, float]  # requests and bytes a second, and the director's ticks


def prepare(context: ScenarioContext) -> None:
    """Give the director a service for each method, and the server a listener."""
    director = context["director"]
    context.run_script(director, f"ip address add {VIP}/32 dev eth0\necho 1 >/proc/sys/net/ipv4/ip_forward")
    for port, forward, _ in METHODS.values():
        ipvs.add_rules(director, f"-A -t {VIP}:{port} -s rr\n-a -t {VIP}:{port} -r {SERVER}:80 {forward}")
    director.run("ipvsadm", "--add-laddr", "-t", f"{VIP}:81", "--laddr", DIP)
    context.start_tcp_server("server", 80)


def turn(context: ScenarioContext, method: str) -> Figures:
    """Measure one method once."""
    port, _, conntrack = METHODS[method]
    director, client = context["director"], context["client"]
    rule = f"POSTROUTING -d {SERVER} -p tcp -j SNAT --to-source {DIP}"
    context.run_script(director, f"echo {conntrack} >/proc/sys/net/ipv4/vs/conntrack")
    context.run_script(director, f"iptables -t nat -F POSTROUTING; [ {conntrack} = 0 ] || iptables -t nat -A {rule}")
    busy, begun = ticks(context), time.monotonic()
    client.run("fnat-guest", "ask", VIP, str(port), "/", str(REQUESTS), timeout=120)
    answered = time.monotonic()
    download = f"fnat-guest ask {VIP} {port} /bytes/{BYTES} 1 --body --timeout 100 | wc -c"
    context.check(
        f"{method}: bytes of a download", str(BYTES), context.run_script(client, download, timeout=120).strip()
    )
    return REQUESTS / (answered - begun), BYTES / (time.monotonic() - answered), ticks(context) - busy


def ticks(context: ScenarioContext) -> float:
    """Return the processor time of the director's QEMU in the host's ticks.

    The guest's own figures are no measure: where it waits for a processor of the host it takes that for work.
    """
    director = context["director"]
    assert isinstance(director, Guest)
    fields = Path(f"/proc/{director.pid}/stat").read_text().rpartition(")")[2].split()
    return float(fields[11]) + float(fields[12])  # utime and stime: proc(5) counts them from the state, which is 3


def act(context: ScenarioContext) -> None:
    """Let the methods take turns, and print the ratios."""
    prepare(context)
    rounds = [{method: turn(context, method) for method in METHODS} for _ in range(ROUNDS + 1)][1:]  # one to warm up
    for other in ("NAT", "NAT and SNAT"):
        for row, what in enumerate(("requests a second", "bytes a second")):
            ratios = [each["FULLNAT"][row] / each[other][row] for each in rounds]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            print(f"FULLNAT / {other:12}  {what:18} {statistics.median(ratios):5.2f}  ({spread}, aim >= 0.95)")
        busy = [sum(each[method][2] for each in rounds) for method in ("FULLNAT", other)]
        print(f"FULLNAT / {other:12}  {'CPU, all rounds':18} {busy[0] / busy[1]:5.2f}  (aim <= 1.05)")


PLAN = ScenarioPlan(
    name="bench",
    title="FULLNAT against NAT",
    guests=(
        GuestPlan("client", Part.CLIENT, (Interface("front", (f"{CLIENT}/24",)),)),
        GuestPlan(
            "director",
            Part.DIRECTOR,
            (Interface("front", ("192.168.192.2/24",)), Interface("back", (f"{DIP}/24",))),
            packages=("ipvsadm",),
            modules=("ip_vs", "ip_vs_rr"),
            optional_modules=(*FIREWALL_MODULES, "xt_nat"),
        ),
        GuestPlan("server", Part.SERVER, (Interface("back", (f"{SERVER}/24",)),), routes=(f"default via {DIP}",)),
    ),
    act=act,
    captured_frames=2000,
)


if __name__ == "__main__":
    play(PLAN)
