"""lvs-toa in a guest with a stock kernel: what servers are told of clients, segment by segment.

The segments are made by hand, since no client's kernel writes the option.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.lab.vm.guest import Guest
from pipeline.lab.vm.network import Accelerator, running_lab
from tests.fixtures import toa
from tests.fixtures.guests import CHANNEL, parts

PATIENT = 120.0  # seconds for a boot, and for commands under emulation on a busy machine
DIRECTOR, STRANGER, OTHER = "10.9.0.2", "10.9.0.66", "198.51.100.9"
CLIENT, PORT = "203.0.113.7", 4660
TFO = "2202"  # the kernel's Fast Open option without a cookie
SEEN, UNSEEN = f"{CLIENT} {PORT}", f"{DIRECTOR} 20000"
FIRST = "010108 0a 00000001 00000000".replace(" ", "")  # fillers and timestamps


def option(kind: int = 200, port: int = PORT, address: str = CLIENT, length: int = 8) -> str:
    return bytes([kind, length, port >> 8, port & 255, *map(int, address.split("."))]).hex()


TOA = option()


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest with lvs-toa, static, and what tries it."""
    place = tmp_path_factory.mktemp("toa")
    libraries = toa.libraries_below(place / "libraries")
    program = toa.compiled(place / "made", libraries, "VERSION=1.0", "LDFLAGS=-static", "LIBS=-lbpf -lelf -lz")
    boot = parts(place / "parts", "tun").boot(place / "initramfs", modules=[*CHANNEL, "tun"])
    with running_lab(place / "lab", Accelerator("tcg", "asked for")) as running:
        running.add_guest("a", boot, [])
        running.wait_until_ready(PATIENT)
        [made] = running.guests.values()
        for path, data in (
            ("/bin/lvs-toa", program.read_bytes()),
            ("/bin/toa_case", toa.helper("toa_case", place).read_bytes()),
        ):
            made.write_file(path, data, 0o755)
        yield made


def sh(guest: Guest, command: str, accept: int = 0) -> str:
    """Run a command line; return both outputs."""
    ran = guest.run("busybox", "sh", "-c", command, timeout=PATIENT, accept=(accept,))
    return ran.out + ran.err


def configure(guest: Guest, *lines: str, accept: int = 0) -> str:
    guest.write_file("/etc/lvs-toa.conf", "".join(f"{line}\n" for line in lines).encode())
    return sh(guest, "lvs-toa start", accept)


def case(guest: Guest, *steps: str) -> list[str]:
    return guest.run("toa_case", *steps, timeout=PATIENT).out.splitlines()


def counters(guest: Guest) -> dict[str, int]:
    found: dict[str, int] = status(guest)["counters"]
    return found


