"""Implement the host's end of a guest's channel: run commands in the guest, several at once. Knows no QEMU.

The protocol is told in specs/guest/channel.c. One thread reads; a caller waits for the frames of its own command, and
meanwhile calls `look`, which raises when the guest is lost.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from pipeline.core.process import raise_if_stopped

GREETING = b"fnat-guest 1 "
HEADER = struct.Struct("<IIc")  # number, length of the content, kind
MAX_CONTENT = 65536  # bytes of content, as the guest's
MAX_OUTPUT = 64 << 20  # bytes of one output of a command: scenarios ask for tables of some KiB
MAX_BACKLOG = 2 * MAX_OUTPUT  # bytes of a command that came and were not taken; only what floods gets there
_FRAME_COST = 256  # bytes of memory that a frame takes besides its content
MAX_RELEASE = 256  # bytes of a kernel's release, which has 64 at most: utsname(2)
PORT_WINDOW = 256 << 10  # bytes of input on their way by virtio-serial, which holds back by itself
LINE_WINDOW = 16 << 10  # by the serial line: n_tty holds 4 KiB, the buffers before it 64 KiB
_PIECE = 32 << 10  # bytes of input in one frame
_INPUT_POLL = 0.02  # seconds between looks at what a person typed
_ALIVE_POLL = 0.05  # seconds between looks at whether the guest is still there
_SEND_TIMEOUT = 10.0  # seconds for the guest's end to take a frame: it reads all the time
_GRACE = 2.0  # seconds for a command to end after SIGTERM, and again after SIGKILL


class Kind(Enum):
    """The kinds of frames; guest.h has the same letters."""

    RUN = b"R"
    START = b"S"
    INPUT = b"I"
    STOP = b"K"
    OFF = b"Q"
    HELLO = b"H"
    OUT = b"o"
    ERR = b"e"
    TAKEN = b"t"
    STARTED = b"s"
    REFUSED = b"f"
    ENDED = b"x"


@dataclass(frozen=True)
class Frame:
    """One frame: the number of the command it belongs to, its kind, its content."""

    number: int
    kind: Kind
    content: bytes = b""

    def encoded(self) -> bytes:
        """Return the bytes on the channel. Raises `ValueError` for more content than a frame holds."""
        if len(self.content) > MAX_CONTENT:
            raise ValueError(f"a frame of {len(self.content)} bytes")
        return HEADER.pack(self.number, len(self.content), self.kind.value) + self.content


class ChannelBroken(Exception):
    """A violation of the protocol, or the end of the connection."""


@dataclass
class Decoder:
    """A decoder of frames from bytes in any pieces. Bytes before the guest's greeting are dropped."""

    is_greeted: bool = False
    buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes. Raises `ChannelBroken`."""
        self.buffer += data
        if not self.is_greeted:
            self._find_greeting()
        while self.is_greeted and len(self.buffer) >= HEADER.size:
            number, length, kind = HEADER.unpack_from(self.buffer)
            if length > MAX_CONTENT:
                raise ChannelBroken(f"a frame of {length} bytes")
            if len(self.buffer) < HEADER.size + length:
                return
            content = bytes(self.buffer[HEADER.size : HEADER.size + length])
            del self.buffer[: HEADER.size + length]
            try:
                yield Frame(number, Kind(kind), content)
            except ValueError:
                raise ChannelBroken(f"a frame of the unknown kind {kind!r}") from None

    def _find_greeting(self) -> None:
        at = self.buffer.find(GREETING)
        self.is_greeted = at >= HEADER.size
        keep = at - HEADER.size if self.is_greeted else len(self.buffer) - HEADER.size - len(GREETING)
        del self.buffer[: max(0, keep)]


@dataclass
class _Input:
    """A command's standard input: the unsent part, whether that is all, and the bytes in flight."""

    unsent: memoryview
    is_complete: bool
    in_flight: int = 0
    end_sent: bool = False


@dataclass(frozen=True)
class CommandResult:
    """The result of a command in the guest. `status` is None when the command was killed after its timeout.

    `refused` is why it never began; `flooded`: it was ended because it printed more than `OUTPUT_MOST`.
    """

    status: int | None
    out: bytes = b""
    err: bytes = b""
    refused: str = ""
    flooded: bool = False


