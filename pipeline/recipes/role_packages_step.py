"""Plan the step of the packages that set up directors and real servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.line_model import RoleName
from pipeline.packaging import job, rpmbuild
from pipeline.packaging.graph import Step
from pipeline.recipes import role_packages, spec_files, steps

if TYPE_CHECKING:
    from pipeline.config.line_model import Line
    from pipeline.recipes.base import BuildInputs
    from pipeline.recipes.spec_files import BuildTarget


# What makes a role of the stock kernel: the modules of IPVS, and what reads TOA.
_MAKES = {RoleName.DIRECTOR: "module-set", RoleName.REALSERVER: "toa-reader"}


def of_line(line: Line, target: BuildTarget, *, epoch: int, fullnat: bool, modern: bool) -> role_packages.Parameters:
    """Return the parameters of a line's role packages, which require the packages of the line's roles."""
    data = line.data
    packages = {role: data.roles[role].packages for role in role_packages.ROLES if role in data.roles}
    kinds = {role: {str(data.packages[name].kind) for name in names} for role, names in packages.items()}
    return role_packages.of_target(
        target,
        epoch=epoch,
        fullnat=fullnat,
        modern=modern,
        packages=packages,
        beside=tuple(role for role in packages if _MAKES[role] in kinds[role]),
        tag=line.release_tag,
    )


def plan(inputs: BuildInputs, epoch: int, *, fullnat: bool, modern: bool) -> Step:
    """Return the step of the packages that set up directors and real servers.

    `fullnat` is whether the keepalived beside them knows FULLNAT's words, `modern` whether it is 2.x.
    """
    target = spec_files.target(inputs.line)
    parameters = of_line(inputs.line, target, epoch=epoch, fullnat=fullnat, modern=modern)

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
