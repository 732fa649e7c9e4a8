"""Run jobs under bubblewrap: without a daemon; killing bubblewrap ends all processes of a job.

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
from pipeline.sandbox import entrypoint, images, isolation_check, supervisor, terminal, watchdog
from pipeline.sandbox.images import HOSTNAME
from pipeline.sandbox.runtime import (
    OPEN_FILES,
    SHARED_MEMORY,
    TMPFS_MOUNTS,
    EndReason,
    Image,
    Job,
    JobResult,
    Mount,
    build_group,
    build_user,
)

_STAGING = "/mnt"  # a directory that every host has; what is in it stays reachable
# How this host was started, where its swap lies, and what keys its users have.
_HIDDEN_FILES = ("/proc/cmdline", "/proc/swaps", "/proc/keys", "/proc/key-users")
_MFD_EXEC = 0x10  # linux/memfd.h
_HINT = "`./inv doctor` says what is missing; or use a container engine: --runtime docker"


class Bubblewrap:
    """A runtime that needs only the program bwrap."""

    def __init__(self) -> None:
        self._proven: set[str] = set()

    @property
    def name(self) -> str:
        """The program and its version."""
        return process.run(["bwrap", "--version"]).text.strip()

    def run(self, job: Job) -> JobResult:
        """Run the job, after checking the image and, once per image, the sandbox's isolation."""
        self._check_image_and_isolation(job)
        return self._run(job)

    def shell(self, job: Job) -> int:
        """Run the job's command on a pseudo-terminal that is relayed to the caller's, or on pipes without one."""
        self._check_image_and_isolation(job)
        if not os.isatty(0):
            with self._started_job(job, stdin=subprocess.PIPE) as (child, _):
                stdin, stdout = process.pipe(child.stdin), process.pipe(child.stdout)
                pipes = terminal.LocalStream(stdout.fileno(), stdin.fileno(), stdin.close)
                terminal.relay(pipes, lambda: None, None)
                return supervisor.exit_status(child.wait())
        with terminal.pseudo_terminal() as (ours, theirs), self._started_job(job, terminal=theirs) as (child, kill):
            pipes = terminal.LocalStream(ours, ours, lambda: None)
            terminal.relay(pipes, lambda: None, functools.partial(terminal.resize, ours))
            kill()  # where the person has gone
            return supervisor.exit_status(child.wait())

    def reap(self) -> list[str]:
        """Kill sandboxes whose owner died before the kernel would have signalled them.

        The gap is between bubblewrap's fork and its prctl(PR_SET_PDEATHSIG), some microseconds.
        """
        return supervisor.kill(supervisor.is_dead)

    def prove_on_host(self) -> None:
        """Raise `HostLacks` unless a job of the build user is isolated on this host, tried on the host's own root."""
        image = Image("this host", "host", Path("/"), Path("/dev/null"))
        self._prove(Job(image, (), Path("/dev/null")))

    def _check_image_and_isolation(self, job: Job) -> None:
        """Check the image against its record and the sandbox's isolation, each once per image."""
        if job.image.key not in self._proven:
            images.check(job.image)
        self._prove(job)

    def _prove(self, job: Job) -> None:
        if job.image.key not in self._proven:
            isolation_check.prove(self._run, job, "bubblewrap", _HINT, hides_mounts=True)
            self._proven.add(job.image.key)

    @contextlib.contextmanager
    def _started_job(
        self, job: Job, *, stdin: int | None = None, terminal: int | None = None
    ) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], object]]]:
        """Start the job on pipes or on `terminal`, closed here; yield the process and a function that kills the job."""
        ticket = uuid.uuid4().hex

        def kill() -> object:
            return supervisor.kill(lambda label: label.endswith(f":{ticket}"))

        with contextlib.ExitStack() as held, contextlib.ExitStack() as handed:
            if terminal is not None:
                handed.callback(os.close, terminal)
                stdin = terminal
            # The supervisor reads an end of file when our end closes. A job could open a pipe from /proc and keep it.
            supervisor_end, our_end = (_above_reserved(end.detach()) for end in socket.socketpair())
            held.callback(os.close, our_end)
            handed.callback(os.close, supervisor_end)
            first = _program_descriptor(
                lambda itself: entrypoint.for_bubblewrap(itself, supervisor_end, terminal=terminal is not None)
            )
            handed.callback(os.close, first)
            words = self._argv(job, ticket, first)
            output = subprocess.PIPE if terminal is None else terminal
            started = process.start(
                words, stdin=stdin, stdout=output, stderr=subprocess.STDOUT, pass_fds=(supervisor_end, first)
            )
            child = held.enter_context(started)
            handed.close()
            try:
                yield child, kill
            finally:
                if child.poll() is None:  # so that nothing of it writes behind our back
                    kill()

    def _argv(self, job: Job, ticket: str, first: int) -> list[str]:
        """Return the whole command line; the job's first program is open as descriptor `first`."""
        staged, job = _staging(job)
        words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
        words += [word for name in entrypoint.CAPABILITIES for word in ("--cap-add", name)]
        # Else bubblewrap has a first process of its own, and ends with the job, before the other processes have ended.
        words += ["--hostname", HOSTNAME, "--as-pid-1"]
        words += ["--ro-bind", str(job.image.rootfs), "/", "--proc", "/proc", "--dev", "/dev"]
        for place in filter(os.path.exists, _HIDDEN_FILES):
            words += ["--ro-bind", "/dev/null", place]
        for place in TMPFS_MOUNTS:
            words += _tmpfs(place, job.limits.temporary)
        # All of /dev would be a place to write to, in memory and without a limit.
        words += [*_tmpfs("/dev/shm", SHARED_MEMORY), "--remount-ro", "/dev"]
        for mount in job.mounts:
            words += _bind(mount)
        command = [f"/proc/self/fd/{first}", *supervisor.supervised_argv(job, ticket)]
        return [*staged, *_privilege_drop(job), *words, "--chdir", job.cwd, "--", *command]

    def _run(self, job: Job) -> JobResult:
        with self._started_job(job) as (child, kill):
            pipe = process.pipe(child.stdout).fileno()
            os.set_blocking(pipe, False)
            reason = watchdog.watch(job, pipe, lambda: _read(pipe))
            if reason is not EndReason.EXIT:
                kill()
            return JobResult(reason, supervisor.exit_status(child.wait()))


