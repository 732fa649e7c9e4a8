"""Read capture files into typed packets, for scenario checks and sequence diagrams.

Classic pcap of Ethernet frames, with microseconds or nanoseconds, of either byte order. A frame that cannot be
understood is a packet that is `malformed` and says why; nothing in a frame raises. Checksums are not looked at:
between virtio cards they may be left to hardware that is not there. Knows nothing of guests or scenarios.

Own code rather than a library: dpkt's last release is of 2022, without types, and leaves what it cannot read as
bytes without a word; scapy is GPL and takes a second to import.

Formats: draft-ietf-opsawg-pcap, RFC 826 (ARP), 791 (IPv4), 8200 (IPv6), 2003 (ipip), 9293 (TCP), 7323 (timestamps).
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pipeline.core import neutral
from pipeline.errors import PipelineError, TestsFailed

BROADCAST = "ff:ff:ff:ff:ff:ff"
TOA_KINDS = (200, 252, 254)  # TCPOPT_TOA in the toa patch's net/toa/toa.h; what directors of other houses write
FRAME_LIMIT = 1 << 18  # bytes; libpcap's own limit for Ethernet: a longer record is no record
PACKETS_MOST = 100_000  # of one capture, each about 1 KiB in memory; the longest scenario has some thousands
NESTING = 4  # IP headers in one frame; a tunnel has two

_NANOSECONDS = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}  # of a time stamp's fraction, by the file's magic number
_ETHERNET = 1  # LINKTYPE_ETHERNET
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_ICMP, _IPIP, _TCP, _UDP, _SIX_IN, _ICMP6 = 1, 4, 6, 17, 41, 58
_EXTENSIONS, _FRAGMENT = (0, 43, 60), 44  # RFC 8200: hop by hop, routing, destination options
_END, _NOTHING, _TIMESTAMPS = 0, 1, 8  # kinds of TCP options


class Flags(IntFlag):
    """TCP flags, as in the header."""

    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16
    URG = 32
    ECE = 64
    CWR = 128


class Toa(NamedTuple):
    """The client's address that the director wrote into a TCP option of `kind`."""

    address: str
    port: int
    kind: int


@dataclass(frozen=True)
class Arp:
    """An ARP request (`reply` false) or answer; addresses as text."""

    reply: bool
    sender_mac: str
    sender: str
    target_mac: str
    target: str


@dataclass(frozen=True)
class Tcp:
    """A TCP segment. `length` of its payload by the headers, in bytes; `payload` as far as captured."""

    source: int
    target: int
    sequence: int
    acknowledged: int
    flags: Flags
    window: int
    options: Mapping[int, bytes]  # kind to value without the two bytes before it; the first of a kind counts
    length: int
    payload: bytes = field(repr=False)

    @property
    def timestamps(self) -> tuple[int, int] | None:
        """The sender's clock and the echo of the peer's (RFC 7323); None without the option."""
        value = self.options.get(_TIMESTAMPS, b"")
        return struct.unpack(">II", value) if len(value) == 8 else None

    @property
    def opens(self) -> bool:
        """Whether the segment opens a connection: SYN without ACK."""
        return self.flags & (Flags.SYN | Flags.ACK) == Flags.SYN


@dataclass(frozen=True)
class Udp:
    """A UDP datagram. `length` and `payload` as of `Tcp`."""

    source: int
    target: int
    length: int
    payload: bytes = field(repr=False)


@dataclass(frozen=True)
class Icmp:
    """An ICMP message, or ICMPv6 inside IPv6: its type and code."""

    kind: int
    code: int


@dataclass(frozen=True)
class Ip:
    """An IPv4 or IPv6 header and its content; `inner` for IP in IP. A later fragment has no content."""

    version: int
    source: str
    target: str
    protocol: int
    ttl: int
    fragment: bool = False
    inner: Ip | None = None
    payload: Tcp | Udp | Icmp | None = None

    @property
    def innermost(self) -> Ip:
        """The last IP header, which programs see."""
        return self.inner.innermost if self.inner else self


