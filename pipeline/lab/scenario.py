"""Describe a scenario: its guests, and the function that acts and checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.lab.scenario_context import ScenarioContext
from pipeline.lab.topology import GuestPlan


@dataclass(frozen=True)
class ScenarioPlan:
    """The guests of a scenario, and its function."""

    name: str
    title: str
    guests: tuple[GuestPlan, ...]
    act: Callable[[ScenarioContext], None]

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments that guests have cards on, in order of appearance."""
        return tuple(dict.fromkeys(wire.segment for guest in self.guests for wire in guest.interfaces))
