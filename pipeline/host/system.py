"""Check the machine for the doctor: Python, disk space, memory, clock, kernel interfaces.

Every number stands here as a constant with its source. A check reads through `Host` only.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

from pipeline.core.artifacts import check
from pipeline.core.units import human_bytes
from pipeline.errors import HostLacks
from pipeline.host.facts import Finding, Host, is_there

GIB = 1 << 30
PYTHON: tuple[int, ...] = (3, 11)  # Debian 12 has 3.11.2; pyproject.toml and the launcher say the same
DISK_FAIL = 1 * GIB  # the sources of both lines with their indexes and unpacked parts do not fit below
DISK_BUILD = 7 * GIB  # Red Hat's kernel.spec: BuildConflicts: rhbuildsys(DiskFree) < 7Gb
DISK_WARN = 20 * GIB  # the spec's 7, the 6.1 tree with objects, a builder image of 0.5, the packages, and air
INODES_WARN = 400_000  # a 6.1 tree has 84,000 files, a 2.6.32 tree 31,508 twice; each with an object beside it
MEMORY_FAIL = GIB // 2  # apt's index and a whole patch in memory; nothing runs well below
MEMORY_WARN = 4 * GIB  # a director guest of 512 MiB, three of 128, and two compilers of 1 GiB at a link
RELEASED = datetime(2026, 11, 1, tzinfo=UTC)  # this software's release: an earlier clock is wrong
ENTROPY_LEAST = 200  # bits; a DSA-1024 key asks for 160 and gpg stirs its pool first
ENTROPY_NEVER_BLOCKS = (5, 6)  # /dev/random no longer blocks once seeded (Linux 5.6)


def check_python(host: Host) -> Finding:
    """Check the version of the Python interpreter."""
    version = ".".join(str(part) for part in host.python)
    if host.python >= PYTHON:
        return Finding("python", "ok", version)
    wanted = ".".join(str(part) for part in PYTHON)
    return Finding(
        "python", "fail", f"{version}; {wanted} is the oldest that works", "everything", f"install Python {wanted}"
    )


def check_disk(host: Host, artifacts: Path) -> Finding:
    """Check free bytes and inodes at the artifacts directory."""
    free_space = host.free_space(_existing(artifacts))
    free = free_space.free
    found = f"{human_bytes(free)} free at {artifacts}"
    remedy = "free some, or put the artifacts elsewhere: --artifacts DIR"
    if free < DISK_FAIL:
        return Finding("disk", "fail", found, f"everything: even sources want {human_bytes(DISK_FAIL)}", remedy)
    if free < DISK_BUILD:
        return Finding(
            "disk",
            "warn",
            found,
            f"no kernel can be built: Red Hat's spec refuses below {human_bytes(DISK_BUILD)}",
            remedy,
        )
    if free < DISK_WARN:
        return Finding("disk", "warn", found, f"not all lines fit side by side: {human_bytes(DISK_WARN)} do", remedy)
    if free_space.inodes is not None and free_space.inodes < INODES_WARN:
        found = f"{free_space.inodes} inodes free at {artifacts}"
        return Finding("disk", "warn", found, f"a built kernel tree may not fit: {INODES_WARN} do", remedy)
    return Finding("disk", "ok", f"{found}; a build needs {human_bytes(DISK_BUILD)}")


def check_artifacts(artifacts: Path) -> Finding:
    """Check that the artifacts directory is writable and its file system case-sensitive."""
    everything, elsewhere = "everything", "use another place: --artifacts DIR"
    ours = artifacts / "host"
    try:
        check(artifacts)
        ours.mkdir(parents=True, exist_ok=True)
    except HostLacks as error:
        return Finding("artifacts", "fail", error.what, everything, error.hint)
    except OSError as error:
        return Finding("artifacts", "fail", f"{ours} cannot be made: {error.strerror}", everything, elsewhere)
    if not os.access(artifacts, os.W_OK | os.X_OK) or not os.access(ours, os.W_OK | os.X_OK):
        return Finding("artifacts", "fail", f"this user may not write {artifacts}", everything, elsewhere)
    if _is_same(ours, artifacts / "HOST"):
        affects = "kernel trees: some of their files differ by case only and would overwrite each other"
        found = f"{artifacts} is on a file system that does not tell upper from lower case"
        return Finding("artifacts", "fail", found, affects, elsewhere)
    return Finding("artifacts", "ok", f"{artifacts} can be written and tells upper from lower case")


def _is_same(one: Path, other: Path) -> bool:
    """Return whether both names are one existing file."""
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False


def check_memory(host: Host) -> Finding:
    """Check the memory of the machine, or of this process's control group."""
    total, whose = _memory_of(host)
    found = f"{human_bytes(total)} {whose}"
    if total < MEMORY_FAIL:
        return Finding("memory", "fail", found, "everything", f"give it {human_bytes(MEMORY_WARN)}")
    if total < MEMORY_WARN:
        affects = "kernel builds and labs of several guests; use fewer jobs"
        return Finding("memory", "warn", found, affects, f"give it {human_bytes(MEMORY_WARN)}")
    return Finding("memory", "ok", f"{found}; builds and the lab need {human_bytes(MEMORY_WARN)}")


