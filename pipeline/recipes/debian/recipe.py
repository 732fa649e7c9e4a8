"""Plan the recipe `debian-tarball`: a kernel per role, ipvsadm, keepalived and role packages, of Debian's tarballs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import line_loader
from pipeline.config.line_checks import Found, required
from pipeline.config.line_model import BuildSpec, DebianSource, Line, RoleName
from pipeline.core import fs
from pipeline.formats import archive
from pipeline.packaging import job, rpmbuild
from pipeline.packaging.graph import Step
from pipeline.patching import series
from pipeline.recipes import guest_userland, modules, spec_files, steps
from pipeline.recipes.base import BuildInputs
from pipeline.recipes.debian import kernel, tools
from pipeline.recipes.lvs_tools import Tool
from pipeline.sources.resolver import Verified

_KERNEL_DISK_SPACE = 3 << 30  # bytes; measured: 1.7 GiB at the peak, and a role may choose more modules


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
        kernels = [_kernel(inputs, role) for role in inputs.line.data.kernels]
        tools = [_tool(inputs, tool) for tool in Tool]
        roles = steps.role_packages(inputs, epoch, fullnat=False, modern=True)
        packages = modules.plan(inputs, _parameters(inputs, RoleName.STOCK, ()).uname)
        return [*kernels, *tools, roles, *packages, *guest_userland.steps(inputs)]


def _lacking_sources(line: Line) -> Iterator[Found]:
    if line.data.kernel_source is None:
        yield ("kernel-source",), "the line does not say which source the kernel is made from", "kernel-source"
    for name in (line.data.kernel_source, *(tool.value for tool in Tool)):
        if name is not None and not isinstance(line.data.sources.get(name), DebianSource):
            yield ("sources", name), f"the line lacks a Debian source {name} to build from", 'kind = "debian"'


def _kernel(material: BuildInputs, role: RoleName) -> Step:
    source = material.verified[str(material.line.data.kernel_source)]
    patches = {f"{item.name}.patch": item.data for item in series.of_role(material.proven, role)}
    parameters = _parameters(material, role, list(patches))

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
        macros=rpmbuild.Macros(dist=parameters.target.build.dist),
        disk_space=_KERNEL_DISK_SPACE,
        cache="kernel",
    )
    inputs = {
        "source": source.sha256,
        "parameters": parameters.as_dict(),
        "texts": kernel.rendered(parameters),
        "patches": {name: hashlib.sha256(data).hexdigest() for name, data in patches.items()},
    }
    return steps.packages(
        f"kernel:{role}", material, recipe, lambda rpms: kernel.check(rpms, parameters), inputs, weight=0
    )


def _parameters(material: BuildInputs, role: RoleName, patches: Sequence[str]) -> kernel.Parameters:
    source = material.verified[str(material.line.data.kernel_source)]
    tree, epoch = archive.beginning(source.path)
    return kernel.of_line(
        material.line,
        role,
        version=_upstream(source),
        tarball=source.file,
        tree=tree,
        patches=patches,
        epoch=epoch,
        small=material.small,
    )


def _tool(material: BuildInputs, tool: Tool) -> Step:
    source = material.verified[tool.value]
    tree, epoch = archive.beginning(source.path)
    parameters = tools.Parameters(
        target=spec_files.target(material.line),
        tool=tool,
        version=_upstream(source),
        tarball=source.file,
        tree=tree,
        epoch=epoch,
        tag=material.line.release_tag,
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
    inputs = {
        "source": source.sha256,
        "parameters": parameters.as_dict(),
        "texts": tools.rendered(parameters),
    }
    return steps.packages(tool.value, material, recipe, lambda rpms: tools.check(rpms, parameters), inputs)


def _upstream(source: Verified) -> str:
    """Return the upstream version in a Debian one: `1:1.31-1` is 1.31."""
    return source.version.partition(":")[2].rpartition("-")[0] or source.version.rpartition("-")[0]
