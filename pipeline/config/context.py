"""What every verb gets: the settings of the run and its console. Knows nothing of the command line."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.settings import Settings
from pipeline.core.console import Console


@dataclass(frozen=True)
class RunContext:
    """One run as a verb sees it."""

    settings: Settings
    console: Console
