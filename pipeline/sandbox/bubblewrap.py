"""Jobs under bubblewrap: no daemon, and killing it leaves nothing.

As root the privileges are dropped before bubblewrap starts, so that it is the kernel's user
namespace, not root, that confines the job, and outputs never belong to root.
"""

from __future__ import annotations

import math
import os
import signal
import stat
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline import process, rlimits
from pipeline.sandbox import images, leash, probe, watch
from pipeline.sandbox.images import Image
from pipeline.sandbox.runtime import (
    HOSTNAME,
    OPEN_FILES,
    SHARED_MEMORY,
    TEMPORARY,
    End,
    Ended,
    Job,
    Mount,
    build_group,
    build_user,
)

_STAGE = "/mnt"  # a directory that every host has; what is in it stays reachable
_HINT = "./inv doctor says what is missing; or use a container engine: --runtime docker"


class Bubblewrap:
    """The runtime that needs only the program bwrap."""

    def __init__(self) -> None:
        self._proven: set[str] = set()

    @property
    def name(self) -> str:
        """The program and its version."""
        return process.run(["bwrap", "--version"]).text.strip()

    def run(self, job: Job) -> Ended:
        """Runs the job after the sandbox has shown, once per image, that it is one."""
        self._ready(job)
        return self._run(job)

    def shell(self, job: Job) -> int:
        """The job's command with the person's own terminal."""
        self._ready(job)
        before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the job alone
        try:
            return subprocess.call(self.argv(job, terminal=True), env=process.clean_environment())
        finally:
            signal.signal(signal.SIGINT, before)

    def reap(self) -> list[str]:
        """Ends sandboxes whose owner was killed at the one moment when the kernel does not tell them.

        That is between bubblewrap's fork and its asking to be told, some microseconds.
        """
        return leash.kill(leash.is_dead)

    def prove_on_host(self) -> None:
        """Raises `HostLacks` unless a job of our build user would be isolated here, seen with the host's own tree."""
        image = Image("this host", "host", Path("/"), Path("/dev/null"))
        self._prove(Job(image, (), Path("/dev/null")))

    def _ready(self, job: Job) -> None:
        """Holds the image against its record and the sandbox against its promise, each once per image."""
        if job.image.key not in self._proven:
            images.check(job.image)
        self._prove(job)

    def _prove(self, job: Job) -> None:
        if job.image.key not in self._proven:
            probe.prove(self._run, job, "bubblewrap", _HINT)
            self._proven.add(job.image.key)

    def argv(self, job: Job, *, terminal: bool = False, ticket: str | None = None) -> list[str]:
        """The whole command line, to run and to show; with a ticket, on a leash."""
        staged, job = _staged(job)
        words = ["bwrap", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--clearenv"]
        words += ["--hostname", HOSTNAME, *([] if terminal else ["--new-session"])]
        # Else bubblewrap has a first process of its own, and ends when the job does, before the rest has ended.
        words += [] if ticket is None else ["--as-pid-1"]
        words += ["--ro-bind", str(job.image.rootfs), "/", "--proc", "/proc", "--dev", "/dev"]
        for place in TEMPORARY:
            words += _tmpfs(place, job.limits.temporary)
        # All of /dev would be a place to write to, in memory and without a limit.
        words += [*_tmpfs("/dev/shm", SHARED_MEMORY), "--remount-ro", "/dev"]
        for mount in job.mounts:
            words += _bind(mount)
        command = leash.bare(job) if ticket is None else leash.leashed(job, ticket)
        return [*staged, *_dropped(job), *words, "--chdir", job.cwd, "--", *command]

    def _run(self, job: Job) -> Ended:
        ticket, reason = uuid.uuid4().hex, None
        words = self.argv(job, ticket=ticket)
        with process.start(words, stdin=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
            assert child.stdout is not None
            pipe = child.stdout.fileno()
            os.set_blocking(pipe, False)
            try:
                reason = watch.follow(job, pipe, lambda: _read(pipe))
            finally:
                if reason is not End.EXIT:  # so that nothing of it writes behind our back
                    leash.kill(lambda label: label.endswith(f":{ticket}"))
            return Ended(reason, leash.status_of(child.wait()))


def _read(pipe: int) -> bytes | None:
    try:
        return os.read(pipe, 1 << 16)
    except BlockingIOError:
        return None


def _tmpfs(place: str, size: int) -> Sequence[str]:
    return ("--perms", "1777", "--size", str(size), "--tmpfs", place)


def _bind(mount: Mount) -> Sequence[str]:
    return ("--bind" if mount.writable else "--ro-bind", str(mount.source), mount.target)


def _staged(job: Job) -> tuple[list[str], Job]:
    """What runs first, as root, where the build user may not pass: its way to everything that the job needs.

    A checkout below /root is the usual case. The tree stays as it is, with the job's places mounted once more.
    """
    places = [job.image.rootfs, *(mount.source for mount in job.mounts)]
    if os.geteuid() != 0 or all(_lets_pass(parent) for place in places for parent in place.resolve().parents):
        return [], job
    words = ["bwrap", "--die-with-parent", "--dev-bind", "/", "/", "--tmpfs", _STAGE]
    mounts = [replace(mount, source=Path(_STAGE, str(number))) for number, mount in enumerate(job.mounts)]
    for mount, staged in zip(job.mounts, mounts, strict=True):
        words += _bind(replace(mount, target=str(staged.source)))
    rootfs = Path(_STAGE, "rootfs")
    words += ["--ro-bind", str(job.image.rootfs), str(rootfs), "--"]
    return words, replace(job, image=replace(job.image, rootfs=rootfs), mounts=tuple(mounts))


def _lets_pass(directory: Path) -> bool:
    """Whether anybody may pass through the directory."""
    return bool(directory.stat().st_mode & stat.S_IXOTH)


def _dropped(job: Job) -> list[str]:
    """What runs first: limits that every process of the job inherits, and, as root, another user."""
    limits = job.limits
    given = {
        rlimits.PROCESSES: limits.processes,
        rlimits.FILE_SIZE: limits.file,
        rlimits.MEMORY: limits.memory,
        rlimits.FILES: OPEN_FILES,
        rlimits.CPU: math.ceil(limits.wall) * (os.cpu_count() or 1),  # of one process, whatever the shell's is
    }
    rlimits.require(given, "a build")
    words = ["prlimit", *(f"--{limit.name}={amount}" for limit, amount in given.items()), "--core=0"]
    # Killing bubblewrap while it begins would leave what it has begun; the leash ends that.
    words += ["--", "setpriv", "--pdeathsig=clear", "--no-new-privs"]
    if os.geteuid() == 0:
        words += [f"--reuid={build_user()}", f"--regid={build_group()}", f"--groups={build_group()}"]
    return [*words, "--"]