@dataclass(frozen=True)
class Packet:
    """One frame. `moment` in nanoseconds since 1970, `number` from 1 as in Wireshark, `size` on the wire."""

    number: int
    moment: int
    size: int
    source_mac: str = ""
    target_mac: str = ""
    arp: Arp | None = None
    ip: Ip | None = None  # the outer one
    malformed: str = ""  # why it could not be understood, as far as it is here

    @property
    def innermost(self) -> Ip | None:
        """The last IP header."""
        return self.ip.innermost if self.ip else None

    @property
    def ipip(self) -> bool:
        """Whether the packet is IPv4 in IPv4, as TUN sends it to a real server."""
        return self.ip is not None and self.ip.protocol == _IPIP and self.ip.inner is not None

    @property
    def tcp(self) -> Tcp | None:
        """The TCP segment in the innermost IP header, if any."""
        payload = self.innermost.payload if self.innermost else None
        return payload if isinstance(payload, Tcp) else None

    @property
    def udp(self) -> Udp | None:
        """The UDP datagram in the innermost IP header, if any."""
        payload = self.innermost.payload if self.innermost else None
        return payload if isinstance(payload, Udp) else None

    @property
    def icmp(self) -> Icmp | None:
        """The ICMP message in the innermost IP header, if any."""
        payload = self.innermost.payload if self.innermost else None
        return payload if isinstance(payload, Icmp) else None


def packets(path: Path) -> Iterator[Packet]:
    """Yield the packets of a capture in the file's order; none for an empty file.

    A record that the file ends inside is a last packet, malformed. Raises `PipelineError` when the file is no
    classic pcap of Ethernet frames, `TestsFailed` when a flood is in it, `OSError` when it cannot be read.
    """
    with path.open("rb") as stream:
        header = stream.read(24)
        if not header:
            return
        order, unit = _format(header, path)
        number = 0
        while record := stream.read(16):
            number += 1
            if number > PACKETS_MOST:
                what = f"the capture {path.name}: expected at most {PACKETS_MOST} packets, got more"
                raise TestsFailed(what, where=str(path), why="a guest floods the segment")
            packet = _record(stream, record, order, unit, number)
            yield packet
            if packet.size < 0:  # where the next one begins is not known
                return


def _format(header: bytes, path: Path) -> tuple[str, int]:
    """Return the byte order for `struct`, and the nanoseconds of a fraction's unit."""
    for order in "<>" if len(header) == 24 else "":
        magic, link = struct.unpack_from(f"{order}I16xI", header)
        if magic in _NANOSECONDS and link & 0xFFFF == _ETHERNET:
            return order, _NANOSECONDS[magic]
    raise PipelineError(
        "not a capture that can be read: no classic pcap file of Ethernet frames",
        where=str(path),
        hint=f"tcpdump -r {neutral.word(path)} -w CONVERTED, where another program wrote it",
    )


def _record(stream: BinaryIO, record: bytes, order: str, unit: int, number: int) -> Packet:
    """Return the packet after the header `record`, with size -1 when the rest of the file is unreadable."""
    if len(record) < 16:
        return Packet(number, 0, -1, malformed="the file ends inside the record's header")
    seconds, fraction, kept, size = struct.unpack(f"{order}IIII", record)
    moment = seconds * 1_000_000_000 + fraction * unit
    if kept > FRAME_LIMIT:
        return Packet(number, moment, -1, malformed=f"a record of {kept} bytes")
    frame = stream.read(kept)
    if len(frame) < kept:
        return Packet(number, moment, -1, malformed="the file ends inside the frame")
    return dissect(frame, number=number, moment=moment, size=size)


