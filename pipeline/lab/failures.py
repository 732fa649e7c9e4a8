"""Define the lab's errors, typed, since scenarios distinguish them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from pipeline.core.process import reproducer
from pipeline.errors import TestsFailed
from pipeline.lab.report.results import Finding


class LossReason(StrEnum):
    """The reasons for which a guest is lost."""

    FOUND = "found"  # the watcher found something on its console
    ENDED = "ended"  # QEMU ended: the guest powered off or rebooted, or QEMU failed
    KILLED = "killed"  # QEMU was killed by a foreign signal
    PANICKED = "panicked"  # reported by its pvpanic device, not on its console
    SILENT = "silent"  # no console output any more, or never any
    LOOPING = "looping"  # its console repeats the same lines
    SLOW = "slow"  # its console has new output, but it was not ready in time
    FLOODED = "flooded"  # its console has no end
    STOPPED = "removed"  # we ended it, as the scenario wanted


class GuestLost(TestsFailed):
    """A guest that no longer responds; `finding` where its console shows the reason."""

    def __init__(
        self, guest: str, loss: LossReason, what: str, *, console: Path, hint: str = "", finding: Finding | None = None
    ) -> None:
        self.guest, self.loss, self.finding = guest, loss, finding
        where = f"{console}:{finding.line}" if finding else str(console)
        super().__init__(f"guest {guest}: {what}", where=where, hint=hint)


class CommandFailed(TestsFailed):
    """A command in a guest with an unaccepted end; `status` is None for a timeout."""

    def __init__(self, guest: str, argv: Sequence[str], status: int | None, out: str, err: str, what: str) -> None:
        self.guest, self.argv, self.status, self.out, self.err = guest, tuple(argv), status, out, err
        tail = "\n".join((err or out).strip().splitlines()[-12:])
        text = f"guest {guest}: {argv[0] if argv else 'a command'} {what}"
        super().__init__(text + (f"\n{tail}" if tail else ""), where=f"in the guest: {reproducer(argv)}")


class NetworkFailed(TestsFailed):
    """A segment that could not be created, or whose switch ended."""
