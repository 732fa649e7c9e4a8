"""Plan the step of one role's RHEL 6 kernel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.line_model import RoleName
from pipeline.errors import BuildFailed
from pipeline.packaging import job, rpmbuild
from pipeline.packaging.graph import Step, Work
from pipeline.recipes import steps
from pipeline.recipes.el6 import kernel as kernel_el6

if TYPE_CHECKING:
    from pipeline.recipes.base import BuildInputs

_DISK_SPACE, _SMALL_DISK_SPACE = 12 << 30, 3 << 30  # bytes


def plan(material: BuildInputs, role: RoleName, epoch: int) -> Step:
    """Return the step that builds and proves one role's kernel."""
    source = material.verified[str(material.line.data.kernel_source)]
    series = material.proven[role]
    image = material.bench.image.name
    parameters = kernel_el6.of_line(material.line, role, series, image, small=material.small, epoch=epoch)
    patches = dict(zip(parameters.patches, (item.data for item in series), strict=True))

    def fill(sources: Path, specs: Path) -> None:
        kernel_el6.prepare(source.path, sources, specs, parameters, patches, material.tree(role).listing)

    def check(rpms: Path) -> Mapping[str, Any]:
        proof = material.tree(role)
        found = kernel_el6.check(rpms, parameters, kernel_el6.reference_kabi(source.path))
        return {**found, "tree": proof.tree, "paths changed": proof.changed}

    recipe = job.SpecBuild(
        spec=kernel_el6.SPEC,
        epoch=epoch,
        write_sources=fill,
        explain_failure=lambda log, _: kernel_el6.explain(log, parameters),
        macros=rpmbuild.Macros(extra=kernel_el6.macros(parameters), switches=parameters.switches),
        disk_space=_SMALL_DISK_SPACE if parameters.small else _DISK_SPACE,
        environment=(environment := kernel_el6.environment(parameters)),
        cache="kernel" if environment else "",  # centos6 has none
    )
    inputs = {
        "source": source.sha256,
        **kernel_el6.key_inputs(parameters),
        "patches": {name: hashlib.sha256(data).hexdigest() for name, data in patches.items()},
    }
    differs = "its modules are signed with a key that each build makes and forgets" if parameters.signs_modules else ""
    return steps.packages(
        f"kernel:{role}",
        material,
        recipe,
        check,
        inputs,
        weight=0,
        build=build_kernel,
        differs=differs,
        calls=(material.tree,),
    )


def build_kernel(work: Work, bench: job.BuildEnvironment, recipe: job.SpecBuild) -> Path:
    """Build; retry with one job when two modules were signed at once and corrupted each other."""
    try:
        return job.rpmbuild(work, bench, recipe)
    except BuildFailed:
        if not kernel_el6.is_signing_race(work.log):
            raise
    work.log.rename(work.log.with_name("log.signing-race"))
    kernel_el6.remove_build(work.scratch / "build")
    return job.rpmbuild(replace(work, jobs=1), bench, recipe)
