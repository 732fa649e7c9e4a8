"""The KVM probe: a real kernel under emulation proves the probe itself; stand-ins for QEMU fail in every way."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.errors import HostLacks, Refused, Unreachable
from pipeline.formats import kernel_image
from pipeline.host import kvm
from pipeline.host.kvm import Cause, Probe
from tests.fixtures.commandline import ROOT
from tests.fixtures.debian import debian_kernel_deb

PATIENT = 120.0  # seconds for a boot under emulation on a busy machine; alone it takes 2.4
QUICK = 1.5  # seconds of budget for stand-ins that say nothing more


@pytest.fixture(scope="session")
def real_kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kernel_image.kernel_from_deb(debian_kernel_deb(), tmp_path_factory.mktemp("kernel"))


@dataclasses.dataclass
class Stand:
    """A host whose QEMU is a script of ours and whose kernel is nothing but a boot header."""

    place: Path
    body: str = "exit 0"
    version: str = "QEMU emulator version 1.2.3"

    def __post_init__(self) -> None:
        (self.place / "boot").mkdir()
        self.kernel = self.image("vmlinuz-1.0", b"one")
        (self.place / "kvm").write_bytes(b"")
        (self.place / "boot_id").write_text("first-boot\n")

    def image(self, name: str, content: bytes) -> Path:
        path = self.place / "boot" / name
        path.write_bytes(bytes(0x1FE) + b"\x55\xaa\xeb\x66HdrS" + content)
        return path

    @property
    def starts(self) -> int:
        """How many guests were started."""
        started = self.place / "started"
        return len(started.read_text().splitlines()) if started.exists() else 0

    def probe(self, budget: float = QUICK) -> Probe:
        qemu = self.place / "qemu"
        lines = f'[ "$1" = --version ] && {{ echo "{self.version}"; exit; }}\necho x >> {self.place}/started'
        qemu.write_text(f"#!/bin/sh\n{lines}\n{self.body}\n")
        qemu.chmod(0o755)
        return Probe(
            self.place / "artifacts",
            qemu=str(qemu),
            budget=budget,
            device=self.place / "kvm",
            boot=self.place / "boot",
            boot_id=self.place / "boot_id",
        )


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


BOOTS = f"echo; echo '{kvm.MARKER.decode()}'"


def test_a_real_kernel_reaches_our_init(real_kernel: Path, tmp_path: Path) -> None:
    verdict = Probe(tmp_path, kernel=real_kernel, accel="tcg", budget=PATIENT).probe()
    assert verdict.cause is Cause.BOOTED and verdict.usable, verdict
    assert 0 < verdict.seconds < PATIENT


def test_the_guest_powers_itself_off_after_the_marker(real_kernel: Path, tmp_path: Path) -> None:
    initramfs = tmp_path / "probe.cpio"
    initramfs.write_bytes(kvm.probe_initramfs())
    argv = kvm.qemu_argv("qemu-system-x86_64", "tcg", real_kernel, initramfs)
    done = process.run(argv, timeout=PATIENT)  # fails when init comes back, panics or stays
    assert kvm.MARKER in done.out and b"Kernel panic" not in done.out


def test_a_real_kernel_whose_init_is_not_ours_is_not_taken_for_one_that_booted(
    real_kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "probe_initramfs", lambda: b"")
    verdict = Probe(tmp_path, kernel=real_kernel, accel="tcg", budget=PATIENT).probe()
    assert verdict.cause is Cause.ENDED and not verdict.usable
    assert "Kernel panic - not syncing" in verdict.detail, "the telling line, not the end of its trace"


@pytest.mark.parametrize(
    ("body", "cause", "says"),
    [
        ("exec sleep 600", Cause.SILENT, "printed nothing within 1.5 s"),
        ("echo 'Booting from ROM..'; exec sleep 600", Cause.HUNG, "its last words: Booting from ROM.."),
        (
            "echo 'qemu: error: failed to set MSR 0x10a to 0x69' >&2; exit 1",
            Cause.ABORTED,
            "exit status 1: qemu: error: failed to set MSR 0x10a to 0x69",
        ),
        ("echo 'failed to set MSR' >&2; kill -ABRT $$", Cause.ABORTED, "killed by SIGABRT: failed to set MSR"),
        ("echo 'Kernel panic - not syncing'; exit 0", Cause.ENDED, "Kernel panic - not syncing"),
        ("exit 0", Cause.ENDED, "nothing was said"),
        ("echo 'fnat-probe: init'; exec sleep 600", Cause.HUNG, "fnat-probe: init"),
    ],
)
def test_whatever_is_not_the_marker_is_unusable_with_its_cause(
    stand: Stand, body: str, cause: Cause, says: str
) -> None:
    stand.body = body
    verdict = stand.probe().probe()
    assert (verdict.usable, verdict.cause) == (False, cause)
    assert says in verdict.detail


def test_the_marker_counts_however_it_is_cut_into_pieces(stand: Stand) -> None:
    stand.body = 'for part in fnat- pro be:\\ init\\ ru ns; do printf %s "$part"; sleep 0.1; done; exec sleep 600'
    verdict = stand.probe(budget=20).probe()
    assert verdict.usable and verdict.seconds < 10, "known at once, not when the guest or the budget ends"


def test_a_marker_on_standard_error_proves_nothing(stand: Stand) -> None:
    stand.body = f"({BOOTS}) >&2; exit 0"
    assert stand.probe().probe().cause is Cause.ENDED


def test_the_last_lines_of_both_outputs_are_kept_without_control_characters(stand: Stand) -> None:
    stand.body = r"""i=0; while [ $i -lt 30 ]; do echo "line $i"; i=$((i+1)); done; printf '\033[31mred\r\n'
