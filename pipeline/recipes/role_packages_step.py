"""Plan the step of the packages that set up directors and real servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.packaging import job, rpmbuild
from pipeline.packaging.graph import Step
from pipeline.recipes import role_packages, spec_files, steps

if TYPE_CHECKING:
    from pipeline.recipes.base import BuildInputs


def plan(inputs: BuildInputs, epoch: int, *, fullnat: bool, modern: bool) -> Step:
    """Return the step of the packages that set up directors and real servers.

    `fullnat` is whether the keepalived beside them knows FULLNAT's words, `modern` whether it is 2.x.
    """
    line, target = inputs.line, spec_files.target(inputs.line)
    parameters = role_packages.of_target(target, epoch=epoch, fullnat=fullnat, modern=modern, tag=line.release_tag)

    def fill(sources: Path, specs: Path) -> None:
        role_packages.prepare(sources, specs, parameters)

    recipe = job.SpecBuild(
        spec=role_packages.SPEC,
        epoch=epoch,
        write_sources=fill,
        explain_failure=lambda log, top: None,
        macros=rpmbuild.Macros(),
    )
    key_inputs = {"parameters": parameters, "texts": role_packages.rendered(parameters)}
    return steps.package_step(
        "role-packages", inputs, recipe, lambda rpms: role_packages.check(rpms, parameters), key_inputs
    )
