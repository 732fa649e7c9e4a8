"""Plan the step of the packages that set up directors and real servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.packaging import job, rpmbuild
from pipeline.packaging.graph import Step
from pipeline.recipes import role_packages as roles
from pipeline.recipes import spec_files, steps

if TYPE_CHECKING:
    from pipeline.recipes.base import BuildInputs


def plan(material: BuildInputs, epoch: int, *, fullnat: bool, modern: bool) -> Step:
    """Return the step of the packages that set up directors and real servers.

    `fullnat` is whether the keepalived beside them knows FULLNAT's words, `modern` whether it is 2.x.
    """
    line, target = material.line, spec_files.target(material.line)
    parameters = roles.of_target(target, epoch=epoch, fullnat=fullnat, modern=modern, tag=line.release_tag)

    def fill(sources: Path, specs: Path) -> None:
        roles.prepare(sources, specs, parameters)

    recipe = job.SpecBuild(
        spec=roles.SPEC,
        epoch=epoch,
        write_sources=fill,
        explain_failure=lambda log, top: None,
        macros=rpmbuild.Macros(),
    )
    inputs = {"parameters": parameters.as_dict(), "texts": roles.rendered(parameters)}
    return steps.packages("role-packages", material, recipe, lambda rpms: roles.check(rpms, parameters), inputs)
