"""Plan the step of one role's kernel from Debian's upstream tarball."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.line_model import RoleName
from pipeline.core import fs
from pipeline.formats import archive
from pipeline.packaging import compiled_sources, job, rpmbuild
from pipeline.packaging.graph import Step
from pipeline.recipes import steps
from pipeline.recipes.debian import kernel

if TYPE_CHECKING:
    from pipeline.recipes.base import BuildInputs

_DISK_SPACE = 3 << 30  # bytes; measured: 1.7 GiB at the peak, and a role may choose more modules


def plan(inputs: BuildInputs, role: RoleName) -> Step:
    """Return the step that builds and proves one role's kernel."""
    source = inputs.verified[str(inputs.line.data.kernel_source)]
    patches = {f"{item.name}.patch": item.data for item in inputs.series[role]}
    parameters = parameters_of(inputs, role, list(patches))

    def fill(sources: Path, specs: Path) -> None:
        fs.copy_verified(source.path, sources / source.file, source.sha256)
        for name, data in patches.items():
            (sources / name).write_bytes(data)
        kernel.prepare(sources, specs, parameters)

    recipe = job.SpecBuild(
        spec=kernel.SPEC,
        epoch=parameters.epoch,
        write_sources=fill,
        explain_failure=lambda log, top: kernel.explain(log, parameters, top),
        macros=rpmbuild.Macros(dist=parameters.target.build.dist, keep_tree=True),
        disk_space=_DISK_SPACE,
        cache="kernel",
        compiled=compiled_sources.kbuild(parameters.tree),
    )
    key_inputs = {
        "source": source.sha256,
        "parameters": parameters,
        "texts": kernel.rendered(parameters),
        "patches": {name: hashlib.sha256(data).hexdigest() for name, data in patches.items()},
    }
    return steps.package_step(
        f"kernel:{role}", inputs, recipe, lambda rpms: kernel.check(rpms, parameters), key_inputs, weight=0
    )


def parameters_of(inputs: BuildInputs, role: RoleName, patches: Sequence[str]) -> kernel.Parameters:
    """Return what one role's kernel is made of; `patches` are the names of its series' files, in order."""
    source = inputs.verified[str(inputs.line.data.kernel_source)]
    tree, epoch = archive.beginning(source.path)
    return kernel.of_line(
        inputs.line,
        role,
        version=source.upstream,
        tarball=source.file,
        tree=tree,
        patches=patches,
        epoch=epoch,
        small=inputs.small,
    )
