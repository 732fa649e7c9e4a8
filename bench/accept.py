"""Measure what lvs-toa costs a server: `python bench/accept.py ARTIFACTS [--kernel-config small]`.

ARTIFACTS has a published snapshot of lts61. In one guest a client connects to a server over and over, which accepts,
answers and closes; lvs-toa is attached and detached in turn. The figure is a ratio within this one run, the median of
the rounds:

    time of connections with lvs-toa attached, against the same without it    aim <= 1.03
"""

from __future__ import annotations

import statistics

from guests import play

from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import ScenarioContext
from pipeline.lab.scenarios import fullnat
from pipeline.lab.topology import GuestPlan, Interface, Part

ROUNDS, CONNECTIONS, PORT = 9, 3000, 8080
_TURN = f"""set -- $(cat /proc/uptime)
begun=$1
fnat-guest connect 127.0.0.1 {PORT} {CONNECTIONS} --timeout 60 >/run/answers
set -- $(cat /proc/uptime)
echo $begun $1 $(grep -c ^ok /run/answers)
"""


def turn(context: ScenarioContext, state: str) -> float:
    """Return the seconds that the connections take with lvs-toa as `state`: start or stop."""
    context["server"].run("lvs-toa", state)
    begun, ended, answered = context.run_script(context["server"], _TURN, timeout=120).split()
    assert int(answered) == CONNECTIONS
    return float(ended) - float(begun)


def act(context: ScenarioContext) -> None:
    """Let both take turns, and print the ratio."""
    context.start_closing_server("server", PORT)
    fullnat.start_reading(context, "server", "127.0.0.0/8")
    rounds = [[turn(context, state) for state in ("start", "stop")] for _ in range(ROUNDS + 1)][1:]  # one to warm up
    ratios = [attached / detached for attached, detached in rounds]
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(f"connections with lvs-toa / without  {statistics.median(ratios):5.3f}  ({spread}, aim <= 1.03)")


if __name__ == "__main__":
    guest = GuestPlan("server", Part.SERVER, (Interface("back", ("192.168.1.10/24",)),))
    play(ScenarioPlan("accept", "Connections with lvs-toa and without", (guest,), act, captured_frames=2000))
