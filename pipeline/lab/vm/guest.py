"""Implement `pipeline.lab.vm.machine.Machine`, a guest as scenarios use it, over its channel."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from os import terminal_size
from pathlib import Path

from pipeline.lab.failures import CommandFailed, GuestLost, LossReason
from pipeline.lab.report.results import Finding
from pipeline.lab.vm.channel import LINE_WINDOW, MAX_OUTPUT, PORT_WINDOW, Channel, ChannelBroken, CommandResult
from pipeline.lab.vm.machine import CompletedCommand
from pipeline.lab.vm.qemu import Boot, GuestFiles, NicSpec, Qemu, host_load, running_qemu
from pipeline.lab.vm.qmp import Monitors

AGENT = "/bin/fnat-guest"
START_TIMEOUT = 10.0  # seconds for a command to begin
READ_TIMEOUT = 600.0  # seconds for a file of unknown size
WRITE_TIMEOUT, WRITE_RATE = (
    30.0,
    10_000,
)  # seconds for a file, and bytes a second more: a serial line took 25,000 on a busy host
_POWER_OFF_TIMEOUT = 5.0  # seconds for a guest to go off when asked to
_END_TIMEOUT = 1.0  # seconds for QEMU to be gone after its channel broke


class Guest:
    """A guest. Several threads may run commands in it; one thread starts and ends it."""

    def __init__(
        self,
        files: GuestFiles,
        boot: Boot,
        cards: Sequence[NicSpec],
        switches: Sequence[Path],
        check_alive: Callable[[], None],
        patience: float = 1.0,
    ) -> None:
        """`switches` are the sockets of the cards' segments; `check_alive` raises when any guest of the lab is lost.

        Every limit of time is taken `patience` times.
        """
        self.name, self.files, self.boot = files.name, files, boot
        self.cards = tuple(cards)
        self.was_stopped = False
        self._links = [(switch, card.mac) for switch, card in zip(switches, cards, strict=True)]
        self._check_all_alive, self._patience = check_alive, patience
        self._running: contextlib.ExitStack = contextlib.ExitStack()
        self._qemu: Qemu | None = None
        self._channel: Channel | None = None

    # --- Life ------------------------------------------------------------------------------------------

    @property
    def qemu(self) -> Qemu:
        """The guest's QEMU; there is one from `boot_with` on, even after its end."""
        if self._qemu is None:
            raise self._stopped_error("it was not started yet")
        return self._qemu

    @property
    def pid(self) -> int:
        """The process id of its QEMU."""
        return self.qemu.child.pid

    @property
    def ready(self) -> bool:
        """Whether its agent answers."""
        return self._channel is not None and self._channel.ready

    @property
    def release(self) -> str:
        """The output of `uname -r` in the guest; empty before it is ready."""
        return self._channel.release if self._channel else ""

    @property
    def marks(self) -> dict[str, float]:
        """Moments of its boot: first byte, "kernel RELEASE", init, ready; in seconds since its start."""
        return dict(self.qemu.watcher.marks)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The watcher's findings on its console so far, warnings included."""
        self.qemu.read_console()
        return self.qemu.watcher.findings()

    def boot_with(self, accel: str, monitors: Monitors) -> None:
        """Start the guest, anew if it runs. It dies with the thread that calls this."""
        self.end()
        for path in (self.files.control, self.files.monitor):
            path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.files.control))
        listener.listen(1)
        window = PORT_WINDOW if self.boot.virtio else LINE_WINDOW
        self._channel = Channel(listener, window, self._check_all_alive)
        self._running.callback(self._channel.close)
        self._qemu = self._running.enter_context(running_qemu(monitors, accel, self.boot, self._links, self.files))

    def end(self) -> None:
        """End the guest at once, as by pulling its plug. Its console stays readable."""
        if self._qemu is not None and not self._qemu.closed:
            self._qemu.read_console()
        self._running.close()

    def kill(self) -> None:
        """End the guest as a scenario's action: the other guests go on, and it does not count as lost."""
        self.was_stopped = True
        self.end()

    def power_off(self) -> None:
        """Power the guest off, in good order as far as its kernel can; it counts as stopped."""
        channel, self.was_stopped = self._open_channel(), True
        with contextlib.suppress(ChannelBroken):
            channel.power_off()
        deadline = time.monotonic() + _POWER_OFF_TIMEOUT
        while not self.qemu.ended and time.monotonic() < deadline:
            time.sleep(0.02)
        self.end()

    def check_alive(self) -> None:
        """Raise `GuestLost` unless the guest is alive, or was stopped."""
        if not self.was_stopped:
            self.qemu.check_alive()

    # --- Machine ---------------------------------------------------------------------------------------

    def run(
        self, *argv: str, timeout: float = 10.0, stdin: bytes = b"", accept: tuple[int, ...] = (0,)
    ) -> CompletedCommand:
        """Run a command to its end, `timeout` in seconds. Raises `CommandFailed` for a status not accepted.

        One whose program is not there has status 127. One that does not end in time is ended, and never accepted.
        """
        ended, status = self._run(argv, stdin, timeout, accept)
        return CompletedCommand(tuple(argv), status, _text(ended.out), ended.refused or _text(ended.err))

    def start(self, *argv: str) -> int:
        """Start a background command; return its number, for `stop`. Its outputs go to the guest's /run/NUMBER.log."""
        with self._channel_errors():
            number, refused = self._open_channel().start(argv, START_TIMEOUT * self._patience)
        if refused:
            raise CommandFailed(self.name, argv, 127, "", "", f"could not be started: {refused}")
        return number

    def stop(self, number: int) -> None:
        """Stop a command of `start`, and wait for its end."""
        with self._channel_errors():
            self._open_channel().stop(number)

    def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file in the guest, and create the directories above it."""
        self._run((AGENT, "write", f"{mode:o}", path), data, WRITE_TIMEOUT + len(data) / WRITE_RATE)

    def read_file(self, path: str) -> bytes:
        """Read a file of the guest."""
        return self._run((AGENT, "read", path), b"", READ_TIMEOUT)[0].out

    def open_shell(self, source: int, sink: int, size: Callable[[], terminal_size], *argv: str) -> int:
        """Run a shell, or `argv`, on a terminal in the guest; return its exit status.

        What is typed is read from the descriptor `source`, what is shown is written to `sink`. A terminal
        of the host's must be in raw mode meanwhile: tty.setraw. The guest's follows `size`, asked again and again.
        """
        shown = size()

        def follow() -> None:
            nonlocal shown
            if (now := size()) != shown:
                shown = now
                self.run(AGENT, "resize", str(now.lines), str(now.columns), accept=(0, 1))

        words = (AGENT, "terminal", str(shown.lines), str(shown.columns), *(argv or ("/bin/sh", "-l")))
        with self._channel_errors():
            ended = self._open_channel().relay_terminal(words, source, sink, follow)
        if ended.refused or ended.status is None:
            raise CommandFailed(self.name, words, ended.status, "", "", f"could not be started: {ended.refused}")
        return ended.status

    # --- Errors ----------------------------------------------------------------------------------------

    def _run(
        self, argv: Sequence[str], stdin: bytes, timeout: float, accept: Sequence[int] = (0,)
    ) -> tuple[CommandResult, int]:
        """Run a command; return its result and its accepted exit status."""
        timeout *= self._patience
        with self._channel_errors():
            ended = self._open_channel().run(argv, stdin, timeout)
        if ended.flooded:
            what = f"printed more than {MAX_OUTPUT} bytes, and was ended"
        elif ended.status is None:
            what = f"did not end within {timeout:g} s ({host_load()})"
        elif ended.refused:
            what = f"could not be started: {ended.refused}"
        else:
            what = f"ended with exit status {ended.status}"
        if ended.status is None or ended.status not in accept:
            raise CommandFailed(self.name, argv, ended.status, _text(ended.out), _text(ended.err), what)
        return ended, ended.status

    def _open_channel(self) -> Channel:
        if self.was_stopped or self._channel is None:
            raise self._stopped_error("the scenario ended it")
        return self._channel

    @contextlib.contextmanager
    def _channel_errors(self) -> Iterator[None]:
        """Translate a broken channel into its reason."""
        try:
            yield
        except ChannelBroken as error:
            if self.was_stopped:
                raise self._stopped_error("the scenario ended it") from error
            deadline = time.monotonic() + _END_TIMEOUT
            while not self.qemu.ended and self._channel and self._channel.broken and time.monotonic() < deadline:
                time.sleep(0.02)
            self.qemu.check_alive()
            raise self.qemu.silent_error(
                f"it does not answer ({error}; {host_load()}); {self.qemu.last_lines()}"
            ) from error

    def _stopped_error(self, what: str) -> GuestLost:
        return GuestLost(self.name, LossReason.STOPPED, what, console=self.files.console)


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")
