"""No build without isolation: the sandbox itself must say, once per image, that it is one.

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
from pipeline.sandbox.runtime import Ended, Job, build_group, build_user

_LIMIT = 30.0  # seconds; 0.1 are usual
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
  seen=$seen$key
done < /proc/self/status
[ "$seen" = Uid:Gid:CapInh:CapPrm:CapEff:CapBnd:CapAmb:NoNewPrivs:Seccomp: ] || no "only $seen in its status"
for id in $3; do
  told=
  read -r told < /proc/$id/mountinfo
  [ -z "$told" ] || no "what names directories of the host: $told"
done
echo isolated
for kind in NAMESPACES; do readlink /proc/self/ns/$kind || exit 9; done
""".replace("NAMESPACES", " ".join(_NAMESPACES))


def prove(run: Callable[[Job], Ended], job: Job, what: str, hint: str, *, hides_mounts: bool) -> None:
    """Raises `HostLacks` unless `run` runs jobs in isolation. `what` names the runtime in its text.

    With `hides_mounts` no process may be told what is mounted.
    """
    with temporary.scratch("probe-") as directory:
        log = directory / "log"
        limits = replace(job.limits, wall=_LIMIT, idle=_LIMIT, free=0)
        silent = "self 1" if hides_mounts else ""
        argv = ("/bin/sh", "-c", _PROBE, "probe", str(build_user()), str(build_group()), silent)
        ended = run(replace(job, argv=argv, log=log, mounts=(), cwd="/", environment={}, limits=limits))
        said = log.read_text(errors="backslashreplace").strip()
    found = said if ended.good else f"{said}\nthe probe ended with {ended.status} ({ended.reason})".strip()
    if ended.good and _is_isolated(said.splitlines()):
        return
    raise HostLacks(f"{what} cannot isolate a build on this host", why=found, hint=hint)


def _is_isolated(lines: list[str]) -> bool:
    """Whether every namespace it names is another than ours."""
    word, *inside = lines or [""]
    if word != "isolated" or len(inside) != len(_NAMESPACES):
        return False
    return all(
        re.fullmatch(rf"{kind}:\[\d+\]", found) and found != str(Path("/proc/self/ns", kind).readlink())
        for kind, found in zip(_NAMESPACES, inside, strict=True)
    )
