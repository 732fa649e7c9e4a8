"""lvs-toa itself without a kernel that runs it: its configuration, its usage, and what it says that it lacks."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.core.process import clean_environment
from tests.fixtures import toa

MAP_CREATE, PROG_LOAD = "0", "5"  # commands of the bpf system call; linux/bpf.h


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lvs-toa for this machine."""
    place = tmp_path_factory.mktemp("toa")
    return toa.compiled(place / "made", toa.libraries_below(place / "libraries"), "VERSION=1.0")


@pytest.fixture(scope="module")
def without_bpf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs a program without the bpf system call, or without a command of it."""
    return toa.helper("without_bpf", tmp_path_factory.mktemp("helper"))


def run(*argv: str | Path, accept: tuple[int, ...] = (0,)) -> process.Result:
    return process.run(argv, env=clean_environment(), accept=accept, timeout=60)


def check(program: Path, place: Path, text: str, accept: int = 0) -> process.Result:
    (place / "lvs-toa.conf").write_text(text)
    return run(program, "--config", place / "lvs-toa.conf", "check", "--json", accept=(accept,))


CONFIGURATIONS = [
    ("", [200], True, "", []),
    ("option = 254\n", [254], True, "", []),
    ("option=200 254 # two\n\toption = 252\noption = 200", [200, 254, 252], True, "", []),
    ("read-syn = no\ncgroup = /sys/fs/cgroup/a b\n".replace(" b", "\\b"), [200], False, "/sys/fs/cgroup/a\\b", []),
    ("trust = 192.0.2.1\n", [200], True, "", ["192.0.2.1/32"]),
    ("trust = 192.0.2.0/28 0.0.0.0/0\ntrust = 192.0.2.0/28\n", [200], True, "", ["192.0.2.0/28", "0.0.0.0/0"]),
    ("trust = 2001:db8::/32 ::/0 fe80::1\n", [200], True, "", ["2001:db8::/32", "::/0", "fe80::1/128"]),
    ("trust = 10.128.0.0/9\r\n\n#trust = x\n", [200], True, "", ["10.128.0.0/9"]),
]


@pytest.mark.parametrize(("text", "options", "syn", "cgroup", "trusted"), CONFIGURATIONS)
def test_a_configuration_is_read(
    program: Path, tmp_path: Path, text: str, options: list[int], syn: bool, cgroup: str, trusted: list[str]
) -> None:
    found = json.loads(check(program, tmp_path, text).text)
    assert found == {"options": options, "read_syn": syn, "cgroup": cgroup, "trusted": trusted}


MISTAKES = [
    ("option = 30\n", "1: option: 30 is TCP's own, MPTCP; expected the director's, such as 200"),
    ("option = 34\n", "1: option: 34 is TCP's own, the Fast Open cookie"),
    ("option = 0\n", "1: option: 0 is TCP's own, the end of the options"),
    ("option = 256\n", "1: option: '256' is not the number of a TCP option; expected 200, or another below 256"),
    ("option = -1\n", "1: option: '-1' is not the number of a TCP option"),
    ("option = 0x10\n", "1: option: '0x10' is not the number of a TCP option"),
    ("option = 200 201 202 203 204\n", "1: option: 204 is one too many; expected 4 numbers at most"),
    ("\ntrust = 192.0.2.1/24\n", "2: trust: '192.0.2.1/24' has bits set behind the prefix; expected 192.0.2.0/24"),
    ("trust = 2001:db8::1/64\n", "1: trust: '2001:db8::1/64' has bits set behind the prefix; expected 2001:db8::/64"),
    ("trust = 192.0.2.0/33\n", "1: trust: '192.0.2.0/33' has no length of a prefix; expected 0 to 32 behind '/'"),
    ("trust = 192.0.2.0/\n", "1: trust: '192.0.2.0/' has no length of a prefix"),
    ("trust = 192.0.2.0/+8\n", "1: trust: '192.0.2.0/+8' has no length of a prefix"),
    ("trust = ::/129\n", "1: trust: '::/129' has no length of a prefix; expected 0 to 128 behind '/'"),
    ("trust = 192.0.2\n", "1: trust: '192.0.2' is not an address; expected one such as 192.0.2.1 or 192.0.2.0/24"),
    ("trust = director.example\n", "1: trust: 'director.example' is not an address"),
    ("trust = " + "1" * 100, "1: trust: '" + "1" * 40 + "' is not an address"),
    ("trust = ::ffff:192.0.2.1\n", "1: trust: '::ffff:192.0.2.1' is an IPv4 address in IPv6's notation"),
    ("trust =\n", "1: trust: no value; expected one behind '='"),
    ("trust\n", "1: 'trust' is not a setting; expected KEY = VALUE"),
    ("trusted = 192.0.2.1\n", "1: 'trusted' is not a setting; expected option, trust, read-syn or cgroup"),
    ("trust me = 192.0.2.1\n", "1: 'trust' is not a setting"),
    ("= 192.0.2.1\n", "1: '' is not a setting"),
    ("read-syn = maybe\n", "1: read-syn: 'maybe'; expected yes or no"),
    ("read-syn = yes no\n", "1: read-syn: 'no' is too much; expected one value"),
    ("cgroup = a\n", "1: cgroup: 'a' is not a directory's whole path"),
    ("option = \x1b[31m\n", "1: option: '?[31m' is not the number of a TCP option"),
    ("option = 200" + " " * 5000, "1: a line of more than 4094 bytes; expected a shorter one"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES, ids=[row[1][:40] for row in MISTAKES])
def test_a_mistake_in_the_configuration_is_told_with_its_line(
    program: Path, tmp_path: Path, text: str, said: str
) -> None:
    finished = check(program, tmp_path, text, accept=2)
    assert finished.out == b"" and f"{tmp_path}/lvs-toa.conf:{said}" in finished.err.decode()


def test_every_mistake_is_told_at_once_with_what_to_do(program: Path, tmp_path: Path) -> None:
    said = check(program, tmp_path, "option = 8\ntrust = x\nread-syn = x\n", accept=2).err.decode()
    assert [said.count(f"lvs-toa.conf:{line}: ") for line in (1, 2, 3)] == [1, 1, 1]
    assert "  why: " in said and "  next: " in said


def test_the_most_prefixes_are_taken_and_one_more_is_refused(program: Path, tmp_path: Path) -> None:
    rows = [f"trust = 10.{number >> 8}.{number & 255}.0/24" for number in range(4097)]
    assert len(json.loads(check(program, tmp_path, "\n".join(rows[:-1])).text)["trusted"]) == 4096
    assert (
        "4097: trust: 10.16.0.0/24 is one too many; expected 4096"
        in check(program, tmp_path, "\n".join(rows), accept=2).err.decode()
    )


def test_the_installed_configuration_is_what_the_manual_page_calls_the_default(program: Path) -> None:
    text = run(program, "--config", toa.SOURCES / "lvs-toa.conf", "check").text
    assert text == "options     200\nread-syn    yes\ncgroup      the root\ntrusted     nobody\n"


USAGE = [
    ([], "no command; expected start, stop, status, trust or check, not ''"),
    (["begin"], "no command 'begin'"),
    (["status", "now"], "one word too many: 'now'"),
    (["start", "--json"], "--json is not for the command 'start'"),
    (["stop", "--json"], "--json is not for the command 'stop'"),
    (["trust"], "trust takes add, remove or list, not ''"),
    (["trust", "list", "all"], "trust takes add, remove or list, not 'all'"),
    (["trust", "add"], "no CIDR behind trust 'add'"),
    (
        ["trust", "add", "192.0.2.1", "192.0.2.1/9"],
        "192.0.2.1/9' has bits set behind the prefix",
    ),
    (["--forget"], "unrecognized option '--forget'"),
]


@pytest.mark.parametrize(("words", "said"), USAGE, ids=[row[1] for row in USAGE])
def test_wrong_usage_is_told(program: Path, words: list[str], said: str) -> None:
    finished = run(program, *words, accept=(2,))
    assert finished.out == b"" and said in finished.err.decode() and "  next: " in finished.err.decode()


def test_help_and_version(program: Path) -> None:
    assert run(program, "--version").text == "lvs-toa 1.0\n"
    said = run(program, "--help").text
    assert all(f"  {word}" in said for word in ("start", "stop", "status", "trust add", "check", "--config"))


def test_output_that_cannot_be_written_is_no_success(program: Path) -> None:
    argv: list[str | Path] = ["sh", "-c", '"$0" --help >/dev/full', program]
    assert "output: cannot be written: No space left" in run(*argv, accept=(1,)).err.decode()


# --- What start lacks. Each refusal comes before anything is changed. ------------------------------------


def start(program: Path, place: Path, *before: str | Path) -> str:
    (place / "lvs-toa.conf").write_text("trust = 192.0.2.1\n")
    said = run(*before, program, "--config", place / "lvs-toa.conf", "start", accept=(1,)).err.decode()
    assert said.count("  why: ") == said.count("  next: ") == 1
    return said


def test_an_old_kernel_is_refused(program: Path, tmp_path: Path) -> None:
    said = start(program, tmp_path, "setarch", "x86_64", "--uname-2.6")
    assert "kernel: 2.6." in said and "is too old; expected 5.10 or newer" in said


def test_missing_rights_are_named(program: Path) -> None:
    command: list[str | Path] = [program, "--config", toa.SOURCES / "lvs-toa.conf", "start"]
    said = run("setpriv", "--bounding-set=-all", *command, accept=(1,)).err.decode()
    assert "rights: this process lacks CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON" in said
    said = run("setpriv", "--bounding-set=-net_admin,-sys_admin", *command, accept=(1,)).err.decode()
    assert "rights: this process lacks CAP_BPF" not in said and "CAP_NET_ADMIN" in said


@pytest.mark.parametrize(
    ("error", "command", "said"),
    [
        (errno.ENOSYS, "-1", "kernel: has no bpf system call"),
        (errno.EPERM, "-1", "kernel: refuses BPF to this process"),
        (errno.ENOMEM, MAP_CREATE, "kernel: cannot make a BPF map: Cannot allocate memory"),
        (errno.EINVAL, PROG_LOAD, "kernel: takes no BPF programs for sockets of cgroups"),
    ],
)
def test_a_kernel_that_lacks_a_part_is_told(
    program: Path, without_bpf: Path, tmp_path: Path, error: int, command: str, said: str
) -> None:
    assert said in start(program, tmp_path, without_bpf, str(error), command)
