"""What FULLNAT's scenarios of traffic make of guests' counters and answers: each fault fails its own check."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from pipeline.lab import dialects, scenarios
from pipeline.lab.dialects import Dialect
from pipeline.lab.scenario_context import GUEST, Response, ScenarioContext
from pipeline.lab.scenarios import counters, fullnat_offload, fullnat_pmtu, fullnat_ports
from pipeline.lab.scenarios.fullnat_offload import Upload, parse_upload
from pipeline.lab.vm.machine import CompletedCommand

PACKAGED = Dialect(dialects.MODULES_DIRECTOR, dialects.PROGRAM_READER, 200)
NAMES = (
    *("IpInReceives", "IpFragCreates", "IpReasmReqds", "TcpInCsumErrors", "TcpRetransSegs", "TcpOutSegs"),
    *("IpExtInNoECTPkts", "IpExtInECT0Pkts", "IpExtInECT1Pkts", "IpExtInCEPkts"),
    *("TcpExtTCPTimeouts", "TcpExtTCPSynRetrans"),
)
OWN = "ok server 192.0.2.1 4000 192.0.2.9 80 | 192.0.2.1 4000 3.0"
ANOTHER = "ok server 192.0.2.8 4000 192.0.2.9 80 | 192.0.2.1 4000 3.0"


def snmp(counts: Mapping[str, int]) -> str:
    """The two files of /proc/net with these counters, and others at 0."""
    text = ""
    for protocol in ("Ip", "Tcp", "IpExt", "TcpExt"):
        keys = [
            name.removeprefix(protocol)
            for name in NAMES
            if name.startswith(protocol) and (protocol.endswith("Ext") or not name.startswith(f"{protocol}Ext"))
        ]
        values = " ".join(str(counts.get(f"{protocol}{key}", 0)) for key in keys)
        text += f"{protocol}: {' '.join(keys)}\n{protocol}: {values}\n"
    return text


@dataclass
class Guest:
    """A guest that counts nothing, then `counts`; a command with one of the texts of `said` prints what is there."""

    counts: Mapping[str, int] = field(default_factory=dict)
    said: Mapping[str, str] = field(default_factory=dict)
    name: str = "guest"
    asked: list[str] = field(default_factory=list)

    def run(
        self, *argv: str, timeout: float = 10.0, stdin: bytes = b"", accept: tuple[int, ...] = (0,)
    ) -> CompletedCommand:
        words = " ".join(argv)
        self.asked.append(words)
        out = ""
        if "/proc/net/snmp" in words:
            out = snmp(self.counts if sum("/proc/net/snmp" in each for each in self.asked) > 1 else {})
        for text, answer in self.said.items():
            out = answer if text in words else out
        return CompletedCommand(argv, 0, out, "")

    def start(self, *argv: str) -> int:
        raise NotImplementedError

    def stop(self, number: int) -> None:
        raise NotImplementedError

    def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        raise NotImplementedError

    def read_file(self, path: str) -> bytes:
        raise NotImplementedError

    def open_shell(self, source: int, sink: int, size: Callable[[], os.terminal_size], *argv: str) -> int:
        raise NotImplementedError


def context(scenario: str, **guests: Guest) -> ScenarioContext:
    """A context of a scenario; guests that are not given count and say nothing."""
    plan = scenarios.load_scenario(scenario, ())
    machines = {each.name: guests.get(each.name, Guest()) for each in plan.guests}
    return ScenarioContext(plan.guests, machines, {}, {}, {}, {}, PACKAGED)


def failed(playing: ScenarioContext) -> list[str]:
    """The names of the failed checks, without what stands before the colon."""
    return [check.name.rpartition(": ")[2] for check in playing.checks if not check.passed]


def test_counters_are_read_by_protocol_and_name_and_since_a_moment() -> None:
    text = "Tcp: RtoMax MaxConn OutSegs\nTcp: 120000 -1 17\nTcpExt: TCPTimeouts\nTcpExt: 3\n"
    assert counters.parse(text) == {"TcpRtoMax": 120000, "TcpMaxConn": -1, "TcpOutSegs": 17, "TcpExtTCPTimeouts": 3}
    assert counters.since({"TcpOutSegs": 5}, Guest(said={"snmp": text}))["TcpOutSegs"] == 12


def test_an_upload_has_the_servers_answer_and_both_digests() -> None:
    found = parse_upload(f"{OWN}\nreceived 9 00ff\nsent 9 00fe\n")
    assert (found.sent, found.received) == ("9 00fe", "9 00ff") and found.answer.is_client_preserved
    assert parse_upload("error timeout 20000.0\n") == Upload(Response(error="error timeout 20000.0"))
    assert parse_upload("").answer.error


# --- fullnat-offload ---------------------------------------------------------------------------------------


def uploading(answer: str = OWN, received: str = "9 ff", **more: Guest) -> ScenarioContext:
    text = f"{answer}\nreceived {received}\nsent 9 ff\n"
    client = Guest({"TcpOutSegs": 1000}, {" post ": text})
    return context("fullnat-offload", **{"client": client, **more})


@pytest.mark.parametrize(
    ("playing", "names"),
    [
        (uploading(), []),
        (uploading(received="9 fe"), ["length and digest of an upload"]),
        (uploading(answer=ANOTHER), ["the server sees the client's address and port"]),
        (uploading(server=Guest({"TcpInCsumErrors": 1})), ["segments with a wrong checksum"]),
        (uploading(server=Guest({"IpReasmReqds": 2})), ["fragments made by the director or received by the server"]),
        (uploading(director=Guest({"IpFragCreates": 2})), ["fragments made by the director or received by the server"]),
    ],
)
def test_an_upload_fails_by_what_went_wrong_with_it(playing: ScenarioContext, names: list[str]) -> None:
    fullnat_offload._check_upload(playing, "client", 9, "FULLNAT")
    assert failed(playing) == names


@pytest.mark.parametrize(("again", "passed"), [(0, True), (1, False)])
def test_one_segment_of_a_thousand_that_is_retransmitted_is_one_too_many(again: int, passed: bool) -> None:
    text = f"{OWN}\nreceived 9 ff\nsent 9 ff\n"
    playing = uploading(client=Guest({"TcpOutSegs": 1000, "TcpRetransSegs": again}, {" post ": text}))
    fullnat_offload._check_upload(playing, "client", 9, "FULLNAT")
    assert (failed(playing) == []) == passed


def test_an_upload_that_fails_is_told_by_its_error() -> None:
    playing = uploading(client=Guest({}, {" post ": "error timeout 20000.0\n"}))
    fullnat_offload._check_upload(playing, "client", 9, "FULLNAT")
    assert {"length and digest of an upload", "the server sees the client's address and port"} < set(failed(playing))
    assert "error timeout 20000.0" in [check.found for check in playing.checks]


@pytest.mark.parametrize(
    ("state", "packets", "passed"), [("on", 100, False), ("on", 50, True), ("off", 100, True), ("off", 99, False)]
)
def test_a_director_without_long_packets_proves_nothing_of_them(state: str, packets: int, passed: bool) -> None:
    playing = context("fullnat-offload")
    counts = dict.fromkeys(NAMES, 0) | {"IpInReceives": packets, "IpExtInNoECTPkts": 60, "IpExtInECT0Pkts": 40}
    fullnat_offload._check_lengths(playing, state, counts)
    assert (failed(playing) == []) == passed


# --- fullnat-ports -----------------------------------------------------------------------------------------

ALL = fullnat_ports.CLIENTS * fullnat_ports.EACH


def connecting(*rows: str, counts: Mapping[str, int] | None = None, **more: Guest) -> ScenarioContext:
    """The client's connections are `rows`, and as many good ones as there must be besides."""
    text = "\n".join((*rows, *[OWN] * (ALL - len(rows))))
    return context("fullnat-ports", **{"client": Guest(counts or {}, {"/run/client.": text}), **more})


