"""The lab with real guests: what they are asked, what goes between them, and every way to lose one."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import resource
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import process, room
from pipeline.errors import HostLacks, Locked
from pipeline.host import kvm
from pipeline.host.kvm import Cause, Probe
from pipeline.lab import qemu
from pipeline.lab.failures import CommandFailed, GuestLost, Loss, NetworkFailed
from pipeline.lab.guest import Guest
from pipeline.lab.network import Accelerator, Lab, lab
from pipeline.lab.patterns import Kind
from pipeline.lab.qemu import CardSpec
from tests.fixtures.guests import CHANNEL, Parts, parts

ROOT = Path(__file__).resolve().parents[2]
PATIENT = 120.0  # seconds for a boot under emulation on a busy machine; alone it takes 3
QUIET = 15.0  # seconds of silence that are a hang here
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")


def tcg() -> Accelerator:
    return Accelerator("tcg", "asked for")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return parts(tmp_path_factory.mktemp("parts"))


@dataclass
class Pair:
    """Two guests on one segment, with addresses."""

    lab: Lab
    a: Guest
    b: Guest
    capture: Path


@pytest.fixture(scope="module")
def pair(made: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    place = tmp_path_factory.mktemp("pair")
    boot = made.boot(place / "initramfs")
    with lab(place / "lab", tcg()) as running:
        running.segment("front", capture=place / "front.pcap")
        a, b = (running.machine(name, boot, [CardSpec("front", mac)]) for name, mac in zip("ab", MACS, strict=True))
        running.ready(PATIENT)
        for guest, address in ((a, "10.0.0.1"), (b, "10.0.0.2")):
            for words in ("link set lo up", "link set eth0 up", f"addr add {address}/24 dev eth0"):
                guest.run("ip", *words.split())
        yield Pair(running, a, b, place / "front.pcap")


# --- Commands ------------------------------------------------------------------------------------------


def test_a_boot_is_told_in_its_marks(pair: Pair) -> None:
    names = list(pair.a.marks)
    assert names == ["first byte", f"kernel {pair.a.release}", "init", "ready"]
    assert sorted(pair.a.marks.values()) == list(pair.a.marks.values()) and pair.a.release.startswith("6.")


def test_a_guest_knows_its_name(pair: Pair) -> None:
    assert [guest.get("/proc/sys/kernel/hostname") for guest in (pair.a, pair.b)] == [b"a\n", b"b\n"]


def test_a_command_gives_status_and_both_outputs(pair: Pair) -> None:
    ran = pair.a.run("sh", "-c", "cat; echo two >&2; exit 3", stdin=b"one", accept=(3,))
    assert (ran.argv[0], ran.status, ran.out, ran.err) == ("sh", 3, "one", "two\n")
    assert pair.a.run("sh", "-c", "kill -9 $$", accept=(137,)).status == 137


def test_a_status_that_is_not_accepted_says_what_the_command_said(pair: Pair) -> None:
    with pytest.raises(CommandFailed, match="guest a: sh ended with exit status 1\nno such thing") as caught:
        pair.a.run("sh", "-c", "echo no such thing >&2; exit 1")
    assert (caught.value.status, caught.value.err, int(caught.value.code)) == (1, "no such thing\n", 6)


def test_a_program_that_is_not_there_has_status_127(pair: Pair) -> None:
    assert "No such file" in pair.a.run("nonsense", accept=(127,)).err
    with pytest.raises(CommandFailed, match="nonsense could not be started: nonsense: No such file"):
        pair.a.start("nonsense")


def test_a_command_that_does_not_end_in_time_is_ended_with_all_it_started(pair: Pair) -> None:
    with pytest.raises(CommandFailed, match=r"sh did not end within 0\.5 s") as caught:
        pair.a.run("sh", "-c", "echo begun; sleep 4321; true", timeout=0.5)
    assert (caught.value.status, caught.value.out) == (None, "begun\n")
    assert "sleep 4321" not in commands_of(pair.a)


def commands_of(guest: Guest) -> str:
    return guest.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '", accept=(0, 1)).out


def test_a_daemon_that_keeps_the_outputs_does_not_keep_the_command(pair: Pair) -> None:
    assert pair.a.run("sh", "-c", "sleep 1234 & echo begun").out == "begun\n"
    assert "sleep 1234" in commands_of(pair.a), "what is not stopped may leave a daemon"


def test_what_is_started_goes_on_into_its_log_until_it_is_stopped(pair: Pair) -> None:
    number = pair.a.start("sh", "-c", "echo out; echo err >&2; exec sleep 2345")
    assert _until(lambda: pair.a.get(f"/run/{number}.log") == b"out\nerr\n")
    assert "sleep 2345" in commands_of(pair.a)
    pair.a.stop(number)
    assert "sleep 2345" not in commands_of(pair.a)


def test_a_person_gets_a_shell_at_a_terminal(pair: Pair) -> None:
    typed, types = os.pipe()
    shown, shows = os.pipe()
    statuses: list[int] = []
    sizes = [os.terminal_size((100, 30))]
    shell = threading.Thread(target=lambda: statuses.append(pair.a.shell(typed, shows, lambda: sizes[-1])))
    shell.start()
    os.write(types, b"stty size; sh -c 'echo $((6 * 7)); exec sleep 600'\n")
    assert "30 100\r\n42\r\n" in _read_until(shown, b"42\r\n")
    sizes.append(os.terminal_size((90, 20)))
    resized = b"until test \"$(stty size)\" = '20 90'; do sleep 0.1; done; exit 5\n"
    os.write(types, b"\x03" + resized)  # what a terminal makes of the first ends the sleep
    shell.join(60)
    for descriptor in (typed, types, shown, shows):
        os.close(descriptor)
    assert statuses == [5]


def _read_until(descriptor: int, mark: bytes) -> str:
    data = b""
    while mark not in data and select.select([descriptor], [], [], 60)[0]:
        data += os.read(descriptor, 4096)
    return data.decode()


def test_files_of_any_bytes_go_there_and_back(pair: Pair) -> None:
    data = os.urandom(1 << 20)
    pair.a.put("/run/new/directory/file", data, 0o750)
    assert pair.a.run("sha256sum", "/run/new/directory/file").out.split()[0] == hashlib.sha256(data).hexdigest()
    assert pair.a.get("/run/new/directory/file") == data
    assert pair.a.run("stat", "-c", "%a", "/run/new/directory/file").out == "750\n"
    pair.a.put("/run/new/directory/file", b"", 0o600)
    assert pair.a.get("/run/new/directory/file") == b""
    with pytest.raises(CommandFailed, match="/run/none: No such file"):
        pair.a.get("/run/none")


def test_files_of_proc_are_read_and_written_too(pair: Pair) -> None:
    pair.b.put("/proc/sys/net/ipv4/ip_forward", b"1\n")
    assert pair.b.get("/proc/sys/net/ipv4/ip_forward") == b"1\n"


def test_commands_at_once_do_not_wait_for_each_other(pair: Pair) -> None:
    outs: dict[int, list[str]] = {}

    def ask(number: int) -> None:
        words = f"cat /run/gate{number}; seq {number} 20000"
        outs[number] = pair.a.run("sh", "-c", words, timeout=PATIENT).out.splitlines()

    pair.a.run("busybox", "mkfifo", *(f"/run/gate{number}" for number in range(4)))
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in reversed(range(4)):
        pair.a.run("sh", "-c", f"echo open >/run/gate{number}", timeout=PATIENT)
    for thread in threads:
        thread.join()
    assert outs == {number: ["open", *(str(count) for count in range(number, 20001))] for number in range(4)}


# --- Traffic -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["4", "6"])
def test_a_server_says_whom_it_sees_on_either_family(pair: Pair, family: str) -> None:
    server = pair.b.start("fnat-guest", "serve", "bee", "80", family)
    try:
        lines = asked(pair.a, "ask", "10.0.0.2", "80", "/", "3").splitlines()
    finally:
        pair.b.stop(server)
    ports = set()
    for line in lines:
        told = re.fullmatch(r"ok bee 10\.0\.0\.1 (\d+) 10\.0\.0\.2 80 \| 10\.0\.0\.1 (\d+) [\d.]+", line)
        assert told and told[1] == told[2], line
        ports.add(told[1])
    assert len(lines) == len(ports) == 3, "each request is a connection of its own"


def asked(guest: Guest, *words: str) -> str:
    """What asking gives, once the server listens."""
    assert _until(lambda: "refused" not in guest.run("fnat-guest", *words, accept=(0, 1)).out)
    return guest.run("fnat-guest", *words).out


def test_datagrams_are_answered_from_the_address_that_was_asked(pair: Pair) -> None:
    pair.b.run("ip", "addr", "add", "10.0.0.9/32", "dev", "eth0")
    server = pair.b.start("fnat-guest", "serve-udp", "bee", "53")
    line = asked(pair.a, "ask-udp", "10.0.0.9", "53", "hello", "1")
    pair.b.stop(server)
    assert re.fullmatch(r"ok bee 10\.0\.0\.1 (\d+) 10\.0\.0\.9 53 \| 10\.0\.0\.1 \1 [\d.]+\n", line), line


def test_many_at_once_and_long_answers_come_whole(pair: Pair) -> None:
    server = pair.b.start("fnat-guest", "serve", "bee", "81")
    asked(pair.a, "ask", "10.0.0.2", "81", "/", "1")
    together = asked(pair.a, "ask", "10.0.0.2", "81", "/hold/0.5", "40", "--together", "--timeout", "60")
    assert [line.split()[0] for line in together.splitlines()] == ["ok"] * 40
    words = "fnat-guest ask 10.0.0.2 81 /bytes/1000003 1 --body --timeout 60 | sha256sum"
    through = pair.a.run("sh", "-c", words, timeout=PATIENT).out
    assert through == pair.b.run("sh", "-c", "fnat-guest bytes 1000003 | sha256sum").out
    pair.b.stop(server)


def test_what_goes_wrong_with_a_request_is_said_by_its_reason(pair: Pair) -> None:
    refused = pair.a.run("fnat-guest", "ask", "10.0.0.2", "999", "/", "1", accept=(1,)).out
    assert re.fullmatch(r"error Connection refused [\d.]+\n", refused)
    server = pair.b.start("fnat-guest", "serve", "bee", "82")
    asked(pair.a, "ask", "10.0.0.2", "82", "/", "1")
    late = pair.a.run("fnat-guest", "ask", "10.0.0.2", "82", "/hold/9", "1", "--timeout", "0.3", accept=(1,)).out
    assert re.fullmatch(r"error timeout 3\d\d\.\d\n", late) or late.startswith("error timeout ")
    nothing = pair.a.run("fnat-guest", "ask", "10.0.0.2", "82", "/nothing", "1", accept=(1,)).out
    assert nothing.startswith("error status 404 ")
    pair.b.stop(server)


def test_the_segments_capture_has_what_went_between_them(pair: Pair) -> None:
    asked_before = pair.capture.stat().st_size
    server = pair.b.start("fnat-guest", "serve", "bee", "83")
    asked(pair.a, "ask", "10.0.0.2", "83", "/", "1")
    pair.b.stop(server)
    frames = pair.capture.read_bytes()[asked_before:]
    assert b"GET / HTTP/1.0\r\n" in frames and b"bee 10.0.0.1 " in frames


# --- Losses --------------------------------------------------------------------------------------------


@pytest.fixture
def guest(made: Parts, tmp_path: Path) -> Iterator[Guest]:
    """A guest that is there to be lost."""
    boot = made.boot(tmp_path / "initramfs", modules=CHANNEL)
    with lab(tmp_path / "lab", tcg()) as running:
        machine = running.machine("victim", boot)
        running.ready(PATIENT)
        yield machine


def test_a_panic_ends_the_command_at_once_and_its_trace_is_cut_out(guest: Guest) -> None:
    with pytest.raises(GuestLost, match=r"guest victim: panic, the kernel gave up: .*sysrq triggered crash") as caught:
        guest.put("/proc/sysrq-trigger", b"c")
    lost = caught.value
    assert lost.loss is Loss.FOUND and lost.finding is not None and int(lost.code) == 6
    assert "Call Trace:" in lost.finding.trace and lost.finding.trace.count("Kernel panic - not syncing") >= 1
    console = guest.files.console.read_text(errors="replace").splitlines()
    assert "Kernel panic" in console[lost.finding.line - 1]
    with pytest.raises(GuestLost):
        guest.run("true")


def test_a_guest_killed_from_outside_is_told_from_one_that_ended(guest: Guest) -> None:
    killer = threading.Timer(0.3, os.kill, (guest.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(GuestLost, match="QEMU was killed by SIGKILL") as caught:
        guest.run("sleep", "600", timeout=PATIENT)
    killer.join()
    assert caught.value.loss is Loss.KILLED


def test_a_guest_that_stands_still_is_silent_and_not_merely_late(guest: Guest) -> None:
    guest.qemu.monitor.command("stop")
    with pytest.raises(GuestLost, match=r"it does not answer .* not even an NMI made it speak") as caught:
        guest.run("cat", timeout=0.5)
    assert caught.value.loss is Loss.SILENT


def test_a_guest_that_goes_off_by_itself_has_ended(guest: Guest) -> None:
    with pytest.raises(GuestLost, match="it ended: it powered itself off") as caught:
        guest.run("sh", "-c", "poweroff -f; sleep 600", timeout=PATIENT)
    assert caught.value.loss is Loss.ENDED


def test_a_guest_that_we_put_out_is_no_loss_for_the_others(made: Parts, tmp_path: Path) -> None:
    boot = made.boot(tmp_path / "initramfs", modules=CHANNEL)
    with lab(tmp_path / "lab", tcg()) as running:
        killed, off = (running.machine(name, boot) for name in ("killed", "off"))
        running.ready(PATIENT)
        killed.kill()
        off.off()
        running.look()
        running.ready(PATIENT)
        assert off.qemu.child.returncode == 0 and killed.qemu.child.returncode == -signal.SIGKILL
        with pytest.raises(GuestLost, match="the scenario ended it"):
            killed.run("true")
        assert "fnat: guest ready" in killed.files.console.read_text(errors="replace")


def test_a_guests_clock_goes_right_when_its_kernel_takes_its_processor_for_slow(made: Parts, tmp_path: Path) -> None:
    """As one does whose boot was put aside for a moment, on a busy host, while it measured the processor's rate."""
    boot = dataclasses.replace(made.boot(tmp_path / "initramfs", modules=CHANNEL), append=("tsc_early_khz=40000",))
    with lab(tmp_path / "lab", tcg()) as running:
        machine = running.machine("slow", boot)
        running.ready(PATIENT)
        before, begun = seconds_up(machine), time.monotonic()
        time.sleep(1.0)
        went = seconds_up(machine) - before
        assert went == pytest.approx(time.monotonic() - begun, abs=0.5)
        assert "Detected 40.000 MHz processor" in machine.files.console.read_text(errors="replace")


