"""Probe KVM by booting a kernel whose init prints a marker.

A device node proves nothing: it may open and then hang the guest in its firmware, or abort QEMU on
the first MSR. So a kernel is booted with an initramfs of ours whose /init writes a marker to the
console and powers off. Whatever is not that marker within the budget means unusable, with the
cause. The answer is remembered until the next boot. Knows nothing of lines or of the lab.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Final, Literal, TypeVar, cast

from pipeline.core import documents, fs, manifest, neutral, process
from pipeline.core.locks import locked
from pipeline.errors import HostLacks, PipelineError
from pipeline.formats import cpio, kernel_image, static_program
from pipeline.host import programs

MARKER = b"fnat-probe: init runs"
BUDGET = 5.0  # seconds: this boot takes 2.4 to 3.6 s even under emulation on two cores
MEMORY = 128  # MiB, what the lab's small guests have
TAIL, LINE = 12, 200  # lines kept of the console and of QEMU's own messages, and characters of each
_DEATH = re.compile(r"Kernel panic|Oops:|BUG:")  # more telling than the last line, which ends a trace
_KEPT = 64 << 10  # bytes kept of each output while waiting
_POLL = 0.2  # seconds between looks at whether QEMU is still there
_VERSION: Final = 2  # of the memory file
_UNPACKED = "kernel.json"  # says which kernel was unpacked here
T = TypeVar("T")


class Cause(StrEnum):
    """Reason of a verdict."""

    BOOTED = "booted"
    NOT_PROBED = "not probed"  # something the probe itself needs is missing
    NO_DEVICE = "no device"
    DENIED = "device refuses us"
    ABORTED = "qemu gave up"
    ENDED = "guest ended without the marker"
    SILENT = "guest stayed silent"
    HUNG = "guest hung"
    CORRECTED = "failed in the lab"


_REMEDIES = {
    Cause.NO_DEVICE: "enable virtualisation in the firmware (or nested virtualisation on the hypervisor above), "
    "then: sudo modprobe kvm_intel || sudo modprobe kvm_amd",
    Cause.DENIED: 'sudo usermod -aG kvm "$USER", then log in again',
}
_REMEDY_BROKEN = (
    "nothing to do for correct results; for speed, run on hardware, "
    "or repair the nested virtualisation of the machine this one runs on"
)


_NEVER_CACHED = frozenset({Cause.NOT_PROBED, Cause.NO_DEVICE, Cause.DENIED})  # cheap, and repaired without a boot


@dataclass(frozen=True)
class Verdict:
    """Result of a probe. `detail` is one sentence, `remedy` what to do, `seconds` the duration of the boot.

    `console` and `errors` are the last lines of the guest's serial console and of QEMU itself.
    """

    usable: bool
    cause: Cause
    detail: str
    remedy: str = ""
    seconds: float = 0.0
    console: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether the result is cached until the next boot of the host."""
        return self.cause not in _NEVER_CACHED


@dataclass(frozen=True)
class Key:
    """The inputs of a verdict. `kernel` is its SHA-256; None where the verdict is valid for every kernel."""

    boot_id: str
    qemu: str
    accel: str
    kernel: str | None = None

    def agrees(self, other: Key) -> bool:
        """Return whether a verdict of these inputs is valid for the others too."""
        same = (self.boot_id, self.qemu, self.accel) == (other.boot_id, other.qemu, other.accel)
        return same and (None in (self.kernel, other.kernel) or self.kernel == other.kernel)


@dataclass(frozen=True)
class Answer:
    """The document of a cached verdict."""

    version: Literal[2]
    key: Key
    verdict: Verdict


@dataclass(frozen=True)
class Unpacked:
    """The document of an unpacked kernel: its file beside the document, and its SHA-256."""

    image: str
    sha256: str


