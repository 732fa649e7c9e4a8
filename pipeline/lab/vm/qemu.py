"""Run one QEMU: its command line, its console, and its end. Knows neither commands nor scenarios."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import disk_space, process, rlimits
from pipeline.lab.failures import GuestLost, LossReason
from pipeline.lab.vm.console_watcher import ConsoleWatcher
from pipeline.lab.vm.qmp import Monitor, MonitorLost, Monitors

PROGRAM = "qemu-system-x86_64"
PORT = "fnat.control"  # as specs/guest/channel.c looks for it
# panic=1: the second in which a trace is written out. unknown_nmi_panic: so that an NMI of ours gives a trace.
OPTIONS = ("console=ttyS0", "earlyprintk=ttyS0", "panic=1", "unknown_nmi_panic")
# Emulated, the time stamp counter is the host's own, and a guest that is put aside while it measures the counter's
# rate finds it too low, seen at up to 70 times: its clock then runs as many times too fast, and it sees stalls that
# nobody had. The delays of the timer's test come from that rate too; QEMU's timer needs no test.
EMULATED_OPTIONS = ("notsc", "no_timer_check")
_TRACE_END = 1.0  # seconds without a word after which a trace is over
_NMI_TIMEOUT = 3.0  # seconds for the trace that an NMI asks for
_END_TIMEOUT = 2.0  # seconds for QEMU to end, or to say why
_LAST_LINES = 3  # lines told as last words: while a program hangs, the kernel may still say how fast its clock is
# Bytes of a file that QEMU writes: the console's, and its own words. A boot says 100 KiB. The kernel holds QEMU to it,
# since nobody looks while a person is at the keys.
MAX_CONSOLE = 32 << 20
_READ = 1 << 20  # bytes of a console read at once

_REASONS = {  # of the event SHUTDOWN: qapi/run-state.json
    "guest-shutdown": "it powered itself off",
    "guest-reset": "it started anew, after a panic without words or because a program asked for it",
    "guest-panic": "it panicked",
    "host-signal": "somebody sent QEMU a signal to end",
    "host-qmp-quit": "its monitor was told to end it",
}


@dataclass(frozen=True)
class Boot:
    """The boot configuration: `memory` in MiB, `virtio` for cards and channel where the kernel has the drivers.

    A guest with a `counted` clock is emulated, and two nanoseconds pass there with each instruction.
    """

    kernel: Path
    initramfs: Path
    memory: int
    virtio: bool
    counted: bool = False
    append: tuple[str, ...] = ()


@dataclass(frozen=True)
class NicSpec:
    """A network card: its segment, and its address such as 52:54:00:00:00:01. They become eth0, eth1, ..."""

    segment: str
    mac: str


@dataclass(frozen=True)
class GuestFiles:
    """The paths of one guest's sockets and outputs. A socket's path has at most 107 bytes: unix(7)."""

    sockets: Path
    outputs: Path
    name: str

    @property
    def control(self) -> Path:
        """The channel's socket."""
        return self.sockets / f"{self.name}.control"

    @property
    def monitor(self) -> Path:
        """The monitor's socket."""
        return self.sockets / f"{self.name}.qmp"

    @property
    def console(self) -> Path:
        """The guest's whole console output."""
        return self.outputs / f"{self.name}.console"

    @property
    def errors(self) -> Path:
        """QEMU's own messages."""
        return self.outputs / f"{self.name}.qemu"


