"""Define a scenario's interface to a running guest, independent of channel and hypervisor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import terminal_size
from typing import Protocol


@dataclass(frozen=True)
class CompletedCommand:
    """A completed command: its exit status (128 + number for a signal), and its outputs."""

    argv: tuple[str, ...]
    status: int
    out: str
    err: str


class Machine(Protocol):
    """A guest whose init answers. All methods raise `GuestLost` when the guest ended or the watcher found an error."""

    name: str

    def run(
        self, *argv: str, timeout: float = 10.0, stdin: bytes = b"", accept: tuple[int, ...] = (0,)
    ) -> CompletedCommand:
        """Run a command to its end, `timeout` in seconds. Raises `CommandFailed` for a status not accepted."""

    def start(self, *argv: str) -> int:
        """Start a background command; return its number, for `stop`. Its outputs go to the guest's /run/NUMBER.log."""

    def stop(self, number: int) -> None:
        """Stop a command of `start`, and wait for its end."""

    def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file in the guest, and create the directories above it."""

    def read_file(self, path: str) -> bytes:
        """Read a file of the guest."""

    def open_shell(self, source: int, sink: int, size: Callable[[], terminal_size], *argv: str) -> int:
        """Run a shell, or `argv`, on a terminal of its own between two of our descriptors; return its exit status.

        The terminal follows `size`, which is asked again and again.
        """