@pytest.mark.parametrize(
    ("playing", "names"),
    [
        (connecting(), []),
        (
            connecting("error timeout 20000.0"),
            ["connections that fail", "the server sees the client's address and port"],
        ),
        (connecting(ANOTHER), ["the server sees the client's address and port"]),
        (connecting(server=Guest({"TcpExtTCPSynRetrans": 1})), ["SYNs that are retransmitted"]),
        (connecting(OWN.replace("3.0", "1000.0")), []),
        (connecting(OWN.replace("3.0", "1000.0"), counts={"TcpExtTCPTimeouts": 1}), ["the longest connection"]),
    ],
)
def test_one_connection_of_all_is_missed(playing: ScenarioContext, names: list[str]) -> None:
    fullnat_ports._check_reuse(playing)
    assert failed(playing) == names


LISTED = """\
Prot ServiceAddress:Port              Used     Free Failures
  -> LocalAddress:Ports
TCP  192.168.192.10:80
  -> 192.168.1.1:60000-60999           999        1        0
TCP  192.168.192.10:81
  -> 192.168.1.1:60000-60999          1000        0      400
"""


def test_ports_and_failures_are_read_from_ipvsadms_list() -> None:
    assert fullnat_ports.local_ports(LISTED) == [(999, 1, 0), (1000, 0, 400)]


