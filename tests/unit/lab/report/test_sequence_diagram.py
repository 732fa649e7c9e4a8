"""A connection followed from segment to segment, for each way of forwarding."""

from __future__ import annotations

from pathlib import Path

from pipeline.formats.pcap import BROADCAST, Flags, dissect
from pipeline.lab.report.results import Card, Guest
from pipeline.lab.report.sequence_diagram import describe, first_connection
from tests.fixtures import frames
from tests.fixtures.frames import ethernet, ipv4, ipv6, pcap, tcp, toa

CLIENT, VIP, LOCAL, SERVER = "192.168.192.1", "192.168.192.10", "192.168.1.1", "192.168.1.10"
ASKER, FRONT, BACK, ANSWERER = (f"52:54:00:ab:00:0{n}" for n in range(1, 5))  # MAC addresses
SYN, ACK, PSH, FIN = Flags.SYN, Flags.ACK, Flags.PSH, Flags.FIN
QUESTION = b"GET / HTTP/1.0\r\n\r\n"


def card(segment: str, mac: str, *addresses: str) -> Card:
    return Card(segment=segment, device="eth0", mac=mac, addresses=addresses)


GUESTS = (
    Guest(name="client", part="client", role="stock", kernel="", cards=(card("front", ASKER, f"{CLIENT}/24"),)),
    Guest(
        name="director",
        part="director",
        role="director",
        kernel="",
        cards=(card("front", FRONT.upper(), f"{VIP}/24"), card("back", BACK, f"{LOCAL}/24")),
    ),
    Guest(name="one", part="server", role="realserver", kernel="", cards=(card("back", ANSWERER, f"{SERVER}/24"),)),
)
End = tuple[str, int]
ASKING, SERVICE, INSIDE, ANSWERING = (CLIENT, 40112), (VIP, 80), (LOCAL, 5001), (SERVER, 8080)


def sent(macs: tuple[str, str], source: End, target: End, flags: int, data: bytes = b"", **more: bytes | int) -> bytes:
    """A segment in a frame from the first MAC address to the second."""
    body = tcp(source[1], target[1], flags, data, **more)  # type: ignore[arg-type]
    return ethernet(ipv4(source[0], target[0], 6, body), source=macs[0], target=macs[1])


INTO, OUT, ON, RETURNED = (ASKER, FRONT), (FRONT, ASKER), (BACK, ANSWERER), (ANSWERER, BACK)


def fullnat(option: bytes = b"") -> dict[str, list[tuple[float, bytes]]]:
    """Frames by segment of one request through FULLNAT, whose inner SYN carries `option`."""
    front = [
        (10.0, sent(INTO, ASKING, SERVICE, SYN)),
        (10.3, sent(OUT, SERVICE, ASKING, SYN | ACK)),
        (10.4, sent(INTO, ASKING, SERVICE, PSH | ACK, QUESTION)),
    ]
    back = [
        (10.1, sent(ON, INSIDE, ANSWERING, SYN, options=option)),
        (10.2, sent(RETURNED, ANSWERING, INSIDE, SYN | ACK)),
        (10.5, sent(ON, INSIDE, ANSWERING, PSH | ACK, QUESTION)),
    ]
    return {"front": front, "back": back}


def captured(path: Path, seen: dict[str, list[tuple[float, bytes]]]) -> dict[str, Path]:
    return {segment: pcap(path / segment, sorted(rows)) for segment, rows in seen.items()}


STEPS = [
    ("front", "client", "director", "SYN"),
    ("back", "director", "one", "SYN"),
    ("back", "one", "director", "SYN ACK"),
    ("front", "director", "client", "SYN ACK"),
    ("front", "client", "director", "PSH ACK"),
    ("back", "director", "one", "PSH ACK"),
]


def steps(path: Path, seen: dict[str, list[tuple[float, bytes]]], port: int = 80) -> list[tuple[str, str, str, str]]:
    rows = first_connection(captured(path, seen), port, GUESTS)
    flags = [" ".join(word for word in row.text.split() if word in Flags.__members__) for row in rows]
    return [(row.segment, row.source, row.target, said) for row, said in zip(rows, flags, strict=True)]


def test_fullnat_is_followed_by_the_option_that_names_the_client(tmp_path: Path) -> None:
    rows = first_connection(captured(tmp_path, fullnat(toa(*ASKING))), 80, GUESTS)
    assert rows[1].text == "SYN 192.168.1.1:5001 > 192.168.1.10:8080 [TOA 192.168.192.1:40112]"
    assert [round(row.at, 6) for row in rows] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert steps(tmp_path, fullnat(toa(*ASKING))) == STEPS


def test_fullnat_without_the_option_is_followed_by_the_clients_first_data(tmp_path: Path) -> None:
    assert steps(tmp_path, fullnat()) == STEPS


def test_another_clients_connection_and_a_health_check_stay_out(tmp_path: Path) -> None:
    seen = fullnat(toa(*ASKING))
    other, checker = (LOCAL, 5002), (LOCAL, 33000)
    seen["front"].append((10.15, sent(INTO, (CLIENT, 40113), SERVICE, SYN)))
    seen["back"].append((10.16, sent(ON, other, ANSWERING, SYN, options=toa(CLIENT, 40113))))
    seen["back"].append((10.17, sent(ON, other, ANSWERING, PSH | ACK, QUESTION)))
    seen["back"].append((10.45, sent(ON, checker, ANSWERING, SYN)))
    seen["back"].append((10.46, sent(ON, checker, ANSWERING, PSH | ACK, b"GET /health HTTP/1.0\r\n\r\n")))
    assert steps(tmp_path, seen) == STEPS
    without = fullnat()
    without["back"] += [row for row in seen["back"] if 10.45 <= row[0] < 10.5]
    assert steps(tmp_path, without) == STEPS


