"""What a runtime must do, and what a job in it is. Every runtime gives the same inside.

Inside: a read-only root, no network, no capabilities, an unprivileged user, fixed paths, and only
the mounts of the job. Outside: streamed logs, a limit on wall time, on silence, on memory,
processes and what is written, and nothing left when we die. Must not know what is built.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from pipeline.core import trees
from pipeline.sandbox.images import Image

# Who builds when we are root: an id no person and no service has, so that limits per user are ours.
BUILD_UID = 64000
TEMPORARY = ("/tmp", "/run", "/var/tmp")  # inside, writable and in memory
OPEN_FILES = 4096  # of each process; Podman's own default can exceed what it may give
SHARED_MEMORY = 64 << 20  # bytes of /dev/shm: Docker's own default


class End(StrEnum):
    """Why a job ended."""

    EXIT = "exit"
    WALL = "wall-clock limit"
    IDLE = "idle limit"
    LOG = "log size limit"
    SIZE = "size limit"
    DISK = "disk nearly full"
    MEMORY = "memory limit"
    GONE = "the engine went away"


@dataclass(frozen=True)
class Mount:
    """A directory or file of the host at a fixed path inside."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Limits:
    """Wall-clock and idle time in seconds, `processes` a number, everything else bytes.

    `file` is for one file, `size` for all that the job's writable mounts may grow by, `temporary` for each
    of the places in memory, and `free` must stay free on every disk that it writes to.
    """

    wall: float = 4 * 3600
    idle: float = 1800
    memory: int = 12 << 30
    processes: int = 4096
    file: int = 16 << 30
    size: int = 64 << 30
    temporary: int = 2 << 30
    log: int = 256 << 20
    free: int = 512 << 20


@dataclass(frozen=True)
class Job:
    """A command in an image. `log` is appended to; writable mounts must belong to `build_user()`."""

    image: Image
    argv: tuple[str, ...]
    log: Path
    mounts: tuple[Mount, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/build"
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Ended:
    """How a job ended; `status` is its exit status, or minus the signal's number."""

    reason: End
    status: int

    @property
    def good(self) -> bool:
        """Whether it ended by itself with 0."""
        return self.reason is End.EXIT and self.status == 0


class Runtime(Protocol):
    """What runs jobs: bubblewrap, a Docker engine, or anything that speaks like one."""

    @property
    def name(self) -> str:
        """As evidence names it, with its version."""

    def run(self, job: Job) -> Ended:
        """Runs the job to its end. Raises `HostLacks` when it cannot be started at all."""

    def shell(self, job: Job) -> int:
        """The job's command on the person's terminal; its exit status."""

    def reap(self) -> list[str]:
        """Removes what killed runs left behind, and names it."""


def build_user() -> int:
    """The numeric user that jobs run as: ourselves, or `BUILD_UID` when we are root."""
    return BUILD_UID if os.geteuid() == 0 else os.geteuid()


def build_group() -> int:
    """The numeric group that jobs run as."""
    return BUILD_UID if os.geteuid() == 0 else os.getegid()


def give(path: Path) -> None:
    """Makes a directory the build user's, so that a job can write there."""
    if os.geteuid() == 0:
        trees.give(path, BUILD_UID, BUILD_UID)


def take_back(path: Path) -> None:
    """Makes what a job wrote ours, so that nothing published belongs to the build user."""
    if os.geteuid() == 0:
        trees.give(path, 0, 0)
