"""Plan the recipe `redhat-srpm`: a kernel per role from a RHEL 6 source package, the tools, the role packages."""

from __future__ import annotations

import hashlib
from calendar import timegm
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import line_loader
from pipeline.config.line_checks import Found, required
from pipeline.config.line_model import BuildSpec, Line, RoleName, SrpmSource
from pipeline.errors import BuildFailed
from pipeline.packaging import job, rpmbuild
from pipeline.packaging.graph import Step, Work
from pipeline.patching import series as report
from pipeline.recipes import guest_userland, modules, spec_files, steps
from pipeline.recipes.base import BuildInputs
from pipeline.recipes.el6 import kernel as kernel_el6
from pipeline.recipes.el6 import tools as tools_el6
from pipeline.recipes.el6.tools import Builder
from pipeline.recipes.lvs_tools import Tool

_DIRECTOR = f"kernel:{RoleName.DIRECTOR}"
_TOOL_DISK_SPACE = 1 << 30  # bytes: most of it is OpenSSL's
_KERNEL_DISK_SPACE, _SMALL_DISK_SPACE = 12 << 30, 3 << 30  # bytes


@dataclass(frozen=True)
class RedhatSrpm:
    """RHEL 6 kernels from their source package, and the tools of the FULLNAT patches."""

    build: BuildSpec

    def validate(self, line: Line) -> None:
        """Raise `FileProblems` unless the kernel is a source package whose spec file has its anchors."""
        if found := [*_lacking(line), *spec_files.lacking(line, [kernel_el6.TREE_CHECK])]:
            raise line_loader.refusal(line, found)

    def steps(self, inputs: BuildInputs) -> list[Step]:
        """Plan every step that makes packages, and the one that makes the lab's programs."""
        epoch = _epoch(inputs.line)
        tools_el6.check_sources(inputs.line, inputs.bench.image.name)
        with_kernels = inputs.line.data.kernels
        kernels = [_kernel(inputs, role, epoch) for role in with_kernels]
        tools = [_tool(inputs, tool) for tool in Tool] if RoleName.DIRECTOR in with_kernels else []
        packages = steps.role_packages(inputs, epoch, fullnat=True, modern=False)
        sets = modules.plan(inputs, _stock_uname(inputs, epoch))
        return [*kernels, *tools, packages, *sets, *guest_userland.steps(inputs)]


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
    for index, image in enumerate(build.images):
        if image not in list(Builder):
            yield ("build", "images", index), f"this recipe does not build in {image}", ", ".join(Builder)


def _stock_uname(inputs: BuildInputs, epoch: int) -> str:
    image = inputs.bench.image.name
    return kernel_el6.of_line(inputs.line, RoleName.STOCK, [], image, small=inputs.small, epoch=epoch).uname


def _epoch(line: Line) -> int:
    """Return the line's day at noon, UTC, in seconds since 1970."""
    return timegm(required(line.data.released, "released").timetuple()) + 12 * 3600


def _kernel(material: BuildInputs, role: RoleName, epoch: int) -> Step:
    source = material.verified[str(material.line.data.kernel_source)]
    series = report.of_role(material.proven, role)
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
        disk_space=_SMALL_DISK_SPACE if parameters.small else _KERNEL_DISK_SPACE,
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
        f"kernel:{role}", material, recipe, check, inputs, weight=0, build=build_kernel, differs=differs
    )


def _tool(material: BuildInputs, tool: Tool) -> Step:
    image, tag = material.bench.image.name, material.line.release_tag
    target = spec_files.target(material.line)
    parameters = tools_el6.of_line(target, tool, image, material.verified, tag)
    needs = (_DIRECTOR,) if tool is Tool.KEEPALIVED else ()  # whose headers it is built with

    def build(work: Work, bench: job.BuildEnvironment, recipe: job.SpecBuild) -> Path:
        kernel = job.built_packages(work.needs, needs)

        def fill(sources: Path, specs: Path) -> None:
            tools_el6.prepare(sources, specs, parameters, material.verified, kernel)

        return job.rpmbuild(work, bench, replace(recipe, write_sources=fill))

    recipe = job.SpecBuild(
        spec=parameters.spec,
        epoch=parameters.epoch,
        write_sources=_nothing,
        explain_failure=lambda log, _: tools_el6.explain(log, parameters),
        macros=rpmbuild.Macros(dist=target.build.dist, ccache=parameters.static),  # centos6 has none
        disk_space=_TOOL_DISK_SPACE,
        cache=tool.value if parameters.static else "",
    )
    inputs = {
        "sources": tools_el6.sources(parameters, material.verified),
        "parameters": parameters.as_dict(),
        "texts": tools_el6.rendered(parameters),
    }
    return steps.packages(
        tool.value,
        material,
        recipe,
        lambda rpms: tools_el6.check(rpms, parameters),
        inputs,
        needs=needs,
        weight=0 if needs else 1,  # OpenSSL is compiled with keepalived
        build=build,
    )


def _nothing(_: Path, __: Path) -> None:
    """Prepare nothing: a tool's inputs depend on its needs, which are known when the step runs."""


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
