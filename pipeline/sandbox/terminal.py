"""A person's terminal, tied to a job: by pipes or a terminal of the job's own, or by the connection to a container.

The person's terminal itself is never the job's: whatever has it open as its own can type into it.

A container's outputs come on one socket. Without a terminal the engine sends frames: a byte that names
the output, three of nothing, the length in four bytes, big end first, and as many bytes of output
(Engine API, "Attach to a container").
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import ssl
import struct
import termios
import tty
from collections.abc import Callable, Iterator
from typing import Any

_HEADER = struct.Struct(">BxxxL")
_OUT = 1  # the first output; the second is the supervisor's own
_KEPT = 4096  # bytes kept of the second output


class Stream:
    """The job's output, without waiting; what else was said is in `told`."""

    def __init__(self, connection: Any, raw: bool) -> None:
        self._held = connection  # it closes the connection when it is collected
        self._socket = getattr(connection, "_sock", connection)
        self._raw, self._buffer, self._which, self._left = raw, b"", 0, 0
        self._told = b""
        self._socket.setblocking(False)

    @property
    def told(self) -> str:
        """The end of what came by the second output."""
        return self._told.decode(errors="backslashreplace")

    def fileno(self) -> int:
        """What to wait for."""
        return int(self._socket.fileno())

    @property
    def inwards(self) -> int:
        """What to wait for before more is sent."""
        return self.fileno()

    def send(self, data: bytes) -> bytes:
        """Gives the job input, and returns what does not go in yet."""
        try:
            return data[self._socket.send(data) :]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return data
        except OSError:  # nothing reads on
            return b""

    def send_end(self) -> None:
        """Tells the job that no more input comes."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def read(self) -> bytes | None:
        """Output that has come; None when none has, b"" at the end, and when the connection breaks."""
        came = []
        try:
            while data := self._socket.recv(1 << 16):
                came.append(data)
                if len(came) > 64:  # the watcher wants to look at the clock
                    break
        except (BlockingIOError, ssl.SSLWantReadError):
            if not came:
                return None
        except OSError:
            pass
        if not came:
            return b""
        data = b"".join(came)
        return data if self._raw else (b"".join(self._output(data)) or None)

    def close(self) -> None:
        """Closes the connection, which ends the job."""
        with contextlib.suppress(OSError):
            self._socket.close()
            self._held.close()

    def _output(self, data: bytes) -> Iterator[bytes]:
        """What of `data` is the job's output; a frame may come in pieces."""
        self._buffer += data
        while True:
            if self._left == 0:
                if len(self._buffer) < _HEADER.size:
                    return
                self._which, self._left = _HEADER.unpack(self._buffer[: _HEADER.size])
                self._buffer = self._buffer[_HEADER.size :]
                continue
            piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
            if not piece:
                return
            self._left -= len(piece)
            if self._which == _OUT:
                yield piece
            else:
                self._told = (self._told + piece)[-_KEPT:]


class Pipes:
    """A program of this host that we started: what we read of it and write to it, which is one where it is a terminal.

    `end` is how no more input is told.
    """

    def __init__(self, output: int, inwards: int, end: Callable[[], None]) -> None:
        self._output, self.inwards, self._end = output, inwards, end
        os.set_blocking(output, False)
        os.set_blocking(inwards, False)

    def fileno(self) -> int:
        """What to wait for."""
        return self._output

    def read(self) -> bytes | None:
        """As of a stream; a terminal that nobody has open any more gives an error, and is at its end."""
        try:
            return os.read(self._output, 1 << 16)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def send(self, data: bytes) -> bytes:
        """Gives input, and returns what does not go in yet."""
        try:
            return data[os.write(self.inwards, data) :]
        except BlockingIOError:
            return data
        except OSError:  # nothing reads on
            return b""

    def send_end(self) -> None:
        """Tells that no more input comes."""
        self._end()


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A new terminal: our end of it, and the end for a program, which is closed once it has been handed over."""
    ours, theirs = os.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)


def resize(terminal: int, lines: int, columns: int) -> None:
    """Tells a terminal of this host its size, and whatever is in front of it that it changed."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def converse(peer: Stream | Pipes, start: Callable[[], None], resize: Callable[[int, int], None] | None) -> bool:
    """Ties our own terminal, or standard input and output, to a job until it ends: True, or the person is gone: False.

    `resize` tells the job the height and width of our terminal; None without one.
    """

    def fit(*_: object) -> None:
        if resize is not None:
            size = os.get_terminal_size(0)
            resize(size.lines, size.columns)

    before = signal.signal(signal.SIGWINCH, fit)
    try:
        with unechoed() if resize else contextlib.nullcontext():
            start()
            fit()
            return _copy(peer, is_terminal=resize is not None)
    finally:
        signal.signal(signal.SIGWINCH, before)


def _copy(peer: Stream | Pipes, *, is_terminal: bool) -> bool:
    """Both ways; reads no more of what the person types than the job takes."""
    typed, inputs = b"", [0]
    while True:
        ready, _, _ = select.select([peer.fileno(), *(() if typed else inputs)], [peer.inwards] if typed else [], [])
        if typed:
            typed = peer.send(typed)
        if peer.fileno() in ready:
            if (data := peer.read()) == b"":
                return True
            _write(data or b"")
        elif 0 in ready and not (typed := _read(0)):
            if is_terminal:
                return False
            inputs.clear()
            peer.send_end()


def _read(handle: int) -> bytes:
    """What was typed; nothing, as at the end, when the terminal is gone."""
    try:
        return os.read(handle, 4096)
    except OSError:
        return b""


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


@contextlib.contextmanager
def unechoed() -> Iterator[None]:
    """Our terminal hands every key to another one.

    What it answered to what was written on it, and what was typed too late, is thrown away in the end: else the
    person's own shell would take what a job made the terminal say for typed.
    """
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)  # what was typed already is not lost
        yield
    finally:
        with contextlib.suppress(termios.error):  # it may be gone
            termios.tcsetattr(0, termios.TCSAFLUSH, before)
