"""Describe a scenario: its guests, and the function that acts and checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.lab.scenario_context import ScenarioContext
from pipeline.lab.topology import GuestPlan


@dataclass(frozen=True)
class ScenarioPlan:
    """The guests of a scenario, and its function.

    `captured_frames` is how many frames of each segment are captured, the first ones; None for all. A capture is read
    whole, and cannot be of a scenario whose traffic is hundreds of thousands. `of_one_line`: it is about what each line
    has, so that its real servers are never those of another.
    """

    name: str
    title: str
    guests: tuple[GuestPlan, ...]
    act: Callable[[ScenarioContext], None]
    captured_frames: int | None = None
    of_one_line: bool = False

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments that guests have cards on, in order of appearance."""
        return tuple(dict.fromkeys(wire.segment for guest in self.guests for wire in guest.interfaces))