def merged(captures: Mapping[str, Path]) -> Iterator[tuple[str, Packet]]:
    """Yield the packets of several segments by time, each with its segment. Raises as `packets` does."""

    def named(segment: str, path: Path) -> Iterator[tuple[str, Packet]]:
        return ((segment, packet) for packet in packets(path))

    return heapq.merge(*(named(*item) for item in captures.items()), key=lambda pair: pair[1].moment)


def toa(packet: Packet) -> Toa | None:
    """Return the client in the packet's TOA option; None without one.

    Option 200, 252 or 254, length 8: port, then IPv4 address, both in network order (net/toa/toa.h of the TOA patch).
    """
    options = packet.tcp.options if packet.tcp else {}
    for kind in TOA_KINDS:
        value = options.get(kind, b"")
        if len(value) == 6:
            return Toa(str(IPv4Address(value[2:])), int.from_bytes(value[:2]), kind)
    return None


def claimants(seen: Iterable[Packet], address: str) -> frozenset[str]:
    """Return the MAC addresses that claim `address` by ARP, in an answer or in a request of their own."""
    return frozenset(p.arp.sender_mac for p in seen if p.arp and p.arp.sender == address)


# --- From bytes ------------------------------------------------------------------------------------------


class _Malformed(Exception):
    """Bytes that violate their protocol."""


class _Head(NamedTuple):
    """The fields of an IP header. `body` follows it and should have `length` bytes."""

    source: str
    target: str
    protocol: int
    ttl: int
    length: int
    body: bytes
    fragment: bool = False
    later: bool = False  # a fragment that is not the first


def dissect(frame: bytes, *, number: int = 1, moment: int = 0, size: int | None = None) -> Packet:
    """Dissect an Ethernet frame. `size` on the wire, where the capture kept less of it. Never raises."""
    wire = len(frame) if size is None else size
    if len(frame) < 14:
        return Packet(number, moment, wire, malformed=_cut("Ethernet", frame))
    target, source = frame[:6].hex(":"), frame[6:12].hex(":")
    ethertype, body = int.from_bytes(frame[12:14]), frame[14:]
    arp, ip, complaint = None, None, ""
    if ethertype == _ARP:
        arp, complaint = _arp(body)
    elif ethertype in (_IPV4, _IPV6):
        ip, complaint = _ip(body, 4 if ethertype == _IPV4 else 6, whole=wire <= len(frame))
    return Packet(number, moment, wire, source, target, arp, ip, complaint)


def _cut(what: str, data: bytes) -> str:
    return f"{what}: cut off after {len(data)} bytes"


def _unpack(form: str, data: bytes, what: str) -> tuple[Any, ...]:
    if len(data) < struct.calcsize(form):
        raise _Malformed(_cut(what, data))
    return struct.unpack_from(form, data)


def _arp(data: bytes) -> tuple[Arp | None, str]:
    """Dissect ARP for IPv4 on Ethernet; return a complaint for other kinds."""
    try:
        *kinds, operation, sender_mac, sender, target_mac, target = _unpack(">HHBBH6s4s6s4s", data, "ARP")
    except _Malformed as error:
        return None, str(error)
    if kinds != [1, _IPV4, 6, 4] or operation not in (1, 2):
        return None, f"ARP: neither a question nor an answer for IPv4 (operation {operation})"
    ends = sender_mac.hex(":"), str(IPv4Address(sender)), target_mac.hex(":"), str(IPv4Address(target))
    return Arp(operation == 2, *ends), ""


def _ip(data: bytes, version: int, *, whole: bool, nesting: int = NESTING) -> tuple[Ip | None, str]:
    """Dissect the IP header at the start of `data` and its content; return it with the complaint, if any.

    `whole`: the capture kept the frame whole, so that what is missing was never there.
    """
    try:
        head = _ipv4(data) if version == 4 else _ipv6(data)
    except _Malformed as error:
        return None, str(error)
    inner, payload, complaint = None, None, ""
    if whole and head.length > len(head.body):
        complaint = f"IPv{version}: {head.length - len(head.body)} bytes are missing"
    try:
        if head.protocol in (_IPIP, _SIX_IN) and not head.later:
            if not nesting:
                raise _Malformed("IP: too many headers, one in the other")
            inside = 4 if head.protocol == _IPIP else 6
            inner, deeper = _ip(head.body, inside, whole=whole, nesting=nesting - 1)
            complaint = complaint or deeper
        elif not head.later:
            payload = _payload(head)
    except _Malformed as error:
        complaint = str(error)
    ends = head.source, head.target, head.protocol, head.ttl, head.fragment
    return Ip(version, *ends, inner, payload), complaint


