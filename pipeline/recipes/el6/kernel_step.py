"""Plan the step of one role's RHEL 6 kernel."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.line_model import RoleName
from pipeline.errors import BuildFailed
from pipeline.packaging import compiled_sources, job, rpmbuild
from pipeline.packaging.graph import Step, Work
from pipeline.recipes import steps
from pipeline.recipes.el6 import kernel

if TYPE_CHECKING:
    from pipeline.recipes.base import BuildInputs

_DISK_SPACE, _SMALL_DISK_SPACE = 12 << 30, 3 << 30  # bytes


def plan(inputs: BuildInputs, role: RoleName, epoch: int) -> Step:
    """Return the step that builds and proves one role's kernel."""
    source = inputs.verified[str(inputs.line.data.kernel_source)]
    image = inputs.environment.image.name
    parameters = kernel.of_line(inputs.line, role, inputs.series[role], image, small=inputs.small, epoch=epoch)
    patches = dict(zip(parameters.patches, (item.data for item in inputs.series[role]), strict=True))

    def fill(sources: Path, specs: Path) -> None:
        kernel.prepare(source.path, sources, specs, parameters, patches, inputs.tree(role).listing)

    def check(rpms: Path) -> kernel.Evidence:
        return kernel.check(rpms, parameters, kernel.reference_kabi(source.path), inputs.tree(role))

    recipe = job.SpecBuild(
        spec=kernel.SPEC,
        epoch=epoch,
        write_sources=fill,
        explain_failure=lambda log, _: kernel.explain(log, parameters),
        macros=rpmbuild.Macros(
            extra=kernel.macros(parameters),
            switches=parameters.switches,
            keep_tree=image != kernel.BUILDER_WITH_SIGNING,
        ),
        disk_space=_SMALL_DISK_SPACE if parameters.small else _DISK_SPACE,
        environment=(environment := kernel.environment(parameters)),
        cache="kernel" if environment else "",  # centos6 has none
        compiled=compiled_sources.kbuild(f"kernel-*/linux-{parameters.uname}"),
    )
    key_inputs = {
        "source": source.sha256,
        **kernel.key_inputs(parameters),
        "patches": {name: hashlib.sha256(data).hexdigest() for name, data in patches.items()},
    }
    differs = "its modules are signed with a key that each build makes and forgets" if parameters.signs_modules else ""
    return steps.package_step(
        f"kernel:{role}",
        inputs,
        recipe,
        check,
        key_inputs,
        weight=0,
        build=build_kernel,
        differs=differs,
        calls=(inputs.tree,),
    )


def build_kernel(work: Work, environment: job.BuildEnvironment, recipe: job.SpecBuild) -> Path:
    """Build; retry with one job when two modules were signed at once and corrupted each other."""
    try:
        return job.build_packages(work, environment, recipe)
    except BuildFailed:
        if not kernel.is_signing_race(work.log):
            raise
    work.log.rename(work.log.with_name("log.signing-race"))
    kernel.remove_build(work.scratch / "build")
    return job.build_packages(replace(work, jobs=1), environment, recipe)
