"""Refuse runtimes that do not isolate: a probe inside the sandbox must prove isolation, once per image.

The probe needs nothing but sh and readlink; without them, or with an answer we do not know, there
is no build. That the root is read-only and the filter of system calls holds, the first program of every
job has the kernel show (`pipeline.sandbox.entrypoint`): else this one does not begin.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.core import temporary
from pipeline.errors import HostLacks
from pipeline.sandbox.runtime import Job, JobResult, build_group, build_user

_TIMEOUT = 30.0  # seconds; 0.1 are usual
_NAMESPACES = ("net", "pid", "mnt", "ipc", "uts")

_PROBE = """\
no() { echo "it has $1"; exit 9; }
while read -r name rest; do
  case $name in *'|'* | face) ;; lo:*) loopback=there ;; *) no "the network interface ${name%%:*}" ;; esac
done < /proc/net/dev
[ "$loopback" = there ] || no "no list of interfaces"
while read -r key a b c d rest; do
  case $key in
    Uid:) [ "$a $b $c $d" = "$1 $1 $1 $1" ] || no "the users $a $b $c $d" ;;
    Gid:) [ "$a $b $c $d" = "$2 $2 $2 $2" ] || no "the groups $a $b $c $d" ;;
    Cap*:) [ "$a" = 0000000000000000 ] || no "capabilities: $key $a" ;;
    NoNewPrivs:) [ "$a" = 1 ] || no "a way to new privileges" ;;
    Seccomp:) [ "$a" = 2 ] || no "no filter of system calls" ;;
    *) continue ;;
  esac
  fields=$fields$key
done < /proc/self/status
[ "$fields" = Uid:Gid:CapInh:CapPrm:CapEff:CapBnd:CapAmb:NoNewPrivs:Seccomp: ] || no "only $fields in its status"
for id in $3; do
  mounts=
  read -r mounts < /proc/$id/mountinfo
  [ -z "$mounts" ] || no "a mount table with directories of the host: $mounts"
done
echo isolated
for kind in NAMESPACES; do readlink /proc/self/ns/$kind || exit 9; done
""".replace("NAMESPACES", " ".join(_NAMESPACES))


def prove(run: Callable[[Job], JobResult], job: Job, what: str, hint: str, *, hides_mounts: bool) -> None:
    """Raise `HostLacks` unless `run` runs jobs in isolation. `what` names the runtime.

    With `hides_mounts` no process may read mountinfo.
    """
    with temporary.scratch("probe-") as directory:
        log = directory / "log"
        limits = replace(job.limits, wall=_TIMEOUT, idle=_TIMEOUT, free=0)
        silent = "self 1" if hides_mounts else ""
        argv = ("/bin/sh", "-c", _PROBE, "probe", str(build_user()), str(build_group()), silent)
        ended = run(replace(job, argv=argv, log=log, mounts=(), cwd="/", environment={}, limits=limits))
        output = log.read_text(errors="backslashreplace").strip()
    found = output if ended.succeeded else f"{output}\nthe probe ended with {ended.status} ({ended.reason})".strip()
    if ended.succeeded and _is_isolated(output.splitlines()):
        return
    raise HostLacks(
        f"{what}: no isolation on this host; expected namespaces, no capabilities and a seccomp filter",
        why=found,
        hint=hint,
    )


def _is_isolated(lines: list[str]) -> bool:
    """Return whether all namespaces in the probe's output differ from this process's."""
    word, *inside = lines or [""]
    if word != "isolated" or len(inside) != len(_NAMESPACES):
        return False
    return all(
        re.fullmatch(rf"{kind}:\[\d+\]", found) and found != str(Path("/proc/self/ns", kind).readlink())
        for kind, found in zip(_NAMESPACES, inside, strict=True)
    )
