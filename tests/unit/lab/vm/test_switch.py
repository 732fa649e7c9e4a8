"""The lab's switch: what goes where, what is captured, what becomes of cards that go or do not listen."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.lab.vm import switch

ALL = b"\xff" * 6
GROUP = bytes.fromhex("333300000001")
A, B, C = (bytes.fromhex(f"52540000000{number}") for number in (1, 2, 3))


def frame(to: bytes, source: bytes, text: bytes = b"") -> bytes:
    return to + source + b"\x08\x00" + text


def on_the_wire(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


@dataclass
class Card:
    """A guest's end of a cable."""

    connection: socket.socket

    def send(self, data: bytes) -> None:
        self.connection.sendall(on_the_wire(data))

    def receive(self) -> bytes:
        length = int.from_bytes(self._exactly(4), "big")
        return self._exactly(length)

    def hears_nothing_before(self, other: Card, mark: bytes) -> None:
        """The next thing heard is `mark`, sent to all by `other`."""
        other.send(mark)
        assert self.receive() == mark

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.connection.recv(count - len(data))
            assert part, "the switch closed the connection"
            data += part
        return data


@dataclass
class Stand:
    """A running switch."""

    socket: Path
    capture: Path

    def card(self) -> Card:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.connect(str(self.socket))
        return Card(connection)


def words(*paths: Path) -> list[str]:
    return [sys.executable, "-I", "-S", switch.__file__, *map(str, paths)]


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path / "switch", tmp_path / "capture.pcap")
    with process.start(words(made.socket, made.capture)) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        yield made


def captured(path: Path) -> list[tuple[float, bytes]]:
    """Seconds and bytes of each frame, read as pcap-savefile(5) says."""
    data = path.read_bytes()
    magic, major, minor, _, _, most, link = struct.unpack_from("<IHHiIII", data)
    assert (magic, major, minor, link) == (0xA1B2C3D4, 2, 4, 1) and most >= 65550
    at, found = 24, []
    while at < len(data):
        seconds, micro, kept, length = struct.unpack_from("<IIII", data, at)
        assert kept == length and micro < 1_000_000
        found.append((seconds + micro / 1e6, data[at + 16 : at + 16 + kept]))
        at += 16 + kept
    return found


def test_what_it_does_not_know_it_sends_to_all_others(stand: Stand) -> None:
    a, b, c = stand.card(), stand.card(), stand.card()
    a.send(frame(B, A, b"where?"))
    assert b.receive() == c.receive() == frame(B, A, b"where?")
    b.hears_nothing_before(c, frame(ALL, C))
    assert a.receive() == frame(ALL, C), "and never back to where it came from"


def test_what_it_has_learned_goes_to_one_card_only(stand: Stand) -> None:
    a, b, c = stand.card(), stand.card(), stand.card()
    b.send(frame(ALL, B))
    assert a.receive() == c.receive() == frame(ALL, B)
    a.send(frame(B, A, b"for you"))
    assert b.receive() == frame(B, A, b"for you")
    c.hears_nothing_before(a, frame(ALL, A))


def test_what_is_for_the_card_it_came_from_goes_nowhere(stand: Stand) -> None:
    a, b = stand.card(), stand.card()
    a.send(frame(ALL, A))
    assert b.receive() == frame(ALL, A)
    a.send(frame(A, C))  # such as between two addresses behind one card
    a.hears_nothing_before(b, frame(ALL, B))
    b.hears_nothing_before(a, frame(ALL, A, b"again"))


def test_an_address_of_a_group_is_never_learned(stand: Stand) -> None:
    a, b, c = stand.card(), stand.card(), stand.card()
    a.send(frame(ALL, GROUP))
    assert b.receive() == c.receive() == frame(ALL, GROUP)
    b.send(frame(GROUP, B))
    assert a.receive() == c.receive() == frame(GROUP, B)


def test_groups_always_go_to_all(stand: Stand) -> None:
    a, b, c = stand.card(), stand.card(), stand.card()
    for to in (ALL, GROUP, ALL):
        a.send(frame(to, A))
        assert b.receive() == c.receive() == frame(to, A)


def test_an_address_that_moves_is_followed(stand: Stand) -> None:
    a, b, c = stand.card(), stand.card(), stand.card()
    b.send(frame(ALL, B))
    assert a.receive() == c.receive() == frame(ALL, B)
    c.send(frame(ALL, B, b"it is I now"))  # as after a failover
    assert a.receive() == b.receive() == frame(ALL, B, b"it is I now")
    a.send(frame(B, A, b"whoever you are"))
    assert c.receive() == frame(B, A, b"whoever you are")
    b.hears_nothing_before(a, frame(ALL, A))


def test_a_card_that_goes_is_forgotten_and_hinders_nobody(stand: Stand) -> None:
    a, b, c = stand.card(), stand.card(), stand.card()
    b.send(frame(ALL, B))
    assert a.receive() == c.receive() == frame(ALL, B)
    b.connection.close()
    again = stand.card()
    deadline = time.monotonic() + 60
    again.connection.settimeout(0.1)
    while time.monotonic() < deadline:
        a.send(frame(B, A, b"still there?"))
        try:
            assert again.receive() == frame(B, A, b"still there?")
            break
        except TimeoutError:
            continue
    else:
        pytest.fail("what goes to a card that is gone is not sent to all")


