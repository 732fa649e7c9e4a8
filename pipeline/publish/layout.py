"""Name the directories and addresses of the published repository."""

from __future__ import annotations

PUBLISH = "repository"  # the step that publishes a line's packages
UNSIGNED = "unsigned"  # the step that leaves them to be signed elsewhere, and the directory below the artifacts
PLACEHOLDER = "http://repository.example/repo"  # serves nothing, until an administrator gives an address

HOST_KEYS = "keys"  # beside a snapshot's statements: public attestation keys of other hosts that executed steps


def directory_of(line: str, *, small: bool) -> str:
    """Return the directory of a line in the repository; a small snapshot never becomes a line's latest."""
    return f"{line}-small" if small else line


def statement_name(step: str) -> str:
    """Return the file name of the statement about a step's execution."""
    return f"{step.replace(':', '-')}.intoto.json"
