"""Relay the caller's terminal to a job: over pipes, a pseudo-terminal, or a container's attach socket.

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
_STDOUT = 1  # the first output; the second is the supervisor's own
_MAX_SUPERVISOR_OUTPUT = 4096  # bytes kept of the second output


class AttachStream:
    """A container's attach socket, non-blocking, demultiplexed into the job's output and `supervisor_output`."""

    def __init__(self, connection: Any, raw: bool) -> None:
        self._connection = connection  # it closes the connection when it is collected
        self._socket = getattr(connection, "_sock", connection)
        self._raw, self._buffer, self._output_number, self._frame_left = raw, b"", 0, 0
        self._supervisor_output = b""
        self._socket.setblocking(False)

    @property
    def supervisor_output(self) -> str:
        """The end of the container's second output."""
        return self._supervisor_output.decode(errors="backslashreplace")

    def fileno(self) -> int:
        """Return the descriptor to wait for before reading."""
        return int(self._socket.fileno())

    @property
    def input_fileno(self) -> int:
        """The descriptor to wait for before sending."""
        return self.fileno()

    def send(self, data: bytes) -> bytes:
        """Send input to the job, and return the part that was not taken."""
        try:
            return data[self._socket.send(data) :]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return data
        except OSError:  # the reader is gone
            return b""

    def close_input(self) -> None:
        """Signal the end of input to the job."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def read(self) -> bytes | None:
        """Return the available output; None without any, b"" at the end and when the connection breaks."""
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
        return data if self._raw else (b"".join(self._demultiplexed(data)) or None)

    def close(self) -> None:
        """Close the connection, which ends the job."""
        with contextlib.suppress(OSError):
            self._socket.close()
            self._connection.close()

    def _demultiplexed(self, data: bytes) -> Iterator[bytes]:
        """Yield the job's output in `data`; frames may come in pieces."""
        self._buffer += data
        while True:
            if self._frame_left == 0:
                if len(self._buffer) < _HEADER.size:
                    return
                self._output_number, self._frame_left = _HEADER.unpack(self._buffer[: _HEADER.size])
                self._buffer = self._buffer[_HEADER.size :]
                continue
            piece, self._buffer = self._buffer[: self._frame_left], self._buffer[self._frame_left :]
            if not piece:
                return
            self._frame_left -= len(piece)
            if self._output_number == _STDOUT:
                yield piece
            else:
                self._supervisor_output = (self._supervisor_output + piece)[-_MAX_SUPERVISOR_OUTPUT:]


class LocalStream:
    """The pipes, or the pseudo-terminal, of a local process: `input_fileno` and the output are one for a terminal.

    `end` signals the end of input.
    """

    def __init__(self, output: int, inwards: int, end: Callable[[], None]) -> None:
        self._output, self.input_fileno, self._end = output, inwards, end
        os.set_blocking(output, False)
        os.set_blocking(inwards, False)

    def fileno(self) -> int:
        """Return the descriptor to wait for before reading."""
        return self._output

    def read(self) -> bytes | None:
        """Return the available output as `AttachStream.read`; a terminal closed by all processes is at its end."""
        try:
            return os.read(self._output, 1 << 16)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def send(self, data: bytes) -> bytes:
        """Send input to the process, and return the part that was not taken."""
        try:
            return data[os.write(self.input_fileno, data) :]
        except BlockingIOError:
            return data
        except OSError:  # the reader is gone
            return b""

    def close_input(self) -> None:
        """Signal the end of input."""
        self._end()


@contextlib.contextmanager
def pseudo_terminal() -> Iterator[tuple[int, int]]:
    """Open a pseudo-terminal: our end, and the program's end, which is closed once handed over."""
    ours, theirs = os.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)


def resize(terminal: int, lines: int, columns: int) -> None:
    """Set a terminal's size, and so signal the change to its foreground processes."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def relay(
    peer: AttachStream | LocalStream, start: Callable[[], None], resize: Callable[[int, int], None] | None
) -> bool:
    """Relay the caller's terminal, or standard input and output, to a job; return whether the job ended first.

    `resize` gets the height and width of the caller's terminal; None without one.
    """

    def fit(*_: object) -> None:
        if resize is not None:
            size = os.get_terminal_size(0)
            resize(size.lines, size.columns)

    before = signal.signal(signal.SIGWINCH, fit)
    try:
        with raw_mode() if resize else contextlib.nullcontext():
            start()
            fit()
            return _relay(peer, is_terminal=resize is not None)
    finally:
        signal.signal(signal.SIGWINCH, before)


def _relay(peer: AttachStream | LocalStream, *, is_terminal: bool) -> bool:
    """Copy in both directions; read no more input than the job takes."""
    typed, inputs = b"", [0]
    while True:
        ready, _, _ = select.select(
            [peer.fileno(), *(() if typed else inputs)], [peer.input_fileno] if typed else [], []
        )
        if typed:
            typed = peer.send(typed)
        if peer.fileno() in ready:
            if (data := peer.read()) == b"":
                return True
            _write_output(data or b"")
        elif 0 in ready and not (typed := _read_input(0)):
            if is_terminal:
                return False
            inputs.clear()
            peer.close_input()


def _read_input(handle: int) -> bytes:
    """Return the typed input; nothing, as at the end, when the terminal is gone."""
    try:
        return os.read(handle, 4096)
    except OSError:
        return b""


def _write_output(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


@contextlib.contextmanager
def raw_mode() -> Iterator[None]:
    """Put the caller's terminal into raw mode, so that the job's terminal gets all keys.

    The terminal's answers to control sequences, and late input, are discarded in the end: else the caller's shell
    would take text that a job made the terminal send for typed input.
    """
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)  # what was typed already is not lost
        yield
    finally:
        with contextlib.suppress(termios.error):  # it may be gone
            termios.tcsetattr(0, termios.TCSAFLUSH, before)
