"""What every verb gets: the settings of the run and its console. Knows nothing of the command line."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.console import Console
from pipeline.settings import Settings


@dataclass(frozen=True)
class Session:
    """One run as a verb sees it."""

    settings: Settings
    console: Console