@dataclass(frozen=True)
class Probe:
    """One kind of probe: QEMU program, accelerator, and directory of the cached result.

    `kernel` names the kernel to boot; else one readable in `boot`, else the one unpacked before,
    else `kernel_provider` is asked for a Debian kernel package (verified by whoever provides it).
    """

    artifacts: Path
    kernel: Path | None = None
    kernel_provider: Callable[[], Path | None] | None = None
    qemu: str = "qemu-system-x86_64"
    accel: str = "kvm"
    budget: float = BUDGET
    path: str | None = None  # the search path to find `qemu` on; None for our own
    device: Path = Path("/dev/kvm")
    boot: Path = Path("/boot")
    boot_id: Path = Path("/proc/sys/kernel/random/boot_id")

    @property
    def directory(self) -> Path:
        """The directory of the cached result, the unpacked kernel and the initramfs."""
        return self.artifacts / "host"

    @property
    def memory(self) -> Path:
        """The file of the cached result."""
        return self.directory / "kvm.json"

    def probe(self, *, forget: bool = False) -> Verdict:
        """Return the cached result if still valid, else a new one; `forget` always probes.

        Raises `OSError` when the artifacts directory cannot be written.
        """
        if self.accel == "kvm" and (refusal := device_refusal(self.device)):
            return refusal
        with locked(self.directory / "kvm.lock"):
            if forget:
                self.memory.unlink(missing_ok=True)
            return self._probe()

    def _probe(self) -> Verdict:
        try:
            key = self._key()
            kernel = self.find_kernel()
        except PipelineError as error:
            if self.kernel is None and (known := self.remembered()):
                return known  # found with a kernel that is gone, which makes it no less true
            what = error.what.splitlines()[0] + (f" ({error.where})" if error.where else "")
            return Verdict(False, Cause.NOT_PROBED, f"not probed: {what}", remedy=error.hint)
        key = dataclasses.replace(key, kernel=fs.sha256_of(kernel))
        if known := self._recall(key):
            return known
        verdict = self._boot(kernel)
        self._remember(key, verdict)
        return verdict

    def remembered(self) -> Verdict | None:
        """Return the result since this boot with this QEMU, for any kernel; None without one.

        Looks at nothing but the memory; `probe` also sees whether the device still opens.
        """
        try:
            return self._recall(self._key())
        except PipelineError:
            return None

    def correct(self, reason: str) -> None:
        """Mark KVM unusable until the next boot, for any kernel: a later run failed for `reason`.

        Raises `HostLacks` when QEMU is missing, which then cannot have failed.
        """
        detail = f"the probe's guest booted, but later: {reason}"
        with locked(self.directory / "kvm.lock"):
            self._remember(self._key(), Verdict(False, Cause.CORRECTED, detail, remedy=_REMEDY_BROKEN))

    def find_kernel(self) -> Path:
        """Return a bootable kernel image, from the first place that has one. Raises `HostLacks`."""
        if self.kernel is not None:
            if not kernel_image.is_bzimage(self.kernel):
                raise HostLacks("not a readable x86 kernel image", where=str(self.kernel))
            return self.kernel
        if found := kernel_image.kernels_in(self.boot, os.uname().release):
            return found[0]
        if unpacked := self._unpacked():
            return unpacked
        package = self.kernel_provider() if self.kernel_provider else None
        if package is None:
            raise HostLacks(
                f"no kernel to boot: none readable in {self.boot}, and none fetched",
                hint="sudo chmod a+r /boot/vmlinuz-* where there is one; else: ./inv doctor --kernel IMAGE",
            )
        image = kernel_image.kernel_from_deb(package, self.directory)
        made = Unpacked(image.name, manifest.sha256_at(image)[0])
        fs.write_atomic(self.directory / _UNPACKED, documents.seal(made))
        return image

    def _unpacked(self) -> Path | None:
        """Return the kernel unpacked before, if still the same."""
        try:
            known = _sealed(Unpacked, self.directory / _UNPACKED)
            image = self.directory / Path(known.image).name
            return image if manifest.sha256_at(image)[0] == known.sha256 else None
        except (OSError, ValueError):
            return None

    def problems(self) -> Iterator[tuple[Path, str]]:
        """Read every cached file and yield each change: its path and a text."""
        for path, kind in ((self.memory, Answer), (self.directory / _UNPACKED, Unpacked)):
            try:
                _sealed(kind, path)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                yield path, str(error)
        if (self.directory / _UNPACKED).exists() and self._unpacked() is None:
            yield self.directory / _UNPACKED, "the kernel that it names is not the one that was unpacked"

    def _key(self) -> Key:
        """Return everything but the kernel that the result depends on."""
        version = process.run([self._program(), "--version"], timeout=10).text.splitlines()
        return Key(self.boot_id.read_text().strip(), version[0] if version else "", self.accel)

    def _program(self) -> str:
        """Return QEMU's path. Raises `HostLacks`."""
        if found := shutil.which(self.qemu, path=self.path):
            return found
        lacking = [program for program in programs.TABLE if program.command == "qemu-system-x86_64"]
        raise HostLacks(f"the program {self.qemu} is not installed", hint=programs.advice(lacking))

    def _recall(self, key: Key) -> Verdict | None:
        """Return the cached verdict if its key matches; one without a kernel is valid for every kernel."""
        try:
            known = _sealed(Answer, self.memory)
        except (OSError, ValueError):
            return None  # not there, or not ours: ask again

        return known.verdict if known.key.agrees(key) else None

    def _remember(self, key: Key, verdict: Verdict) -> None:
        fs.write_atomic(self.memory, documents.seal(Answer(_VERSION, key, verdict)))

    def _boot(self, kernel: Path) -> Verdict:
        initramfs = self.directory / "probe.cpio"
        fs.write_atomic(initramfs, probe_initramfs())
        begun = time.monotonic()
        with process.start(qemu_argv(self._program(), self.accel, kernel, initramfs)) as child:
            output = _watch(child, begun + self.budget)
        return judge(output, round(time.monotonic() - begun, 2), self.budget)


