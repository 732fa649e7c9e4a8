"""The host's end of a guest's channel, against a guest that is a socket of ours."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lab.vm import channel
from pipeline.lab.vm.channel import GREETING, Channel, ChannelBroken, Decoder, Frame, Kind

HELLO = Frame(0, Kind.HELLO, GREETING + b"2.6.32")
FRAMES = st.lists(st.builds(Frame, st.integers(0, 2**32 - 1), st.sampled_from(Kind), st.binary(max_size=300)))
WINDOW = 100_000


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = 0
    for cut in cuts:
        yield data[at : at + cut]
        at += cut
    yield data[at:]


@given(FRAMES, st.lists(st.integers(0, 20), max_size=60), st.binary(max_size=40))
def test_frames_come_whole_however_they_are_cut_and_whatever_was_said_before(
    frames: list[Frame], cuts: list[int], noise: bytes
) -> None:
    decoder = Decoder()
    data = noise.replace(b"f", b"") + b"".join(frame.encoded() for frame in [HELLO, *frames])
    assert [frame for piece in pieces(data, cuts) for frame in decoder.feed(piece)] == [HELLO, *frames]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\0\0\0\0\x01\0\x01\0o", "a frame of 65537 bytes"),
        (b"\0\0\0\0\0\0\0\0?", r"the unknown kind b'\?'"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, says: str) -> None:
    decoder = Decoder()
    with pytest.raises(ChannelBroken, match=says):
        list(decoder.feed(HELLO.encoded() + data))


def test_a_frame_holds_no_more_than_the_guest_takes() -> None:
    assert len(Frame(1, Kind.INPUT, bytes(channel.MAX_CONTENT)).encoded()) == channel.MAX_CONTENT + 9
    with pytest.raises(ValueError, match="65537"):
        Frame(1, Kind.INPUT, bytes(channel.MAX_CONTENT + 1)).encoded()


Answer = Callable[["Stand", Frame], None]


@dataclass
class Stand:
    """A guest: `answers` says what it does with each frame, `seen` is all it was sent."""

    channel: Channel
    connection: socket.socket
    answers: dict[Kind, Answer] = field(default_factory=dict)
    seen: list[Frame] = field(default_factory=list)

    def say(self, number: int, kind: Kind, content: bytes = b"") -> None:
        self.connection.sendall(Frame(number, kind, content).encoded())

    def serve(self) -> None:
        decoder = Decoder(is_greeted=True)
        while data := self.connection.recv(1 << 16):
            for frame in decoder.feed(data):
                self.seen.append(frame)
                if frame.kind in self.answers:
                    self.answers[frame.kind](self, frame)

    def ended(self, number: int, status: int = 0) -> None:
        self.say(number, Kind.ENDED, status.to_bytes(4, "little"))


class LookedAway(Exception):
    """The guest is lost, says whoever looks."""


@pytest.fixture
def lost() -> threading.Event:
    return threading.Event()


@pytest.fixture
def stand(tmp_path: Path, lost: threading.Event) -> Iterator[Stand]:
    def look() -> None:
        if lost.is_set():
            raise LookedAway

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "control"))
    listener.listen(1)
    made = Channel(listener, WINDOW, look)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(tmp_path / "control"))
    connection.sendall(b"noise" + HELLO.encoded())
    while not made.ready:
        time.sleep(0.001)
    guest = Stand(made, connection)
    serving = threading.Thread(target=guest.serve, daemon=True)
    serving.start()
    yield guest
    made.close()
    serving.join()
    connection.close()


def test_the_guests_release_is_known_once_it_greeted(stand: Stand) -> None:
    assert stand.channel.release == "2.6.32"


def test_a_command_gives_its_status_and_both_outputs(stand: Stand) -> None:
    def run(guest: Stand, frame: Frame) -> None:
        assert frame.content == b"sh\0-c\0\xc3\xa4 b\0\0"
        for kind, content in ((Kind.STARTED, b""), (Kind.OUT, b"a"), (Kind.ERR, b"x"), (Kind.OUT, b"\xff")):
            guest.say(frame.number, kind, content)
        guest.ended(frame.number, 139)

    stand.answers[Kind.RUN] = run
    ended = stand.channel.run(["sh", "-c", "ä b", ""], b"", 20)
    assert (ended.status, ended.out, ended.err, ended.refused) == (139, b"a\xff", b"x", "")


def test_commands_at_once_are_told_apart_by_their_numbers(stand: Stand) -> None:
    waiting: list[Frame] = []

    def run(guest: Stand, frame: Frame) -> None:
        waiting.append(frame)
        if len(waiting) == 8:
            for one in reversed(waiting):
                guest.say(one.number, Kind.OUT, one.content)
            for one in waiting:
                guest.ended(one.number)

    stand.answers[Kind.RUN] = run
    outs: dict[str, bytes] = {}

    def ask(word: str) -> None:
        outs[word] = stand.channel.run([word], b"", 20).out

    threads = [threading.Thread(target=ask, args=(f"word{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outs == {f"word{number}": f"word{number}".encode() + b"\0" for number in range(8)}


def test_input_waits_for_what_the_guest_has_not_taken_and_then_ends(stand: Stand) -> None:
    sent = bytes(range(256)) * 2000
    got = bytearray()
    most = 0

    def take(guest: Stand, frame: Frame) -> None:
        nonlocal most
        got.extend(frame.content)
        under_way = len(got) - taken[0]
        most = max(most, under_way)
        if under_way >= WINDOW or len(got) == len(sent):
            taken[0] += under_way
            guest.say(frame.number, Kind.TAKEN, under_way.to_bytes(4, "little"))
        if not frame.content:
            guest.ended(frame.number)

    taken = [0]
    stand.answers[Kind.INPUT] = take
    assert stand.channel.run(["cat"], sent, 20).status == 0
    assert bytes(got) == sent and 0 < most <= WINDOW
    assert [frame.content for frame in stand.seen if frame.kind is Kind.INPUT].count(b"") == 1


def test_a_command_without_input_is_told_so_at_once(stand: Stand) -> None:
    stand.answers[Kind.INPUT] = lambda guest, frame: guest.ended(frame.number)
    assert stand.channel.run(["cat"], b"", 20).status == 0


def test_a_conversation_passes_on_both_ways_until_the_command_ends(stand: Stand) -> None:
    typed, types = os.pipe()
    shown, shows = os.pipe()

    def answer(guest: Stand, frame: Frame) -> None:
        if frame.content:
            guest.say(frame.number, Kind.TAKEN, len(frame.content).to_bytes(4, "little"))
            guest.say(frame.number, Kind.OUT, frame.content.upper())
            os.close(types)
        else:
            guest.ended(frame.number, 4)

    stand.answers[Kind.INPUT] = answer
    os.write(types, b"hello")
    assert stand.channel.relay_terminal(["sh"], typed, shows, lambda: None).status == 4
    assert os.read(shown, 100) == b"HELLO"
    for descriptor in (typed, shown, shows):
        os.close(descriptor)


def test_a_command_that_cannot_begin_is_refused_with_the_reason(stand: Stand) -> None:
    stand.answers[Kind.RUN] = lambda guest, frame: guest.say(frame.number, Kind.REFUSED, b"nope: No such file")
    ended = stand.channel.run(["nope"], b"", 20)
    assert (ended.status, ended.refused) == (127, "nope: No such file")


def test_one_whose_time_is_over_is_asked_to_end_and_then_killed(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_GRACE", 1.0)

    def stop(guest: Stand, frame: Frame) -> None:
        if frame.content == bytes([signal.SIGKILL]):
            guest.ended(frame.number, 137)

    stand.answers[Kind.RUN] = lambda guest, frame: guest.say(frame.number, Kind.OUT, b"so far")
    stand.answers[Kind.STOP] = stop
    ended = stand.channel.run(["sleep", "9"], b"", 1.0)
    assert (ended.status, ended.out) == (None, b"so far")
    stops = [frame.content for frame in stand.seen if frame.kind is Kind.STOP]
    assert stops == [bytes([signal.SIGTERM]), bytes([signal.SIGKILL])]


def test_endless_output_holds_up_neither_the_time_limit_nor_the_kill(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "_GRACE", 1.0)
    killed = threading.Event()

    def flood(number: int) -> None:
        while not killed.is_set():
            stand.say(number, Kind.OUT, b"y\n" * 1000)
        stand.ended(number, 137)

    def stop(guest: Stand, frame: Frame) -> None:
        if frame.content == bytes([signal.SIGKILL]):
            killed.set()

    stand.answers[Kind.RUN] = lambda guest, frame: threading.Thread(target=flood, args=(frame.number,)).start()
    stand.answers[Kind.STOP] = stop
    assert stand.channel.run(["yes"], b"", 0.2).status is None
    assert killed.is_set()


def test_a_killed_command_that_does_not_end_breaks_the_channel(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_GRACE", 0.1)
    with pytest.raises(ChannelBroken, match="does not say that it ended"):
        stand.channel.run(["sleep", "9"], b"", 0.1)


def test_what_is_started_goes_on_until_it_is_stopped(stand: Stand) -> None:
    stand.answers[Kind.START] = lambda guest, frame: guest.say(frame.number, Kind.STARTED)
    stand.answers[Kind.STOP] = lambda guest, frame: guest.ended(frame.number, 143)
    number, refused = stand.channel.start(["serve"], 20)
    assert refused == ""
    stand.channel.stop(number)
    with pytest.raises(KeyError):
        stand.channel.stop(number)


def test_stopping_what_ended_by_itself_does_not_wait(stand: Stand) -> None:
    def start(guest: Stand, frame: Frame) -> None:
        guest.say(frame.number, Kind.STARTED)
        guest.ended(frame.number, 1)

    stand.answers[Kind.START] = start
    number, _ = stand.channel.start(["serve"], 20)
    stand.channel.stop(number)  # and the guest, which knows it no more, answers nothing


def test_whoever_looks_ends_the_waiting(stand: Stand, lost: threading.Event) -> None:
    stand.answers[Kind.RUN] = lambda guest, frame: lost.set()
    with pytest.raises(LookedAway):
        stand.channel.run(["sleep", "9"], b"", 60)


@pytest.mark.parametrize("way", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR], ids=["sender", "reader", "either"])
def test_a_channel_whose_other_end_is_gone_is_broken_whoever_sees_it(stand: Stand, way: int) -> None:
    stand.answers[Kind.RUN] = lambda guest, frame: guest.connection.shutdown(way)
    for _ in range(2):
        with pytest.raises(ChannelBroken, match="closed by the other end"):
            stand.channel.run(["sleep", "9"], b"", 0.2)


def test_nothing_is_sent_before_the_guest_has_greeted(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "control"))
    listener.listen(1)
    made = Channel(listener, WINDOW, lambda: None)
    with pytest.raises(ChannelBroken, match="has not greeted"):
        made.run(["true"], b"", 1)
    made.close()
    assert not made.ready


# --- What has no end -------------------------------------------------------------------------------------


def test_a_command_that_prints_without_end_is_ended_and_little_of_it_is_kept(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MAX_OUTPUT", 100_000)
    stopped = threading.Event()

    def flood(number: int) -> None:
        while not stopped.is_set():
            stand.say(number, Kind.OUT, bytes(10_000))
        stand.ended(number, 143)

    stand.answers[Kind.RUN] = lambda guest, frame: threading.Thread(target=flood, args=(frame.number,)).start()
    stand.answers[Kind.STOP] = lambda guest, frame: stopped.set()
    ended = stand.channel.run(["yes"], b"", 60)
    assert ended.flooded and ended.status is None and len(ended.out) <= 110_000


def test_what_nobody_takes_breaks_the_channel_instead_of_filling_the_memory(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MAX_BACKLOG", 10_000)
    stand.answers[Kind.START] = lambda guest, frame: guest.say(frame.number, Kind.STARTED)
    number, _ = stand.channel.start(["serve"], 20)
    for _ in range(100):  # frames of nothing fill a memory as well
        stand.say(number, Kind.OUT)
    while not stand.channel.broken:
        time.sleep(0.001)
    assert stand.channel.broken == "more than 10000 bytes of one command wait to be taken"


@pytest.mark.parametrize("kind", [Kind.ENDED, Kind.TAKEN])
def test_a_number_that_is_none_breaks_the_channel(stand: Stand, kind: Kind) -> None:
    stand.answers[Kind.RUN] = lambda guest, frame: guest.say(frame.number, kind, b"\xff" * 60_000)
    with pytest.raises(ChannelBroken, match="a number of 60000 bytes"):
        stand.channel.run(["true"], b"", 20)


def test_a_release_without_end_is_cut(stand: Stand) -> None:
    stand.say(0, Kind.HELLO, GREETING + b"6" * 60_000)
    while stand.channel.release == "2.6.32":
        time.sleep(0.001)
    assert stand.channel.release == "6" * channel.MAX_RELEASE
