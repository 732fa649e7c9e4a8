"""Measure what lvs-toa costs a server: `python bench/accept.py ARTIFACTS`.

ARTIFACTS has a published snapshot of lts61 with the full kernel; the small one has no pairs of interfaces (veth).
Client, FULLNAT director and server are network namespaces of one guest whose clock counts its instructions, so that
nothing else on the host shows in the figure. A client connects over and over to a server that accepts, answers and
closes; each connection brings its client's address in TOA's option. lvs-toa is attached and detached in turn. The
figure is the median of the rounds:

    time of connections with lvs-toa attached, against the same without it    aim <= 1.03
"""

from __future__ import annotations

import statistics

from guests import play

from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import ScenarioContext
from pipeline.lab.scenarios import fullnat
from pipeline.lab.topology import GuestPlan, Interface, Part

ROUNDS, CONNECTIONS = 5, 2000
VIP, LOCAL, SERVER, PORT = "10.1.0.10", "10.2.0.1", "10.2.0.2", 8080
# busybox names the other end of a pair of interfaces veth0.
_NAMESPACES = f"""
for name in client server; do
    unshare -n sh -c "echo \\$\\$ >/run/$name; exec sleep 100000" &
    until [ -s /run/$name ]; do usleep 10000; done
done
connect() {{ # NAME ADDRESS ADDRESS-IN-NAMESPACE
    ip link add to-$1 type veth
    ip link set veth0 netns $(cat /run/$1)
    ip address add $2/24 dev to-$1
    ip link set to-$1 up
    nsenter -t $(cat /run/$1) -n sh -ec "ip link set lo up; ip address add $3/24 dev veth0; ip link set veth0 up"
}}
connect client {VIP} 10.1.0.2
connect server {LOCAL} {SERVER}
"""
_TURN = f"""now() {{ sed -n 's/^now at \\([0-9]*\\) nsecs/\\1/p' /proc/timer_list; }}
begun=$(now)
nsenter -t $(cat /run/client) -n fnat-guest connect {VIP} {PORT} {CONNECTIONS} --timeout 60 >/run/answers
echo $begun $(now) $(grep -c ^ok /run/answers)
"""
_LISTENING = f"until nsenter -t $(cat /run/server) -n grep -q ':{PORT:04X} ' /proc/net/tcp; do usleep 10000; done"


def turn(context: ScenarioContext, state: str) -> int:
    """Return the nanoseconds that the connections take with lvs-toa as `state`: start or stop."""
    context["director"].run("lvs-toa", state)
    begun, ended, answered = context.run_script(context["director"], _TURN, timeout=600).split()
    assert int(answered) == CONNECTIONS
    return int(ended) - int(begun)


def act(context: ScenarioContext) -> None:
    """Let both take turns, and print the ratio."""
    guest = context["director"]
    fullnat.start_reading(context, "director", LOCAL)
    context.run_script(guest, _NAMESPACES)
    guest.start("sh", "-c", f"exec nsenter -t $(cat /run/server) -n fnat-guest serve-close server {PORT} 0")
    context.run_script(guest, _LISTENING)
    server = f"-r {SERVER}:{PORT} {context.dialect.director.forward}"
    fullnat.add_service(context, f"-t {VIP}:{PORT}", [server], local=LOCAL)
    rounds = [[turn(context, state) for state in ("start", "stop")] for _ in range(ROUNDS + 1)][1:]  # one to warm up
    ratios = [attached / detached for attached, detached in rounds]
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(f"connections with lvs-toa / without  {statistics.median(ratios):5.3f}  ({spread}, aim <= 1.03)")


if __name__ == "__main__":
    guest = GuestPlan(
        "director",
        Part.DIRECTOR,
        (Interface("back", ("192.168.1.10/24",)),),
        packages=("ipvsadm", "lvs-toa"),
        modules=("ip_vs", "ip_vs_rr"),
        optional_modules=("veth",),
        counted=True,
    )
    play(ScenarioPlan("accept", "Connections with lvs-toa and without", (guest,), act, captured_frames=2000))
