"""Plan the recipe `debian-tarball`: a kernel per role, ipvsadm, keepalived and role packages, of Debian's tarballs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config import line_loader
from pipeline.config.line_checks import Found
from pipeline.config.line_model import BuildSpec, DebianSource, Line, RoleName, required
from pipeline.formats import archive
from pipeline.packaging.graph import Step
from pipeline.recipes import guest_userland, modules, role_packages_step, spec_files, toa_reader
from pipeline.recipes.base import BuildInputs
from pipeline.recipes.debian import kernel_step, tools_step
from pipeline.recipes.lvs_tools import Tool


@dataclass(frozen=True)
class DebianTarball:
    """Kernels and tools from the upstream tarballs that Debian ships."""

    build: BuildSpec

    def validate(self, line: Line) -> None:
        """Raise `FileProblems` unless the sources are Debian's and the configurations exist."""
        names = ["config/base.config", *(f"config/{role}.config" for role in line.data.kernels)]
        found = [*_lacking_sources(line), *spec_files.lacking(line, names)]
        if found:
            raise line_loader.refusal(line, found)

    def steps(self, inputs: BuildInputs) -> list[Step]:
        """Plan every step that makes packages, and the one that makes the lab's programs."""
        source = required(inputs.line.data.kernel_source, "kernel-source")
        _, epoch = archive.beginning(inputs.verified[source].path)
        kernel_steps = [kernel_step.plan(inputs, role) for role in inputs.line.data.kernels]
        tool_steps = [tools_step.plan(inputs, tool) for tool in Tool]
        role_step = role_packages_step.plan(inputs, epoch, fullnat=knows_fullnat(inputs.line), modern=True)
        module_steps = modules.plan(inputs, kernel_step.parameters_of(inputs, RoleName.STOCK, ()).uname)
        own_steps = [*module_steps, *toa_reader.plan(inputs, epoch)]
        return [*kernel_steps, *tool_steps, role_step, *own_steps, *guest_userland.steps(inputs)]


def knows_fullnat(line: Line) -> bool:
    """Tell whether the line's keepalived must hold FULLNAT's words as it was built."""
    series = line.data.tools.get(Tool.KEEPALIVED)
    held = series.program_contains.values() if series and series.patches else ()
    return any("local_address_group" in texts for texts in held)


def _lacking_sources(line: Line) -> Iterator[Found]:
    if line.data.kernel_source is None:
        yield ("kernel-source",), "the line does not say which source the kernel is made from", "kernel-source"
    for name in (line.data.kernel_source, *(tool.value for tool in Tool)):
        if name is not None and not isinstance(line.data.sources.get(name), DebianSource):
            yield ("sources", name), f"the line lacks a Debian source {name} to build from", 'kind = "debian"'
    for name in line.data.tools.keys() - set(Tool):
        yield ("tools", name), f"this recipe builds no tool {name}", ", ".join(Tool)
