"""The doctor's checks, each on hosts that are well, poorly and ill, given as paths and values."""

from __future__ import annotations

import ctypes
import dataclasses
import http.server
import io
import json
import re
import socketserver
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import settings
from pipeline.core.console import Console
from pipeline.core.decoder import encode
from pipeline.errors import ExitCode
from pipeline.host import doctor, engine_addresses, engines, facts, kvm, programs, system
from pipeline.host.facts import Finding, FreeSpace, Host
from tests.fixtures.commandline import ROOT

GIB = system.GIB
PLENTY = FreeSpace(100 * GIB, 10_000_000)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host that is well in everything that needs no program."""
    for name in ("bin", "run", "boot", "cgroup", "proc/self", "proc/sys/kernel/random", "proc/sys/user"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16000000 kB\nMemFree:         1000 kB\n")
    (tmp_path / "proc/self/maps").write_text("7ff0-7ff1 rw-p 0 00:00 0 [stack]\nff-ff --xp 0 00:00 0     [vsyscall]\n")
    (tmp_path / "proc/sys/kernel/random/entropy_avail").write_text("256\n")
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("a-boot\n")
    return Host(
        path=str(tmp_path / "bin"),
        environ={},
        proc=tmp_path / "proc",
        cgroup=tmp_path / "cgroup",
        boot=tmp_path / "boot",
        kvm=tmp_path / "kvm",
        run=tmp_path / "run",
        release="6.1.0-1-amd64",
        python=(3, 12, 1),
        free_space=lambda _: PLENTY,
        now=lambda: (system.RELEASED + timedelta(days=30)).timestamp(),
        synchronised=lambda: True,
    )


def program(host: Host, name: str, body: str = "echo version 1.2.3") -> None:
    path = Path(host.path or "") / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def settings_for(tmp_path: Path) -> settings.Settings:
    return settings.load({"artifacts": tmp_path / "artifacts"}, {})


def test_the_oldest_python_is_the_one_that_the_package_names() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert named == ">=" + ".".join(map(str, system.PYTHON))


def assert_helpful(finding: Finding, state: str) -> None:
    """A finding that is not ok says what suffers and what to do."""
    assert finding.state == state, finding
    assert finding.found and finding.affects and finding.remedy, finding


@pytest.mark.parametrize(("version", "state"), [(system.PYTHON, "ok"), ((3, 14, 0), "ok"), ((3, 10, 99), "fail")])
def test_python(host: Host, version: tuple[int, ...], state: str) -> None:
    finding = system.check_python(dataclasses.replace(host, python=version))
    assert finding.state == state and finding.found.startswith(".".join(map(str, version)))


@pytest.mark.parametrize(
    ("free_space", "state", "says"),
    [
        (PLENTY, "ok", "100.0 GiB"),
        (FreeSpace(system.DISK_WARN, None), "ok", "20.0 GiB"),
        (FreeSpace(system.DISK_WARN - 1, None), "warn", "side by side"),
        (FreeSpace(system.DISK_BUILD - 1, None), "warn", "no kernel can be built"),
        (FreeSpace(system.DISK_FAIL, None), "warn", "no kernel can be built"),
        (FreeSpace(system.DISK_FAIL - 1, None), "fail", "everything"),
        (FreeSpace(100 * GIB, system.INODES_WARN - 1), "warn", "inodes"),
    ],
)
def test_disk(host: Host, tmp_path: Path, free_space: FreeSpace, state: str, says: str) -> None:
    finding = system.check_disk(dataclasses.replace(host, free_space=lambda _: free_space), tmp_path / "not/yet/there")
    assert finding.state == state and says in finding.found + finding.affects
    assert state == "ok" or finding.remedy


def test_room_is_asked_where_the_artifacts_will_be(host: Host, tmp_path: Path) -> None:
    asked: list[Path] = []

    def free_space(path: Path) -> FreeSpace:
        asked.append(path)
        return PLENTY

    system.check_disk(dataclasses.replace(host, free_space=free_space), tmp_path / "not/yet/there")
    assert asked == [tmp_path]
    assert facts.free_space(tmp_path).free > 0


def test_room_below_a_directory_that_cannot_be_looked_into_is_that_of_its_parent(host: Host, tmp_path: Path) -> None:
    unseen = tmp_path / ("x" * 300)  # asking for it is an OSError, for root too
    assert system.check_disk(host, unseen / "artifacts").state == "ok"
    assert engine_addresses.addresses(dataclasses.replace(host, environ={"XDG_RUNTIME_DIR": str(unseen)})) == []


def test_artifacts_that_can_be_written_are_fine(tmp_path: Path) -> None:
    assert system.check_artifacts(tmp_path / "new/artifacts").state == "ok"


def test_artifacts_that_cannot_be_made_fail(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file is in the way")
    assert_helpful(system.check_artifacts(tmp_path / "artifacts"), "fail")


def test_a_file_system_that_ignores_case_fails(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "HOST").symlink_to("host")  # what such a file system answers to the other name
    finding = system.check_artifacts(tmp_path)
    assert_helpful(finding, "fail")
    assert "case" in finding.found and "kernel trees" in finding.affects


@pytest.mark.parametrize(("kib", "state"), [(8 << 20, "ok"), ((4 << 20) - 1, "warn"), ((512 << 10) - 1, "fail")])
def test_memory(host: Host, kib: int, state: str) -> None:
    (host.proc / "meminfo").write_text(f"MemFree: 1 kB\nMemTotal:       {kib} kB\n")
    finding = system.check_memory(host)
    assert finding.state == state and (state == "ok" or (finding.affects and finding.remedy))


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_memory_is_what_the_control_group_allows(host: Host, name: str) -> None:
    limit = host.cgroup / name
    limit.parent.mkdir(exist_ok=True)
    limit.write_text(f"{GIB}\n")
    finding = system.check_memory(host)
    assert_helpful(finding, "warn")
    assert "1.0 GiB allowed by the control group" in finding.found
    limit.write_text("max\n")
    assert system.check_memory(host).state == "ok"


def test_a_clock_before_the_release_fails(host: Host) -> None:
    early = (system.RELEASED - timedelta(seconds=1)).timestamp()
    assert_helpful(system.check_clock(dataclasses.replace(host, now=lambda: early)), "fail")


@pytest.mark.parametrize(("answer", "state"), [(True, "ok"), (None, "ok"), (False, "warn")])
def test_a_clock_that_nothing_keeps_right_warns(host: Host, answer: bool | None, state: str) -> None:
    assert system.check_clock(dataclasses.replace(host, synchronised=lambda: answer)).state == state


def test_adjtimex_is_read_with_the_kernels_own_layout() -> None:
    """The offset of `status` in struct timex, x86-64: linux/timex.h."""
    assert facts._Timex.status.offset == 40 and ctypes.sizeof(facts._Timex) >= 208
    said = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    time_error = 5  # adjtimex(2): what it returns when the clock is not synchronised
    assert facts.clock_synchronised() is (None if said < 0 else said != time_error)


@pytest.mark.parametrize(
    ("line", "says"),
    [("ff-ff --xp 0 00:00 0   [vsyscall]", "execute-only"), ("ff-ff r-xp 0 00:00 0 [vsyscall]", "emulated")],
)
def test_a_vsyscall_page_is_fine(host: Host, line: str, says: str) -> None:
    (host.proc / "self/maps").write_text(f"{line}\n")
    finding = system.check_vsyscall(host)
    assert finding.state == "ok" and says in finding.found


def test_without_a_vsyscall_page_centos_6_is_warned_of(host: Host) -> None:
    (host.proc / "self/maps").write_text("7ff0-7ff1 r-xp 0 00:00 0 [vdso]\n")
    finding = system.check_vsyscall(host)
    assert_helpful(finding, "warn")
    assert "139" in finding.affects and "vsyscall=xonly" in finding.remedy and "manylinux2010" in finding.remedy


@pytest.mark.parametrize(
    ("bits", "release", "state"),
    [
        ("256", "6.1.0-1-amd64", "ok"),
        ("12", "5.6.0", "ok"),
        ("12", "5.5.19", "warn"),
        ("3000", "2.6.32-220", "ok"),
        ("199", "4.19", "warn"),
    ],
)
def test_entropy_matters_only_where_readers_wait(host: Host, bits: str, release: str, state: str) -> None:
    (host.proc / "sys/kernel/random/entropy_avail").write_text(f"{bits}\n")
    finding = system.check_entropy(dataclasses.replace(host, release=release))
    assert finding.state == state and (state == "ok" or "rngd" in finding.remedy)


def test_every_program_of_the_table_tells_its_version_as_it_is_asked() -> None:
    """The real ones, which a host with all that tests need has."""
    told = {row.command: doctor._version(row, Host()) for row in programs.TABLE if row.version}
    assert {name: found for name, found in told.items() if not re.match(r"\d", found[0]) or found[1]} == {}


def test_programs_are_listed_with_their_versions(host: Host) -> None:
    for wanted in programs.wanted(["fetch"]):
        program(host, wanted.command, "echo 'something (Some Name) 4.18.0'")
    finding = doctor.check_programs(host, "fetch")
    assert finding.state == "ok"
    assert finding.found.startswith("git 4.18.0, gpg 4.18.0") and "rpm2cpio," in finding.found


@pytest.mark.parametrize(("group", "state"), [("fetch", "fail"), ("test", "warn"), ("lab", "warn"), ("build", "warn")])
def test_a_missing_program_fails_only_what_everything_needs(host: Host, group: programs.Group, state: str) -> None:
    program(host, "dpkg")
    program(host, "apt-get")
    finding = doctor.check_programs(host, group)
    assert_helpful(finding, state)
    absent = programs.missing([group], host.path)
    assert all(f"{one.command} is not installed" in finding.found for one in absent)
    assert all(one.apt in finding.remedy for one in absent) and "apt-get install" in finding.remedy


def test_a_program_that_does_not_run_is_as_bad_as_a_missing_one(host: Host) -> None:
    for wanted in programs.wanted(["fetch"]):
        program(host, wanted.command)
    program(host, "gpgv", "echo 'libfoo.so: cannot open shared object file' >&2; exit 127")
    finding = doctor.check_programs(host, "fetch")
    assert_helpful(finding, "fail")
    assert "gpgv does not run" in finding.found and "libfoo.so" in finding.found and "git" not in finding.found


class _Engine(http.server.BaseHTTPRequestHandler):
    said: dict[str, Any]

    def do_GET(self) -> None:
        body = json.dumps(self.said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...

    def address_string(self) -> str:
        return "unix"


EngineMaker = Callable[[Path, str, str], None]


@pytest.fixture
def engine() -> Iterator[EngineMaker]:
    """Starts engines that answer /version on a unix socket."""
    servers: list[socketserver.BaseServer] = []

    def make(path: Path, component: str, version: str) -> None:
        said = {"Version": version, "ApiVersion": "1.43", "MinAPIVersion": "1.24", "Components": [{"Name": component}]}
        handler = type("Handler", (_Engine,), {"said": said})
        path.parent.mkdir(parents=True, exist_ok=True)
        servers.append(socketserver.ThreadingUnixStreamServer(str(path), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def test_engines_that_answer_are_named_with_version_api_and_address(
    host: Host, engine: EngineMaker, short: Path
) -> None:
    host = dataclasses.replace(host, run=short, environ={"XDG_RUNTIME_DIR": str(short / "user")})
    engine(short / "docker.sock", "Engine", "28.2.2")
    engine(short / "user/podman/podman.sock", "Podman Engine", "4.3.1")
    finding = engines.check_engines(host)
    assert finding.state == "ok"
    assert f"Docker 28.2.2 (API 1.43) at unix://{short}/docker.sock" in finding.found
    assert f"Podman 4.3.1 (API 1.43) at unix://{short}/user/podman/podman.sock" in finding.found


def test_the_engine_of_docker_host_is_asked(host: Host, engine: EngineMaker, short: Path) -> None:
    engine(short / "elsewhere.sock", "Engine", "20.10.24")
    host = dataclasses.replace(host, environ={"DOCKER_HOST": f"unix://{short}/elsewhere.sock"})
    assert "Docker 20.10.24" in engines.check_engines(host).found


def test_no_engine_and_no_client_is_one_thing(host: Host) -> None:
    finding = engines.check_engines(host)
    assert_helpful(finding, "warn")
    assert "client" not in finding.found


def test_a_client_without_an_engine_is_another(host: Host) -> None:
    program(host, "docker")
    finding = engines.check_engines(host)
    assert_helpful(finding, "warn")
    assert "the client docker is installed, but no engine answers" in finding.found


def test_a_socket_nobody_listens_on_is_told_from_none(host: Host, short: Path) -> None:
    socketserver.UnixStreamServer(str(short / "docker.sock"), _Engine).server_close()
    finding = engines.check_engines(dataclasses.replace(host, run=short))
    assert_helpful(finding, "warn")
    assert "the socket is there, but no engine answers" in finding.found and "systemctl start docker" in finding.remedy


def test_an_engine_that_accepts_and_then_says_nothing_is_given_up_soon(host: Host, short: Path) -> None:
    with socketserver.UnixStreamServer(str(short / "docker.sock"), _Engine):  # never served
        begun = time.monotonic()
        finding = engines.check_engines(dataclasses.replace(host, run=short))
    assert_helpful(finding, "warn")
    assert "no answer" in finding.found and time.monotonic() - begun < 10


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x", "unix:///nowhere.sock"])
def test_a_docker_host_that_leads_nowhere_is_named(host: Host, address: str) -> None:
    finding = engines.check_engines(dataclasses.replace(host, environ={"DOCKER_HOST": address}))
    assert_helpful(finding, "warn")
    assert address in finding.found


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose name leaves room for a socket's: sun_path holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="doc") as name:
        yield Path(name)


def test_bubblewrap_that_makes_a_sandbox_is_fine(host: Host) -> None:
    program(host, "bwrap", 'case "$*" in *--unshare-all*true) exit 0;; esac; exit 1')
    assert engines.check_bubblewrap(host).state == "ok"


def test_bubblewrap_that_is_missing_can_be_installed(host: Host) -> None:
    program(host, "dnf")
    finding = engines.check_bubblewrap(host)
    assert_helpful(finding, "warn")
    assert "dnf install -y bubblewrap" in finding.remedy


@pytest.mark.parametrize(
    ("switch", "value", "remedy"),
    [
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor_restrict_unprivileged_userns=0"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces="),
        ("user/max_user_namespaces", "1000", "inside a container"),
    ],
)
def test_bubblewrap_without_namespaces_names_the_switch(host: Host, switch: str, value: str, remedy: str) -> None:
    program(host, "bwrap", "echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
    (host.proc / "sys" / switch).write_text(f"{value}\n")
    finding = engines.check_bubblewrap(host)
    assert_helpful(finding, "warn")
    assert "No permissions to create new namespace" in finding.found and remedy in finding.remedy


def fake_kernel(path: Path) -> None:
    path.write_bytes(bytes(0x1FE) + b"\x55\xaa\xeb\x66HdrS")


def test_kvm_that_boots_a_kernel_is_fine_and_asked_once(host: Host, tmp_path: Path) -> None:
    fake_kernel(host.boot / "vmlinuz-1")
    host.kvm.write_bytes(b"")
    started = f'[ "$1" = --version ] || echo x >> {tmp_path}/started'
    program(host, "qemu-system-x86_64", f"{started}; echo '{kvm.MARKER.decode()}'")
    for _ in range(2):
        findings = {finding.name: finding for finding in doctor.examine(settings_for(tmp_path), host=host)}
        assert findings["kvm"].state == "ok", findings["kvm"]
    assert (tmp_path / "started").read_text() == "x\n"


def test_kvm_that_aborts_warns_with_the_cause_and_when_it_is_asked_again(host: Host, tmp_path: Path) -> None:
    fake_kernel(host.boot / "vmlinuz-1")
    host.kvm.write_bytes(b"")
    program(host, "qemu-system-x86_64", '[ "$1" = --version ] && exit; echo "failed to set MSR 0x10a" >&2; exit 1')
    finding = doctor.examine(settings_for(tmp_path), host=host)[-1]
    assert_helpful(finding, "warn")
    assert finding.found.startswith("unusable: ") and "failed to set MSR 0x10a" in finding.found
    assert "kvm.json" in finding.remedy and "TCG" in finding.affects


def test_kvm_without_a_kernel_is_not_probed(host: Host, tmp_path: Path) -> None:
    host.kvm.write_bytes(b"")
    program(host, "qemu-system-x86_64")
    finding = doctor.examine(settings_for(tmp_path), host=host)[-1]
    assert_helpful(finding, "warn")
    assert finding.found.startswith("not probed: no kernel to boot")


def test_kvm_without_a_device_warns(host: Host, tmp_path: Path) -> None:
    assert_helpful(doctor.examine(settings_for(tmp_path), host=host)[-1], "warn")


def test_artifacts_that_cannot_be_written_make_no_crash_of_kvm(host: Host, tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file is in the way")
    host.kvm.write_bytes(b"")
    findings = {finding.name: finding for finding in doctor.examine(settings_for(tmp_path), host=host)}
    assert findings["artifacts"].state == "fail"
    assert_helpful(findings["kvm"], "warn")
    assert findings["kvm"].found.startswith("not probed")


def test_a_check_that_crashes_is_our_failure_and_leaves_the_others_alone(host: Host, tmp_path: Path) -> None:
    (host.proc / "meminfo").unlink()
    findings = {finding.name: finding for finding in doctor.examine(settings_for(tmp_path), host=host)}
    assert_helpful(findings["memory"], "fail")
    assert "crashed: FileNotFoundError" in findings["memory"].found and "report" in findings["memory"].remedy
    assert findings["clock"].state == "ok" and findings["vsyscall"].state == "ok"
    assert doctor.exit_code(list(findings.values())) is ExitCode.HOST


def test_only_a_failure_changes_the_exit_code() -> None:
    well, poorly, ill = (Finding("x", state, "") for state in ("ok", "warn", "fail"))
    assert doctor.exit_code([]) == doctor.exit_code([well, poorly]) == 0
    assert doctor.exit_code([well, ill, poorly]) == 7


def test_what_is_shown_and_what_json_says(host: Host) -> None:
    out = io.StringIO()
    findings = [Finding("disk", "ok", "much"), Finding("kvm", "warn", "none", "speed", "mend it")]
    doctor.show(findings, Console(out=out))
    assert out.getvalue().splitlines() == [
        "ok    disk  much",
        "warn  kvm   none",
        "            affects: speed",
        "            remedy: mend it",
        "1 ok, 1 warn, 0 fail",
    ]
    assert encode(findings[1]) == {
        "name": "kvm",
        "state": "warn",
        "found": "none",
        "affects": "speed",
        "remedy": "mend it",
    }


def test_json_leaves_standard_output_alone() -> None:
    out = io.StringIO()
    doctor.show([Finding("disk", "ok", "much")], Console(json=True, out=out))
    assert out.getvalue() == ""


def test_this_very_host_is_examined_without_a_crash(tmp_path: Path) -> None:
    here = dataclasses.replace(Host(), kvm=tmp_path / "no-kvm")
    findings = doctor.examine(settings_for(tmp_path), host=here)
    assert len(findings) == len({finding.name for finding in findings}) == len(programs.GROUPS) + 11
    for finding in findings:
        assert "crashed" not in finding.found, finding
        if finding.state != "ok":
            assert_helpful(finding, finding.state)
