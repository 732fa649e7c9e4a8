"""The steps of the line lts61: one kernel per role, ipvsadm, keepalived, and the role packages."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline import files
from pipeline.build import kernel_lts61, rpmtool, sandboxed, steps, tools_lts61, userland
from pipeline.build.material import Material
from pipeline.build.plan import Step
from pipeline.build.tools import Tool
from pipeline.errors import Refused
from pipeline.linechecks import required
from pipeline.lines import DebianSource, Line, RoleName
from pipeline.patching import report
from pipeline.sources import archive
from pipeline.sources.fetching import Verified

IMAGES = ("debian12",)
_KERNEL_ROOM = 3 << 30  # bytes; measured: 1.7 GiB at the peak, and a role may choose more modules


def plan(material: Material) -> list[Step]:
    """Every step that ends in packages, and the one that makes the lab's programs."""
    source = required(material.line.data.kernel_source, "kernel-source")
    _, epoch = archive.beginning(material.verified[source].path)
    kernels = [_kernel(material, role) for role in material.line.data.roles]
    made = [*kernels, *(_tool(material, tool) for tool in Tool), steps.role_packages(material, epoch)]
    return [*made, *userland.steps(material)]


def _kernel(material: Material, role: RoleName) -> Step:
    source = material.verified[str(material.line.data.kernel_source)]
    tree, epoch = archive.beginning(source.path)
    patches = {f"{item.name}.patch": item.data for item in report.of_role(material.proven, role)}
    parameters = kernel_lts61.of_line(
        material.line,
        role,
        version=_upstream(source),
        tarball=source.file,
        tree=tree,
        patches=list(patches),
        epoch=epoch,
    )

    def fill(sources: Path, specs: Path) -> None:
        files.copied(source.path, sources / source.file, source.sha256)
        for name, data in patches.items():
            (sources / name).write_bytes(data)
        kernel_lts61.prepare(sources, specs, parameters)

    recipe = sandboxed.Recipe(
        spec=kernel_lts61.SPEC,
        epoch=epoch,
        fill=fill,
        explain=lambda log, top: kernel_lts61.explain(log, parameters, top),
        macros=rpmtool.Macros(dist=kernel_lts61.DIST),
        room=_KERNEL_ROOM,
        cache="kernel",
    )
    inputs = {
        "source": source.sha256,
        "parameters": parameters.as_dict(),
        "texts": kernel_lts61.rendered(parameters),
        "patches": {name: hashlib.sha256(data).hexdigest() for name, data in patches.items()},
    }
    code = (*kernel_lts61.CODE, "pipeline.build.lts61")
    return steps.packages(
        f"kernel:{role}", material, recipe, lambda rpms: kernel_lts61.check(rpms, parameters), inputs, code, weight=0
    )


def _tool(material: Material, tool: Tool) -> Step:
    source = material.verified[tool.value]
    tree, epoch = archive.beginning(source.path)
    parameters = tools_lts61.Parameters(
        tool=tool,
        version=_upstream(source),
        tarball=source.file,
        tree=tree,
        epoch=epoch,
        tag=material.line.release_tag,
    )

    def fill(sources: Path, specs: Path) -> None:
        files.copied(source.path, sources / source.file, source.sha256)
        tools_lts61.prepare(sources, specs, parameters)

    recipe = sandboxed.Recipe(
        spec=parameters.spec,
        epoch=epoch,
        fill=fill,
        explain=lambda log, _: tools_lts61.explain(log, parameters),
        macros=rpmtool.Macros(dist=tools_lts61.DIST),
    )
    inputs = {
        "source": source.sha256,
        "parameters": parameters.as_dict(),
        "texts": tools_lts61.rendered(parameters),
    }
    code = (*tools_lts61.CODE, "pipeline.build.lts61")
    return steps.packages(tool.value, material, recipe, lambda rpms: tools_lts61.check(rpms, parameters), inputs, code)


def _upstream(source: Verified) -> str:
    """The upstream version in a Debian one: `1:1.31-1` is 1.31."""
    return source.version.partition(":")[2].rpartition("-")[0] or source.version.rpartition("-")[0]


def check_sources(line: Line) -> None:
    """Refuses a line that this recipe cannot build: its sources must be Debian's."""
    wanted = {line.data.kernel_source, *(tool.value for tool in Tool)}
    missing = [name for name in wanted if not isinstance(line.data.sources.get(str(name)), DebianSource)]
    if missing:
        raise Refused(f"the line {line.name} lacks Debian sources to build from: {', '.join(map(str, missing))}")
