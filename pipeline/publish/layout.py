"""Name the directories of lines in the repository."""

from __future__ import annotations


def directory_of(line: str, *, small: bool) -> str:
    """Return the directory of a line in the repository; a small snapshot never becomes a line's latest."""
    return f"{line}-small" if small else line
