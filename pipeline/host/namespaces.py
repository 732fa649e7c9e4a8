"""Run programs as root of namespaces of their own, for root and for users with subordinate ids.

Root file systems of builder images are made there: killing the first program ends all processes and mounts. A user is
root inside, so that files of root belong to that user outside, and other owners are the user's subordinate ids.
"""

from __future__ import annotations

import os
import pwd
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.core import neutral, process
from pipeline.errors import PipelineError
from pipeline.host import engines, programs
from pipeline.host.facts import Finding, Host

TRIAL = 10.0  # seconds; 30 ms are usual
_IDS = 65536  # that a distribution's files may belong to
_FIRST = 100000  # SUB_UID_MIN of login.defs(5)
_FILES = ("subuid", "subgid")
# What making an image needs: mounts, owners other than root, and a root directory of its own.
_TRIAL = """set -e
mount -t tmpfs none "$1"
cd "$1"
mkdir root
: > root/file
chown 1:42 root/file
mount --rbind / root
exec chroot root true
"""


def command(user: int | None = None) -> list[str]:
    """Return the prefix that runs a program as root of its own namespaces for processes and mounts.

    `user` is the user id that runs it, by default the current one; any but root needs newuidmap and a range of ids.
    """
    mapped = [] if _own(user) == 0 else ["--map-root-user", "--map-auto"]
    return ["unshare", *mapped, "--pid", "--fork", "--kill-child", "--mount-proc"]


def check(host: Host) -> Finding:
    """Check whether the namespaces that making an image needs work, by making them."""
    affects = "builder images, and so every build"
    needed = [program for program in programs.wanted(["build"]) if program.command in ("unshare", "newuidmap")]
    if lacking := [program for program in needed if programs.which(program.command, host.path) is None]:
        found = ", ".join(f"{program.command} is not installed" for program in lacking)
        return Finding("images", "warn", found, affects, programs.advice(lacking, host.path))
    with tempfile.TemporaryDirectory(prefix="fnat-") as place:
        try:
            process.run([*command(), "/bin/sh", "-c", _TRIAL, "sh", place], timeout=TRIAL)
        except PipelineError as error:
            found = "root of a namespace cannot mount, give files away and change its root: "
            return Finding("images", "warn", found + " ".join(error.what.split()), affects, remedy(host, error.what))
    return Finding("images", "ok", "mounts, owners and root directories of their own work in namespaces")


def _own(user: int | None) -> int:
    return os.geteuid() if user is None else user


def remedy(host: Host, output: str, user: int | None = None) -> str:
    """Return the command for the cause of a failed trial with this `output` for `user`, by default the current one."""
    if "unrecognized option" in output:
        return "install util-linux 2.38 or newer"
    if _own(user) and (lacking := [name for name in _FILES if not has_range(host, name)]):
        first = free_range(host)
        span = f"{first}-{first + _IDS - 1}"
        options = [word for name in lacking for word in (f"--add-{name}s", span)]
        return neutral.command(["sudo", "usermod", *options, _name()])
    return engines.namespace_remedy(host)


def _name() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def has_range(host: Host, name: str) -> bool:
    """Return whether the file `name`, subuid or subgid, gives the current user enough ids."""
    me = {_name(), str(os.geteuid())}
    return any(owner in me and count >= _IDS for owner, _, count in _ranges(host, name))


def free_range(host: Host) -> int:
    """Return the first id behind every range that is given."""
    return max((first + count for name in _FILES for _, first, count in _ranges(host, name)), default=_FIRST)


def _ranges(host: Host, name: str) -> Iterator[tuple[str, int, int]]:
    """Yield owner, first id and number of ids of each line of subuid(5)."""
    path: Path = host.etc / name
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        if match := re.fullmatch(r"([^:#]+):(\d+):(\d+)", line.strip()):
            yield match[1], int(match[2]), int(match[3])
