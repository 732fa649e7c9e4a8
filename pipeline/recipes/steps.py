"""Share the steps of all lines: build in the sandbox, prove the packages, keep the evidence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.packaging import job, rpmbuild
from pipeline.packaging.graph import Step, Work
from pipeline.recipes import role_packages as roles
from pipeline.recipes import spec_files
from pipeline.recipes.base import BuildInputs

Check = Callable[[Path], Mapping[str, Any]]
Build = Callable[[Work, job.BuildEnvironment, job.SpecBuild], Path]


def packages(
    name: str,
    material: BuildInputs,
    recipe: job.SpecBuild,
    check: Check,
    inputs: Mapping[str, Any],
    *,
    needs: tuple[str, ...] = (),
    weight: int = 1,
    build: Build = job.rpmbuild,
    differs: str = "",
) -> Step:
    """Return a step that makes packages. `check` proves those in a directory and returns the evidence.

    `differs` is why two builds of it cannot be the same, where they cannot.
    """

    def action(work: Work) -> None:
        evidence = check(build(work, material.bench, recipe))
        (work.out / "evidence.json").write_text(json.dumps(evidence, indent=1, default=str) + "\n")

    keyed = {
        **inputs,
        "image": material.bench.image.key,
        "macros": recipe.macros.defines(),
        "switches": list(recipe.macros.switches),
        "environment": dict(recipe.environment),
    }
    code = (__name__, *sorted({function.__module__ for function in (recipe.write_sources, check, build)}))
    return Step(name, action, keyed, needs, code, weight, differs)


def role_packages(material: BuildInputs, epoch: int, *, fullnat: bool, modern: bool) -> Step:
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
    return packages("role-packages", material, recipe, lambda rpms: roles.check(rpms, parameters), inputs)