def _memory_of(host: Host) -> tuple[int, str]:
    match = re.search(r"^MemTotal:\s+(\d+) kB$", (host.proc / "meminfo").read_text(), re.MULTILINE)
    if match is None:
        raise ValueError("meminfo names no MemTotal")
    total = int(match[1]) * 1024
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups, second and first version
        limit = _text(host.cgroup / name)
        if limit.isdigit() and int(limit) < total:
            return int(limit), "allowed by the control group"
    return total, "in all"


def check_clock(host: Host) -> Finding:
    """Check the clock; a wrong one refuses valid signatures and accepts expired ones."""
    now = datetime.fromtimestamp(host.now(), UTC)
    found, remedy = f"{now:%Y-%m-%d %H:%M} UTC", "sudo timedatectl set-ntp true"
    if now < RELEASED:
        found = f"{found}, which is before this software's release on {RELEASED:%Y-%m-%d}"
        return Finding("clock", "fail", found, "signatures, index expiry and TLS", f"set the clock: {remedy}")
    if host.synchronised() is False:
        found = f"{found}; the kernel says that nothing keeps it right"
        return Finding("clock", "warn", found, "index expiry and TLS, once it is off", remedy)
    return Finding("clock", "ok", found)


def check_vsyscall(host: Host) -> Finding:
    """Check for the vsyscall page, which programs of CentOS 6 call (Linux: `vsyscall=` in kernel-parameters.txt)."""
    for line in (host.proc / "self/maps").read_text().splitlines():
        if line.endswith("[vsyscall]"):
            return Finding("vsyscall", "ok", "emulated" if line.split()[1].startswith("r") else "execute-only, enough")
    return Finding(
        "vsyscall",
        "warn",
        "this kernel maps no vsyscall page (vsyscall=none)",
        "CentOS 6 containers: every process in them dies with exit status 139",
        "boot the host with vsyscall=xonly (or emulate), or use the manylinux2010 builder image, which does without",
    )


def check_entropy(host: Host) -> Finding:
    """Check whether a signing key can be made without waiting for entropy, as random(4) describes."""
    bits = int((host.proc / "sys/kernel/random/entropy_avail").read_text())
    numbers = tuple(int(number) for number in re.findall(r"\d+", host.release)[:2])
    if numbers >= ENTROPY_NEVER_BLOCKS or bits >= ENTROPY_LEAST:
        return Finding("entropy", "ok", f"{bits} bits, kernel {host.release}")
    found = f"{bits} bits, and kernel {host.release} makes readers wait for more"
    remedy = "sudo rngd -r /dev/urandom (package rng-tools), or a host kernel of 5.6 or newer"
    return Finding("entropy", "warn", found, "a kernel's module signing key: the build waits", remedy)


def _existing(path: Path) -> Path:
    """Return the path or its nearest existing parent."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if is_there(place))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
