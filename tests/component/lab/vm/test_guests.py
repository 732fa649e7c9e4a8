"""The lab with real guests: what they are asked, what goes between them, and every way to lose one."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import resource
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.lab.failures import CommandFailed, GuestLost, LossReason
from pipeline.lab.vm import qemu
from pipeline.lab.vm.console_patterns import Kind
from pipeline.lab.vm.guest import Guest
from pipeline.lab.vm.network import Accelerator, Lab, running_lab
from pipeline.lab.vm.qemu import NicSpec
from tests.fixtures.guests import CHANNEL, Parts, parts

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
    with running_lab(place / "lab", tcg()) as running:
        running.add_segment("front", capture=place / "front.pcap")
        a, b = (running.add_guest(name, boot, [NicSpec("front", mac)]) for name, mac in zip("ab", MACS, strict=True))
        running.wait_until_ready(PATIENT)
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
    assert [guest.read_file("/proc/sys/kernel/hostname") for guest in (pair.a, pair.b)] == [b"a\n", b"b\n"]


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
    with pytest.raises(CommandFailed, match=r"sh did not end within 3 s") as caught:
        pair.a.run("sh", "-c", "echo begun; sleep 4321; true", timeout=3)
    assert (caught.value.status, caught.value.out) == (None, "begun\n")
    assert "sleep 4321" not in commands_of(pair.a)


def commands_of(guest: Guest) -> str:
    return guest.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '", accept=(0, 1)).out


def test_a_daemon_that_keeps_the_outputs_does_not_keep_the_command(pair: Pair) -> None:
    assert pair.a.run("sh", "-c", "sleep 1234 & echo begun").out == "begun\n"
    assert "sleep 1234" in commands_of(pair.a), "what is not stopped may leave a daemon"


def test_what_is_started_goes_on_into_its_log_until_it_is_stopped(pair: Pair) -> None:
    number = pair.a.start("sh", "-c", "echo out; echo err >&2; exec sleep 2345")
    assert until(lambda: pair.a.read_file(f"/run/{number}.log") == b"out\nerr\n")
    assert "sleep 2345" in commands_of(pair.a)
    pair.a.stop(number)
    assert "sleep 2345" not in commands_of(pair.a)


def test_a_person_gets_a_shell_at_a_terminal(pair: Pair) -> None:
    typed, types = os.pipe()
    shown, shows = os.pipe()
    statuses: list[int] = []
    sizes = [os.terminal_size((100, 30))]
    shell = threading.Thread(target=lambda: statuses.append(pair.a.open_shell(typed, shows, lambda: sizes[-1])))
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
    pair.a.write_file("/run/new/directory/file", data, 0o750)
    assert pair.a.run("sha256sum", "/run/new/directory/file").out.split()[0] == hashlib.sha256(data).hexdigest()
    assert pair.a.read_file("/run/new/directory/file") == data
    assert pair.a.run("stat", "-c", "%a", "/run/new/directory/file").out == "750\n"
    pair.a.write_file("/run/new/directory/file", b"", 0o600)
    assert pair.a.read_file("/run/new/directory/file") == b""
    with pytest.raises(CommandFailed, match="/run/none: No such file"):
        pair.a.read_file("/run/none")


def test_files_of_proc_are_read_and_written_too(pair: Pair) -> None:
    pair.b.write_file("/proc/sys/net/ipv4/ip_forward", b"1\n")
    assert pair.b.read_file("/proc/sys/net/ipv4/ip_forward") == b"1\n"


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
    assert until(lambda: "refused" not in guest.run("fnat-guest", *words, accept=(0, 1)).out)
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


def test_what_is_posted_is_digested_at_both_ends(pair: Pair) -> None:
    server = pair.b.start("fnat-guest", "serve", "bee", "84")
    asked(pair.a, "ask", "10.0.0.2", "84", "/", "1")
    first, *digests = pair.a.run("fnat-guest", "post", "10.0.0.2", "84", "1000003", timeout=PATIENT).out.splitlines()
    other = pair.a.run("fnat-guest", "post", "10.0.0.2", "84", "1000002", timeout=PATIENT).out.splitlines()
    pair.b.stop(server)
    assert re.fullmatch(r"ok bee 10\.0\.0\.1 (\d+) 10\.0\.0\.2 84 \| 10\.0\.0\.1 \1 [\d.]+", first)
    state = 14695981039346656037
    for byte in known(1000003):
        state = (state ^ byte) * 1099511628211 % (1 << 64)
    assert digests == [f"received 1000003 {state:016x}", f"sent 1000003 {state:016x}"]
    assert other[1].split()[2] not in digests[0]
    assert pair.a.run("fnat-guest", "post", "10.0.0.2", "84", "9", accept=(1,)).out.startswith(
        "error Connection refused "
    )


def known(length: int) -> bytes:
    """The bytes that a guest's program sends: xorshift64."""
    state, numbers = 88172645463325252, []
    for _ in range(length // 8 + 1):
        state ^= state << 13 & (1 << 64) - 1
        state ^= state >> 7
        state ^= state << 17 & (1 << 64) - 1
        numbers.append(state.to_bytes(8, "little"))
    return b"".join(numbers)[:length]


@pytest.mark.parametrize("options", [(), ("--together",)])
def test_a_server_that_closes_first_says_whom_it_sees(pair: Pair, options: tuple[str, ...]) -> None:
    server = pair.b.start("fnat-guest", "serve-close", "bee", "85", "0.5" if options else "0")
    asked(pair.a, "connect", "10.0.0.2", "85", "1")
    lines = pair.a.run("fnat-guest", "connect", "10.0.0.2", "85", "30", *options, timeout=PATIENT).out.splitlines()
    closing = pair.b.run("sh", "-c", "grep -c ':0055 .* 06 ' /proc/net/tcp || :").out
    pair.b.stop(server)
    told = [re.fullmatch(r"ok bee 10\.0\.0\.1 (\d+) 10\.0\.0\.2 85 \| 10\.0\.0\.1 \1 ([\d.]+)", line) for line in lines]
    assert len(told) == 30 and all(told)
    assert not options or all(float(each[2]) >= 500 for each in told if each)
    assert int(closing) >= 30, "TIME_WAIT is at the end that closed first"
    assert pair.a.run("fnat-guest", "connect", "10.0.0.2", "85", "1", accept=(1,)).out.startswith(
        "error Connection refused "
    )


def test_offloads_are_turned_off_and_on_as_far_as_the_card_has_them(pair: Pair) -> None:
    for state in ("off", "on"):
        said = pair.a.run("fnat-guest", "offload", "eth0", state).out
        assert said == pair.a.run("fnat-guest", "offload", "eth0").out
        assert f"gro {state}" in said and [row.split()[0] for row in said.split(", ")][-2:] == ["gso", "gro"]
    assert "eth7" in pair.a.run("fnat-guest", "offload", "eth7", "on", accept=(1,)).err


def test_the_path_mtu_is_that_of_the_route(pair: Pair) -> None:
    pair.a.run("ip", "route", "add", "10.9.0.0/24", "via", "10.0.0.2", "mtu", "1300")
    assert [pair.a.run("fnat-guest", "path-mtu", each).out for each in ("10.0.0.2", "10.9.0.1")] == ["1500\n", "1300\n"]
    assert "unreachable" in pair.a.run("fnat-guest", "path-mtu", "192.0.2.1", accept=(1,)).err


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
    with running_lab(tmp_path / "lab", tcg()) as running:
        machine = running.add_guest("victim", boot)
        running.wait_until_ready(PATIENT)
        yield machine


def test_a_panic_ends_the_command_at_once_and_its_trace_is_cut_out(guest: Guest) -> None:
    with pytest.raises(GuestLost, match=r"guest victim: panic, the kernel gave up: .*sysrq triggered crash") as caught:
        guest.write_file("/proc/sysrq-trigger", b"c")
    lost = caught.value
    assert lost.loss is LossReason.FOUND and lost.finding is not None and int(lost.code) == 6
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
    assert caught.value.loss is LossReason.KILLED


def test_a_console_without_end_is_bounded_and_told(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resource.prlimit(guest.pid, resource.RLIMIT_FSIZE) == (qemu.MAX_CONSOLE, qemu.MAX_CONSOLE)
    few = guest.files.console.stat().st_size + 5_000
    resource.prlimit(guest.pid, resource.RLIMIT_FSIZE, (few, few))
    monkeypatch.setattr(qemu, "MAX_CONSOLE", few)
    with pytest.raises(GuestLost, match=f"its console says more than {few} bytes, without end") as caught:
        guest.run("sh", "-c", "yes > /dev/console", timeout=PATIENT)
    assert caught.value.loss is LossReason.FLOODED and int(caught.value.code) == 6
    assert guest.files.console.stat().st_size <= few


def test_a_guest_that_stands_still_is_silent_and_not_merely_late(guest: Guest) -> None:
    guest.qemu.monitor.command("stop")
    with pytest.raises(GuestLost, match=r"it does not answer .* not even an NMI made it speak") as caught:
        guest.run("cat", timeout=0.5)
    assert caught.value.loss is LossReason.SILENT


def test_a_guest_that_goes_off_by_itself_has_ended(guest: Guest) -> None:
    with pytest.raises(GuestLost, match="it ended: it powered itself off") as caught:
        guest.run("sh", "-c", "poweroff -f; sleep 600", timeout=PATIENT)
    assert caught.value.loss is LossReason.ENDED


def test_a_guest_that_we_put_out_is_no_loss_for_the_others(made: Parts, tmp_path: Path) -> None:
    boot = made.boot(tmp_path / "initramfs", modules=CHANNEL)
    with running_lab(tmp_path / "lab", tcg()) as running:
        killed, off = (running.add_guest(name, boot) for name in ("killed", "off"))
        running.wait_until_ready(PATIENT)
        killed.kill()
        off.power_off()
        running.check_alive()
        running.wait_until_ready(PATIENT)
        assert off.qemu.child.returncode == 0 and killed.qemu.child.returncode == -signal.SIGKILL
        with pytest.raises(GuestLost, match="the scenario ended it"):
            killed.run("true")
        assert "fnat: guest ready" in killed.files.console.read_text(errors="replace")


def test_a_guests_clock_goes_right_when_its_kernel_takes_its_processor_for_slow(made: Parts, tmp_path: Path) -> None:
    """As one does whose boot was put aside for a moment, on a busy host, while it measured the processor's rate."""
    boot = dataclasses.replace(made.boot(tmp_path / "initramfs", modules=CHANNEL), append=("tsc_early_khz=40000",))
    with running_lab(tmp_path / "lab", tcg()) as running:
        machine = running.add_guest("slow", boot)
        running.wait_until_ready(PATIENT)
        outer = time.monotonic()
        before, inner = seconds_up(machine), time.monotonic()
        time.sleep(1.0)
        least = time.monotonic() - inner
        went, most = seconds_up(machine) - before, time.monotonic() - outer
        assert least - 0.5 < went < most + 0.5  # however long the host takes to ask
        assert "Detected 40.000 MHz processor" in machine.files.console.read_text(errors="replace")


def seconds_up(guest: Guest) -> float:
    return float(guest.read_file("/proc/uptime").split()[0])


def lost_at_boot(made: Parts, tmp_path: Path, init: str, timeout: float = PATIENT, patience: float = 1.0) -> GuestLost:
    with running_lab(tmp_path / "lab", tcg(), patience) as running:
        running.add_guest("victim", made.boot(tmp_path / "initramfs", modules=(), init=init))
        with pytest.raises(GuestLost) as caught:
            running.wait_until_ready(timeout, silence_limit=QUIET)
    return caught.value


def test_a_guest_that_hangs_is_made_to_say_where(made: Parts, tmp_path: Path) -> None:
    lost = lost_at_boot(made, tmp_path, "while :; do :; done")
    assert lost.loss is LossReason.SILENT and re.search(r"silent for \d+ s while booting; its last words: .", str(lost))
    assert lost.finding is not None and "NMI" in lost.finding.trace and "Call Trace:" in lost.finding.trace


def test_a_guest_that_says_the_same_for_ever_is_looping(made: Parts, tmp_path: Path) -> None:
    lost = lost_at_boot(made, tmp_path, "i=0; while :; do i=$((i+1)); echo try $i; done")
    assert lost.loss is LossReason.LOOPING and "again and again" in str(lost) and "its last words: try" in str(lost)


def test_a_guest_that_still_has_news_is_slow_after_twice_the_time_with_twice_the_patience(
    made: Parts, tmp_path: Path
) -> None:
    lost = lost_at_boot(made, tmp_path, "for i in $(seq 900); do echo step $i; sleep 1; done", timeout=3, patience=2)
    assert lost.loss is LossReason.SLOW and "not ready within 6 s" in str(lost) and "it got to: " in str(lost)
    assert "the host's load is" in lost.hint


def test_a_guest_without_an_init_and_one_whose_module_is_missing_are_told_by_their_consoles(
    made: Parts, tmp_path: Path
) -> None:
    lost = lost_at_boot(made, tmp_path, "exit 1")
    assert lost.loss is LossReason.FOUND and lost.finding is not None and lost.finding.kind == Kind.NO_INIT
    with running_lab(tmp_path / "second", tcg()) as running:
        guest = running.add_guest("victim", made.boot(tmp_path / "initramfs", modules=(*CHANNEL, "toa")))
        assert until(lambda: guest.ready, PATIENT)  # which is no reason to overlook what it complained of
        with pytest.raises(GuestLost, match=r"module refused, .*/modules/toa\.ko refused: No such file"):
            running.wait_until_ready(PATIENT)


def test_a_guest_without_virtio_is_reached_over_its_second_serial_port(made: Parts, tmp_path: Path) -> None:
    with running_lab(tmp_path / "lab", tcg()) as running:
        guest = running.add_guest("serial", made.boot(tmp_path / "initramfs", virtio=False))
        running.wait_until_ready(PATIENT)
        data = bytes(range(256)) * 256
        guest.write_file("/run/file", data)
        assert guest.read_file("/run/file") == data


def until(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
