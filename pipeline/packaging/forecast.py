"""Forecast a run with a shared store: which steps would be taken from it. Nothing is taken, stored or run."""

from __future__ import annotations

from pipeline.packaging.graph import Step, StepGraph
from pipeline.packaging.scheduler import TAKEN, Scheduler, State


def forecast(runner: Scheduler, graph: StepGraph) -> dict[str, tuple[State, str]]:
    """Return for each step a run's action and the deciding reason, as `Scheduler.explain`, with the shared store."""
    actions = runner.explain(graph)
    digests: dict[str, str | None] = {}  # of each step's output; None for one that is not known before it runs
    for name, step in graph.steps.items():
        action, digests[name] = _action(runner, step, graph.keys[name], actions[name], digests)
        actions[name] = action
    return actions


def _action(
    runner: Scheduler, step: Step, key: str, action: tuple[State, str], digests: dict[str, str | None]
) -> tuple[tuple[State, str], str | None]:
    """Return the action of a step whose needs have the `digests`, and the digest of its own output."""
    record = runner.stored(step, key).record if action[0] is State.REUSED else None
    own, used = record.digest if record else None, {name: digests[name] or "" for name in step.needs}
    if runner.exchange is None or step.local or runner.is_forced(step.name) or not all(used.values()):
        return action, own
    shared = runner.exchange.find(step.name, step.directory, key, used)
    if shared and shared.record.digest != own:
        return (State.TAKEN, f"{TAKEN}, made with the key {shared.record.attested[:16]}…"), shared.record.digest
    if record and (others := [name for name in used if record.used.get(name) != used[name]]):
        return (State.RAN, f"made from another output of {', '.join(others)}"), None
    return action, own
