"""Define the lab's scenarios. A line names the kernels for each, or the reason to leave one out."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.lab.scenario import ScenarioPlan

# In the order of execution: the first failure is the most informative.
NAMES = (
    *("boot", "nat", "dr", "tun", "fullnat", "fullnat-offload", "fullnat-ports", "fullnat-pmtu"),
    *("fullnat-churn", "keepalived", "roles", "guide"),
)


def module_name(name: str) -> str:
    """Return the full name of a scenario's module."""
    return f"pipeline.lab.scenarios.{name.replace('-', '_')}"


def load_scenario(name: str, roles: Sequence[str]) -> ScenarioPlan:
    """Return the scenario of this name; `roles` are those with a kernel."""
    module = import_module(module_name(name))
    plan: ScenarioPlan = module.plan(roles) if name == "boot" else module.PLAN
    return plan
