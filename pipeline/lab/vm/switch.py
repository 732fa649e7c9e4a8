"""Switch one segment: a process between the cards of guests. Runs as a program by itself.

    python switch.py SOCKET [CAPTURE [FRAMES]]

Listens on SOCKET for QEMU's `-netdev stream` (net/stream.c: each frame after its length, 4 bytes,
most significant first), learns which address is where, sends to all what it does not know, and
writes every frame once, as it came in, to CAPTURE (a classic pcap file; it must not exist), or the
first FRAMES of them. Says
"ready" on standard output, ends by itself for no other reason than a capture that cannot be
written. Unprivileged, touches no network of the host. Imports nothing of the pipeline: it starts
in 30 ms so.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import sys
import time
from dataclasses import dataclass, field

MAX_FRAME = 65550  # bytes: a segmentation offload's 64 KiB and its headers
MAX_QUEUE = 4 << 20  # bytes waiting for a card that does not take them; then frames are lost, as on real ones
MAX_ADDRESSES = 1024  # of a segment: a scenario has a handful; frames to others are sent to all, as by real switches
MAX_PORTS = 64  # cards of a segment; a scenario has six
MAX_CAPTURE = 256 << 20  # bytes: a scenario's traffic has some MiB, and whoever reads a capture keeps it in memory
SNAPLEN = 1 << 18
_LENGTH = struct.Struct(">I")
_PCAP_HEAD = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAPLEN, 1)  # pcap-savefile(5); 1 is Ethernet
_PCAP_FRAME = struct.Struct("<IIII")  # seconds and microseconds since 1970, bytes kept, bytes there were


class Capture:
    """A pcap file. Frames are written at once, so that the file can be read meanwhile and survives a kill."""

    def __init__(self, path: str, frames: int | None = None) -> None:
        """Create the file for `frames`, None for all. Raises `FileExistsError`: a capture is never overwritten."""
        self._path, self._remaining, self._frames = path, MAX_CAPTURE, frames
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._write(_PCAP_HEAD)

    def write_frame(self, data: bytes, nanoseconds: int) -> None:
        """Add a frame that came at `nanoseconds` since 1970, unless it is one too many."""
        if self._frames == 0:
            return
        self._frames = None if self._frames is None else self._frames - 1
        self._remaining -= _PCAP_FRAME.size + len(data)
        if self._remaining < 0:
            sys.exit(f"{self._path}: more than {MAX_CAPTURE} bytes of frames; a guest floods the segment")
        seconds, part = divmod(nanoseconds, 1_000_000_000)
        self._write(_PCAP_FRAME.pack(seconds, part // 1000, len(data), len(data)) + data)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from error


class MalformedFrame(Exception):
    """Bytes that are no frame."""


@dataclass(eq=False)
class Port:
    """One guest's card: its connection, the incomplete frame received, and the data queued for it."""

    connection: socket.socket
    received: bytearray = field(default_factory=bytearray)
    queued: bytearray = field(default_factory=bytearray)

    def frames(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes. Raises `MalformedFrame`."""
        self.received += data
        whole = []
        while len(self.received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self.received)
            if length > MAX_FRAME:
                raise MalformedFrame(f"a frame of {length} bytes")
            if len(self.received) < _LENGTH.size + length:
                break
            whole.append(bytes(self.received[_LENGTH.size : _LENGTH.size + length]))
            del self.received[: _LENGTH.size + length]
        return whole

    def send(self, frame: bytes) -> None:
        """Queue a frame and send as much as the card takes; drop the frame when the queue is full."""
        if len(self.queued) < MAX_QUEUE:
            self.queued += _LENGTH.pack(len(frame)) + frame
            self.flush()

    def flush(self) -> None:
        """Send queued data as far as the card takes it. Raises `OSError` when the guest is gone."""
        try:
            while self.queued:
                del self.queued[: self.connection.send(self.queued)]
        except BlockingIOError:
            pass


@dataclass
class Segment:
    """The forwarding table: the port of each address."""

    ports: list[Port] = field(default_factory=list)
    addresses: dict[bytes, Port] = field(default_factory=dict)

    def targets(self, frame: bytes, source: Port) -> list[Port]:
        """Return the ports of a frame's receivers, and learn the sender's port.

        Bit 0 of an address's first byte marks a group (802.3): never learned, so sent to all.
        """
        to, from_ = frame[:6], frame[6:12]
        if not from_[0] & 1 and (from_ in self.addresses or len(self.addresses) < MAX_ADDRESSES):
            self.addresses[from_] = source
        target = self.addresses.get(to)
        if target is source:
            return []
        return [target] if target else [port for port in self.ports if port is not source]

    def remove(self, port: Port) -> None:
        """Forget a card that is gone."""
        self.ports.remove(port)
        self.addresses = {address: at for address, at in self.addresses.items() if at is not port}


class Switch:
    """The event loop over one segment's cards."""

    def __init__(self, listener: socket.socket, capture: Capture | None) -> None:
        """Serve `listener`, which listens already."""
        self.segment, self.capture = Segment(), capture
        listener.setblocking(False)
        self._listener, self._selector = listener, selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def serve(self) -> None:
        """Serve for ever. Raises `OSError` when the capture cannot be written."""
        while True:
            ready = self._selector.select()
            if any(key.fileobj is self._listener for key, _ in ready):
                self._accept_all()  # first: who was there before a frame was sent must get it
            for key, events in ready:
                if key.fileobj is not self._listener:
                    self._serve_port(key.data, events)

    def _accept_all(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            if len(self.segment.ports) >= MAX_PORTS:
                connection.close()
                continue
            connection.setblocking(False)
            port = Port(connection)
            self.segment.ports.append(port)
            self._selector.register(connection, selectors.EVENT_READ, port)

    def _serve_port(self, port: Port, events: int) -> None:
        if port not in self.segment.ports:
            return  # it went while others of the same round were served
        try:
            if events & selectors.EVENT_WRITE:
                port.flush()
            frames = port.frames(self._read(port)) if events & selectors.EVENT_READ else []
        except (OSError, MalformedFrame):
            self._remove(port)
            return
        self._select_events(port)
        for frame in frames:
            self._forward(frame, port)

    def _read(self, port: Port) -> bytes:
        data = port.connection.recv(1 << 18)
        if not data:
            raise ConnectionResetError
        return data

    def _forward(self, frame: bytes, source: Port) -> None:
        if len(frame) < 14:  # less than the two addresses and the type
            return
        if self.capture:
            self.capture.write_frame(frame, time.time_ns())
        for port in self.segment.targets(frame, source):
            try:
                port.send(frame)
            except OSError:
                self._remove(port)
            else:
                self._select_events(port)

    def _select_events(self, port: Port) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if port.queued else 0)
        if self._selector.get_key(port.connection).events != events:
            self._selector.modify(port.connection, events, port)

    def _remove(self, port: Port) -> None:
        self.segment.remove(port)
        self._selector.unregister(port.connection)
        port.connection.close()


def main(words: list[str]) -> None:
    """Serve until killed; report errors on standard error."""
    try:
        capture = Capture(words[1], int(words[2]) if len(words) > 2 else None) if len(words) > 1 else None
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(words[0])
        listener.listen(64)
        os.write(1, b"ready\n")
        Switch(listener, capture).serve()
    except OSError as error:
        sys.exit(f"{error.filename or words[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