echo "to stderr" >&2; exit 1"""
    verdict = stand.probe().probe()
    assert len(verdict.console) == kvm.TAIL and verdict.console[-2:] == ("line 29", r"\x1b[31mred")
    assert verdict.errors == ("to stderr",)


def test_a_guest_that_floods_the_console_is_stopped_in_time(stand: Stand) -> None:
    stand.body = "exec yes"
    begun = time.monotonic()
    assert stand.probe().probe().cause is Cause.HUNG
    assert time.monotonic() - begun < 10


def test_what_is_kept_of_a_flood_is_bounded() -> None:
    with process.start(["head", "-c", "3000000", "/dev/zero"]) as child:
        seen = kvm._watch(child, time.monotonic() + 60)
    assert seen.status == 0 and 0 < len(seen.console) < 100_000


def test_a_qemu_that_is_gone_is_noticed_although_something_holds_its_outputs_open(stand: Stand) -> None:
    stand.body = "sleep 600 & exit 3"
    begun = time.monotonic()
    assert stand.probe(budget=60).probe().cause is Cause.ABORTED
    assert time.monotonic() - begun < 20


def test_the_guest_is_given_a_console_and_an_init() -> None:
    listing = process.run(["cpio", "-itv"], stdin=kvm.probe_initramfs()).text.splitlines()
    console = next(line for line in listing if line.endswith("dev/console"))
    init = next(line for line in listing if line.endswith("init"))
    assert console.startswith("crw-------") and "5,   1" in console and init.startswith("-rwxr-xr-x")


def test_the_answer_is_remembered_for_this_boot_only(stand: Stand) -> None:
    stand.body = BOOTS
    first = stand.probe().probe()
    assert stand.probe().probe() == first == stand.probe().remembered()
    assert stand.starts == 1
    (stand.place / "boot_id").write_text("second-boot\n")
    assert stand.probe().remembered() is None
    assert stand.probe().probe().usable and stand.starts == 2


@pytest.mark.parametrize("change", ["kernel", "qemu", "accel", "forget"])
def test_another_kernel_qemu_or_accelerator_is_another_question(stand: Stand, change: str) -> None:
    assert not stand.probe().probe().usable
    stand.body = BOOTS
    if change == "kernel":
        stand.image("vmlinuz-1.0", b"two")
    if change == "qemu":
        stand.version += ".4"
    probe = dataclasses.replace(stand.probe(), accel="tcg" if change == "accel" else "kvm")
    assert probe.probe(forget=change == "forget").usable
    assert stand.starts == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": 1, "key": [], "verdict": {}}'])
def test_a_memory_that_cannot_be_read_is_asked_again(stand: Stand, content: str) -> None:
    probe = stand.probe()
    probe.probe()
    probe.memory.write_text(content)
    assert probe.remembered() is None
    assert probe.probe().cause is Cause.ENDED and stand.starts == 2


def test_a_memory_edited_into_nonsense_does_not_make_it_usable(stand: Stand) -> None:
    probe = stand.probe()
    probe.probe()
    probe.memory.write_text(probe.memory.read_text().replace('"usable": false', '"usable": "no"'))
    assert not probe.probe().usable and stand.starts == 2


def test_an_answer_that_was_edited_is_not_believed(stand: Stand) -> None:
    probe = stand.probe()
    assert not probe.probe().usable
    text = probe.memory.read_text()
    probe.memory.write_text(text.replace('"usable": false', '"usable": true').replace(Cause.ENDED, Cause.BOOTED))
    assert [path for path, _ in probe.problems()] == [probe.memory]
    assert probe.remembered() is None
    assert not probe.probe().usable and stand.starts == 2


def _one_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def _link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


@pytest.mark.parametrize(
    ("what", "damage"),
    [
        ("vmlinuz-*", _one_byte),
        ("vmlinuz-*", lambda path: path.write_bytes(b"")),
        ("vmlinuz-*", lambda path: path.write_bytes(bytes(0x1FE) + b"\x55\xaa\xeb\x66HdrS another kernel")),
        ("vmlinuz-*", lambda path: path.unlink()),
        ("vmlinuz-*", _link),
        ("kernel.json", lambda path: path.write_text("")),
        ("kernel.json", lambda path: path.write_text(path.read_text().replace("vmlinuz", "vmlinux"))),
        ("kernel.json", lambda path: path.unlink()),
    ],
)
def test_a_kernel_that_is_not_the_one_that_was_unpacked_is_unpacked_anew(
    stand: Stand, what: str, damage: Callable[[Path], object]
) -> None:
    stand.kernel.unlink()
    probe = dataclasses.replace(stand.probe(), kernel_provider=debian_kernel_deb)
    image = probe.find_kernel()
    right = image.read_bytes()
    assert dataclasses.replace(probe, kernel_provider=None).find_kernel() == image
    [path] = probe.directory.glob(what)
    damage(path)
    with pytest.raises(HostLacks, match="no kernel to boot"):
        dataclasses.replace(probe, kernel_provider=None).find_kernel()
    assert probe.find_kernel() == image and image.read_bytes() == right and not image.is_symlink()
    assert list(probe.problems()) == []


def test_the_lab_can_correct_the_answer_whatever_the_kernel_until_the_next_boot(stand: Stand) -> None:
    stand.body = BOOTS
    probe = stand.probe()
    assert probe.probe().usable
    probe.correct("guest 2 hung in its firmware")
    stand.image("vmlinuz-1.0", b"another kernel")
    verdict = probe.probe()
    assert (verdict.usable, verdict.cause) == (False, Cause.CORRECTED)
    assert "guest 2 hung in its firmware" in verdict.detail and stand.starts == 1
    (stand.place / "boot_id").write_text("second-boot\n")
    assert probe.probe().usable


def test_a_device_that_is_gone_is_noticed_whatever_is_remembered(stand: Stand) -> None:
    stand.body = BOOTS
    assert stand.probe().probe().usable
    (stand.place / "kvm").unlink()
    verdict = stand.probe().probe()
    assert (verdict.usable, verdict.cause) == (False, Cause.NO_DEVICE) and "modprobe" in verdict.remedy


def test_a_device_that_refuses_to_open_is_told_apart(stand: Stand) -> None:
    (stand.place / "kvm").unlink()
    (stand.place / "kvm").mkdir()  # opening a directory for writing fails for root too
    verdict = stand.probe().probe()
    assert verdict.cause is Cause.DENIED and os.strerror(errno.EISDIR) in verdict.detail
    assert stand.starts == 0


def test_without_any_kernel_it_is_not_probed_and_not_usable(stand: Stand) -> None:
    stand.kernel.unlink()
    verdict = stand.probe().probe()
    assert (verdict.usable, verdict.cause) == (False, Cause.NOT_PROBED)
    assert "no kernel to boot" in verdict.detail and "--kernel" in verdict.remedy
    assert stand.probe().remembered() is None, "no answer is no answer to remember"


def test_without_qemu_it_is_not_probed_and_the_mend_installs_it(stand: Stand) -> None:
    probe = dataclasses.replace(stand.probe(), qemu="qemu-system-x86_64", path=str(stand.place))
    verdict = probe.probe()
    assert verdict.cause is Cause.NOT_PROBED and "qemu-system-x86" in verdict.remedy


def no_kernel() -> Path | None:
    raise AssertionError("the provider must not be asked")


def test_the_provider_is_asked_only_when_the_device_opens_and_no_kernel_is_at_hand(stand: Stand) -> None:
    assert dataclasses.replace(stand.probe(), kernel_provider=no_kernel).probe().cause is Cause.ENDED
    stand.kernel.unlink()
    (stand.place / "kvm").unlink()
    assert dataclasses.replace(stand.probe(), kernel_provider=no_kernel).probe().cause is Cause.NO_DEVICE


def test_a_provider_that_cannot_reach_its_source_leaves_it_not_probed(stand: Stand) -> None:
    def unreachable() -> Path | None:
        raise Unreachable("no mirror answers", hint="./inv fetch")

    stand.kernel.unlink()
    verdict = dataclasses.replace(stand.probe(), kernel_provider=unreachable).probe()
    assert verdict.cause is Cause.NOT_PROBED and "no mirror answers" in verdict.detail
    assert verdict.remedy == "./inv fetch"


def test_the_provided_package_is_asked_for_once(stand: Stand) -> None:
    stand.kernel.unlink()
    asked: list[Path] = []

    def provide() -> Path | None:
        asked.append(debian_kernel_deb())
        return asked[0]

    probe = dataclasses.replace(stand.probe(), kernel_provider=provide)
    assert probe.probe().cause is Cause.ENDED
    assert probe.probe(forget=True).cause is Cause.ENDED
    assert len(asked) == 1 and stand.starts == 2


def test_an_explicit_kernel_goes_first_and_must_be_one(stand: Stand) -> None:
    named = stand.image("other", b"x")
    assert dataclasses.replace(stand.probe(), kernel=named).find_kernel() == named
    named.write_bytes(b"not a kernel")
    with pytest.raises(HostLacks, match="not a readable x86 kernel image"):
        dataclasses.replace(stand.probe(), kernel=named).find_kernel()


def test_the_running_kernel_goes_before_newer_ones_and_those_before_older(stand: Stand) -> None:
    for name in (f"vmlinuz-{os.uname().release}", "vmlinuz-9999.9", "vmlinuz-9999.10"):
        stand.image(name, b"x")
    (stand.place / "boot/vmlinuz-99999").write_bytes(b"not a kernel")
    names = [path.name for path in kernel_image.kernels_in(stand.place / "boot", os.uname().release)]
    assert names == [f"vmlinuz-{os.uname().release}", "vmlinuz-9999.10", "vmlinuz-9999.9", "vmlinuz-1.0"]
    assert stand.probe().find_kernel().name == names[0]


@pytest.mark.parametrize("with_dpkg", [True, False])
def test_the_image_in_a_real_package_is_unpacked_with_and_without_dpkg(
    real_kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_dpkg: bool
) -> None:
    package = debian_kernel_deb()
    listing = process.run(["dpkg-deb", "-c", package]).text
    if not with_dpkg:
        monkeypatch.setenv("PATH", str(tmp_path))
    image = kernel_image.kernel_from_deb(package, tmp_path / "into")
    assert f"{image.stat().st_size} " in listing and f"./boot/{image.name}" in listing
    assert kernel_image.is_bzimage(image) and image.read_bytes() == real_kernel.read_bytes()
    assert [path.name for path in (tmp_path / "into").iterdir()] == [image.name]


PackageMaker = Callable[..., Path]


@pytest.fixture
def package(tmp_path: Path) -> PackageMaker:
    """Makes a package with one file, by dpkg-deb itself."""

    def make(name: str, content: bytes, compression: str = "xz") -> Path:
        tree = tmp_path / "tree"
        (tree / "DEBIAN").mkdir(parents=True)
        text = "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
        (tree / "DEBIAN/control").write_text(text)
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
        process.run(["dpkg-deb", f"-Z{compression}", "-b", tree, tmp_path / "x.deb"])
        return tmp_path / "x.deb"

    return make


@pytest.mark.parametrize("with_dpkg", [True, False])
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("usr/bin/x", b"x", "no boot/vmlinuz-"),
        ("lib/boot/vmlinuz-1", b"x", "no boot/vmlinuz-"),
        ("boot/vmlinuz-1", b"not a kernel", "no x86 kernel image"),
    ],
)
def test_a_package_without_a_kernel_is_refused(
    package: PackageMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
    says: str,
    with_dpkg: bool,
) -> None:
    made = package(name, content)
    if not with_dpkg:
        monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match=says):
        kernel_image.kernel_from_deb(made, tmp_path / "into")
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize("with_dpkg", [True, False])
@pytest.mark.parametrize("damage", ["no package", "empty", "truncated"])
def test_a_damaged_package_is_refused(
    package: PackageMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, with_dpkg: bool
) -> None:
    made = package("boot/vmlinuz-1", os.urandom(100_000))
    whole = made.read_bytes()
    made.write_bytes({"no package": b"hello" * 100, "empty": b"", "truncated": whole[: len(whole) // 2]}[damage])
    if not with_dpkg:
        monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused):
        kernel_image.kernel_from_deb(made, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_a_compression_that_only_dpkg_reads_is_named(
    package: PackageMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = package("boot/vmlinuz-1", b"x", "zstd")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostLacks, match=r"data\.tar\.zst"):
        kernel_image.kernel_from_deb(made, tmp_path / "into")


def _pid_of(argument: str) -> int | None:
    """The process that has `argument` on its command line."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"qemu-system" in words[0] and argument.encode() in words:
            return int(entry.parent.name)
    return None


def _until(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_killing_the_prober_leaves_no_qemu_and_does_not_hinder_the_next(real_kernel: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.host.kvm import Probe\n"
        f"Probe(Path(sys.argv[1]), kernel=Path(sys.argv[2]), accel='tcg', budget={PATIENT}).probe()"
    )
    initramfs = str(tmp_path / "host/probe.cpio")
    prober = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(real_kernel)], cwd=ROOT)
    try:
        assert _until(lambda: _pid_of(initramfs), 30), "QEMU did not start"
        qemu = _pid_of(initramfs)
        assert qemu is not None
        os.kill(qemu, signal.SIGSTOP)  # so that it cannot end by itself
        assert prober.poll() is None
    finally:
        prober.kill()
        prober.wait()
    gone = _until(lambda: _pid_of(initramfs) is None, 10)
    if not gone:
        os.kill(qemu, signal.SIGKILL)
    assert gone, "QEMU outlived the process that started it"
    assert Probe(tmp_path, kernel=real_kernel, accel="tcg", budget=PATIENT).probe().usable
