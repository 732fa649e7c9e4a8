"""Define the arguments of every verb: the run's settings and its console. Knows nothing of the command line."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.settings import Settings
from pipeline.core.console import Console


@dataclass(frozen=True)
class RunContext:
    """Settings and console of one run."""

    settings: Settings
    console: Console
