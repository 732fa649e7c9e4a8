"""Check TOA in long uploads, in single packets and in the long ones that GRO makes of them.

On the director GRO joins what it receives to packets of up to 64 KiB, whose checksum is left to the card: the option
is written into these. Segments of the lab carry no such packets, so cards compute nothing and every segment has its
checksum on the wire; what the director writes is verified by the server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import GUEST, Response, ScenarioContext, parse_responses
from pipeline.lab.scenarios import counters, fullnat, ipvs
from pipeline.lab.scenarios.fullnat import LOCAL, PORT, VIP

SERVER = "192.168.1.10"
BYTES, OWN_BYTES = 100 << 20, 20 << 20
RETRANSMITTED = 0.001  # of the segments
STALL = 20.0  # seconds without progress
_UPLOAD = re.compile(r"(?P<answer>ok .*)\nreceived (?P<received>\d+ \w+)\nsent (?P<sent>\d+ \w+)\n")


@dataclass(frozen=True)
class Upload:
    """An upload: the server's answer, and length and digest at both ends."""

    answer: Response
    sent: str = ""
    received: str = ""


def parse_upload(text: str) -> Upload:
    """Parse the output of `fnat-guest post`."""
    if match := _UPLOAD.fullmatch(text):
        (answer,) = parse_responses(match["answer"])
        return Upload(answer, match["sent"], match["received"])
    return Upload(Response(error=text.strip() or "nothing"))


def upload(context: ScenarioContext, guest: str, address: str, length: int) -> Upload:
    """Upload known bytes from a guest."""
    words = (GUEST, "post", address, "80", str(length), "--timeout", f"{STALL:g}")
    return parse_upload(context[guest].run(*words, timeout=STALL + length / 400_000, accept=(0, 1)).out)


def act(context: ScenarioContext) -> None:
    """Run the scenario."""
    settings = {"MODES": "fullnat", "VIP": VIP, "VIP_DEVICE": "eth0"}
    ipvs.configure_role(context["director"], "director", {**settings, "LOCAL_ADDRESS": LOCAL, "LOCAL_DEVICE": "eth1"})
    fullnat.add_service(context, f"-t {VIP}:80", [f"-r {SERVER}:{PORT} {context.dialect.director.forward}"])
    context.start_tcp_server("server", PORT)
    fullnat.start_reading(context, "server")
    for state in ("on", "off"):
        shown = _switch_offloads(context, state)
        wanted = f"gro {state}"
        context.check(f"director: offloads that are turned {state}", wanted, shown, passed=wanted in shown)
        counted = _check_upload(context, "client", BYTES, f"FULLNAT with offloads {state}")
        _check_lengths(context, state, counted)
    # Packets of the director's own have never been on a card: long, without a checksum, shared with TCP's queue.
    _switch_offloads(context, "on")
    _check_upload(context, "director", OWN_BYTES, "FULLNAT for a client on the director")


def _switch_offloads(context: ScenarioContext, state: str) -> str:
    """Turn offloads of all cards on or off; return the state of the director's first one."""
    states = {}
    for guest in context.guests:
        for number, _ in enumerate(guest.interfaces):
            states[guest.name, number] = context[guest.name].run(GUEST, "offload", f"eth{number}", state).out.strip()
    return states["director", 0]


def _check_upload(context: ScenarioContext, guest: str, length: int, name: str) -> dict[str, int]:
    """Check an upload of a guest through the director; return what the director counted meanwhile."""
    before = {each.name: counters.read(context[each.name]) for each in context.guests}
    found = upload(context, guest, VIP, length)
    counted = {each: counters.since(before[each], context[each]) for each in before}
    context.check(f"{name}: length and digest of an upload", found.sent or f"{length} bytes", found.received)
    own = found.answer.error or found.answer.is_client_preserved
    context.check(f"{name}: the server sees the client's address and port", True, own)
    wrong = [f"{each} {counts['TcpInCsumErrors']}" for each, counts in counted.items()]
    context.check(f"{name}: segments with a wrong checksum", [f"{each} 0" for each in counted], wrong)
    fragments = counted["director"]["IpFragCreates"] + counted["server"]["IpReasmReqds"]
    context.check(f"{name}: fragments made by the director or received by the server", 0, fragments)
    repeated, sent = counted[guest]["TcpRetransSegs"], counted[guest]["TcpOutSegs"]
    limit, counts = f"fewer than {RETRANSMITTED:.1%}", f"{repeated} of {sent}"
    passed = bool(sent) and repeated < RETRANSMITTED * sent
    context.check(f"{name}: segments that are retransmitted", limit, counts, passed=passed)
    return counted["director"]


def _check_lengths(context: ScenarioContext, state: str, counted: dict[str, int]) -> None:
    """Check that packets on the director were long or short, else the upload proves nothing of either."""
    segments = sum(counted[f"IpExtIn{count}"] for count in ("NoECTPkts", "ECT0Pkts", "ECT1Pkts", "CEPkts"))
    packets = counted["IpInReceives"]
    if state == "on":
        name, wanted = "director: segments are joined with offloads on", "2 a packet or more"
        passed = 0 < 2 * packets <= segments
    else:
        name, wanted = "director: segments come singly with offloads off", "1 a packet"
        passed = 0 < packets == segments
    context.check(name, wanted, f"{segments} segments in {packets} packets", passed=passed)


PLAN = ScenarioPlan(
    name="fullnat-offload",
    title="FULLNAT: TOA in long uploads, with and without offloads",
    guests=fullnat.plan_guests({"server": SERVER}),
    act=act,
    captured_frames=2000,
)
