"""Run a lab: segments and guests, started by one thread and gone with it.

QEMU and the switches are children that die with the thread that starts them (`pipeline.core.process`): the
thread that enters `lab` must be the one that adds machines and waits for them, and outlive the block.
Commands to guests may come from any thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import disk_space, neutral, process, rlimits, temporary
from pipeline.core.locks import locked
from pipeline.host.kvm import Probe
from pipeline.lab.failures import GuestLost, LossReason, NetworkFailed
from pipeline.lab.vm import switch
from pipeline.lab.vm.guest import Guest
from pipeline.lab.vm.qemu import Boot, GuestFiles, NicSpec, host_load
from pipeline.lab.vm.qmp import Monitors

READY_TIMEOUT = 180.0  # seconds for all guests: four take 3 to 9 emulated on two idle cores, ten times that when busy
SILENCE_LIMIT = 45.0  # seconds without output while booting; unpacking an initramfs takes 1 on an idle host
FIRST_OUTPUT_LIMIT = 10.0  # seconds under KVM for the first word, which comes within one
_LONGEST_NAME = 32  # characters of a guest's or a segment's name, with what Files adds
_SWITCH_TIMEOUT = 10.0  # seconds for a switch to listen: it takes 30 ms
_POLL = 0.02  # seconds between looks while guests boot


@dataclass
class Accelerator:
    """The accelerator of guests, and its reason. `probe` is queried, and corrected when KVM fails after all."""

    name: str  # kvm or tcg
    why: str
    probe: Probe | None = None

    @classmethod
    def detect(cls, probe: Probe) -> Accelerator:
        """Return KVM only when a guest really booted with it."""
        verdict = probe.probe()
        return cls("kvm" if verdict.usable else "tcg", verdict.detail, probe)

    def disable_kvm(self, reason: str) -> None:
        """Use emulation from now on, in later runs too until the host reboots."""
        if self.probe is not None:
            self.probe.correct(reason)
        self.name, self.why = "tcg", f"KVM failed: {reason}"


@dataclass(frozen=True)
class Segment:
    """A segment's switch."""

    name: str
    socket: Path
    capture: Path | None
    child: subprocess.Popen[bytes]

    def check_alive(self) -> None:
        """Raise when the switch has ended, which happens only when it cannot go on."""
        if self.child.poll() is None:
            return
        message = self.child.stderr.read().decode(errors="replace").strip() if self.child.stderr else ""
        raise self._error(message)

    def _error(self, message: str) -> Exception:
        if limit := rlimits.exceeded_by_program(self.child.returncode, message, f"the capture of segment {self.name}"):
            return limit
        if self.capture and any(message == f"{self.capture}: {os.strerror(number)}" for number in disk_space.FULL):
            return disk_space.full_error(self.capture.parent, f"the capture of segment {self.name}: {message}")
        if self.capture and message == f"{self.capture}: {os.strerror(errno.EEXIST)}":
            return NetworkFailed(
                f"segment {self.name}: its capture file exists; expected none",
                where=str(self.capture),
                why="another run may be writing it; a capture is evidence and is never overwritten",
                hint=f"{neutral.command(['mv', self.capture, f'{self.capture}.old'])}, or give another directory",
            )
        return NetworkFailed(
            f"segment {self.name}: its switch ended: {message or 'no message'}", where=str(self.socket)
        )


