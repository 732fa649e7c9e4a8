"""Apply each role's series to the line's kernel tree, and prove the trees that this leaves.

Apart from `series`, which says what patches and roles are: that may change without another byte in a kernel.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.config.line_model import RoleName, required
from pipeline.core.fs import scratch
from pipeline.patching import apply
from pipeline.sources import kernel_tree

if TYPE_CHECKING:
    from pipeline.patching.verified_patch import VerifiedPatch
    from pipeline.sources.records import Verified
    from pipeline.sources.resolver import Sources


@dataclass
class Trees:
    """Each role's series, applied once to a scratch copy of the line's tree when first requested."""

    sources: Sources
    series: Mapping[RoleName, Sequence[VerifiedPatch]]
    verified: Mapping[str, Verified]

    def __post_init__(self) -> None:
        self._pristine: kernel_tree.Pristine | None = None
        self._applied: dict[RoleName, apply.SeriesReport] = {}
        self._known: dict[RoleName, apply.Proof] = {}
        self._lock = threading.RLock()  # steps run beside each other

    def pristine(self) -> kernel_tree.Pristine:
        """Return the line's unpatched tree, with every file that any series touches."""
        with self._lock:
            if self._pristine is None:
                source = required(self.sources.line.data.kernel_source, "kernel-source")
                patches = [item for series in self.series.values() for item in series]
                touched = {path for item in patches for change in item.parsed.files for path in change.paths}
                self._pristine = kernel_tree.pristine(self.sources, self.verified[source], touched)
            return self._pristine

    def report(self, role: RoleName) -> apply.SeriesReport:
        """Apply one role's series. Raises `Refused` for a patch that does not apply to what earlier ones left."""
        with self._lock:
            if role not in self._applied:
                series = [(item.name, item.data) for item in self.series[role]]
                with scratch(self.sources.settings.artifacts / "scratch", "series-") as directory:
                    self._applied[role] = apply.apply_series(self.pristine().files, series, directory / "tree")
            return self._applied[role]

    def of(self, role: RoleName) -> apply.Proof:
        """Return the tree of one role. Raises `Refused` for a series with another effect than recorded."""
        with self._lock:
            if role not in self._known:
                effects = {item.name: item.model.effect for item in self.series[role]}
                self._known[role] = apply.prove_series(self.report(role), self.pristine().listing, effects)
            return self._known[role]