def test_nat_is_followed_by_the_clients_own_address(tmp_path: Path) -> None:
    seen = {
        "front": [(1.0, sent(INTO, ASKING, SERVICE, SYN)), (1.3, sent(OUT, SERVICE, ASKING, SYN | ACK))],
        "back": [(1.1, sent(ON, ASKING, ANSWERING, SYN)), (1.2, sent(RETURNED, ANSWERING, ASKING, SYN | ACK))],
    }
    assert steps(tmp_path, seen) == STEPS[:4]


def test_a_reply_that_bypasses_the_director_goes_from_the_server_to_the_client(tmp_path: Path) -> None:
    """As with DR and TUN: one segment, and the virtual address on director and server."""
    tunnelled = ipv4(LOCAL, SERVER, 4, ipv4(CLIENT, VIP, 6, tcp(40112, 80, SYN)))
    seen = [
        (1.0, sent(INTO, ASKING, SERVICE, SYN)),
        (1.1, ethernet(tunnelled, source=FRONT, target=ANSWERER)),
        (1.2, sent((ANSWERER, ASKER), SERVICE, ASKING, SYN | ACK)),
    ]
    assert [step[1:3] for step in steps(tmp_path, {"front": seen})] == [
        ("client", "director"),
        ("director", "one"),
        ("one", "client"),
    ]
    text = first_connection(captured(tmp_path, {"front": seen}), 80, GUESTS)[1].text
    assert text == "ipip 192.168.1.1 > 192.168.1.10: SYN 192.168.192.1:40112 > 192.168.192.10:80"


def test_only_the_first_connection_is_told_although_a_later_one_has_its_ports(tmp_path: Path) -> None:
    seen = fullnat(toa(*ASKING))
    seen["back"] += [
        (11.0, sent(ON, INSIDE, ANSWERING, SYN, options=toa(CLIENT, 40114), sequence=99)),
        (11.1, sent(RETURNED, ANSWERING, INSIDE, SYN | ACK)),
    ]
    assert steps(tmp_path, seen) == STEPS


def test_a_syn_that_is_sent_again_is_of_the_same_connection(tmp_path: Path) -> None:
    seen = [(1.0, sent(INTO, ASKING, SERVICE, SYN)), (2.0, sent(INTO, ASKING, SERVICE, SYN))]
    assert steps(tmp_path, {"front": seen}) == [STEPS[0], STEPS[0]]


def test_nothing_is_told_where_nobody_connected_to_the_port(tmp_path: Path) -> None:
    assert steps(tmp_path, fullnat(), port=443) == []


def test_a_download_is_told_by_its_beginning(tmp_path: Path) -> None:
    seen = [(1.0, sent(INTO, ASKING, SERVICE, SYN))]
    seen += [(2.0 + n / 1000, sent(OUT, SERVICE, ASKING, ACK, b"x" * 100)) for n in range(1000)]
    rows = first_connection(captured(tmp_path, {"front": seen}), 80, GUESTS, limit=30)
    assert len(rows) == 30 and rows[-1].text.endswith("100 bytes")


def test_who_has_no_card_is_called_by_address_unless_several_hold_it(tmp_path: Path) -> None:
    strange = ("52:54:00:00:00:99", "52:54:00:00:00:98")
    files = captured(tmp_path, {"front": [(1.0, sent(strange, ASKING, SERVICE, SYN))]})
    (row,) = first_connection(files, 80, GUESTS)
    assert (row.source, row.target) == ("client", "director")
    second = GUESTS[2].model_copy(update={"cards": (card("back", ANSWERER, f"{VIP}/32"),)})
    (row,) = first_connection(files, 80, (*GUESTS[:2], second))
    assert (row.source, row.target) == ("client", VIP)
    files = captured(tmp_path, {"front": [(1.0, sent(INTO, ASKING, SERVICE, SYN))]})
    (row,) = first_connection(files, 80, (*GUESTS[:2], second))
    assert (row.source, row.target) == ("client", "director"), "by the card, however its address is written"


def test_every_kind_of_packet_has_its_line() -> None:
    lines = {
        describe(dissect(frame))
        for frame in [
            ethernet(frames.arp(1, CLIENT, VIP), 0x0806, ASKER, BROADCAST),
            ethernet(frames.arp(2, VIP, CLIENT, FRONT), 0x0806),
            ethernet(ipv4(CLIENT, VIP, 17, frames.udp(9, 80, b"abc"))),
            ethernet(ipv4(CLIENT, VIP, 1, b"\x03\x03\0\0")),
            ethernet(ipv4(CLIENT, "224.0.0.18", 112, b"vrrp")),
            ethernet(ipv6("fd00::1", "fd00::2", 6, tcp(1, 2, 0, options=toa(CLIENT, 5, 254))), 0x86DD),
            ethernet(ipv4(CLIENT, VIP, 6, b"")),
            ethernet(b"", kind=38),
            b"",
        ]
    }
    assert lines == {
        f"ARP who has {VIP}? tell {CLIENT}",
        f"ARP {VIP} is at {FRONT}",
        f"UDP {CLIENT}:9 > {VIP}:80 3 bytes",
        f"ICMP 3/3 {CLIENT} > {VIP}",
        f"IP protocol 112 {CLIENT} > 224.0.0.18",
        f"no flags [fd00::1]:1 > [fd00::2]:2 [TOA {CLIENT}:5 option 254]",
        f"IP protocol 6 {CLIENT} > {VIP} [malformed: TCP: cut off after 0 bytes]",
        "neither IP nor ARP",
        "malformed: Ethernet: cut off after 0 bytes",
    }