class Lab:
    """Segments and guests, created by `running_lab`."""

    def __init__(
        self,
        directory: Path,
        sockets: Path,
        accelerator: Accelerator,
        running: contextlib.ExitStack,
        patience: float = 1.0,
    ) -> None:
        self.directory, self.accelerator, self.patience = directory, accelerator, patience
        self.guests: dict[str, Guest] = {}
        self._sockets, self._running = sockets, running
        self.segments: dict[str, Segment] = {}
        self._monitors = Monitors()
        running.callback(self._monitors.close)

    def add_segment(self, name: str, capture: Path | None = None, frames: int | None = None) -> None:
        """Create a segment; its first `frames`, or all, go to `capture`, a pcap file that must not exist yet.

        Raises `NetworkFailed`, or `HostLacks` when there is no room for the capture.
        """
        if name in self.segments:
            raise NetworkFailed(f"segment {name}: exists already; expected a new name", where=str(self.directory))
        path = self._sockets / f"{name}.switch"
        limited = [] if frames is None else [str(frames)]
        captured = [str(capture), *limited] if capture else []
        words = [sys.executable, "-I", "-S", switch.__file__, str(path), *captured]
        child = self._running.enter_context(process.start(words))
        segment = self.segments[name] = Segment(name, path, capture, child)
        output = process.pipe(child.stdout)
        if not select.select([output], [], [], _SWITCH_TIMEOUT)[0]:
            raise NetworkFailed(
                f"segment {name}: its switch did not start within {_SWITCH_TIMEOUT:g} s ({host_load()})"
            )
        if output.readline() != b"ready\n":
            child.wait()
            segment.check_alive()

    def add_guest(self, name: str, boot: Boot, cards: Sequence[NicSpec] = ()) -> Guest:
        """Start a guest without waiting for its boot.

        Raises `KeyError` for an unknown segment, `ValueError` for a name that is taken.
        """
        if name in self.guests:
            raise ValueError(f"guest {name}: exists already; expected a new name")
        switches = [self.segments[card.segment].socket for card in cards]
        files = GuestFiles(self._sockets, self.directory, name)
        guest = Guest(files, boot, cards, switches, self.check_alive, self.patience)
        self.guests[name] = guest
        self._running.callback(guest.end)
        guest.boot_with(self.accelerator.name, self._monitors)
        return guest

    def check_alive(self) -> None:
        """Raise `GuestLost` for a lost guest, `NetworkFailed` for a lost switch, `HostLacks` for disk space."""
        disk_space.require(
            self.directory, disk_space.LEAST, "a lab, for its consoles and captures,"
        )  # QEMU would not say
        for segment in self.segments.values():
            segment.check_alive()
        for guest in self.guests.values():
            guest.check_alive()

    def wait_until_ready(
        self,
        timeout: float = READY_TIMEOUT,
        silence_limit: float = SILENCE_LIMIT,
        first_output_limit: float = FIRST_OUTPUT_LIMIT,
    ) -> None:
        """Wait until all guests' agents answer, within `timeout` seconds times the lab's patience, as all its limits.

        Raises `GuestLost` as soon as one is lost: by what its console shows, by saying nothing for
        `silence` seconds, by saying the same again and again, or by being too slow. One that shows no
        sign of life within `life` seconds under KVM is started again without.
        """
        timeout, silence_limit = timeout * self.patience, silence_limit * self.patience
        deadline = time.monotonic() + timeout
        while waiting := [guest for guest in self.guests.values() if not (guest.ready or guest.was_stopped)]:
            process.raise_if_stopped()
            for guest in waiting:
                if self._failed_by_kvm(guest, first_output_limit):
                    self._boot_without_kvm(guest, first_output_limit)
            try:
                self.check_alive()
            except GuestLost:
                if not any(self._failed_by_kvm(guest, first_output_limit) for guest in waiting):
                    raise
                continue  # it ended since the check above
            for guest in waiting:
                _check_progress(guest, silence_limit, time.monotonic() > deadline, timeout)
            time.sleep(_POLL)
        self.check_alive()  # one that was ready before the last look at its console may have complained on it

    def _failed_by_kvm(self, guest: Guest, life: float) -> bool:
        """Return whether a guest under KVM ended, or is `life` seconds old, without console output."""
        qemu = guest.qemu
        ended = qemu.ended  # before its last words are read
        qemu.read_console()
        return qemu.accel == "kvm" and qemu.watcher.last_output is None and (ended or qemu.age > life)

    def _boot_without_kvm(self, guest: Guest, life: float) -> None:
        how = "QEMU ended" if guest.qemu.ended else f"nothing was said within {life:g} s"
        self.accelerator.disable_kvm(f"guest {guest.name}: {how}")
        guest.boot_with(self.accelerator.name, self._monitors)


def _check_progress(guest: Guest, silence: float, late: bool, timeout: float) -> None:
    """Raise when a guest will not become ready: silent, looping or slow."""
    qemu = guest.qemu
    if guest.ready:
        return
    quiet = qemu.age - (qemu.watcher.last_output or 0.0)
    got = ", ".join(f"{mark} at {at:.1f} s" for mark, at in qemu.watcher.marks.items()) or "nowhere"
    if qemu.watcher.is_looping:
        what = f"it says the same again and again and is not ready; {qemu.last_lines()}"
        raise qemu.lost_error(LossReason.LOOPING, what, f"what repeats in {guest.files.console}")
    if quiet > silence:
        raise qemu.silent_error(f"silent for {quiet:.0f} s while booting; {qemu.last_lines()}; it got to: {got}")
    if late:
        what = f"slow: not ready within {timeout:g} s, but it still says something new; it got to: {got}"
        hint = f"`--patience 5` gives it more time; or give the host less to do: {host_load()}"
        raise qemu.lost_error(LossReason.SLOW, what, hint)


@contextlib.contextmanager
def running_lab(directory: Path, accelerator: Accelerator, patience: float = 1.0) -> Iterator[Lab]:
    """Provide an empty lab; nothing of it runs after the block. `directory` keeps consoles and QEMU's messages.

    `patience` is how many times as long as usual it waits for guests.

    Raises `Locked` when another lab is in that directory.
    """
    with locked(directory / "lab.lock", wait=False), contextlib.ExitStack() as running:
        # A connection to a guest is root in it, one to a monitor acts as this user: others cannot enter the directory.
        sockets = running.enter_context(temporary.socket_directory("lab-", _LONGEST_NAME))
        yield Lab(directory.resolve(), sockets, accelerator, running, patience)


__all__ = ["Accelerator", "Boot", "Guest", "GuestLost", "Lab", "NicSpec", "running_lab"]
