"""Plan a step that makes packages: build in the sandbox, prove the packages, keep the evidence. Knows no package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import documents
from pipeline.packaging import job
from pipeline.packaging.graph import Step, Work

if TYPE_CHECKING:
    from pipeline.recipes.base import BuildInputs

Check = Callable[[Path], object]  # returns the evidence
Build = Callable[[Work, job.BuildEnvironment, job.SpecBuild], Path]


def package_step(
    name: str,
    inputs: BuildInputs,
    recipe: job.SpecBuild,
    check: Check,
    key_inputs: Mapping[str, object],
    *,
    needs: tuple[str, ...] = (),
    weight: int = 1,
    build: Build = job.build_packages,
    differs: str = "",
    calls: tuple[Callable[..., object], ...] = (),
) -> Step:
    """Return a step that makes packages. `check` proves those in a directory and returns the evidence.

    `differs` is why two builds of it cannot be the same, where they cannot. `calls` are functions that those of the
    recipe were given and call: no import of theirs leads to them.
    """

    def action(work: Work) -> None:
        evidence = check(build(work, inputs.environment, recipe))
        (work.out / "evidence.json").write_text(documents.to_json(evidence))

    keyed = {
        **key_inputs,
        "image": inputs.environment.image.key,
        "macros": recipe.macros.defines(),
        "switches": recipe.macros.switches,
        "environment": recipe.environment,
    }
    code = (__name__, *sorted({function.__module__ for function in (recipe.write_sources, check, build, *calls)}))
    return Step(name, action, keyed, needs, code, weight, differs)