def test_every_frame_is_captured_once_whole_and_when_it_came(stand: Stand) -> None:
    a, b = stand.card(), stand.card()
    sent = [frame(B, A, os.urandom(size)) for size in (0, 1, 1500, 65000)]
    begun = time.time()
    for one in sent:
        a.send(one)
        assert b.receive() == one
    times, frames = zip(*captured(stand.capture), strict=True)
    assert list(frames) == sent
    assert list(times) == sorted(times) and begun - 0.001 <= times[0] <= times[-1] <= time.time()


@pytest.mark.parametrize("step", [1, 3, 5, 4096])
def test_frames_come_whole_however_they_are_cut(step: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        port = switch.Port(ours)
        sent = [frame(B, A, bytes(size)) for size in (0, 1, 2, 100, 1000)]
        data = b"".join(map(on_the_wire, sent))
        parts = [port.frames(data[at : at + step]) for at in range(0, len(data), step)]
    assert [one for part in parts for one in part] == sent


def test_a_length_that_no_frame_has_ends_that_card_alone(stand: Stand) -> None:
    a, b, bad = stand.card(), stand.card(), stand.card()
    bad.connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert bad.connection.recv(1) == b""
    a.send(frame(ALL, A))
    assert b.receive() == frame(ALL, A)


def test_what_is_too_short_for_a_frame_is_dropped(stand: Stand) -> None:
    a, b = stand.card(), stand.card()
    a.send(b"short")
    b.hears_nothing_before(a, frame(ALL, A))
    assert [data for _, data in captured(stand.capture)] == [frame(ALL, A)]


def test_for_a_card_that_takes_nothing_only_so_much_is_kept() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        port = switch.Port(ours)
        for _ in range(2 * switch.MAX_QUEUE // 60000):
            port.send(frame(B, A, bytes(60000)))
        assert switch.MAX_QUEUE <= len(port.queued) < switch.MAX_QUEUE + 70000


def test_a_slow_card_gets_all_in_order_and_holds_nobody_up(stand: Stand) -> None:
    a, b, slow = stand.card(), stand.card(), stand.card()
    sent = [frame(ALL, A, bytes([number]) * 20000) for number in range(100)]
    for one in sent:
        a.send(one)
        assert b.receive() == one
    assert [slow.receive() for _ in sent] == sent


@pytest.mark.parametrize("taken", ["capture.pcap", "switch"])
def test_what_is_there_already_is_refused_by_its_name(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_bytes(b"somebody's")
    done = process.run(words(tmp_path / "switch", tmp_path / "capture.pcap"), accept=[1])
    reason = {"capture.pcap": "File exists", "switch": "Address already in use"}[taken]
    assert done.error_text == f"{tmp_path / taken}: {reason}\n"
    assert (tmp_path / taken).read_bytes() == b"somebody's" and done.out == b""


def test_a_capture_that_cannot_be_written_ends_it_with_the_reason(tmp_path: Path) -> None:
    limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"]
    done = process.run([*limited, *words(tmp_path / "s", tmp_path / "c")], accept=[1])
    assert done.error_text == f"{tmp_path / 'c'}: File too large\n"


def test_a_card_that_makes_up_addresses_fills_no_memory_and_takes_nobodys_place() -> None:
    here, there = (switch.Port(socket.socket()) for _ in range(2))
    segment = switch.Segment([here, there])
    segment.targets(frame(ALL, A), there)
    for number in range(2 * switch.MAX_ADDRESSES):
        segment.targets(frame(ALL, b"\x02" + number.to_bytes(5, "big")), here)
    assert len(segment.addresses) == switch.MAX_ADDRESSES
    assert segment.targets(frame(A, B), here) == [there]
    segment.targets(frame(ALL, A), here)
    assert segment.addresses[A] is here, "what is known may move"
    for port in (here, there):
        port.connection.close()


def test_more_cards_than_a_segment_has_are_turned_away(stand: Stand) -> None:
    cards = [stand.card() for _ in range(switch.MAX_PORTS)]
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(str(stand.socket))
        assert late.recv(1) == b""
    cards[0].send(frame(ALL, A))
    assert cards[-1].receive() == frame(ALL, A)


def test_a_capture_ends_the_segment_where_a_guest_floods_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "MAX_CAPTURE", 1000)
    capture = switch.Capture(str(tmp_path / "c"))
    with pytest.raises(SystemExit, match="more than 1000 bytes of frames; a guest floods the segment"):
        for _ in range(1000):
            capture.write_frame(frame(ALL, A), 0)
    assert (tmp_path / "c").stat().st_size <= 1024


def test_a_capture_of_some_frames_has_the_first_and_goes_on_taking_the_rest(tmp_path: Path) -> None:
    capture = switch.Capture(str(tmp_path / "c"), 2)
    for number in range(1, 6):
        capture.write_frame(frame(ALL, A) + bytes([number]), 0)
    kept = (tmp_path / "c").read_bytes()[24:]
    assert kept.count(frame(ALL, A)) == 2 and kept.endswith(bytes([2]))
