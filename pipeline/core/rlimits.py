"""Tell a resource limit, such as `ulimit -n`, from a full disk and from a failed build. See setrlimit(2)."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import HostLacks

_RAISES = 24  # bit of CAP_SYS_RESOURCE in CapEff: capabilities(7)
_MARGIN = 2  # seconds of CPU time to clean up in, before the kernel kills


@dataclass(frozen=True)
class Limit:
    """A limit in the shell's terms: its option, its object, and its unit.

    `name` is prlimit(1)'s.
    """

    number: int
    name: str
    option: str
    what: str
    unit: str = ""
    size: int = 1  # of the unit

    @property
    def soft(self) -> int | None:
        """The current soft limit in units; None for none."""
        return self._in_units(resource.getrlimit(self.number)[0])

    def allows(self, amount: int) -> bool:
        """Return whether a child process may be given `amount`, in bytes, seconds or pieces."""
        hard = resource.getrlimit(self.number)[1]
        return hard in (resource.RLIM_INFINITY, -1) or hard >= amount or _may_raise()

    def lacking(self, expected: str, why: str) -> HostLacks:
        """Return the error with the limit's name and the command that shows it."""
        soft = "unlimited" if self.soft is None else f"{self.soft} {self.unit}".strip()
        return HostLacks(
            f"the shell's limit `ulimit {self.option}` ({self.what}): too low; expected {expected}, got {soft}",
            why=why,
            hint=f"ulimit {self.option} shows it; use a shell without that limit",
        )

    def used_up(self, why: str) -> HostLacks:
        """Return the error of a run that exceeded the limit."""
        return self.lacking("more", why)

    def _in_units(self, value: int) -> int | None:
        return None if value in (resource.RLIM_INFINITY, -1) else value // self.size


FILES = Limit(resource.RLIMIT_NOFILE, "nofile", "-n", "open files")
FILE_SIZE = Limit(resource.RLIMIT_FSIZE, "fsize", "-f", "size of a file", "KiB", 1024)
MEMORY = Limit(resource.RLIMIT_AS, "as", "-v", "address space", "KiB", 1024)
PROCESSES = Limit(resource.RLIMIT_NPROC, "nproc", "-u", "processes of this user")
CPU = Limit(resource.RLIMIT_CPU, "cpu", "-t", "CPU time", "seconds")

_BY_ERROR = {
    errno.EMFILE: FILES,
    errno.EFBIG: FILE_SIZE,
    errno.ENOMEM: MEMORY,
    errno.EAGAIN: PROCESSES,  # fork(2)
}
_BY_SIGNAL = {signal.SIGXFSZ: FILE_SIZE, signal.SIGXCPU: CPU, signal.SIGKILL: CPU}


def exceeded(error: BaseException) -> HostLacks | None:
    """Return the limit behind an error of this process; None where no such limit is set."""
    if isinstance(error, MemoryError):
        return _blamed((MEMORY,), "there was no more memory")
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return _blamed((MEMORY, PROCESSES), str(error))
    if isinstance(error, ImportError) and "cannot allocate memory" in str(error).lower():
        return _blamed((MEMORY,), str(error))
    if isinstance(error, OSError) and error.errno in _BY_ERROR:
        where = f": {error.filename}" if error.filename else ""
        return _blamed((_BY_ERROR[error.errno],), f"{error.strerror}{where}")
    return None


def exceeded_by_program(status: int, output: str, why: str) -> HostLacks | None:
    """Return the limit behind a program's `status` (minus the signal's number) and output `said`, or None."""
    if -status in _BY_SIGNAL:
        return _blamed((_BY_SIGNAL[signal.Signals(-status)],), why)
    for number, limit in _BY_ERROR.items():
        if os.strerror(number) in output and (blamed := _blamed((limit,), why)):
            return blamed
    return None


def require(needs: Mapping[Limit, int], what: str) -> None:
    """Raise `HostLacks` for a limit below the need of `what`."""
    for limit, amount in needs.items():
        if not limit.allows(amount):
            raise limit.lacking(f"{amount // limit.size} {limit.unit}".strip(), f"{what} needs as much")


def leave_time() -> None:
    """Request SIGXCPU shortly before a limit on CPU time kills this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY and soft >= hard > 1:
        resource.setrlimit(resource.RLIMIT_CPU, (max(1, hard - _MARGIN), hard))


def _blamed(limits: tuple[Limit, ...], why: str) -> HostLacks | None:
    # Root may have any number of processes: setrlimit(2).
    held_to = (limit for limit in limits if limit.soft is not None and not (limit is PROCESSES and os.geteuid() == 0))
    return next((limit.used_up(why) for limit in held_to), None)


def _may_raise() -> bool:
    rows = Path("/proc/self/status").read_text().splitlines()
    effective = next((row.split()[1] for row in rows if row.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _RAISES & 1)
