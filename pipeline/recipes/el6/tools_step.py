"""Plan the step of one of RHEL 6's tools: ipvsadm, or keepalived, which needs the director's kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.line_model import RoleName
from pipeline.packaging import compiled_sources, job, rpmbuild
from pipeline.packaging.graph import Step, Work
from pipeline.recipes import spec_files, steps
from pipeline.recipes.el6 import tools
from pipeline.recipes.lvs_tools import Tool

if TYPE_CHECKING:
    from pipeline.recipes.base import BuildInputs

_DIRECTOR = f"kernel:{RoleName.DIRECTOR}"
_DISK_SPACE = 1 << 30  # bytes: most of it is OpenSSL's


def plan(inputs: BuildInputs, tool: Tool) -> Step:
    """Return the step that builds and proves one tool."""
    image, tag = inputs.environment.image.name, inputs.line.release_tag
    target = spec_files.target(inputs.line)
    parameters = tools.of_line(target, tool, image, inputs.verified, tag)
    needs = (_DIRECTOR,) if tool is Tool.KEEPALIVED else ()  # whose headers it is built with

    def build(work: Work, environment: job.BuildEnvironment, recipe: job.SpecBuild) -> Path:
        kernel_rpms = job.built_packages(work.needs, needs)

        def fill(sources: Path, specs: Path) -> None:
            tools.prepare(sources, specs, parameters, inputs.verified, kernel_rpms)

        return job.build_packages(work, environment, replace(recipe, write_sources=fill))

    recipe = job.SpecBuild(
        spec=parameters.spec,
        epoch=parameters.epoch,
        write_sources=_nothing,
        explain_failure=lambda log, _: tools.explain(log, parameters),
        # centos6 has neither ccache nor an rpm that removes the tree.
        macros=rpmbuild.Macros(dist=target.build.dist, ccache=parameters.static, keep_tree=parameters.static),
        disk_space=_DISK_SPACE,
        cache=tool.value if parameters.static else "",
        compiled=compiled_sources.Recorded(("tools",)),
    )
    key_inputs = {
        "sources": tools.sources(parameters, inputs.verified),
        "parameters": parameters,
        "texts": tools.rendered(parameters),
    }
    return steps.package_step(
        tool.value,
        inputs,
        recipe,
        lambda rpms: tools.check(rpms, parameters),
        key_inputs,
        needs=needs,
        weight=0 if needs else 1,  # OpenSSL is compiled with keepalived
        build=build,
    )


def _nothing(_: Path, __: Path) -> None:
    """Prepare nothing: a tool's inputs depend on its needs, which are known when the step runs."""
