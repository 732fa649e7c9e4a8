"""Plan the step of ipvsadm or keepalived from Debian's upstream tarball."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import fs
from pipeline.formats import archive
from pipeline.packaging import job, rpmbuild
from pipeline.packaging.graph import Step
from pipeline.recipes import spec_files, steps
from pipeline.recipes.debian import tools
from pipeline.recipes.lvs_tools import Tool

if TYPE_CHECKING:
    from pipeline.recipes.base import BuildInputs


def plan(inputs: BuildInputs, tool: Tool) -> Step:
    """Return the step that builds and proves one tool."""
    source = inputs.verified[tool.value]
    tree, epoch = archive.beginning(source.path)
    parameters = tools.Parameters(
        target=spec_files.target(inputs.line),
        tool=tool,
        version=source.upstream,
        tarball=source.file,
        tree=tree,
        epoch=epoch,
        tag=inputs.line.release_tag,
    )

    def fill(sources: Path, specs: Path) -> None:
        fs.copy_verified(source.path, sources / source.file, source.sha256)
        tools.prepare(sources, specs, parameters)

    recipe = job.SpecBuild(
        spec=parameters.spec,
        epoch=epoch,
        write_sources=fill,
        explain_failure=lambda log, _: tools.explain(log, parameters),
        macros=rpmbuild.Macros(dist=parameters.target.build.dist),
    )
    key_inputs = {
        "source": source.sha256,
        "parameters": parameters,
        "texts": tools.rendered(parameters),
    }
    return steps.package_step(tool.value, inputs, recipe, lambda rpms: tools.check(rpms, parameters), key_inputs)