@dataclass(frozen=True)
class BootOutput:
    """Observations of one boot: both outputs, and QEMU's exit status unless still running."""

    console: bytes
    errors: bytes
    status: int | None


def judge(output: BootOutput, seconds: float, budget: float) -> Verdict:
    """Return the verdict about one boot of `seconds`."""
    console, errors = _lines(output.console), _lines(output.errors)
    if MARKER in output.console:
        return Verdict(True, Cause.BOOTED, f"a kernel booted to its init in {seconds:.1f} s", seconds=seconds)
    died = [line for line in console if _DEATH.search(line)]
    guest = (died or console[-1:] or ["nothing was said"])[0]
    if output.status is not None and output.status != 0:
        how = (
            f"was killed by {_signal(-output.status)}"
            if output.status < 0
            else f"ended with exit status {output.status}"
        )
        cause, detail = Cause.ABORTED, f"QEMU {how}: {(errors or [guest])[0]}"  # QEMU names the cause first
    elif output.status == 0:
        cause, detail = Cause.ENDED, f"the guest ended without reaching init: {guest}"
    elif not console:
        cause, detail = Cause.SILENT, f"the device opens, but the guest printed nothing within {budget:g} s"
    else:
        cause, detail = Cause.HUNG, f"the guest did not reach init within {budget:g} s; its last words: {guest}"
    kept = tuple(console[-TAIL:]), tuple(errors[-TAIL:])
    return Verdict(False, cause, detail, _REMEDY_BROKEN, seconds, *kept)


def device_refusal(device: Path) -> Verdict | None:
    """Return the reason that the device cannot be opened; None when it can, which proves nothing else."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except FileNotFoundError:
        return Verdict(False, Cause.NO_DEVICE, f"{device} is not there", _REMEDIES[Cause.NO_DEVICE])
    except OSError as error:
        detail = f"{device} cannot be opened: {error.strerror}"
        return Verdict(False, Cause.DENIED, detail, _REMEDIES[Cause.DENIED])
    return None


def qemu_argv(qemu: str, accel: str, kernel: Path, initramfs: Path) -> list[str]:
    """Return QEMU's command: the lab's machine type and CPU, a serial console on standard output, no devices."""
    return [
        *(qemu, "-machine", "pc", "-cpu", "max", "-m", str(MEMORY), "-accel", accel),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"),
        *("-kernel", str(kernel), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"),
    ]


def probe_initramfs() -> bytes:
    """Return an initramfs with a console device and an /init that writes the marker."""
    init = static_program.elf(b"\n" + MARKER + b"\n")
    return cpio.archive(
        [cpio.directory("dev"), cpio.device("dev/console", "c", 5, 1), cpio.file("init", init, mode=0o755)]
    )


def _watch(child: subprocess.Popen[bytes], deadline: float) -> BootOutput:
    """Read both outputs until the marker, the child's end, or `deadline` (monotonic seconds)."""
    console, errors = process.pipe(child.stdout), process.pipe(child.stderr)
    kept = {console: b"", errors: b""}
    with selectors.DefaultSelector() as selector:
        for stream in kept:
            selector.register(stream, selectors.EVENT_READ)
        while MARKER not in kept[console] and selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            ready = selector.select(min(left, _POLL))
            for event, _ in ready:
                stream = cast(IO[bytes], event.fileobj)
                data = os.read(stream.fileno(), _KEPT)
                kept[stream] = (kept[stream] + data)[-_KEPT:]
                if not data:
                    selector.unregister(stream)
            if not ready and child.poll() is not None:
                break  # a grandchild may hold the pipes open for ever
    status = child.poll()
    if status is None and MARKER not in kept[console]:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = child.wait(timeout=max(0.0, deadline - time.monotonic()))
    return BootOutput(kept[console], kept[errors], status)


def _sealed(kind: type[T], path: Path) -> T:
    return documents.unseal(kind, manifest.text_at(path))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _lines(output: bytes) -> list[str]:
    """Return the text's lines that are not empty, neutral."""
    lines = neutral.text(output.decode(errors="backslashreplace")).split("\n")
    return [line.strip()[:LINE] for line in lines if line.strip()]
