"""The connection to a container: its outputs on one socket, its input, and a person's terminal.

Without a terminal the engine sends frames: a byte that names the output, three of nothing, the
length in four bytes, big end first, and as many bytes of output (Engine API, "Attach to a container").
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import ssl
import struct
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from typing import Any

_HEADER = struct.Struct(">BxxxL")
_OUT = 1  # the first output; the second is the leash's own
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

    def send(self, data: bytes) -> None:
        """Gives the job input."""
        self._socket.setblocking(True)
        self._socket.sendall(data)
        self._socket.setblocking(False)

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


def converse(stream: Stream, start: Callable[[], None], resize: Callable[[int, int], None] | None) -> None:
    """Ties our own terminal, or standard input and output, to the container until it ends.

    `resize` tells the container the height and width of our terminal; None without one.
    """

    def fit(*_: object) -> None:
        if resize is not None:
            size = shutil.get_terminal_size()
            resize(size.lines, size.columns)

    before = signal.signal(signal.SIGWINCH, fit)
    try:
        with unechoed() if resize else contextlib.nullcontext():
            start()
            fit()
            _copy(stream)
    finally:
        signal.signal(signal.SIGWINCH, before)


def _copy(stream: Stream) -> None:
    inputs = [stream.fileno(), 0]
    while True:
        ready, _, _ = select.select(inputs, [], [])
        if stream.fileno() in ready:
            if (data := stream.read()) == b"":
                return
            os.write(1, data or b"")
        elif 0 in ready:
            if typed := os.read(0, 4096):
                stream.send(typed)
            else:
                inputs.remove(0)
                stream.send_end()


@contextlib.contextmanager
def unechoed() -> Iterator[None]:
    """Our terminal hands every key to another one."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin, termios.TCSADRAIN)  # what was typed already is not lost
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
