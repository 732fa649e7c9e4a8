"""Plan the step of ipvsadm or keepalived from Debian's upstream tarball, patched where the line has a series for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.line_model import required
from pipeline.core import fs
from pipeline.formats import archive
from pipeline.packaging import compiled_sources, job, rpmbuild
from pipeline.packaging.graph import Step
from pipeline.recipes import spec_files, steps
from pipeline.recipes.debian import tools
from pipeline.recipes.lvs_tools import Tool

if TYPE_CHECKING:
    from pipeline.patching.tool_series import VerifiedSeries
    from pipeline.recipes.base import BuildInputs


def plan(inputs: BuildInputs, tool: Tool) -> Step:
    """Return the step that builds and proves one tool."""
    source = inputs.verified[tool.value]
    tree, epoch = archive.beginning(source.path)
    series = inputs.tools.get(tool.value)
    parameters = tools.Parameters(
        target=spec_files.target(inputs.line),
        tool=tool,
        version=source.upstream,
        tarball=source.file,
        tree=tree,
        epoch=epoch,
        tag=inputs.line.release_tag,
        **(_of_series(series) if series else {}),
    )

    def fill(sources: Path, specs: Path) -> None:
        fs.copy_verified(source.path, sources / source.file, source.sha256)
        if series:
            required(inputs.prove_tool, "proof of the tools' series")(tool.value)
            for item in series.patches:
                (sources / item.name).write_bytes(item.data)
        tools.prepare(sources, specs, parameters)

    recipe = job.SpecBuild(
        spec=parameters.spec,
        epoch=epoch,
        write_sources=fill,
        explain_failure=lambda log, _: tools.explain(log, parameters),
        macros=rpmbuild.Macros(dist=parameters.target.build.dist, keep_tree=True),
        compiled=compiled_sources.Recorded((tree,)),
    )
    key_inputs = {
        "source": source.sha256,
        "parameters": parameters,
        "texts": tools.rendered(parameters),
        "series": series.model.model_dump(mode="json", by_alias=True) if series else None,
    }
    return steps.package_step(tool.value, inputs, recipe, lambda rpms: tools.check(rpms, parameters), key_inputs)


def _of_series(series: VerifiedSeries) -> dict[str, Any]:
    """Return the parameters that a tool's patches determine."""
    model = series.model
    return {"number": model.release, "patches": series.digests, "program_contains": dict(model.program_contains)}
