"""What the doctor's checks share: the finding they give, and the host they look at.

A check reads the machine only through `Host`, so that a test can hand it another one.
"""

from __future__ import annotations

import ctypes
import dataclasses
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
    """One answer: `fail` stops the work of every stage, `warn` that of a later one or its speed."""

    name: str
    state: State
    found: str
    affects: str = ""
    mend: str = ""

    def as_dict(self) -> dict[str, str]:
        """As `--json` prints it."""
        return dataclasses.asdict(self)


class _Timex(ctypes.Structure):
    """The head of struct timex, adjtimex(2), and room for the rest."""

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
    """Whether the kernel thinks that something keeps its clock right; None when it does not say."""
    timex = _Timex()  # modes 0: only read
    if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0:
        return None
    return not timex.status & _STA_UNSYNC


def is_there(path: Path) -> bool:
    """Whether the path exists as far as this user can tell; a directory that hides it, hides it."""
    try:
        return path.exists()
    except OSError:
        return False


@dataclass(frozen=True)
class Room:
    """What a file system has left for this user: bytes, and inodes, None where it makes them as needed."""

    free: int
    inodes: int | None


def room_at(path: Path) -> Room:
    """The room on the file system of an existing path."""
    counts = os.statvfs(path)
    return Room(counts.f_bavail * counts.f_frsize, counts.f_favail if counts.f_files else None)


@dataclass(frozen=True)
class Host:
    """Where facts about the machine are read: this machine by default."""

    path: str | None = None  # search path for programs; None for our own PATH
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    proc: Path = Path("/proc")
    cgroup: Path = Path("/sys/fs/cgroup")
    boot: Path = Path("/boot")
    kvm: Path = Path("/dev/kvm")
    run: Path = Path("/run")  # where system-wide engines have their sockets
    release: str = field(default_factory=lambda: os.uname().release)
    python: tuple[int, ...] = field(default_factory=lambda: sys.version_info[:3])
    room: Callable[[Path], Room] = room_at
    now: Callable[[], float] = time.time
    synchronised: Callable[[], bool | None] = clock_synchronised
