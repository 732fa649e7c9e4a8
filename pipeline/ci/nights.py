"""Name the commands of a night, which are the same whatever service runs them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.ci.kinds import Request


def commands(request: Request) -> Sequence[Sequence[str]]:
    """Return the words behind `./inv` of each command, in order: a night takes one line after the other."""
    return [request.words("nightly", *request.names)]
