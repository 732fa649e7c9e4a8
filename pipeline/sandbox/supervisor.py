"""Tie a job to its owner from inside the sandbox, and kill the jobs of dead owners.

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

LABEL = "org.lvs-fullnat.pipeline"  # marks containers and processes as ours; its value is `owner_label()`
_LABELLED = re.compile(rb"%b=([0-9a-f-]+:\d+:\d{1,10}:\d+:\w+)" % re.escape(LABEL).encode())  # with the ticket
REPORT = "lvs-fullnat job ended"  # begins the line that tells how, on the shell's own standard error

# The first process of the sandbox: whatever ends its child ends it, and the kernel then ends all others.
_RUN_SCRIPT = """\
"$@"
status=$?
"""
# The kernel's count of processes that it killed for memory: cgroup version 2, version 1.
_REPORT_SCRIPT = f"""\
killed=0
for file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
  [ ! -r $file ] || while read -r word count; do [ "$word" != oom_kill ] || killed=$count; done < $file
done
echo "{REPORT} $status $killed" >&2
"""
_EXIT_SCRIPT = "exit $status\n"
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
_EXIT_TIMEOUT = 5.0  # seconds for a killed sandbox to be gone
_SIGNALS = range(129, 128 + 65)  # a shell's and bubblewrap's exit status for a child killed by a signal


def supervised_argv(job: Job, ticket: str, *, by_input: bool = False) -> list[str]:
    """Return the job's command and environment behind the supervising shell, the first process of a sandbox.

    `ticket` distinguishes the jobs of one owner. With `by_input` standard input is watched, and the job's end is
    reported.
    """
    first = _RUN_SCRIPT + (_REPORT_SCRIPT if by_input else "") + _EXIT_SCRIPT
    watching = _BY_INPUT if by_input else _SUPERVISOR
    return [
        "/bin/sh",
        "-c",
        first,
        f"{LABEL}={owner_label()}:{ticket}",
        "/bin/sh",
        "-c",
        watching,
        "supervisor",
        *bare_argv(job),
    ]


def bare_argv(job: Job) -> list[str]:
    """Return the job's command with exactly its environment, without additions of the runtime or a shell."""
    return ["env", "-i", *(f"{name}={value}" for name, value in environment(job).items()), *job.argv]


def environment(job: Job) -> Mapping[str, str]:
    """Return all variables that the job sees."""
    given = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/tmp", **job.environment}
    return dict(sorted(given.items()))


def exit_status(code: int) -> int:
    """Return an exit status, or minus the number of the signal that a shell reports with it."""
    return 128 - code if code in _SIGNALS else code


def owner_label() -> str:
    """Return a unique name of this process: boot, process namespace, pid and start time."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{_namespace()}:{os.getpid()}:{_start_time(os.getpid())}"


def is_dead(label: str) -> bool:
    """Return whether the owner has certainly died; owners in other process namespaces count as alive."""
    boot, namespace, pid, started = label.split(":")[:4]
    if boot != owner_label().split(":")[0]:
        return True
    return namespace == _namespace() and started != _start_time(int(pid))


def kill(match: Callable[[str], bool]) -> list[str]:
    """Kill all supervisors, and so their sandboxes, whose label and ticket `match`; return their names."""
    found: dict[int, int] = {}
    while there := [pid for pid, label in _labels() if match(label) and pid not in found]:
        for pid in there:
            found[pid] = -1
            with contextlib.suppress(ProcessLookupError, PermissionError):
                found[pid] = os.pidfd_open(pid)
                signal.pidfd_send_signal(found[pid], signal.SIGKILL)
    for handle in found.values():
        if handle >= 0:  # the first process of a sandbox has ended when all others have
            select.select([handle], [], [], _EXIT_TIMEOUT)
            os.close(handle)
    return [f"process {pid}" for pid in found]


def _labels() -> Iterator[tuple[int, str]]:
    """Yield the pid and the label, with its ticket, of all processes with a supervisor or starting one.

    Jobs and other users can forge labels: processes of other users are skipped, and so are labels of another form than
    `owner_label`'s.
    """
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if _may_be_supervised((directory / "status").read_bytes()):
                for word in (directory / "cmdline").read_bytes().split(b"\0"):
                    if label := _LABELLED.fullmatch(word):
                        yield int(directory.name), label[1].decode()


def _may_be_supervised(status: bytes) -> bool:
    """Return whether a process is ours or the build user's, in our pid namespace or the first of its own.

    `status` is as proc(5) has it; ids in `NSpid` are those in our namespace and in all down to its own.
    """
    rows = dict(row.split(b":", 1) for row in status.splitlines() if b":" in row)
    user, ids = int(rows[b"Uid"].split()[0]), rows[b"NSpid"].split()
    return user in (os.geteuid(), build_user()) and (len(ids) == 1 or ids[-1:] == [b"1"])


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")


def _start_time(pid: int) -> str:
    """Return field 22 of proc(5)'s stat; empty for a process that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