class _Inbox:
    """The unread frames of one command: one thread puts, one gets, and each counts for itself."""

    def __init__(self) -> None:
        self._frames: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._put = self._taken = 0

    def put(self, frame: Frame) -> None:
        """Add a frame. Raises `ChannelBroken` when too much is unread."""
        self._put += len(frame.content) + _FRAME_COST
        if self._put - self._taken > MAX_BACKLOG:
            raise ChannelBroken(f"more than {MAX_BACKLOG} bytes of one command wait to be taken")
        self._frames.put(frame)

    def get(self, timeout: float) -> Frame:
        """Return the next frame. Raises `queue.Empty` after `timeout` seconds."""
        frame = self._frames.get(timeout=timeout)
        self._taken += len(frame.content) + _FRAME_COST
        return frame


def _handle_control(frame: Frame, given: _Input) -> CommandResult | None:
    """Handle a frame without output; return the command's result, None while the command runs."""
    if frame.kind is Kind.TAKEN:
        given.in_flight -= _number(frame)
    elif frame.kind is Kind.REFUSED:
        return CommandResult(127, refused=frame.content.decode(errors="backslashreplace"))
    elif frame.kind is Kind.ENDED:
        return CommandResult(_number(frame))
    return None


def _number(frame: Frame) -> int:
    """Return the number in a frame of four bytes. Raises `ChannelBroken` for another one."""
    if len(frame.content) != 4:
        raise ChannelBroken(f"a number of {len(frame.content)} bytes")
    return int.from_bytes(frame.content, "little")


