"""Name the commands of a night, which are the same whatever service runs them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.ci.kinds import Request


def commands(request: Request) -> Sequence[Sequence[str]]:
    """Return the words behind `./inv` of each command, in order."""
    return [request.words("build-all", name) for name in request.names]
