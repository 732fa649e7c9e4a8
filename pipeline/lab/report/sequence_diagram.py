"""Follow a connection through the captures of several segments: the rows of a report's sequence diagram.

Knows capture files and guests' cards, not what a scenario wants to see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.formats.pcap import BROADCAST, Flags, Ip, Packet, Tcp, Udp, merged, toa
from pipeline.lab.report import results

MAX_PACKETS = 60  # packets of one diagram; a download has thousands, and the first tell how it went

_FINISHED = -1  # in the place of a sequence number

Endpoint = tuple[str, int]  # address and port
CapturedPacket = tuple[str, Packet]  # segment and packet


def first_connection(
    captures: Mapping[str, Path], port: int, guests: Iterable[results.Guest], limit: int = MAX_PACKETS
) -> tuple[results.Packet, ...]:
    """Return the first TCP connection to `port` on all segments, by time: `limit` packets at most.

    `captures`: file by segment. What the director makes of the connection is known by the client's address and
    port (NAT, DR, TUN), by a TOA option that names them, or else by its first data being the client's (FULLNAT
    without TOA). Empty when there was no such connection. Raises as `capture.packets` does.
    """
    followed: _Connection | None = None
    for segment, packet in merged(captures):
        ip, tcp = packet.innermost, packet.tcp
        if ip is None or tcp is None:
            continue
        if followed is None and tcp.opens and tcp.target == port:
            followed = _Connection(client=(ip.source, tcp.source))
        if followed is not None:
            followed.add(segment, packet, ip, tcp)
            if len(followed.rows) >= limit:
                break
    return _rows(followed.rows[:limit], _GuestNames(guests)) if followed else ()


@dataclass
class _Connection:
    """A connection from `client`, and its continuation behind a director."""

    client: Endpoint
    rows: list[CapturedPacket] = field(default_factory=list)
    flows: dict[frozenset[Endpoint], int] = field(default_factory=dict)  # ours, with the first sequence number
    candidates: dict[frozenset[Endpoint], list[CapturedPacket]] = field(
        default_factory=dict
    )  # begun since, not yet known whose
    data: bytes = b""  # the client's first

    def add(self, segment: str, packet: Packet, ip: Ip, tcp: Tcp) -> None:
        """Add the packet if it belongs to the connection, or may turn out to."""
        source, target = (ip.source, tcp.source), (ip.target, tcp.target)
        flow = frozenset((source, target))
        mark = toa(packet)
        if flow not in self.flows and (source == self.client or (mark and (mark.address, mark.port) == self.client)):
            self._adopt(flow, tcp)
        if flow in self.flows:
            if tcp.opens and tcp.sequence != self.flows[flow]:
                self.flows[flow] = _FINISHED  # from here on another connection has its ports
            if self.flows[flow] == _FINISHED:
                return
            self.rows.append((segment, packet))
            if source == self.client and tcp.payload:
                self.data = self.data or tcp.payload
            return
        if tcp.opens and mark is None:  # with a mark it is another client's
            self.candidates[flow] = []
        if flow in self.candidates:
            self.candidates[flow].append((segment, packet))
            if self.data and tcp.payload == self.data and len(self.flows) == 1:
                self._adopt(flow, tcp)

    def _adopt(self, flow: frozenset[Endpoint], tcp: Tcp) -> None:
        earlier = self.candidates.pop(flow, [])
        first = earlier[0][1].tcp if earlier else tcp
        self.flows[flow] = first.sequence if first else tcp.sequence
        self.rows = sorted([*self.rows, *earlier], key=lambda row: row[1].moment)


class _GuestNames:
    """Guests by the MAC addresses of their cards, and by their IP addresses where a card is not known."""

    def __init__(self, guests: Iterable[results.Guest]) -> None:
        cards = [(guest.name, card) for guest in guests for card in guest.cards]
        self.by_mac = {card.mac.lower(): name for name, card in cards} | {BROADCAST: "everybody"}
        addresses = [(address.partition("/")[0], name) for name, card in cards for address in card.addresses]
        # An address that several hold (the VIP, with DR) names none of them.
        self.by_address = {a: name for a, name in addresses if all(name == n for b, n in addresses if a == b)}

    def name(self, mac: str, address: str) -> str:
        """Return the guest's name, else its address."""
        return self.by_mac.get(mac) or self.by_address.get(address, address)


def _rows(captured: Iterable[CapturedPacket], names: _GuestNames) -> tuple[results.Packet, ...]:
    rows: list[results.Packet] = []
    start: int | None = None
    for segment, packet in captured:
        start = packet.moment if start is None else start
        ends = (packet.ip.source, packet.ip.target) if packet.ip else ("", "")
        source, target = names.name(packet.source_mac, ends[0]), names.name(packet.target_mac, ends[1])
        at = (packet.moment - start) / 1e9
        rows.append(results.Packet(at=at, segment=segment, source=source, target=target, text=describe(packet)))
    return tuple(rows)


def describe(packet: Packet) -> str:
    """Describe a packet in one line: `SYN 192.168.1.1:5001 > 192.168.1.10:8080 [TOA 192.168.192.1:40112]`."""
    if packet.arp:
        arp = packet.arp
        text = f"{arp.sender} is at {arp.sender_mac}" if arp.reply else f"who has {arp.target}? tell {arp.sender}"
        return f"ARP {text}"
    if packet.ip is None:
        return f"malformed: {packet.malformed}" if packet.malformed else "neither IP nor ARP"
    words = [_describe_ip(packet.ip)]
    if mark := toa(packet):
        other = "" if mark.kind == 200 else f" option {mark.kind}"
        words.append(f"[TOA {_endpoint(mark.address, mark.port)}{other}]")
    if packet.malformed:
        words.append(f"[malformed: {packet.malformed}]")
    return " ".join(words)


def _describe_ip(ip: Ip) -> str:
    if ip.inner:
        return f"ipip {ip.source} > {ip.target}: {_describe_ip(ip.inner)}"
    payload = ip.payload
    if isinstance(payload, Tcp):
        flags = " ".join(flag.name for flag in Flags if flag in payload.flags and flag.name) or "no flags"
        text = f"{flags} {_endpoint(ip.source, payload.source)} > {_endpoint(ip.target, payload.target)}"
        return f"{text} {payload.length} bytes" if payload.length else text
    if isinstance(payload, Udp):
        ends = f"{_endpoint(ip.source, payload.source)} > {_endpoint(ip.target, payload.target)}"
        return f"UDP {ends} {payload.length} bytes"
    what = f"ICMP {payload.kind}/{payload.code}" if payload else f"IP protocol {ip.protocol}"
    return f"{what} {ip.source} > {ip.target}"


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
