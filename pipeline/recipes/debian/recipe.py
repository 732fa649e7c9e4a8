"""The steps of the line lts61: one kernel per role, ipvsadm, keepalived, and the role packages."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.config.line_checks import required
from pipeline.config.line_model import DebianSource, Line, RoleName
from pipeline.core import fs
from pipeline.errors import Refused
from pipeline.formats import archive
from pipeline.packaging import job, rpmbuild
from pipeline.packaging.graph import Step
from pipeline.patching import series
from pipeline.recipes import guest_userland, steps
from pipeline.recipes.base import BuildInputs
from pipeline.recipes.debian import kernel, tools
from pipeline.recipes.lvs_tools import Tool
from pipeline.sources.resolver import Verified

IMAGES = ("debian12",)
_KERNEL_ROOM = 3 << 30  # bytes; measured: 1.7 GiB at the peak, and a role may choose more modules


def plan(material: BuildInputs) -> list[Step]:
    """Every step that ends in packages, and the one that makes the lab's programs."""
    source = required(material.line.data.kernel_source, "kernel-source")
    _, epoch = archive.beginning(material.verified[source].path)
    kernels = [_kernel(material, role) for role in material.line.data.roles]
    made = [*kernels, *(_tool(material, tool) for tool in Tool), steps.role_packages(material, epoch)]
    return [*made, *guest_userland.steps(material)]


def _kernel(material: BuildInputs, role: RoleName) -> Step:
    source = material.verified[str(material.line.data.kernel_source)]
    tree, epoch = archive.beginning(source.path)
    patches = {f"{item.name}.patch": item.data for item in series.of_role(material.proven, role)}
    parameters = kernel.of_line(
        material.line,
        role,
        version=_upstream(source),
        tarball=source.file,
        tree=tree,
        patches=list(patches),
        epoch=epoch,
    )

    def fill(sources: Path, specs: Path) -> None:
        fs.copied(source.path, sources / source.file, source.sha256)
        for name, data in patches.items():
            (sources / name).write_bytes(data)
        kernel.prepare(sources, specs, parameters)

    recipe = job.Recipe(
        spec=kernel.SPEC,
        epoch=epoch,
        fill=fill,
        explain=lambda log, top: kernel.explain(log, parameters, top),
        macros=rpmbuild.Macros(dist=kernel.DIST),
        room=_KERNEL_ROOM,
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


def _tool(material: BuildInputs, tool: Tool) -> Step:
    source = material.verified[tool.value]
    tree, epoch = archive.beginning(source.path)
    parameters = tools.Parameters(
        tool=tool,
        version=_upstream(source),
        tarball=source.file,
        tree=tree,
        epoch=epoch,
        tag=material.line.release_tag,
    )

    def fill(sources: Path, specs: Path) -> None:
        fs.copied(source.path, sources / source.file, source.sha256)
        tools.prepare(sources, specs, parameters)

    recipe = job.Recipe(
        spec=parameters.spec,
        epoch=epoch,
        fill=fill,
        explain=lambda log, _: tools.explain(log, parameters),
        macros=rpmbuild.Macros(dist=tools.DIST),
    )
    inputs = {
        "source": source.sha256,
        "parameters": parameters.as_dict(),
        "texts": tools.rendered(parameters),
    }
    return steps.packages(tool.value, material, recipe, lambda rpms: tools.check(rpms, parameters), inputs)


def _upstream(source: Verified) -> str:
    """The upstream version in a Debian one: `1:1.31-1` is 1.31."""
    return source.version.partition(":")[2].rpartition("-")[0] or source.version.rpartition("-")[0]


def check_sources(line: Line) -> None:
    """Refuses a line that this recipe cannot build: its sources must be Debian's."""
    wanted = {line.data.kernel_source, *(tool.value for tool in Tool)}
    missing = [name for name in wanted if not isinstance(line.data.sources.get(str(name)), DebianSource)]
    if missing:
        raise Refused(f"the line {line.name} lacks Debian sources to build from: {', '.join(map(str, missing))}")
