"""Verify the patches of a line's tools, apply them to the tools' verified sources, and prove what they leave.

A tool has no role: its series as a whole must change what its rule says, and leave the recorded blobs. Prints nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline.config.line_model import Line, ToolPatch, ToolSeries
from pipeline.core.fs import scratch
from pipeline.errors import Refused
from pipeline.formats import archive
from pipeline.formats.git_tree import Listing
from pipeline.patching import apply, patch_file, role_rules, series

if TYPE_CHECKING:
    from pipeline.sources.records import Verified


@dataclass(frozen=True)
class VerifiedToolPatch:
    """A patch of a tool's series with the pinned digest; `data` is what is applied."""

    name: str
    parsed: patch_file.PatchFile
    data: bytes
    origin: str


@dataclass(frozen=True)
class VerifiedSeries:
    """The patches of one tool, in order, none where the line's tool is upstream's, and what its line says of them."""

    tool: str
    model: ToolSeries
    patches: tuple[VerifiedToolPatch, ...]

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each patch, by its file name, in order."""
        return {item.name: item.parsed.sha256 for item in self.patches}


@dataclass(frozen=True)
class ToolProof:
    """How a tool's series applied to its source, and the content that it was proven by."""

    source: str
    by: str
    changed: int
    report: apply.SeriesReport


def verify(line: Line) -> dict[str, VerifiedSeries]:
    """Read each tool's patches and check their digests. Raises `Refused` for all wrong ones together."""
    found: dict[str, VerifiedSeries] = {}
    refused = []
    for tool, model in line.data.tools.items():
        patches = []
        for patch in model.patches:
            try:
                patches.append(_verify(line, tool, patch))
            except Refused as error:
                refused.append(error)
        found[tool] = VerifiedSeries(tool, model, tuple(patches))
    series.raise_together(refused)
    return found


def _verify(line: Line, tool: str, patch: ToolPatch) -> VerifiedToolPatch:
    name = PurePosixPath(patch.file).name
    data, origin = series.project_file(line, name, patch.file)
    parsed = patch_file.parse(data, name)
    if parsed.sha256 != patch.sha256:
        raise Refused(
            f"patch {name} of {tool}: its SHA-256 is {parsed.sha256}, pinned is {patch.sha256}",
            where=patch.file,
            why="it is not the file that was examined",
            hint=f"if the change is meant, pin it in [tools.{tool}] and count its release up",
        )
    return VerifiedToolPatch(name, parsed, data, origin)


@dataclass
class PatchedTools:
    """Each tool's series, applied once to a scratch copy of its source when first requested."""

    series: Mapping[str, VerifiedSeries]
    verified: Mapping[str, Verified]
    artifacts: Path

    def __post_init__(self) -> None:
        self._known: dict[str, ToolProof] = {}
        self._lock = threading.Lock()  # steps run beside each other

    def of(self, tool: str) -> ToolProof:
        """Prove one tool's series. Raises `Refused` for one that does not apply, or leaves other files than recorded.

        The tool must have patches.
        """
        with self._lock:
            if tool not in self._known:
                self._known[tool] = _prove(self.series[tool], self.verified[tool], self.artifacts)
            return self._known[tool]


def _prove(found: VerifiedSeries, source: Verified, artifacts: Path) -> ToolProof:
    with scratch(artifacts / "scratch", "tool-") as directory:
        pristine = directory / "pristine"
        listing = unpack(found, source, pristine)
        report = apply.apply_series(pristine, [(item.name, item.data) for item in found.patches], directory / "tree")
    clauses = role_rules.clauses(_combined(report, found.patches), found.model)
    failed = [clause.text for clause in clauses if not clause.held]
    if failed:
        raise Refused(
            f"the series of {found.tool}: it {'; '.join(failed)}",
            where=", ".join(item.name for item in found.patches),
            why=f"what {found.tool} is patched for must be proven by what its patches contain",
            hint=f"is a patch missing? [tools.{found.tool}] says what the series must contain",
        )
    proof = apply.prove(report, listing, found.model.effect)
    return ToolProof(source.file, role_rules.by_content(clauses), proof.changed, report)


def unpack(found: VerifiedSeries, source: Verified, into: Path) -> Listing:
    """Put the files of a tool's source that its series touches into the new directory `into`; return all its files."""
    touched = {path for item in found.patches for change in item.parsed.files for path in change.paths}
    into.mkdir()
    with archive.opened(source.path) as stream:
        return archive.listing(stream, source.file, strip=1, keep=touched, into=into)


def _combined(report: apply.SeriesReport, patches: Sequence[VerifiedToolPatch]) -> patch_file.PatchFile:
    """Return what the whole series changes; a series of one patch is that patch."""
    return report.patches[-1].combined or patches[-1].parsed
