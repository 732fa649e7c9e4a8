"""The frames in which an engine sends two outputs on one connection, however they are cut."""

from __future__ import annotations

import socket
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sandbox.supervisor import exit_status
from pipeline.sandbox.terminal import AttachStream


def frame(which: int, data: bytes) -> bytes:
    """One frame, as the Engine API describes it."""
    return struct.pack(">BxxxL", which, len(data)) + data


frames = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=8)


@settings(max_examples=200, deadline=None)
@given(frames=frames, cuts=st.lists(st.integers(1, 30), max_size=12))
def test_outputs_come_apart_whole_wherever_the_frames_are_cut(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    sent = b"".join(frame(which, data) for which, data in frames)
    ours, theirs = socket.socketpair()
    stream = AttachStream(ours, raw=False)
    got = b""
    with theirs:
        for cut in [*cuts, len(sent)]:
            piece, sent = sent[:cut], sent[cut:]
            theirs.sendall(piece)
            got += stream.read() or b""
    while data := stream.read() or b"":
        got += data
    assert got == b"".join(data for which, data in frames if which == 1)
    told = b"".join(data for which, data in frames if which == 2)
    assert stream.supervisor_output == told.decode(errors="backslashreplace")
    stream.close()


def test_nothing_yet_is_not_the_end() -> None:
    ours, theirs = socket.socketpair()
    stream = AttachStream(ours, raw=False)
    assert stream.read() is None
    theirs.sendall(frame(2, b"only the other output"))
    assert stream.read() is None
    theirs.close()
    assert stream.read() == b""
    stream.close()


def test_a_terminal_sends_no_frames() -> None:
    ours, theirs = socket.socketpair()
    stream = AttachStream(ours, raw=True)
    theirs.sendall(b"\x01\x00 as it is")
    assert stream.read() == b"\x01\x00 as it is"
    stream.send(b"typed")
    assert theirs.recv(16) == b"typed"
    stream.close_input()
    assert theirs.recv(16) == b""
    theirs.close()
    stream.close()


def test_a_signal_is_told_from_an_exit_status() -> None:
    assert [exit_status(code) for code in (0, 3, 127, 128, 137, 139, 192, 193, 255)] == [
        *(0, 3, 127, 128),
        *(-9, -11, -64),
        *(193, 255),
    ]
