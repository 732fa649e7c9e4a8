"""What ties a job to us from inside its sandbox, and who owns what a dead run left.

bubblewrap's own link to its parent, and the engine's lack of one, both leave moments in which our
death goes unseen. So every job is the child of a shell that watches a pipe or connection of ours, which
the kernel closes whatever kills us: its descriptor 3, or else its standard input. Needs nothing but sh.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pipeline.sandbox.runtime import Job, build_user

LABEL = "org.lvs-fullnat.pipeline"  # marks containers and processes as ours; its value is `owner()`
_LABELLED = re.compile(rb"%b=([0-9a-f-]+:\d+:\d{1,10}:\d+:\w+)" % re.escape(LABEL).encode())  # with the ticket
REPORT = "lvs-fullnat job ended"  # begins the line that tells how, on the shell's own standard error

# The first process of the sandbox: whatever ends its child ends it, and the kernel then ends all others.
_FIRST = """\
"$@"
status=$?
"""
# The kernel's count of processes that it killed for memory: cgroup version 2, version 1.
_TELL = f"""\
killed=0
for file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
  [ ! -r $file ] || while read -r word count; do [ "$word" != oom_kill ] || killed=$count; done < $file
done
echo "{REPORT} $status $killed" >&2
"""
_EXIT = "exit $status\n"
# Its child: kills no process but itself, so that this does no harm wherever it may run. What is open as 4 keeps the
# job's mounts. The first process closes it before the kernel ends the others, to which everything would be gone for a
# moment; so what watches has it open, too.
_SUPERVISOR = """\
(while read -r line; do :; done; kill -9 $$) <&3 >/dev/null 2>&1 3<&- &
exec 3<&- 4<&-
"$@"
exit $?
"""
_BY_INPUT = f"exec 3<&0 </dev/null 2>&1\n{_SUPERVISOR}"
_DYING = 5.0  # seconds for a killed sandbox to be gone
_SIGNALS = range(129, 128 + 65)  # a shell's and bubblewrap's exit status for a child killed by a signal


def supervised(job: Job, ticket: str, *, by_input: bool = False) -> list[str]:
    """The job's command and whole environment behind the watching shell, to be a sandbox's first process.

    `ticket` tells this job from others of the same owner. With `by_input` standard input is what is watched, and
    how the job ended is reported.
    """
    first = _FIRST + (_TELL if by_input else "") + _EXIT
    watching = _BY_INPUT if by_input else _SUPERVISOR
    return ["/bin/sh", "-c", first, f"{LABEL}={owner()}:{ticket}", "/bin/sh", "-c", watching, "supervisor", *bare(job)]


def bare(job: Job) -> list[str]:
    """The job's command with exactly its environment, whatever runtime or shell would add."""
    return ["env", "-i", *(f"{name}={value}" for name, value in environment(job).items()), *job.argv]


def environment(job: Job) -> Mapping[str, str]:
    """Every variable that the job sees."""
    given = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/tmp", **job.environment}
    return dict(sorted(given.items()))


def status_of(code: int) -> int:
    """An exit status, or minus the number of the signal that a shell reports with it."""
    return 128 - code if code in _SIGNALS else code


def owner() -> str:
    """This process as no other ever was or will be: boot, process namespace, id and time of its start."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{_namespace()}:{os.getpid()}:{_started(os.getpid())}"


def is_dead(label: str) -> bool:
    """Whether the owner has died for certain: one of another process namespace cannot be asked for."""
    boot, namespace, pid, started = label.split(":")[:4]
    if boot != owner().split(":")[0]:
        return True
    return namespace == _namespace() and started != _started(int(pid))


def kill(match: Callable[[str], bool]) -> list[str]:
    """Ends every supervisor, and with it its whole sandbox, whose label and ticket `match`; returns what they were."""
    found: dict[int, int] = {}
    while there := [pid for pid, label in _labels() if match(label) and pid not in found]:
        for pid in there:
            found[pid] = -1
            with contextlib.suppress(ProcessLookupError, PermissionError):
                found[pid] = os.pidfd_open(pid)
                signal.pidfd_send_signal(found[pid], signal.SIGKILL)
    for handle in found.values():
        if handle >= 0:  # the first process of a sandbox has ended when all others have
            select.select([handle], [], [], _DYING)
            os.close(handle)
    return [f"process {pid}" for pid in found]


def _labels() -> Iterator[tuple[int, str]]:
    """Every process with a supervisor, or that begins a sandbox with one: its id, its owner's label and the ticket.

    Jobs and other users can say the same of their processes: those are passed over, and so is what no `owner()` says.
    """
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if _may_be_supervised((directory / "status").read_bytes()):
                for word in (directory / "cmdline").read_bytes().split(b"\0"):
                    if label := _LABELLED.fullmatch(word):
                        yield int(directory.name), label[1].decode()


def _may_be_supervised(status: bytes) -> bool:
    """Whether a process is ours or the build user's, and either of our namespace of processes or the first of its own.

    `status` is as proc(5) has it; ids in `NSpid` are those in our namespace and in all down to its own.
    """
    rows = dict(row.split(b":", 1) for row in status.splitlines() if b":" in row)
    user, ids = int(rows[b"Uid"].split()[0]), rows[b"NSpid"].split()
    return user in (os.geteuid(), build_user()) and (len(ids) == 1 or ids[-1:] == [b"1"])


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")


def _started(pid: int) -> str:
    """Field 22 of proc(5)'s stat; empty when the process is not there or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
