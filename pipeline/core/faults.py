"""Name points of a run at which a test may observe, interfere, or kill.

"Kill at any point loses nothing" can be tested only if a test can choose the point: between the
last byte and the rename there are microseconds, which no kill from outside hits on purpose.
Modules call `faults.point("publish.before-rename")`; outside tests that does nothing. A test in
the same process replaces `point`; a test of another process sets FNAT_TRACE_KILL=<point>[:n], and
that process kills itself with SIGKILL at the n-th pass of the point (n is 1 when not given).
Must not know what the points mean, and must never be read by code that decides anything.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

VARIABLE = "FNAT_TRACE_KILL"


def _nothing(name: str) -> None:
    """Do nothing: the fault point of every run that is no test."""


def _killer(wanted: str) -> Callable[[str], None]:
    """Return a fault point that kills this process as `wanted`, `<point>[:n]`, requests."""
    target, _, count = wanted.partition(":")
    left = int(count or 1)
    lock = threading.Lock()

    def killing(name: str) -> None:
        nonlocal left
        if name != target:
            return
        with lock:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return killing


point: Callable[[str], None] = _killer(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else _nothing
