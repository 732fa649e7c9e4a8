"""Define the maker of signed statements about executions of steps, as a scheduler is given one.

Must not know what a statement says: `pipeline.audit.statements` does.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from pipeline.packaging.graph import Work
from pipeline.packaging.step_record import Record


class Attester(Protocol):
    """A maker of statements that are signed with one key."""

    @property
    def key_id(self) -> str:
        """The id of the key; empty for a key that is made when the first statement is."""

    @property
    def trusted(self) -> Collection[str]:
        """The ids of the keys of other hosts whose statements count as well."""

    def begin(self) -> None:
        """Note what a statement tells of the time before an execution; called before each one."""

    def statement(self, work: Work, record: Record) -> bytes:
        """Return the signed statement of an execution that is over; `record` tells what it made.

        Raises `PipelineError` where it cannot be signed.
        """


def problem(record: Record, attester: Attester) -> str:
    """Return why a result has no statement of the attester's key or a trusted one; empty where it has one."""
    if not record.attested:
        return "no statement was made when it ran"
    if record.attested != attester.key_id and record.attested not in attester.trusted:
        now = f"{attester.key_id[:16]}…" if attester.key_id else "one that is still to be made"
        return f"its statement is signed with the key {record.attested[:16]}…; expected {now}"
    return ""