def seconds_up(guest: Guest) -> float:
    return float(guest.get("/proc/uptime").split()[0])


def lost_at_boot(made: Parts, tmp_path: Path, init: str, timeout: float = PATIENT) -> GuestLost:
    with lab(tmp_path / "lab", tcg()) as running:
        running.machine("victim", made.boot(tmp_path / "initramfs", modules=(), init=init))
        with pytest.raises(GuestLost) as caught:
            running.ready(timeout, silence=QUIET)
    return caught.value


def test_a_guest_that_hangs_is_made_to_say_where(made: Parts, tmp_path: Path) -> None:
    lost = lost_at_boot(made, tmp_path, "while :; do :; done")
    assert lost.loss is Loss.SILENT and re.search(r"silent for \d+ s while booting; its last words: .", str(lost))
    assert lost.finding is not None and "NMI" in lost.finding.trace and "Call Trace:" in lost.finding.trace


def test_a_guest_that_says_the_same_for_ever_is_looping(made: Parts, tmp_path: Path) -> None:
    lost = lost_at_boot(made, tmp_path, "i=0; while :; do i=$((i+1)); echo try $i; done")
    assert lost.loss is Loss.LOOPING and "again and again" in str(lost) and "its last words: try" in str(lost)


def test_a_guest_that_still_has_news_is_slow(made: Parts, tmp_path: Path) -> None:
    lost = lost_at_boot(made, tmp_path, "for i in $(seq 900); do echo step $i; sleep 1; done", timeout=6)
    assert lost.loss is Loss.SLOW and "not ready within 6 s" in str(lost) and "it got to: " in str(lost)
    assert "the host's load is" in lost.hint