def command_line(accel: str, boot: Boot, cards: Sequence[tuple[Path, str]], files: GuestFiles) -> list[str]:
    """Return the command line; `cards` are a switch's socket and an address each. QEMU needs only its BIOS files."""
    channel = "virtio" if boot.virtio else "serial"
    model = "virtio-net-pci" if boot.virtio else "e1000"
    accel = "tcg" if boot.counted else accel
    emulated = EMULATED_OPTIONS if accel == "tcg" else ()
    append = " ".join((*OPTIONS, *emulated, f"fnat.channel={channel}", f"fnat.name={files.name}", *boot.append))
    words = [
        *(PROGRAM, "-name", files.name, "-machine", "pc", "-cpu", "max", "-m", str(boot.memory), "-accel", accel),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-kernel", str(boot.kernel), "-initrd", str(boot.initramfs), "-append", append),
        *("-chardev", f"file,id=console,path={_option_value(files.console)}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=monitor,path={_option_value(files.monitor)}", "-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"socket,id=control,path={_option_value(files.control)}"),
        *("-device", "pvpanic-pci", "-action", "panic=none"),  # only to be told; the kernel's own panic= ends it
    ]
    if boot.counted:
        words += ["-icount", "shift=1,sleep=off"]
    if boot.virtio:
        words += ["-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=control,name={PORT}"]
    else:
        words += ["-serial", "chardev:control"]
    for number, (switch, mac) in enumerate(cards):
        words += ["-netdev", f"stream,id=net{number},server=off,addr.type=unix,addr.path={_option_value(switch)}"]
        words += ["-device", f"{model},netdev=net{number},mac={mac},romfile="]  # it never boots from the network
    return words


def _option_value(path: Path) -> str:
    """Escape a path for QEMU's option lists, where a comma is written twice."""
    return str(path).replace(",", ",,")


class Qemu:
    """A running QEMU."""

    def __init__(self, files: GuestFiles, accel: str, child: subprocess.Popen[bytes], monitor: Monitor) -> None:
        self.files, self.accel, self.child, self.monitor = files, accel, child, monitor
        self.begun = time.monotonic()
        self.watcher = ConsoleWatcher(files.name)
        self._console = files.console.open("rb")
        self._console_lock = threading.RLock()

    @property
    def age(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.begun

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self.child.poll() is not None

    def read_console(self) -> None:
        """Feed the watcher with the console's new output."""
        with self._console_lock:
            while not self.closed and (data := self._console.read(_READ)):
                self.watcher.feed(data, self.age)

    def check_alive(self) -> None:
        """Raise `GuestLost` when the console shows a fatal finding, the guest panicked, or QEMU is gone."""
        with self._console_lock:
            ended = self.ended  # before its last words are read
            self.read_console()
            if self.watcher.fatal_finding():
                self._wait_for_trace()
                raise self.lost_error(LossReason.FOUND, "")
            if self._console.tell() >= MAX_CONSOLE:
                flood = f"its console says more than {MAX_CONSOLE} bytes, without end"
                raise self.lost_error(LossReason.FLOODED, f"{flood}; {self.last_lines()}")
            if ended:
                raise self._ended_error()
            if self.monitor.event("GUEST_PANICKED") is not None:
                self._wait_for_trace()
                raise self.lost_error(LossReason.PANICKED, "its kernel panicked, as its pvpanic device says")

    def silent_error(self, what: str) -> GuestLost:
        """Return the error for a silent guest, after an NMI that makes its kernel print a trace."""
        with contextlib.suppress(MonitorLost):
            self.monitor.command("inject-nmi")
            self._wait_until(lambda: self.watcher.fatal_finding() is not None, _NMI_TIMEOUT)
            self._wait_for_trace()
        self.read_console()
        found = (
            "; the trace is what an NMI made it say"
            if self.watcher.fatal_finding()
            else "; not even an NMI made it speak"
        )
        return self.lost_error(LossReason.SILENT, what + found)

    def lost_error(self, loss: LossReason, what: str, hint: str = "") -> GuestLost:
        """Return the error, with the console's finding. Raises `HostLacks` when the disk of the console is full."""
        if disk_space.free(self.files.outputs) < disk_space.LEAST:
            raise disk_space.full_error(self.files.outputs, f"guest {self.files.name}: its console cannot be written")
        finding = self.watcher.fatal_finding()
        if finding:
            begin = [line for line in finding.trace.splitlines() if "cut here" not in line][:1]
            what = "; ".join(filter(None, [what, f"{finding.kind}, {finding.meaning}: {' '.join(begin)}"]))
            hint = f"look at {finding.look}"
        return GuestLost(self.files.name, loss, what, console=self.files.console, hint=hint, finding=finding)

    def last_lines(self) -> str:
        """Return the console's last lines for the end of a message."""
        words = self.watcher.last_lines()[-_LAST_LINES:]
        return f"its last words: {' / '.join(words)}" if words else "it never said a word"

    @property
    def closed(self) -> bool:
        """Whether its console is closed."""
        return self._console.closed

    def close(self) -> None:
        """Close the console's file."""
        self._console.close()

    def _ended_error(self) -> GuestLost:
        status = self.child.wait()
        self._wait_until(lambda: self.monitor.event("SHUTDOWN") is not None, 0.2)  # it comes by another way
        reason = self.monitor.event("SHUTDOWN")
        if limit := rlimits.exceeded_by_program(status, "", f"guest {self.files.name}: QEMU was killed"):
            raise limit
        if status < 0:
            hint = "whoever did it; dmesg of the host says when it was for want of memory"
            return self.lost_error(LossReason.KILLED, f"QEMU was killed by {process.signal_name(-status)}", hint)
        errors = self.files.errors.read_text(errors="replace").strip().splitlines()[-3:]
        detail = f": {' / '.join(errors)}" if errors else ""
        if status > 0:
            return self.lost_error(
                LossReason.ENDED, f"QEMU gave up with exit status {status}{detail}", str(self.files.errors)
            )
        why = _REASONS.get(reason or "", f"for the reason {reason or 'unknown'}")
        loss = LossReason.KILLED if reason in ("host-signal", "host-qmp-quit") else LossReason.ENDED
        return self.lost_error(loss, f"it ended: {why}; {self.last_lines()}{detail}")

    def _wait_for_trace(self) -> None:
        """Wait until the trace on the console is complete."""
        self._wait_until(
            lambda: self.watcher.is_trace_complete or self.ended or self._silent_seconds() > _TRACE_END, _END_TIMEOUT
        )
        self.read_console()

    def _silent_seconds(self) -> float:
        return self.age - (self.watcher.last_output or 0.0)

    def _wait_until(self, done: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done() and time.monotonic() < deadline:
            time.sleep(0.02)
            self.read_console()


@contextlib.contextmanager
def running_qemu(
    monitors: Monitors, accel: str, boot: Boot, cards: Sequence[tuple[Path, str]], files: GuestFiles
) -> Iterator[Qemu]:
    """Run a QEMU for the block. A listener at `files.control` must exist already."""
    files.console.write_bytes(b"")  # QEMU opens it a moment after it was started
    with (
        monitors.listen(files.name, files.monitor) as monitor,
        files.errors.open("wb") as errors,
        process.start(
            command_line(accel, boot, cards, files), stdout=errors, stderr=errors, env=process.clean_environment()
        ) as child,
    ):
        _limit_file_size(child.pid)
        qemu = Qemu(files, accel, child, monitor)
        try:
            yield qemu
        finally:
            qemu.close()


def _limit_file_size(pid: int) -> None:
    """Limit a process and its successors to files of `MAX_CONSOLE` bytes, or to its lower limit."""
    with contextlib.suppress(ProcessLookupError):  # it ended already
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        most = MAX_CONSOLE if hard == resource.RLIM_INFINITY else min(MAX_CONSOLE, hard)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


def host_load() -> str:
    """Describe the host's load, for messages about timeouts."""
    return f"the host's load is {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
