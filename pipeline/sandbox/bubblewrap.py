"""Jobs under bubblewrap: no daemon, and killing it leaves nothing.

As root the privileges are dropped before bubblewrap starts, so that it is the kernel's user
namespace, not root, that confines the job, and outputs never belong to root.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import math
import os
import socket
import stat
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.core import process, rlimits
from pipeline.sandbox import entrypoint, images, isolation_check, supervisor, watchdog
from pipeline.sandbox import terminal as attached
from pipeline.sandbox.images import HOSTNAME, Image
from pipeline.sandbox.runtime import (
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
# How this host was started, where its swap lies, and what keys its users have.
_HIDDEN = ("/proc/cmdline", "/proc/swaps", "/proc/keys", "/proc/key-users")
_MFD_EXEC = 0x10  # linux/memfd.h
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
        """The job's command at a terminal of its own, which is tied to the person's; without one, at pipes."""
        self._ready(job)
        if not os.isatty(0):
            with self._started(job, stdin=subprocess.PIPE) as (child, _):
                stdin, stdout = process.pipe(child.stdin), process.pipe(child.stdout)
                pipes = attached.Pipes(stdout.fileno(), stdin.fileno(), stdin.close)
                attached.converse(pipes, lambda: None, None)
                return supervisor.status_of(child.wait())
        with attached.terminal() as (ours, theirs), self._started(job, terminal=theirs) as (child, kill):
            pipes = attached.Pipes(ours, ours, lambda: None)
            attached.converse(pipes, lambda: None, functools.partial(attached.resize, ours))
            kill()  # where the person has gone
            return supervisor.status_of(child.wait())

    def reap(self) -> list[str]:
        """Ends sandboxes whose owner was killed at the one moment when the kernel does not tell them.

        That is between bubblewrap's fork and its asking to be told, some microseconds.
        """
        return supervisor.kill(supervisor.is_dead)

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
            isolation_check.prove(self._run, job, "bubblewrap", _HINT, hides_mounts=True)
            self._proven.add(job.image.key)

    @contextlib.contextmanager
    def _started(
        self, job: Job, *, stdin: int | None = None, terminal: int | None = None
    ) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], object]]]:
        """The running job, at a terminal that is closed here or at pipes, and what kills it; nothing of it is left."""
        ticket = uuid.uuid4().hex

        def kill() -> object:
            return supervisor.kill(lambda label: label.endswith(f":{ticket}"))

        with contextlib.ExitStack() as held, contextlib.ExitStack() as handed:
            if terminal is not None:
                handed.callback(os.close, terminal)
                stdin = terminal
            # Its supervisor hears when our end is closed. A pipe could be opened from /proc and held open by a job.
            hearing, telling = (_above(end.detach()) for end in socket.socketpair())
            held.callback(os.close, telling)
            handed.callback(os.close, hearing)
            first = _program(lambda itself: entrypoint.for_bubblewrap(itself, hearing, terminal=terminal is not None))
            handed.callback(os.close, first)
            words = self._argv(job, ticket, first)
            output = subprocess.PIPE if terminal is None else terminal
            started = process.start(
                words, stdin=stdin, stdout=output, stderr=subprocess.STDOUT, pass_fds=(hearing, first)
            )
            child = held.enter_context(started)
            handed.close()
            try:
                yield child, kill
            finally:
                if child.poll() is None:  # so that nothing of it writes behind our back
                    kill()

    def _argv(self, job: Job, ticket: str, first: int) -> list[str]:
        """The whole command line; the job's first program is open as `first`."""
        staged, job = _staged(job)
        words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
        words += [word for name in entrypoint.CAPABILITIES for word in ("--cap-add", name)]
        # Else bubblewrap has a first process of its own, and ends when the job does, before the rest has ended.
        words += ["--hostname", HOSTNAME, "--as-pid-1"]
        words += ["--ro-bind", str(job.image.rootfs), "/", "--proc", "/proc", "--dev", "/dev"]
        for place in filter(os.path.exists, _HIDDEN):
            words += ["--ro-bind", "/dev/null", place]
        for place in TEMPORARY:
            words += _tmpfs(place, job.limits.temporary)
        # All of /dev would be a place to write to, in memory and without a limit.
        words += [*_tmpfs("/dev/shm", SHARED_MEMORY), "--remount-ro", "/dev"]
        for mount in job.mounts:
            words += _bind(mount)
        command = [f"/proc/self/fd/{first}", *supervisor.supervised(job, ticket)]
        return [*staged, *_dropped(job), *words, "--chdir", job.cwd, "--", *command]

    def _run(self, job: Job) -> Ended:
        with self._started(job) as (child, kill):
            pipe = process.pipe(child.stdout).fileno()
            os.set_blocking(pipe, False)
            reason = watchdog.follow(job, pipe, lambda: _read(pipe))
            if reason is not End.EXIT:
                kill()
            return Ended(reason, supervisor.status_of(child.wait()))


def _above(handle: int) -> int:
    """The descriptor under a number that the job's first program has no use of its own for."""
    try:
        return fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, entrypoint.FREE)
    finally:
        os.close(handle)


def _program(compiled: Callable[[int], bytes]) -> int:
    """A descriptor of the program that `compiled` gives for its number, in no directory and so on no disk."""
    try:
        written = os.memfd_create("entrypoint", os.MFD_CLOEXEC | _MFD_EXEC)
    except OSError:  # a kernel before 6.3, where all of them may be executed
        written = os.memfd_create("entrypoint", os.MFD_CLOEXEC)
    with os.fdopen(written, "wb") as file:  # which must be closed: what is open to be written is not executed
        itself = _above(os.open(f"/proc/self/fd/{written}", os.O_RDONLY | os.O_CLOEXEC))
        file.write(compiled(itself))
    return itself


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
    # Killing bubblewrap while it begins would leave what it has begun; the supervisor ends that.
    words += ["--", "setpriv", "--pdeathsig=clear", "--no-new-privs"]
    if os.geteuid() == 0:
        words += [f"--reuid={build_user()}", f"--regid={build_group()}", f"--groups={build_group()}"]
    return [*words, "--"]