def test_a_guest_without_an_init_and_one_whose_module_is_missing_are_told_by_their_consoles(
    made: Parts, tmp_path: Path
) -> None:
    lost = lost_at_boot(made, tmp_path, "exit 1")
    assert lost.loss is Loss.FOUND and lost.finding is not None and lost.finding.kind == Kind.NO_INIT
    with lab(tmp_path / "second", tcg()) as running:
        running.machine("victim", made.boot(tmp_path / "initramfs", modules=(*CHANNEL, "toa")))
        with pytest.raises(GuestLost, match=r"module refused, .*/modules/toa\.ko refused: No such file"):
            running.ready(PATIENT)


def test_a_guest_without_virtio_is_reached_over_its_second_serial_port(made: Parts, tmp_path: Path) -> None:
    with lab(tmp_path / "lab", tcg()) as running:
        guest = running.machine("serial", made.boot(tmp_path / "initramfs", virtio=False))
        running.ready(PATIENT)
        data = bytes(range(256)) * 256
        guest.put("/run/file", data)
        assert guest.get("/run/file") == data


# --- The host ------------------------------------------------------------------------------------------


def test_kvm_is_used_only_when_a_guest_booted_with_it(tmp_path: Path) -> None:
    without = Accelerator.found(Probe(tmp_path, device=tmp_path / "none"))
    assert (without.name, str(tmp_path / "none") in without.why) == ("tcg", True)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "qemu"
    program.write_text(f'#!/bin/sh\necho "version 1"; echo "{kvm.MARKER.decode()}"\n')
    program.chmod(0o755)
    kernel, device = tmp_path / "vmlinuz", tmp_path / "kvm"
    kernel.write_bytes(bytes(0x1FE) + b"\x55\xaa\xeb\x66HdrS")
    device.write_bytes(b"")
    probe = Probe(tmp_path, kernel=kernel, qemu=str(program), device=device)
    assert Accelerator.found(probe).name == "kvm"