def status(guest: Guest, accept: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(guest.run("lvs-toa", "status", "--json", timeout=PATIENT, accept=(accept,)).out)
    return found


# --- Before: what is not there is said, and nothing is left. These tests run in this order. --------------


def test_without_its_file_systems_start_says_which_to_mount(guest: Guest) -> None:
    sh(guest, "[ -d /sys/fs ] || mount -t sysfs sys /sys")
    said = configure(guest, "trust = 10.9.0.0/28", accept=1)
    assert "BPF's file system: is not mounted" in said and "  next: mount -t bpf bpf /sys/fs/bpf\n" in said
    sh(guest, "mount -t bpf bpf /sys/fs/bpf")
    said = sh(guest, "lvs-toa start", 1)
    assert "no cgroup2 hierarchy is mounted" in said and "  next: mount -t cgroup2 " in said
    sh(guest, "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
    assert case(guest, "left") == ["left 0 0 0"]


def test_before_start_servers_see_the_director(guest: Guest) -> None:
    assert status(guest, 3) == {"version": "1.0", "state": "stopped"}
    assert "  next: lvs-toa start\n" in sh(guest, "lvs-toa trust list", 3)
    assert case(guest, "listen:4", f"syn:{TOA}", f"ack:{TOA}", "accept", "peer") == told(UNSEEN, UNSEEN)


def test_a_listener_from_before_start_is_served_but_for_the_syn_alone(guest: Guest) -> None:
    assert case(guest, "listen:4", "run:lvs-toa start", "syn:", f"ack:{TOA}", "accept", "peer") == told(SEEN, SEEN)
    sh(guest, "lvs-toa stop")
    assert case(guest, "listen:4", "run:lvs-toa start", f"syn:{TOA}", "ack:", "accept", "peer") == told(UNSEEN, UNSEEN)


def test_nobody_is_believed_who_is_not_named(guest: Guest) -> None:
    assert "no director is trusted: every option is ignored" in configure(guest, "option = 200")
    assert case(guest, "listen:4", f"syn:{TOA}", f"ack:{TOA}", "accept", "peer") == told(UNSEEN, UNSEEN)


# --- Where the option is -------------------------------------------------------------------------------


def told(accepted: str, later: str) -> list[str]:
    return [f"accept {accepted}", f"peer {later}"]


DEFER, DUAL = "listen:4d", "listen:6"
CASES: dict[str, tuple[list[str], str, str]] = {
    "plain": (["listen:4", f"syn:{TOA}", f"ack:{TOA}", "accept"], SEEN, SEEN),
    "ACK alone": (["listen:4", "syn:", f"ack:{TOA}", "accept"], SEEN, SEEN),
    "SYN alone": (["listen:4", f"syn:{TOA}", "ack:", "accept"], SEEN, SEEN),
    "first data alone": (["listen:4", "syn:", "ack:", "accept", f"data:{TOA}", "read"], UNSEEN, SEEN),
    "second data, nothing sent": (["listen:4", "syn:", "ack:", "accept", "data:", f"data:{TOA}", "read"], UNSEEN, SEEN),
    "first data, the server having spoken": (
        ["listen:4", "syn:", "ack:", "accept", "say", f"data:{TOA}", "read"],
        UNSEEN,
        SEEN,
    ),
    "after data and answer": (
        ["listen:4", "syn:", "ack:", "accept", "data:", "read", "say", f"data:{TOA}", "read"],
        UNSEEN,
        UNSEEN,
    ),
    "no ACK, data and FIN": (["listen:4", "syn:", f"fin:{TOA}", "accept", "read"], SEEN, SEEN),
    "dual stack": ([DUAL, "syn:", f"ack:{TOA}", "accept"], f"::ffff:{SEEN}", f"::ffff:{SEEN}"),
    "dual stack, SYN alone": ([DUAL, f"syn:{TOA}", "ack:", "accept"], f"::ffff:{SEEN}", f"::ffff:{SEEN}"),
    "dual stack, data alone": (
        [DUAL, "syn:", "ack:", "accept", f"data:{TOA}", "read"],
        f"::ffff:{UNSEEN}",
        f"::ffff:{SEEN}",
    ),
    "defer accept": ([DEFER, "syn:", f"ack:{TOA}", f"data:{TOA}", "accept"], SEEN, SEEN),
    "defer accept, data alone": ([DEFER, "syn:", "ack:", f"data:{TOA}", "accept"], SEEN, SEEN),
    "defer accept, SYN alone": ([DEFER, f"syn:{TOA}", "ack:", "data:", "accept"], SEEN, SEEN),
    "behind timestamps": (["listen:4", "syn:", f"ack:{FIRST}{TOA}", "accept"], SEEN, SEEN),
    "behind 32 fillers": (["listen:4", "syn:", f"ack:{'01' * 32}{TOA}", "accept"], SEEN, SEEN),
    "the first of two": (["listen:4", "syn:", f"ack:{TOA}{option(port=9, address=OTHER)}", "accept"], SEEN, SEEN),
    "behind a malformed one": (["listen:4", "syn:", f"ack:c80601020304{TOA}", "accept"], SEEN, SEEN),
    "behind the end of options": (["listen:4", "syn:", f"ack:00000000{TOA}", "accept"], UNSEEN, UNSEEN),
    "behind an option without a length": (["listen:4", "syn:", f"ack:4d00{TOA}", "accept"], UNSEEN, UNSEEN),
    "behind an option of length 255": (["listen:4", "syn:", f"ack:4dff{TOA}", "accept"], UNSEEN, UNSEEN),
    "another number": (["listen:4", "syn:", f"ack:{option(201)}", "accept"], UNSEEN, UNSEEN),
    "no option": (["listen:4", "syn:", "ack:", "accept", "data:", "read"], UNSEEN, UNSEEN),
    "Fast Open, in the SYN": (["listen:4f", f"synd:{TFO}{TOA}", "ack:", "accept"], SEEN, SEEN),
    "Fast Open, on the ACK alone: not read": (
        ["listen:4f", f"synd:{TFO}", f"ack:{TOA}", "accept", "data:", "read"],
        UNSEEN,
        UNSEEN,
    ),
    "Fast Open, on ACK and data": (
        ["listen:4f", f"synd:{TFO}", f"ack:{TOA}", "accept", f"data:{TOA}", "read"],
        UNSEEN,
        SEEN,
    ),
    "MPTCP listener, TCP client": (["listen:4m", "syn:", f"ack:{TOA}", "accept"], SEEN, SEEN),
    "nested cgroup": (
        ["run:mkdir -p /sys/fs/cgroup/a/b", "cgroup:/sys/fs/cgroup/a/b", "listen:4", "syn:", f"ack:{TOA}", "accept"],
        SEEN,
        SEEN,
    ),
}


@pytest.fixture(scope="module")
def started(guest: Guest) -> Guest:
    """The guest with lvs-toa started for the number 200 and the directors' prefix."""
    sh(guest, "echo 1538 >/proc/sys/net/ipv4/tcp_fastopen")  # servers, without cookies: 0x602
    configure(guest, "option = 200", "trust = 10.9.0.0/28")
    return guest


@pytest.mark.parametrize("name", CASES)
def test_the_client_is_seen(started: Guest, name: str) -> None:
    steps, accepted, later = CASES[name]
    assert case(started, *steps, "peer") == told(accepted, later)


@pytest.mark.parametrize(("family", "before"), [("4", ""), ("6", "::ffff:")])
def test_syncookies_lose_the_syn_and_not_the_client(started: Guest, family: str, before: str) -> None:
    sh(started, "echo 2 >/proc/sys/net/ipv4/tcp_syncookies")
    try:
        steps = [f"listen:{family}", f"syn:{TOA}", f"ack:{TOA}", "accept", "peer"]
        assert case(started, *steps) == told(before + SEEN, before + SEEN)
        steps = [f"listen:{family}", "syn:", "ack:", "accept", f"data:{TOA}", "read", "peer"]
        assert case(started, *steps) == told(before + UNSEEN, before + SEEN)
    finally:
        sh(started, "echo 1 >/proc/sys/net/ipv4/tcp_syncookies")


COUNTED = {
    "in_ack": (["syn:", f"ack:{TOA}"], {"seen": 1, "accepted": 1, "in_ack": 1, "answered": 1}),
    "in_syn": ([f"syn:{TOA}", "ack:"], {"seen": 1, "accepted": 1, "in_syn": 1, "answered": 1}),
    "without": (["syn:", "ack:"], {"without": 1}),
    "untrusted": ([f"from:{STRANGER}", "syn:", f"ack:{TOA}"], {"seen": 1, "untrusted": 1}),
    "malformed, length 6": (["syn:", "ack:c80601020304"], {"malformed": 1, "without": 1}),
    "malformed, length 10": (["syn:", "ack:c80a0102030405060708"], {"malformed": 1, "without": 1}),
    "malformed, cut off": (["syn:", "ack:010101010101c808"], {"malformed": 1, "without": 1}),
    "malformed, 0.0.0.0": (["syn:", f"ack:{option(address='0.0.0.0')}"], {"malformed": 1, "without": 1}),
    "ipv6": (["syn:", "ack:c814123420010db8000000000000000000000007"], {"ipv6": 1, "without": 1}),
    "another number": (["syn:", f"ack:{option(254)}"], {"without": 1}),
}


@pytest.mark.parametrize("name", COUNTED)
def test_each_connection_is_counted(started: Guest, name: str) -> None:
    steps, more = COUNTED[name]
    before = counters(started)
    case(started, "listen:4", *steps, "accept")
    after = counters(started)
    assert {key: after[key] - before[key] for key in after if after[key] != before[key]} == more


# --- Numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [252, 253, 254])
def test_other_numbers_are_read_also_where_the_kernel_takes_them_for_fast_open(guest: Guest, kind: int) -> None:
    configure(guest, f"option = {kind}", "trust = 10.9.0.2")
    for port in (PORT, 0xF989):  # the latter is Fast Open's magic number behind the kind 254
        written, seen = option(kind, port), f"{CLIENT} {port}"
        assert case(guest, "listen:4", "syn:", f"ack:{written}", "accept", "peer") == told(seen, seen)
        assert case(guest, "listen:4", f"syn:{written}", "ack:", "accept", "peer") == told(seen, seen)
        steps = ["listen:4", "syn:", "ack:", "accept", f"data:{written}", "read", "peer"]
        assert case(guest, *steps) == told(UNSEEN, seen)
    assert case(guest, "listen:4", f"syn:{TOA}", f"ack:{TOA}", "accept", "peer") == told(UNSEEN, UNSEEN)


def test_several_numbers_are_read_at_once(guest: Guest) -> None:
    configure(guest, "option = 200 254", "option = 252", "trust = 10.9.0.2")
    assert status(guest)["options"] == [200, 254, 252]
    for kind in (200, 252, 254):
        assert case(guest, "listen:4", "syn:", f"ack:{option(kind)}", "accept", "peer") == told(SEEN, SEEN)


def test_the_syn_is_read_only_where_configured(guest: Guest) -> None:
    configure(guest, "read-syn = no", "trust = 10.9.0.2")
    assert case(guest, "listen:4", f"syn:{TOA}", "ack:", "accept", "peer") == told(UNSEEN, UNSEEN)
    assert case(guest, "listen:4", "syn:", f"ack:{TOA}", "accept", "peer") == told(SEEN, SEEN)


# --- Trust, replacing, removing ------------------------------------------------------------------------


def test_trust_is_changed_while_it_runs_and_the_next_start_brings_back_the_configuration(guest: Guest) -> None:
    configure(guest, "trust = 10.9.0.2")
    steps = ["listen:4", "syn:", f"ack:{TOA}", "accept", "run:lvs-toa trust remove 10.9.0.2", "peer"]
    assert case(guest, *steps) == told(SEEN, SEEN), "what is known stays"
    assert case(guest, "listen:4", "syn:", f"ack:{TOA}", "accept", "peer") == told(UNSEEN, UNSEEN)
    assert "for good: write 'trust = 10.9.0.0/24'" in sh(guest, "lvs-toa trust add 10.9.0.0/24 2001:db8::/32")
    assert json.loads(sh(guest, "lvs-toa trust list --json")) == [
        {"cidr": "10.9.0.0/24", "configured": False},
        {"cidr": "2001:db8::/32", "configured": False},
    ]
    steps = [f"from:{STRANGER}", "listen:4", "syn:", f"ack:{TOA}", "accept", "peer"]
    assert case(guest, *steps) == told(SEEN, SEEN)
    sh(guest, "lvs-toa trust remove 10.9.0.0/24 && lvs-toa trust add ::/0")
    assert case(guest, *steps) == told(f"{STRANGER} 20000", f"{STRANGER} 20000"), "::/0 is nobody of IPv4"
    assert "10.9.0.0/24 is not among the prefixes" in sh(guest, "lvs-toa trust remove 10.9.0.0/24", 1)
    sh(guest, "lvs-toa start")
    assert sh(guest, "lvs-toa trust list") == "10.9.0.2/32\n"


def test_a_full_list_is_exchanged_for_another(guest: Guest) -> None:
    rows = "i=0; while [ $i -lt 4096 ]; do echo trust = $net.$((i / 256)).$((i % 256)).0/24; i=$((i + 1)); done"
    for net in (10, 11):
        sh(guest, f"net={net}; ({rows}) >/etc/many; lvs-toa --config /etc/many start")
        assert sh(guest, f"lvs-toa trust list | grep -c '^{net}[.]'") == "4096\n"
    assert "192.0.2.1/32 is one too many; expected 4096" in sh(guest, "lvs-toa trust add 192.0.2.1", 1)
    sh(guest, "lvs-toa start")
    assert sh(guest, "lvs-toa trust list") == "10.9.0.2/32\n"


def test_programs_are_replaced_without_a_gap(guest: Guest) -> None:
    starts = "i=0; while [ $i -lt 3 ]; do lvs-toa start || exit 1; i=$((i + 1)); done"
    *_, during = case(guest, "listen:4", "syn:", f"ack:{TOA}", "accept", f"during:{starts}")
    _, count, _, wrong = during.split()
    assert int(count) > 20 and wrong == "0"
    steps = ["listen:4", "syn:", "ack:", "accept", "run:lvs-toa start", f"data:{TOA}", "read", "peer"]
    assert case(guest, *steps) == told(UNSEEN, SEEN), "watched before, read after"


def test_a_start_that_was_killed_is_made_good_by_the_next(guest: Guest) -> None:
    for moment in (100_000, 500_000, 1_000_000):  # microseconds; emulated, a start takes more than the last
        killed = f"lvs-toa start & busybox usleep {moment}; kill -9 $! 2>/dev/null; wait $!; true"
        sh(guest, f"lvs-toa stop; {killed}")
        sh(guest, "lvs-toa start")
        assert status(guest)["state"] == "running"
    sh(guest, "lvs-toa start & lvs-toa start & lvs-toa start & wait")
    assert status(guest)["state"] == "running"


def test_a_program_that_is_gone_is_told_and_put_back(guest: Guest) -> None:
    sh(guest, "rm /sys/fs/bpf/lvs-toa/toa_getpeername6")
    said = sh(guest, "lvs-toa status", 1)
    assert "lvs-toa 1.0: incomplete" in said and "2 of 3 are attached" in said and "  next: lvs-toa start\n" in said
    sh(guest, "lvs-toa start")
    assert case(guest, DUAL, "syn:", f"ack:{TOA}", "accept", "peer") == told(f"::ffff:{SEEN}", f"::ffff:{SEEN}")


def test_one_cgroup_may_be_meant_and_no_other_directory(guest: Guest) -> None:
    sh(guest, "mkdir -p /sys/fs/cgroup/a/b")
    configure(guest, "trust = 10.9.0.2", "cgroup = /sys/fs/cgroup/a")
    assert {row["cgroup"] for row in status(guest)["programs"]} == {"/sys/fs/cgroup/a"}
    steps = ["listen:4", "syn:", f"ack:{TOA}", "accept", "peer"]
    assert case(guest, *steps) == told(UNSEEN, UNSEEN)
    assert case(guest, "cgroup:/sys/fs/cgroup/a/b", *steps) == told(SEEN, SEEN)
    said = configure(guest, "trust = 10.9.0.2", "cgroup = /etc", accept=1)
    assert "/etc is not one of cgroup2: of another file system" in said
    configure(guest, "trust = 10.9.0.2")
    assert case(guest, *steps) == told(SEEN, SEEN)
    assert {row["cgroup"] for row in status(guest)["programs"]} == {"/sys/fs/cgroup"}


def test_after_stop_nothing_is_left_and_servers_see_the_director(guest: Guest) -> None:
    steps = ["listen:4", "syn:", f"ack:{TOA}", "accept", "run:lvs-toa stop", "peer"]
    assert case(guest, *steps) == told(SEEN, UNSEEN)
    assert case(guest, "run:busybox sleep 2", "left") == ["left 0 0 0"]
    assert sh(guest, "ls /sys/fs/bpf; lvs-toa stop") == ""
    assert status(guest, 3)["state"] == "stopped"