def _above_reserved(handle: int) -> int:
    """Move a descriptor above the numbers that the job's first program uses itself."""
    try:
        return fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, entrypoint.FIRST_FREE)
    finally:
        os.close(handle)


def _program_descriptor(compiled: Callable[[int], bytes]) -> int:
    """Return a descriptor of an anonymous file with the program that `compiled` returns for the descriptor's number."""
    try:
        written = os.memfd_create("entrypoint", os.MFD_CLOEXEC | _MFD_EXEC)
    except OSError:  # a kernel before 6.3, where all of them may be executed
        written = os.memfd_create("entrypoint", os.MFD_CLOEXEC)
    with os.fdopen(written, "wb") as file:  # which must be closed: what is open to be written is not executed
        itself = _above_reserved(os.open(f"/proc/self/fd/{written}", os.O_RDONLY | os.O_CLOEXEC))
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


def _staging(job: Job) -> tuple[list[str], Job]:
    """Return a bind-mounting prefix command, for root, where the build user may not search a parent directory.

    A checkout below /root is the usual case. The tree stays as it is, with the job's places mounted once more.
    """
    places = [job.image.rootfs, *(mount.source for mount in job.mounts)]
    if os.geteuid() != 0 or all(_is_searchable(parent) for place in places for parent in place.resolve().parents):
        return [], job
    words = ["bwrap", "--die-with-parent", "--dev-bind", "/", "/", "--tmpfs", _STAGING]
    mounts = [replace(mount, source=Path(_STAGING, str(number))) for number, mount in enumerate(job.mounts)]
    for mount, staged in zip(job.mounts, mounts, strict=True):
        words += _bind(replace(mount, target=str(staged.source)))
    rootfs = Path(_STAGING, "rootfs")
    words += ["--ro-bind", str(job.image.rootfs), str(rootfs), "--"]
    return words, replace(job, image=replace(job.image, rootfs=rootfs), mounts=tuple(mounts))


def _is_searchable(directory: Path) -> bool:
    """Return whether all users may search the directory."""
    return bool(directory.stat().st_mode & stat.S_IXOTH)


def _privilege_drop(job: Job) -> list[str]:
    """Return a prefix command that sets the limits of all processes and, for root, changes to the build user."""
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