@pytest.mark.parametrize(
    ("up", "synretrans", "names"),
    [
        (1000, 200, []),
        (1000, 199, ["failures that ipvsadm lists for the SYNs"]),
        (1001, 200, ["the server sees the client's address and port", "connections that are refused"]),
    ],
)
def test_what_is_refused_is_counted_once_for_each_syn(up: int, synretrans: int, names: list[str]) -> None:
    text = "\n".join([OWN] * up + ["error Operation timed out 3000.0"] * (1200 - up))
    client = Guest({"TcpExtTCPSynRetrans": synretrans}, {" connect ": text})
    playing = context("fullnat-ports", client=client, director=Guest(said={"--get-laddr": LISTED}))
    fullnat_ports._check_refusal(playing)
    assert failed(playing) == names


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({}, []),
        ({"wc -l": "3\n"}, ["connections in the table after the servers were taken out, within 0.1 s"]),
        ({"--get-laddr": LISTED}, ["local ports after expiry"]),
        ({"/proc/modules": "ip_vs 1 0 - Live\n"}, ["modules of IPVS after modprobe -r"]),
    ],
)
def test_nothing_may_be_left_behind(said: Mapping[str, str], names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fullnat_ports, "EXPIRY", 0.1)
    free = "".join("  -> 192.168.1.1:60000-60999    0    1000    400\n" for _ in range(2))
    good = {"wc -l": "0\n", "--get-laddr": free, "/proc/modules": "nf_conntrack 1 0 - Live\n"}
    playing = context("fullnat-ports", director=Guest(said={**good, **said}))
    fullnat_ports._check_expiry(playing)
    assert failed(playing) == names


# --- fullnat-pmtu ------------------------------------------------------------------------------------------


def case(**wanted: object) -> fullnat_pmtu.Case:
    """The case of these properties."""
    (found,) = (each for each in fullnat_pmtu.CASES if all(getattr(each, key) == wanted[key] for key in wanted))
    return found


def test_each_case_has_addresses_that_no_other_has() -> None:
    assert len({each.vip for each in fullnat_pmtu.CASES} | {each.local for each in fullnat_pmtu.CASES}) == 16


def test_the_client_leaves_room_for_toa_only_where_it_is_written() -> None:
    found = {(each.leg, each.up): each.sender[::2] for each in fullnat_pmtu.CASES}
    assert found["front", True] == ("client", 1300) and found["back", True] == ("client", 1292)
    assert found["front", False] == found["back", False] == ("server", 1300)


class Sender(Guest):
    """A client whose path MTU is another one after its upload."""

    def run(
        self, *argv: str, timeout: float = 10.0, stdin: bytes = b"", accept: tuple[int, ...] = (0,)
    ) -> CompletedCommand:
        ran = super().run(*argv, timeout=timeout, stdin=stdin, accept=accept)
        if argv[:2] != (GUEST, "path-mtu"):
            return ran
        posted = any(" post " in words for words in self.asked)
        return CompletedCommand(argv, 0, self.said["after"] if posted else "1500\n", "")


BOTH = "ipv4 2 tcp 6 9 src=192.168.190.1 dst={0.vip} sport=1 dport=80 src=192.168.191.10 dst={0.local} sport=2\n"


def transfer(
    mtu: str = "1292", udp: str = "error Connection refused 2.1", timeouts: int = 2, **more: Guest
) -> ScenarioContext:
    said = {" post ": f"{OWN}\nreceived 9 ff\nsent 9 ff\n", "ask-udp": udp, "after": mtu}
    return context("fullnat-pmtu", **{"client": Sender({"TcpExtTCPTimeouts": timeouts}, said), **more})


@pytest.mark.parametrize(
    ("playing", "names"),
    [
        (transfer(), []),
        (transfer(mtu="1300"), ["path MTU as the client knows it, before and after"]),
        (transfer(mtu="1500"), ["path MTU as the client knows it, before and after"]),
        (transfer(timeouts=3), ["timeouts of TCP"]),
        (transfer(router=Guest({"IpFragCreates": 1})), ["fragments made or received by any guest"]),
        (transfer(udp="error timeout 3000.0"), ["error of a datagram to a closed port"]),
    ],
)
def test_a_transfer_fails_by_what_went_wrong_with_it(playing: ScenarioContext, names: list[str]) -> None:
    fullnat_pmtu._check_case(playing, case(tracked=False, leg="back", up=True))
    assert failed(playing) == names


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("seen", [True, False])
def test_conntrack_must_have_connections_where_it_is_on_and_no_others(tracked: bool, seen: bool) -> None:
    this = case(tracked=tracked, leg="back", up=True)
    playing = transfer(director=Guest(said={"nf_conntrack": BOTH.format(this) if seen else ""}))
    fullnat_pmtu._check_case(playing, this)
    assert failed(playing) == ([] if tracked == seen else ["conntrack has both ends of connections"])
