"""Define the interface of runtimes: images, jobs and their limits. A job sees the same environment under all runtimes.

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

# Who builds when we are root: an id no person and no service has, so that limits per user are ours.
BUILD_UID = 64000
TMPFS_MOUNTS = ("/tmp", "/run", "/var/tmp")  # inside, writable and in memory
OPEN_FILES = 4096  # of each process; Podman's own default can exceed what it may give
SHARED_MEMORY = 64 << 20  # bytes of /dev/shm: Docker's own default


class EndReason(StrEnum):
    """The reasons for which a job ends."""

    EXIT = "exit"
    WALL = "wall-clock limit"
    IDLE = "idle limit"
    LOG = "log size limit"
    SIZE = "size limit"
    DISK = "disk nearly full"
    MEMORY = "memory limit"
    ENGINE_LOST = "the engine went away"


@dataclass(frozen=True)
class Image:
    """A builder image: its name (`debian12`), its key, its root directory and its list of packages."""

    name: str
    key: str
    rootfs: Path
    packages: Path


@dataclass(frozen=True)
class Mount:
    """A directory or file of the host, mounted at a fixed path inside."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Limits:
    """Limits of a job: `wall` and `idle` in seconds, `processes` a number, all others in bytes.

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
class JobResult:
    """The result of a job; `status` is its exit status, or minus the signal's number."""

    reason: EndReason
    status: int

    @property
    def succeeded(self) -> bool:
        """Whether the job exited by itself with status 0."""
        return self.reason is EndReason.EXIT and self.status == 0


class Runtime(Protocol):
    """A runtime of jobs: bubblewrap, a Docker engine, or an engine with Docker's API."""

    @property
    def name(self) -> str:
        """The product and its version, as evidence records them."""

    def run(self, job: Job) -> JobResult:
        """Run the job to its end. Raises `HostLacks` when it cannot be started."""

    def shell(self, job: Job) -> int:
        """Run the job's command on the caller's terminal and return its exit status."""

    def reap(self) -> list[str]:
        """Remove the remains of killed runs, and return their names."""


def build_user() -> int:
    """Return the uid that jobs run as: the current user's, or `BUILD_UID` for root."""
    return BUILD_UID if os.geteuid() == 0 else os.geteuid()


def build_group() -> int:
    """Return the gid that jobs run as."""
    return BUILD_UID if os.geteuid() == 0 else os.getegid()


def chown_to_build_user(path: Path) -> None:
    """Give a tree to the build user, so that a job can write there."""
    if os.geteuid() == 0:
        trees.chown(path, BUILD_UID, BUILD_UID)


def chown_to_caller(path: Path) -> None:
    """Give a job's output to the current user, so that nothing published belongs to the build user."""
    if os.geteuid() == 0:
        trees.chown(path, 0, 0)