@pytest.mark.parametrize(
    ("body", "says"), [("exec sleep 600", "nothing was said within 1 s"), ("echo no MSR >&2; exit 1", "QEMU ended")]
)
def test_where_kvm_fails_a_guest_is_started_again_without_and_that_is_remembered(
    made: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    stand_in(tmp_path, monkeypatch, body)
    probe = Probe(tmp_path / "artifacts")
    accelerator = Accelerator("kvm", "believed", probe)
    with lab(tmp_path / "lab", accelerator) as running:
        guest = running.machine("victim", made.boot(tmp_path / "initramfs", modules=CHANNEL))
        running.ready(PATIENT, life=1)
        assert guest.run("cat", stdin=b"here").out == "here"
    known = probe.remembered()
    assert known is not None and known.cause is Cause.CORRECTED and says in known.detail
    assert accelerator.name == "tcg" and says in accelerator.why


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
    with lab(tmp_path / "lab", tcg()) as running:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(HostLacks, match=f"the program {qemu.PROGRAM} is not installed"):
            running.machine("victim", boot)


def test_a_qemu_that_refuses_is_quoted(made: Parts, tmp_path: Path) -> None:
    with lab(tmp_path / "lab", Accelerator("nonsense", "")) as running:
        running.machine("victim", made.boot(tmp_path / "initramfs"))
        with pytest.raises(GuestLost, match=r"QEMU gave up with exit status 1: .*nonsense"):
            running.ready(PATIENT)


def test_a_capture_that_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    capture = tmp_path / "front.pcap"
    with lab(tmp_path / "lab", tcg()) as running:
        running.segment("front", capture)
        with pytest.raises(NetworkFailed, match="segment back: its capture file is there already") as caught:
            running.segment("back", capture)
        with pytest.raises(NetworkFailed, match="there is one of that name already"):
            running.segment("front")
    assert "is evidence and is never overwritten" in caught.value.why


def test_a_directory_holds_one_lab_at_a_time_and_what_a_killed_one_left_is_no_hindrance(tmp_path: Path) -> None:
    with lab(tmp_path, tcg()) as running:
        running.segment("front")
        with pytest.raises(Locked, match="lab"), lab(tmp_path, tcg()):
            pass
    assert (tmp_path / "front.switch").is_socket(), "as a kill leaves it"
    with lab(tmp_path, tcg()) as running:
        running.segment("front")
        running.look()


def test_a_full_disk_is_what_the_host_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab(tmp_path, tcg()) as running:
        running.look()
        monkeypatch.setattr(room, "free", lambda place: room.LEAST - 1)
        with pytest.raises(HostLacks, match="there is no room") as caught:
            running.look()
    assert "consoles and captures" in caught.value.why


def test_a_switch_that_was_killed_ends_the_waiting(tmp_path: Path) -> None:
    with lab(tmp_path, tcg()) as running:
        running.segment("front")
        running.segments["front"].child.kill()
        running.segments["front"].child.wait()
        with pytest.raises(NetworkFailed, match="segment front: its switch ended"):
            running.look()


def test_a_capture_without_room_is_what_the_host_lacks(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with lab(tmp_path / "lab", tcg()) as running:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            with pytest.raises(HostLacks, match="there is no room"):
                running.segment("front", tmp_path / "front.pcap")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_long_path_is_no_hindrance(made: Parts, tmp_path: Path) -> None:
    place = tmp_path / ("long" * 30)
    with lab(place, tcg()) as running:
        running.segment("front")
        running.machine("victim", made.boot(tmp_path / "initramfs"), [CardSpec("front", MACS[0])])
        assert _until(lambda: (place / "victim.console").stat().st_size > 0)


SCRIPT = """
import sys, time
from pathlib import Path
from pipeline.lab.network import Accelerator, Boot, CardSpec, lab
place, kernel, initramfs = map(Path, sys.argv[1:])
with lab(place, Accelerator("tcg", "")) as running:
    running.segment("front", place / "front.pcap")
    boot = Boot(kernel, initramfs, 128, True)
    guests = [running.machine(name, boot, [CardSpec("front", f"52:54:00:00:00:0{name}")]) for name in "12"]
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
        left = not _until(lambda: not any(map(_lives, pids)))
        for pid in filter(_lives, pids):
            os.kill(pid, signal.SIGKILL)
    assert not left, "something outlived the process that started it"


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _until(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
