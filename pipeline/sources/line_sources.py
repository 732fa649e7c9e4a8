"""Define the document of the sources that a fetch of a line used."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.line_model import LineIdentity
from pipeline.sources.records import SourceEvidence


@dataclass(frozen=True)
class LineSources(LineIdentity):
    """The sources that a fetch of a line used."""

    sources: tuple[SourceEvidence, ...]
