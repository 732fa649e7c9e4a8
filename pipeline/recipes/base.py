"""Define the interface of recipes, and their inputs: verified sources and patches. Knows no recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipeline.config.line_model import Line, RoleName
    from pipeline.packaging.graph import Step
    from pipeline.packaging.job import BuildEnvironment
    from pipeline.patching.apply import Proof
    from pipeline.patching.tool_series import VerifiedSeries
    from pipeline.patching.verified_patch import VerifiedPatch
    from pipeline.recipes.module_key import ModuleKey
    from pipeline.sources.records import Verified

MODULES_STEP = "package"  # the step of a package of [packages.NAME], and behind it the name: `package:NAME`
# The part of such a step's key that says by which certificate its modules are signed.
CERTIFICATE = "module-certificate"


@dataclass(frozen=True)
class BuildInputs:
    """Inputs to build one line.

    `series` are the patches of each role's series, in order. `tree` applies a role's series to the real tree and
    proves what it leaves: called when a step runs, not to plan it. `small`: kernels get the small configuration.
    `tools` are the patches of each tool that has some; `prove_tool` applies them to its source and proves what they
    leave, also when a step runs. `module_key` signs modules; without one they are not signed.
    """

    line: Line
    verified: Mapping[str, Verified]
    series: Mapping[RoleName, Sequence[VerifiedPatch]]
    environment: BuildEnvironment
    tree: Callable[[RoleName], Proof]
    small: bool = False
    tools: Mapping[str, VerifiedSeries] = field(default_factory=dict)
    prove_tool: Callable[[str], object] | None = None
    module_key: ModuleKey | None = None


class Recipe(Protocol):
    """The steps that make a line's packages. Its state comes from the line file alone."""

    def validate(self, line: Line) -> None:
        """Raise `FileProblems` with everything that this recipe needs and the line file lacks."""

    def steps(self, inputs: BuildInputs) -> Sequence[Step]:
        """Plan every step that makes packages, and the one that makes the lab's programs."""
