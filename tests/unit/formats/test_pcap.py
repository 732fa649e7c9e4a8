"""Captures read back: the frames are made byte by byte, so the formats alone decide."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError, TestsFailed
from pipeline.formats import pcap as capture
from pipeline.formats.pcap import (
    BROADCAST,
    Flags,
    Icmp,
    Packet,
    Tcp,
    Toa,
    Udp,
    claimants,
    dissect,
    merged,
    packets,
    toa,
)
from tests.fixtures import frames
from tests.fixtures.frames import HERE, THERE, ethernet, ipv4, ipv6, pcap, tcp

CLIENT, VIP, LOCAL, SERVER = "192.168.192.1", "192.168.192.10", "192.168.1.1", "192.168.1.10"
SYN, ACK = Flags.SYN, Flags.ACK


def syn(options: bytes = b"") -> bytes:
    return ethernet(ipv4(LOCAL, SERVER, 6, tcp(5001, 8080, SYN, options=options)))


def segment(packet: Packet) -> Tcp:
    assert packet.tcp is not None, packet
    return packet.tcp


# --- The file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [frames.MICROSECONDS, frames.NANOSECONDS])
def test_either_unit_of_time_and_byte_order_is_read(tmp_path: Path, order: str, magic: int) -> None:
    file = pcap(tmp_path / "front", [(1700000000.25, syn()), (1700000001.5, syn())], magic, order)
    read = list(packets(file))
    assert [packet.moment for packet in read] == [1700000000_250000000, 1700000001_500000000]
    assert [packet.number for packet in read] == [1, 2]
    assert segment(read[0]).target == 8080


def test_a_file_that_nothing_was_written_to_yet_has_no_packets(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert list(packets(tmp_path / "empty")) == []


@pytest.mark.parametrize("data", [b"\n\r\r\n" + bytes(60), b"short", bytes(24)], ids=["pcapng", "short", "zeros"])
def test_another_format_is_refused_with_the_command_that_converts_it(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "other").write_bytes(data)
    with pytest.raises(PipelineError, match="no classic pcap file") as refused:
        list(packets(tmp_path / "other"))
    assert str(tmp_path / "other") in refused.value.where and "tcpdump -r" in refused.value.hint


def test_a_capture_of_something_else_than_ethernet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="Ethernet"):
        list(packets(pcap(tmp_path / "cooked", [], link=113)))


def test_a_file_cut_off_anywhere_gives_what_is_whole_and_one_malformed_packet(tmp_path: Path) -> None:
    whole = pcap(tmp_path / "whole", [(1, syn()), (2, syn())]).read_bytes()
    one = 24 + 16 + len(syn())
    for size in range(24, len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        read = list(packets(tmp_path / "cut"))
        complete = (size >= one) + 0
        assert [packet.malformed for packet in read[:complete]] == [""] * complete
        assert len(read) == complete + (size not in (24, one))
        assert all("the file ends inside" in packet.malformed for packet in read[complete:])


def test_a_length_that_cannot_be_ends_the_reading(tmp_path: Path) -> None:
    file = pcap(tmp_path / "wild", [(1, syn())])
    with file.open("ab") as stream:
        stream.write(struct.pack("<IIII", 2, 0, 1 << 31, 1 << 31) + syn())
    assert [packet.malformed for packet in packets(file)] == ["", "a record of 2147483648 bytes"]


def test_segments_are_merged_in_the_order_of_time(tmp_path: Path) -> None:
    files = {
        "front": pcap(tmp_path / "front", [(1.0, syn()), (4.0, syn())]),
        "back": pcap(tmp_path / "back", [(2.0, syn()), (3.0, syn())]),
    }
    assert [segment for segment, _ in merged(files)] == ["front", "back", "back", "front"]


# --- Frames ----------------------------------------------------------------------------------------------


def test_arp_says_who_asks_and_who_answers() -> None:
    asked = dissect(ethernet(frames.arp(1, CLIENT, VIP), 0x0806, HERE, BROADCAST)).arp
    answered = dissect(ethernet(frames.arp(2, VIP, CLIENT, THERE, HERE), 0x0806, THERE, HERE)).arp
    assert asked and (asked.reply, asked.sender, asked.target) == (False, CLIENT, VIP)
    assert answered and (answered.reply, answered.sender, answered.sender_mac) == (True, VIP, THERE)


def test_who_claims_an_address_is_known_by_answers_and_by_announcements() -> None:
    asked = dissect(ethernet(frames.arp(1, CLIENT, VIP), 0x0806))
    answered = dissect(ethernet(frames.arp(2, VIP, CLIENT, THERE), 0x0806))
    announced = dissect(ethernet(frames.arp(1, VIP, VIP, "52:54:00:00:00:03"), 0x0806))
    assert claimants([asked], VIP) == frozenset()
    assert claimants([asked, answered, announced], VIP) == {THERE, "52:54:00:00:00:03"}


def test_a_segments_numbers_flags_options_and_payload_are_read() -> None:
    options = b"\x02\x04\x05\xb4" + b"\x01\x01\x08\x0a" + struct.pack(">II", 1000, 7) + b"\x01\x03\x03\x07"
    data = tcp(5001, 8080, SYN | ACK, b"hello", options, sequence=0xFFFFFFFF, ack=9)
    seen = segment(dissect(ethernet(ipv4(LOCAL, SERVER, 6, data))))
    assert (seen.source, seen.target, seen.sequence, seen.acknowledged) == (5001, 8080, 0xFFFFFFFF, 9)
    assert seen.flags == SYN | ACK and not seen.opens
    assert seen.options == {2: b"\x05\xb4", 8: struct.pack(">II", 1000, 7), 3: b"\x07"}
    assert seen.timestamps == (1000, 7)
    assert (seen.payload, seen.length) == (b"hello", 5)


def test_ethernets_padding_is_no_payload() -> None:
    frame = ethernet(ipv4(LOCAL, SERVER, 6, tcp(1, 2, ACK)))
    assert len(frame) == 60 and segment(dissect(frame)).length == 0


@pytest.mark.parametrize("kind", [200, 254])
def test_the_toa_option_names_the_client_whatever_its_kind(kind: int) -> None:
    assert toa(dissect(syn(frames.toa(CLIENT, 40112, kind)))) == Toa(CLIENT, 40112, kind)


@pytest.mark.parametrize("options", [b"", b"\xc8\x04ab", b"\xc8\x0a12345678", b"\xc9\x08123456", b"\x00\xc8\x08123456"])
def test_other_options_are_not_taken_for_toa(options: bytes) -> None:
    packet = dissect(syn(options))
    assert packet.malformed == "" and toa(packet) is None


def test_toa_is_found_in_ipv6_and_behind_other_options() -> None:
    data = tcp(5001, 8080, SYN, options=b"\x02\x04\x05\xb4\x01" + frames.toa(CLIENT, 1))
    packet = dissect(ethernet(ipv6("fd00::1", "fd00::2", 6, data), 0x86DD))
    assert packet.ip and (packet.ip.version, packet.ip.source) == (6, "fd00::1")
    assert toa(packet) == Toa(CLIENT, 1, 200)


def test_a_tunnels_outer_and_inner_header_are_both_there() -> None:
    inside = ipv4(CLIENT, VIP, 6, tcp(40112, 80, SYN))
    packet = dissect(ethernet(ipv4(LOCAL, SERVER, 4, inside)))
    assert packet.ipip and packet.ip and packet.innermost
    assert (packet.ip.source, packet.ip.target, packet.ip.payload) == (LOCAL, SERVER, None)
    assert (packet.innermost.source, packet.innermost.target) == (CLIENT, VIP)
    assert segment(packet).opens
    assert not dissect(ethernet(inside)).ipip


def test_datagrams_and_icmp_are_read() -> None:
    packet = dissect(ethernet(ipv4(CLIENT, VIP, 17, frames.udp(53, 5353, b"question"))))
    assert packet.udp == Udp(53, 5353, 8, b"question") and packet.tcp is None
    assert dissect(ethernet(ipv4(CLIENT, VIP, 1, b"\x03\x01\0\0rest"))).icmp == Icmp(3, 1)
    assert dissect(ethernet(ipv6("fd00::1", "fd00::2", 58, b"\x87\x00\0\0"), 0x86DD)).icmp == Icmp(135, 0)


def test_options_of_ipv4_and_extensions_of_ipv6_are_stepped_over() -> None:
    data = tcp(1, 2, SYN)
    assert segment(dissect(ethernet(ipv4(CLIENT, VIP, 6, data, options=b"\x94\x04\0\0")))).opens
    hops = struct.pack(">BB", 60, 0) + bytes(6)
    more = struct.pack(">BB", 6, 1) + bytes(14)
    assert segment(dissect(ethernet(ipv6("fd00::1", "fd00::2", 0, hops + more + data), 0x86DD))).opens


def test_only_the_first_fragment_has_ports() -> None:
    first = dissect(ethernet(ipv4(CLIENT, VIP, 17, frames.udp(1, 2, b"x" * 24), fragments=0x2000)))
    later = dissect(ethernet(ipv4(CLIENT, VIP, 17, b"y" * 24, fragments=4)))
    assert first.udp and first.ip and first.ip.fragment
    assert later.udp is None and later.ip and later.ip.fragment and later.malformed == ""
    piece = struct.pack(">BBHI", 60, 0, 8, 1) + b"zzzz"
    sixth = dissect(ethernet(ipv6("fd00::1", "fd00::2", 44, piece), 0x86DD))
    assert sixth.ip and sixth.ip.fragment and sixth.ip.payload is None and sixth.malformed == ""


def test_a_frame_of_another_protocol_is_a_packet_without_content() -> None:
    packet = dissect(ethernet(b"\x42\x42\x03", kind=38))
    assert (packet.arp, packet.ip, packet.malformed) == (None, None, "")
    assert (packet.source_mac, packet.target_mac) == (HERE, THERE)


# --- What cannot be understood ---------------------------------------------------------------------------

BROKEN = {
    "Ethernet: cut off after 13": syn()[:13],
    "ARP: cut off": ethernet(frames.arp(1, CLIENT, VIP), 0x0806)[:40],
    "ARP: neither": ethernet(frames.arp(3, CLIENT, VIP), 0x0806),
    "IPv4: cut off": syn()[:33],
    "IPv4: version 6": ethernet(ipv6("fd00::1", "fd00::2", 59, bytes(20))),
    "IPv4: version 4 with a header of 16": ethernet(b"\x44" + ipv4(CLIENT, VIP, 6, tcp(1, 2, SYN))[1:]),
    "TCP: cut off after 0": syn()[:34],
    "IPv6: version 4": ethernet(ipv4(CLIENT, VIP, 6, tcp(1, 2, SYN)), 0x86DD),
    "IPv6: cut off": ethernet(ipv6("fd00::1", "fd00::2", 59, b""), 0x86DD)[:50],
    "IPv6 extension: cut off": ethernet(ipv6("fd00::1", "fd00::2", 0, b"1234"), 0x86DD),
    "TCP: cut off after 19": ethernet(ipv4(CLIENT, VIP, 6, tcp(1, 2, SYN)[:19])),
    "TCP: a header of 60": ethernet(ipv4(CLIENT, VIP, 6, tcp(1, 2, SYN)[:12] + b"\xf0" + bytes(30))),
    "TCP: a header of 0": ethernet(ipv4(CLIENT, VIP, 6, tcp(1, 2, SYN)[:12] + bytes(8))),
    "TCP: option 200 is said to have 9 bytes": syn(b"\xc8\x09123456"),
    "TCP: option 2 is said to have 1": syn(b"\x02\x01\x00\x00"),
    "TCP: option 8 is said to have 0 bytes, of 1 left": syn(b"\x01\x01\x01\x08"),
    "UDP: cut off": ethernet(ipv4(CLIENT, VIP, 17, b"1234567")),
    "UDP: a length of 7": ethernet(ipv4(CLIENT, VIP, 17, struct.pack(">HHHH", 1, 2, 7, 0))),
    "ICMP: cut off": ethernet(ipv4(CLIENT, VIP, 1, b"\x08")),
    "IP: too many headers": ethernet(b"".join(ipv4(CLIENT, VIP, 4, bytes(20 * (9 - n)))[:20] for n in range(10))),
}


@pytest.mark.parametrize(("complaint", "frame"), BROKEN.items(), ids=list(BROKEN))
def test_a_broken_frame_is_malformed_and_says_why(complaint: str, frame: bytes) -> None:
    packet = dissect(frame)
    assert complaint in packet.malformed
    assert packet.tcp is None and packet.udp is None and packet.icmp is None


def test_what_is_understood_of_a_broken_frame_stays() -> None:
    packet = dissect(BROKEN["TCP: cut off after 19"])
    assert packet.ip and (packet.ip.source, packet.ip.target) == (CLIENT, VIP)


def test_a_capture_that_keeps_only_the_beginning_of_frames_is_not_malformed() -> None:
    frame = ethernet(ipv4(LOCAL, SERVER, 6, tcp(1, 2, ACK, b"x" * 1000)))
    packet = dissect(frame[:96], size=len(frame))
    assert packet.malformed == "" and segment(packet).length == 1000 and len(segment(packet).payload) == 42
    assert "are missing" in dissect(frame[:96]).malformed


WELL_FORMED = [
    syn(frames.toa(CLIENT, 1)),
    ethernet(ipv4(LOCAL, SERVER, 4, ipv4(CLIENT, VIP, 17, frames.udp(1, 2, b"abc")))),
    ethernet(ipv6("fd00::1", "fd00::2", 0, struct.pack(">BB", 6, 0) + bytes(6) + tcp(1, 2, SYN)), 0x86DD),
    ethernet(frames.arp(1, CLIENT, VIP), 0x0806),
]


@given(st.binary(max_size=200))
@example(b"")
def test_no_bytes_at_all_make_it_raise(data: bytes) -> None:
    for kind in (b"\x08\x00", b"\x86\xdd", b"\x08\x06"):
        toa(dissect(bytes(12) + kind + data))
    dissect(data)


@given(st.sampled_from(WELL_FORMED), st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255))), st.integers(0, 120))
def test_no_damage_to_a_good_frame_makes_it_raise(frame: bytes, changes: list[tuple[int, int]], size: int) -> None:
    damaged = bytearray(frame)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    for packet in (dissect(bytes(damaged)), dissect(frame[:size]), dissect(bytes(damaged[:size]))):
        toa(packet)


@settings(max_examples=50)
@given(data=st.binary(max_size=300))
def test_no_rest_of_a_file_makes_it_raise(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = pcap(tmp_path_factory.mktemp("fuzz") / "capture", [(1, syn())])
    file.write_bytes(file.read_bytes() + data)
    assert segment(next(iter(packets(file)))).opens
    assert list(packets(file))


def test_a_capture_of_a_flood_is_refused_at_a_number_of_packets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pcap(tmp_path / "flood", [(number, b"") for number in range(11)])
    monkeypatch.setattr(capture, "PACKETS_MOST", 11)
    assert len(list(packets(file))) == 11
    monkeypatch.setattr(capture, "PACKETS_MOST", 10)
    with pytest.raises(TestsFailed, match="the capture flood: expected at most 10 packets, got more"):
        list(packets(file))