def _reason(error: Exception) -> str:
    """Return why the channel broke; reader and sender may notice the same end."""
    if isinstance(error, (BrokenPipeError, ConnectionResetError)):
        return "the channel was closed by the other end"
    return f"the channel fails: {error}" if isinstance(error, OSError) else str(error)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all of it to a descriptor that may take parts."""
    while data:
        data = data[os.write(descriptor, data) :]


class Channel:
    """The host's end. `check_alive` is called repeatedly while waiting, and raises when the guest is lost."""

    def __init__(self, listener: socket.socket, window: int, check_alive: Callable[[], None]) -> None:
        """Start the reader of `listener`, which listens already and is closed by this object; QEMU connects."""
        self.release = ""  # of the guest's kernel, known once it greeted
        self.broken = ""  # why nothing comes any more
        self._listener, self._window, self._check_alive = listener, window, check_alive
        self._socket: socket.socket | None = None
        self._sending = threading.Lock()
        self._numbers = itertools.count(1)
        self._inboxes: dict[int, _Inbox] = {}
        self._greeted, self._closed = threading.Event(), threading.Event()
        self._reader = threading.Thread(target=self._read, name="lab-channel", daemon=True)
        self._reader.start()

    @property
    def ready(self) -> bool:
        """Whether the guest has greeted."""
        return self._greeted.is_set()

    def run(self, argv: Sequence[str], stdin: bytes, timeout: float) -> CommandResult:
        """Run a command to its end; stop it after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        outputs = {Kind.OUT: bytearray(), Kind.ERR: bytearray()}
        with self._command(Kind.RUN, argv) as (number, frames):
            given = _Input(memoryview(stdin), is_complete=True)
            ended = None
            while ended is None:
                self._send_input(number, given)
                frame = self._next_frame(frames, deadline)
                if frame is None:
                    self._terminate(number, frames)
                    ended = CommandResult(None)
                elif frame.kind in outputs:
                    outputs[frame.kind] += frame.content
                    if len(outputs[frame.kind]) > MAX_OUTPUT:
                        self._terminate(number, frames)
                        ended = CommandResult(None, flooded=True)
                else:
                    ended = _handle_control(frame, given)
        return replace(ended, out=bytes(outputs[Kind.OUT]), err=bytes(outputs[Kind.ERR]))

    def relay_terminal(
        self, argv: Sequence[str], source: int, sink: int, meanwhile: Callable[[], None]
    ) -> CommandResult:
        """Run a command with its input from one descriptor, and its outputs copied to another as they come.

        Without a time limit: a person is at the other end of both. Ends when the command does; `meanwhile` is
        called again and again until then, and may give commands itself.
        """
        with self._command(Kind.RUN, argv) as (number, frames):
            given = _Input(memoryview(b""), is_complete=False)
            ended = None
            while ended is None:
                meanwhile()
                if not given.unsent and not given.is_complete and select.select([source], [], [], 0)[0]:
                    given.unsent = memoryview(os.read(source, _PIECE))
                    given.is_complete = not given.unsent
                self._send_input(number, given)
                frame = self._next_frame(frames, time.monotonic() + _INPUT_POLL)
                if frame is not None and frame.kind in (Kind.OUT, Kind.ERR):
                    _write_all(sink, frame.content)
                elif frame is not None:
                    ended = _handle_control(frame, given)
        return ended

    def start(self, argv: Sequence[str], timeout: float) -> tuple[int, str]:
        """Start a background command; return its number, and the reason of a refusal, empty when it runs."""
        number = next(self._numbers)
        frames = self._begin(number, Kind.START, argv)
        frame = self._next_frame(frames, time.monotonic() + timeout)
        if frame is None:
            raise ChannelBroken(f"no answer to a command within {timeout:g} s")
        if frame.kind is Kind.STARTED:
            return number, ""
        del self._inboxes[number]
        return number, frame.content.decode(errors="backslashreplace")

    def stop(self, number: int) -> None:
        """Stop a command of `start`, and wait for its end. Raises `KeyError` for an unknown number."""
        self._terminate(number, self._inboxes[number])
        del self._inboxes[number]

    def power_off(self) -> None:
        """Request the guest to power off, without waiting for an answer."""
        self._send(Frame(0, Kind.OFF))

    def close(self) -> None:
        """End the reader and the connection."""
        self._closed.set()
        for end in (self._socket, self._listener):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        for end in (self._socket, self._listener):
            if end is not None:
                end.close()

    # --- Waiting ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _command(self, kind: Kind, argv: Sequence[str]) -> Iterator[tuple[int, _Inbox]]:
        number = next(self._numbers)
        try:
            yield number, self._begin(number, kind, argv)
        finally:
            self._inboxes.pop(number, None)

    def _begin(self, number: int, kind: Kind, argv: Sequence[str]) -> _Inbox:
        frames = self._inboxes[number] = _Inbox()
        self._send(Frame(number, kind, b"".join(word.encode() + b"\0" for word in argv)))
        return frames

    def _next_frame(self, frames: _Inbox, deadline: float) -> Frame | None:
        """Return the command's next frame; None after `deadline` (monotonic seconds)."""
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                return frames.get(timeout=min(_ALIVE_POLL, left))
            raise_if_stopped()
            self._check_alive()
            if self.broken:
                raise ChannelBroken(self.broken)
        return None

    def _terminate(self, number: int, frames: _Inbox) -> None:
        """Terminate the command by SIGTERM, else by SIGKILL, and wait for its end."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            self._send(Frame(number, Kind.STOP, bytes([sent])))
            deadline = time.monotonic() + _GRACE
            while (frame := self._next_frame(frames, deadline)) is not None:
                if frame.kind in (Kind.ENDED, Kind.REFUSED):
                    return
        raise ChannelBroken("a command was killed, and the guest does not say that it ended")

    # --- Bytes -----------------------------------------------------------------------------------------

    def _send_input(self, number: int, given: _Input) -> None:
        """Send the input that the window allows, and an empty frame after the last piece."""
        while given.unsent and given.in_flight < self._window:
            piece = given.unsent[: min(_PIECE, self._window - given.in_flight)]
            self._send(Frame(number, Kind.INPUT, bytes(piece)))
            given.unsent = given.unsent[len(piece) :]
            given.in_flight += len(piece)
        if given.is_complete and not given.unsent and not given.end_sent:
            self._send(Frame(number, Kind.INPUT))
            given.end_sent = True

    def _send(self, frame: Frame) -> None:
        if self._socket is None or self.broken:
            raise ChannelBroken(self.broken or "the guest has not greeted yet")
        try:
            with self._sending:
                self._socket.sendall(frame.encoded())
        except OSError as error:
            self.broken = self.broken or _reason(error)
            raise ChannelBroken(self.broken) from error

    def _read(self) -> None:
        """Read frames until the other end closes, or this one does."""
        try:
            self._listener.settimeout(None)
            connection, _ = self._listener.accept()
            connection.settimeout(_SEND_TIMEOUT)
            self._socket = connection
            decoder = Decoder()
            while not self._closed.is_set():
                with contextlib.suppress(TimeoutError):
                    data = connection.recv(1 << 18)
                    if not data:
                        raise ConnectionResetError
                    for frame in decoder.feed(data):
                        self._dispatch(frame)
        except (OSError, ChannelBroken) as error:
            self.broken = _reason(error)

    def _dispatch(self, frame: Frame) -> None:
        if frame.kind is Kind.HELLO:
            self.release = frame.content.removeprefix(GREETING)[:MAX_RELEASE].decode(errors="backslashreplace")
            self._greeted.set()
        elif (frames := self._inboxes.get(frame.number)) is not None:
            frames.put(frame)
