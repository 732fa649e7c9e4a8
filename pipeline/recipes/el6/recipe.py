"""Plan the recipe `redhat-srpm`: a kernel per role from a RHEL 6 source package, the tools, the role packages."""

from __future__ import annotations

from calendar import timegm
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config import line_loader
from pipeline.config.line_checks import Found
from pipeline.config.line_model import BuildSpec, Line, RoleName, SrpmSource, ToaReader, required
from pipeline.packaging.graph import Step
from pipeline.recipes import guest_userland, modules, role_packages_step, spec_files
from pipeline.recipes.base import BuildInputs
from pipeline.recipes.el6 import kernel, kernel_step, tools, tools_step
from pipeline.recipes.el6.tools import Builder
from pipeline.recipes.lvs_tools import Tool


@dataclass(frozen=True)
class RedhatSrpm:
    """RHEL 6 kernels from their source package, and the tools of the FULLNAT patches."""

    build: BuildSpec

    def validate(self, line: Line) -> None:
        """Raise `FileProblems` unless the kernel is a source package whose spec file has its anchors."""
        if found := [*_lacking(line), *spec_files.lacking(line, [kernel.TREE_CHECK])]:
            raise line_loader.refusal(line, found)

    def steps(self, inputs: BuildInputs) -> list[Step]:
        """Plan every step that makes packages, and the one that makes the lab's programs."""
        epoch = _epoch(inputs.line)
        tools.check_sources(inputs.line, inputs.environment.image.name)
        with_kernels = inputs.line.data.kernels
        kernel_steps = [kernel_step.plan(inputs, role, epoch) for role in with_kernels]
        tool_steps = [tools_step.plan(inputs, tool) for tool in Tool] if RoleName.DIRECTOR in with_kernels else []
        role_step = role_packages_step.plan(inputs, epoch, fullnat=True, modern=False)
        module_steps = modules.plan(inputs, _stock_uname(inputs, epoch))
        return [*kernel_steps, *tool_steps, role_step, *module_steps, *guest_userland.steps(inputs)]


def _lacking(line: Line) -> Iterator[Found]:
    data, build = line.data, required(line.data.build, "[build]")
    if not isinstance(data.sources.get(str(data.kernel_source)), SrpmSource):
        yield ("kernel-source",), "the line has no kernel source package to build from", 'a source of the kind "srpm"'
    if data.released is None:
        yield ("released",), "the line does not say when its kernel was released", "released = YYYY-MM-DD"
    if build.anchors is None:
        yield ("build",), "the line does not say where changes of kernel.spec go", "a [build.anchors] table"
    if not data.kernel.endswith(build.dist):  # which the spec file puts there
        yield ("build", "dist"), f"the release of the kernel {data.kernel} does not end in {build.dist}", "its end"
    if data.tools:
        yield ("tools",), "this recipe builds the tools as their tarball has them", "no [tools.NAME] table"
    for name, package in data.packages.items():
        if isinstance(package, ToaReader):
            yield ("packages", name), "no kernel of this recipe can run it", "a role with a series that adds toa"
    for index, image in enumerate(build.images):
        if image not in list(Builder):
            yield ("build", "images", index), f"this recipe does not build in {image}", ", ".join(Builder)


def _stock_uname(inputs: BuildInputs, epoch: int) -> str:
    image = inputs.environment.image.name
    return kernel.of_line(inputs.line, RoleName.STOCK, [], image, small=inputs.small, epoch=epoch).uname


def _epoch(line: Line) -> int:
    """Return the line's day at noon, UTC, in seconds since 1970."""
    return timegm(required(line.data.released, "released").timetuple()) + 12 * 3600