def _ipv4(data: bytes) -> _Head:
    first, total, fragments, ttl, protocol, source, target = _unpack(">BxH2xHBB2x4s4s", data, "IPv4")
    header = 4 * (first & 15)
    total = total or len(data)  # a card that cuts for the sender may leave it 0
    if first >> 4 != 4 or not 20 <= header <= min(total, len(data)):
        raise _Malformed(f"IPv4: version {first >> 4} with a header of {header} bytes of {total}")
    offset, more = fragments & 0x1FFF, bool(fragments & 0x2000)
    ends = str(IPv4Address(source)), str(IPv4Address(target))
    body = data[header:total]  # what comes after it is Ethernet's padding
    return _Head(*ends, protocol, ttl, total - header, body, bool(offset or more), bool(offset))


def _ipv6(data: bytes) -> _Head:
    first, length, protocol, ttl, source, target = _unpack(">B3xHBB16s16s", data, "IPv6")
    if first >> 4 != 6:
        raise _Malformed(f"IPv6: version {first >> 4}")
    body, offset, fragment = data[40 : 40 + length], 0, False
    while not offset and protocol in (*_EXTENSIONS, _FRAGMENT):
        following, eights, place = _unpack(">BBH4x", body, "IPv6 extension")
        if protocol == _FRAGMENT:
            fragment, offset = True, place >> 3
        size = 8 if protocol == _FRAGMENT else 8 * (eights + 1)
        protocol, body, length = following, body[size:], max(length - size, 0)
    ends = str(IPv6Address(source)), str(IPv6Address(target))
    return _Head(*ends, protocol, ttl, length, body, fragment, bool(offset))


def _payload(head: _Head) -> Tcp | Udp | Icmp | None:
    """Dissect a header's content; None for other protocols. Raises `_Malformed`."""
    if head.protocol == _TCP:
        return _tcp(head)
    if head.protocol == _UDP:
        source, target, length = _unpack(">HHH2x", head.body, "UDP")
        if length < 8:
            raise _Malformed(f"UDP: a length of {length} bytes")
        return Udp(source, target, length - 8, head.body[8:length])
    if head.protocol in (_ICMP, _ICMP6):
        return Icmp(*_unpack(">BB2x", head.body, "ICMP"))
    return None


def _tcp(head: _Head) -> Tcp:
    source, target, sequence, acknowledged, offset, flags, window = _unpack(">HHIIBBH4x", head.body, "TCP")
    start = 4 * (offset >> 4)
    if start < 20 or start > min(head.length, len(head.body)):
        raise _Malformed(f"TCP: a header of {start} bytes in {len(head.body)}")
    options = _options(head.body[20:start])
    length, payload = head.length - start, head.body[start:]
    return Tcp(source, target, sequence, acknowledged, Flags(flags), window, options, length, payload)


def _options(data: bytes) -> dict[int, bytes]:
    """Return TCP options by kind. Raises `_Malformed` for an option longer than the header."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != _END:
        kind = data[at]
        if kind == _NOTHING:
            at += 1
            continue
        length = data[at + 1] if at + 1 < len(data) else 0
        if length < 2 or at + length > len(data):
            raise _Malformed(f"TCP: option {kind} is said to have {length} bytes, of {len(data) - at} left")
        found.setdefault(kind, data[at + 2 : at + length])
        at += length
    return found
