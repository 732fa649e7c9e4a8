"""Print where a file, symbol, option or patch of a snapshot came from, and what it is in."""

from __future__ import annotations

from pipeline.audit import evidence
from pipeline.audit import trace as tracing
from pipeline.audit.trace import Trace
from pipeline.config.context import RunContext


def trace(context: RunContext, snapshot: str, thing: str) -> Trace:
    """Trace a thing and print its chains. Raises `UsageError` and `Refused`."""
    artifacts = context.settings.artifacts
    found = tracing.trace(evidence.find_snapshot(snapshot, artifacts), thing, artifacts / "trees")
    console = context.console
    console.say(f"{found.wanted}: {found.kind}, in the snapshot {found.snapshot}")
    for chain in found.chains:
        console.say()
        rows = [*((f"<- {link.what}", link.text) for link in chain.back)]
        rows += [(f"-> {link.what}", link.text) for link in chain.forward]
        console.table(("", "what"), rows, chain.of)
    console.say("by the signed statements; `./inv audit SNAPSHOT` checks them and the packages")
    return found
