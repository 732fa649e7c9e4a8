"""Define what the doctor's checks share: their findings and the host that they examine.

A check reads the machine only through `Host`, so that a test can hand it another one.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One result: `fail` stops the work, `warn` affects later work or its speed."""

    name: str
    state: State
    found: str
    affects: str = ""
    remedy: str = ""


class _Timex(ctypes.Structure):
    """The beginning of struct timex, adjtimex(2), with enough bytes for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


_STA_UNSYNC = 0x0040  # linux/timex.h


def clock_synchronised() -> bool | None:
    """Return whether the kernel reports a synchronised clock; None when it does not report."""
    timex = _Timex()  # modes 0: only read
    if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0:
        return None
    return not timex.status & _STA_UNSYNC


def is_there(path: Path) -> bool:
    """Return whether the path exists as far as this user can see."""
    try:
        return path.exists()
    except OSError:
        return False


@dataclass(frozen=True)
class FreeSpace:
    """Free space of a file system for this user: bytes, and inodes, None where the file system has no fixed number."""

    free: int
    inodes: int | None


def free_space(path: Path) -> FreeSpace:
    """Return the free space of an existing path's file system."""
    counts = os.statvfs(path)
    return FreeSpace(counts.f_bavail * counts.f_frsize, counts.f_favail if counts.f_files else None)


@dataclass(frozen=True)
class Host:
    """The machine's interfaces that the checks read: this machine's by default."""

    path: str | None = None  # search path for programs; None for our own PATH
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    proc: Path = Path("/proc")
    cgroup: Path = Path("/sys/fs/cgroup")
    boot: Path = Path("/boot")
    kvm: Path = Path("/dev/kvm")
    etc: Path = Path("/etc")
    run: Path = Path("/run")  # where system-wide engines have their sockets
    release: str = field(default_factory=lambda: os.uname().release)
    python: tuple[int, ...] = field(default_factory=lambda: sys.version_info[:3])
    free_space: Callable[[Path], FreeSpace] = free_space
    now: Callable[[], float] = time.time
    synchronised: Callable[[], bool | None] = clock_synchronised
