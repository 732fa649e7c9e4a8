"""The lab and its host: KVM that fails, a QEMU that is missing or refuses, full disks, labs that are killed."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import disk_space, process
from pipeline.errors import HostLacks, Locked
from pipeline.host import kvm
from pipeline.host.kvm import Cause, Probe
from pipeline.lab.failures import GuestLost, NetworkFailed
from pipeline.lab.vm import qemu
from pipeline.lab.vm.guest import Guest
from pipeline.lab.vm.network import Accelerator, running_lab
from pipeline.lab.vm.qemu import NicSpec
from tests.component.lab.vm.test_guests import MACS, PATIENT, made, tcg, until
from tests.fixtures.commandline import ROOT
from tests.fixtures.guests import CHANNEL, Parts

__all__ = ["made"]  # a fixture


def test_kvm_is_used_only_when_a_guest_booted_with_it(tmp_path: Path) -> None:
    without = Accelerator.detect(Probe(tmp_path, device=tmp_path / "none"))
    assert (without.name, str(tmp_path / "none") in without.why) == ("tcg", True)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "qemu"
    program.write_text(f'#!/bin/sh\necho "version 1"; echo "{kvm.MARKER.decode()}"\n')
    program.chmod(0o755)
    kernel, device = tmp_path / "vmlinuz", tmp_path / "kvm"
    kernel.write_bytes(bytes(0x1FE) + b"\x55\xaa\xeb\x66HdrS")
    device.write_bytes(b"")
    probe = Probe(tmp_path, kernel=kernel, qemu=str(program), device=device)
    assert Accelerator.detect(probe).name == "kvm"


@pytest.mark.parametrize(
    ("body", "says"), [("exec sleep 600", "nothing was said within 1 s"), ("echo no MSR >&2; exit 1", "QEMU ended")]
)
def test_where_kvm_fails_a_guest_is_started_again_without_and_that_is_remembered(
    made: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    stand_in(tmp_path, monkeypatch, body)
    probe = Probe(tmp_path / "artifacts")
    accelerator = Accelerator("kvm", "believed", probe)
    with running_lab(tmp_path / "lab", accelerator) as running:
        guest = running.add_guest("victim", made.boot(tmp_path / "initramfs", modules=CHANNEL))
        running.wait_until_ready(PATIENT, first_output_limit=1)
        assert guest.run("cat", stdin=b"here").out == "here"
    known = probe.remembered()
    assert known is not None and known.cause is Cause.CORRECTED and says in known.detail
    assert accelerator.name == "tcg" and says in accelerator.why


def test_a_guest_that_kvm_ends_just_after_it_was_checked_is_started_again_too(
    made: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "exit 1")
    with running_lab(tmp_path / "lab", Accelerator("kvm", "believed", Probe(tmp_path / "artifacts"))) as running:
        guest = running.add_guest("victim", made.boot(tmp_path / "initramfs", modules=CHANNEL))
        checked = running._failed_by_kvm

        def ended_since(guest: Guest, life: float) -> bool:
            monkeypatch.setattr(running, "_failed_by_kvm", checked)
            guest.qemu.child.wait()
            return False

        monkeypatch.setattr(running, "_failed_by_kvm", ended_since)
        running.wait_until_ready(PATIENT)
        assert guest.run("cat", stdin=b"here").out == "here"


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A QEMU that with KVM does as `body` says, and else is the real one."""
    real = process.run(["sh", "-c", f"command -v {qemu.PROGRAM}"]).text.strip()
    program = tmp_path / "bin" / qemu.PROGRAM
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncase "$*" in *"-accel kvm"*) {body} ;; esac\nexec {real} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_a_host_without_qemu_lacks_it(made: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = made.boot(tmp_path / "initramfs")
    with running_lab(tmp_path / "lab", tcg()) as running:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(HostLacks, match=f"the program {qemu.PROGRAM} is not installed"):
            running.add_guest("victim", boot)


def test_a_qemu_that_refuses_is_quoted(made: Parts, tmp_path: Path) -> None:
    with running_lab(tmp_path / "lab", Accelerator("nonsense", "")) as running:
        running.add_guest("victim", made.boot(tmp_path / "initramfs"))
        with pytest.raises(GuestLost, match=r"QEMU gave up with exit status 1: .*nonsense"):
            running.wait_until_ready(PATIENT)


def test_a_capture_that_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    capture = tmp_path / "front.pcap"
    with running_lab(tmp_path / "lab", tcg()) as running:
        running.add_segment("front", capture)
        with pytest.raises(NetworkFailed, match="segment back: its capture file exists") as caught:
            running.add_segment("back", capture)
        with pytest.raises(NetworkFailed, match="exists already"):
            running.add_segment("front")
    assert "is evidence and is never overwritten" in caught.value.why


def test_a_directory_holds_one_lab_at_a_time(tmp_path: Path) -> None:
    with running_lab(tmp_path, tcg()) as running:
        running.add_segment("front")
        with pytest.raises(Locked, match="lab"), running_lab(tmp_path, tcg()):
            pass


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_no_other_user_reaches_a_socket_and_none_is_left(made: Parts, tmp_path: Path, umask: int) -> None:
    """Who connects to a guest's channel is root in it; who connects to its monitor is this user."""
    before = os.umask(umask)
    try:
        with running_lab(tmp_path / "lab", tcg()) as running:
            running.add_segment("front")
            guest = running.add_guest("victim", made.boot(tmp_path / "initramfs"), [NicSpec("front", MACS[0])])
            sockets = [running.segments["front"].socket, guest.files.control, guest.files.monitor]
            assert all(path.is_socket() for path in sockets)
            assert {stat.S_IMODE(path.parent.stat().st_mode) for path in sockets} == {0o700}
    finally:
        os.umask(before)
    assert not any(path.parent.exists() for path in sockets)
    assert [path for path in (tmp_path / "lab").iterdir() if path.is_socket()] == []


def test_a_full_disk_is_what_the_host_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_lab(tmp_path, tcg()) as running:
        running.check_alive()
        monkeypatch.setattr(disk_space, "free", lambda place: disk_space.LEAST - 1)
        with pytest.raises(HostLacks, match="no disk space is left") as caught:
            running.check_alive()
    assert "consoles and captures" in caught.value.why


def test_a_switch_that_was_killed_ends_the_waiting(tmp_path: Path) -> None:
    with running_lab(tmp_path, tcg()) as running:
        running.add_segment("front")
        running.segments["front"].child.kill()
        running.segments["front"].child.wait()
        with pytest.raises(NetworkFailed, match="segment front: its switch ended"):
            running.check_alive()


def test_a_capture_above_the_shells_limit_is_put_down_to_that(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with running_lab(tmp_path / "lab", tcg()) as running:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            with pytest.raises(HostLacks, match="the shell's limit `ulimit -f`"):
                running.add_segment("front", tmp_path / "front.pcap")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_long_path_is_no_hindrance(made: Parts, tmp_path: Path) -> None:
    place = tmp_path / ("long" * 30)
    with running_lab(place, tcg()) as running:
        running.add_segment("front")
        running.add_guest("victim", made.boot(tmp_path / "initramfs"), [NicSpec("front", MACS[0])])
        assert until(lambda: (place / "victim.console").stat().st_size > 0)


SCRIPT = """
import sys, time
from pathlib import Path
from pipeline.lab.vm.network import Accelerator, Boot, NicSpec, running_lab
place, kernel, initramfs = map(Path, sys.argv[1:])
with running_lab(place, Accelerator("tcg", "")) as running:
    running.add_segment("front", place / "front.pcap")
    boot = Boot(kernel, initramfs, 128, True)
    guests = [running.add_guest(name, boot, [NicSpec("front", f"52:54:00:00:00:0{name}")]) for name in "12"]
    print(*(guest.pid for guest in guests), *(s.child.pid for s in running.segments.values()), flush=True)
    time.sleep(600)
"""


def test_killing_the_lab_leaves_neither_guests_nor_switches(made: Parts, tmp_path: Path) -> None:
    boot = made.boot(tmp_path / "initramfs")
    argv = [sys.executable, "-c", SCRIPT, str(tmp_path), str(boot.kernel), str(boot.initramfs)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        pids = [int(word) for word in running.stdout.readline().split()]
        assert len(pids) == 3 and all(map(_lives, pids))
        running.kill()
        running.wait()
        left = not until(lambda: not any(map(_lives, pids)))
        for pid in filter(_lives, pids):
            os.kill(pid, signal.SIGKILL)
    assert not left, "something outlived the process that started it"


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
