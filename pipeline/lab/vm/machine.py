"""What a scenario may ask of a running guest. How it is reached, and what runs it, is not known here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import terminal_size
from typing import Protocol


@dataclass(frozen=True)
class CompletedCommand:
    """A command that ended in a guest: its exit status (128 + number for a signal), and its outputs."""

    argv: tuple[str, ...]
    status: int
    out: str
    err: str


class Machine(Protocol):
    """A guest whose init answers. Every method raises `GuestLost` when it ended or the watcher found something."""

    name: str

    def run(
        self, *argv: str, timeout: float = 10.0, stdin: bytes = b"", accept: tuple[int, ...] = (0,)
    ) -> CompletedCommand:
        """Runs a command to its end, `timeout` in seconds. Raises `CommandFailed` for a status not accepted."""

    def start(self, *argv: str) -> int:
        """Starts a command that goes on; its number, for `stop`. Its outputs go to the guest's /run/NUMBER.log."""

    def stop(self, number: int) -> None:
        """Ends what `start` started, and waits for it."""

    def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Writes a file in the guest, and the directories above it."""

    def read_file(self, path: str) -> bytes:
        """Reads a file of the guest."""

    def open_shell(self, source: int, sink: int, size: Callable[[], terminal_size], *argv: str) -> int:
        """A shell, or `argv`, at a terminal of its own, between two descriptors of ours; its exit status.

        The terminal follows `size`, which is asked again and again.
        """
