"""The steps of the line lts61: one kernel per role, ipvsadm, keepalived, and the role packages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.build import kernel_lts61, rpmtool, sandboxed, tools_lts61
from pipeline.build import roles_package as roles
from pipeline.build.plan import Step, Work
from pipeline.build.tools import Tool
from pipeline.errors import Refused
from pipeline.lines import DebianSource, Line, RoleName
from pipeline.patching.report import Proven
from pipeline.sources import archive
from pipeline.sources.fetching import Verified

_Check = Callable[[Path], Mapping[str, Any]]


def steps(
    line: Line, verified: Mapping[str, Verified], proven: Mapping[RoleName, list[Proven]], bench: sandboxed.Bench
) -> list[Step]:
    """Every step that ends in packages. `proven` are the patches of each role, in order."""
    tools = [_tool(line, verified[tool.value], tool, bench) for tool in Tool]
    kernels = [_kernel(line, verified, role, proven.get(role, []), bench) for role in line.data.roles]
    return [*kernels, *tools, _role_packages(line, verified, bench)]


def _kernel(
    line: Line, verified: Mapping[str, Verified], role: RoleName, series: list[Proven], bench: sandboxed.Bench
) -> Step:
    assert line.data.kernel_source is not None
    source = verified[line.data.kernel_source]
    tree, epoch = archive.beginning(source.path)
    patches = {f"{item.name}.patch": item.data for item in series}
    parameters = kernel_lts61.of_line(
        line, role, version=_upstream(source), tarball=source.file, tree=tree, patches=list(patches), epoch=epoch
    )

    def fill(sources: Path, specs: Path) -> None:
        shutil.copyfile(source.path, sources / source.file)
        for name, data in patches.items():
            (sources / name).write_bytes(data)
        kernel_lts61.prepare(sources, specs, parameters)

    recipe = sandboxed.Recipe(
        spec=kernel_lts61.SPEC,
        epoch=epoch,
        fill=fill,
        explain=lambda log, top: kernel_lts61.explain(log, parameters, top / "BUILD"),
        macros=rpmtool.Macros(dist=kernel_lts61.DIST),
    )
    inputs = {
        "source": source.sha256,
        "parameters": parameters.as_dict(),
        "texts": kernel_lts61.rendered(parameters),
        "patches": {item.name: item.parsed.sha256 for item in series},
    }
    return _step(
        f"kernel:{role}", inputs, kernel_lts61.CODE, bench, recipe, lambda rpms: kernel_lts61.check(rpms, parameters), 0
    )


def _tool(line: Line, source: Verified, tool: Tool, bench: sandboxed.Bench) -> Step:
    tree, epoch = archive.beginning(source.path)
    parameters = tools_lts61.Parameters(
        tool=tool,
        version=_upstream(source),
        tarball=source.file,
        tree=tree,
        epoch=epoch,
        tag=kernel_lts61.line_tag(line),
    )

    def fill(sources: Path, specs: Path) -> None:
        shutil.copyfile(source.path, sources / source.file)
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
    return _step(
        tool.value, inputs, tools_lts61.CODE, bench, recipe, lambda rpms: tools_lts61.check(rpms, parameters), 1
    )


def _role_packages(line: Line, verified: Mapping[str, Verified], bench: sandboxed.Bench) -> Step:
    assert line.data.kernel_source is not None
    _, epoch = archive.beginning(verified[line.data.kernel_source].path)
    base = line.override.base if line.override else line.name
    parameters = replace(roles.of_line(base, epoch=epoch), tag=kernel_lts61.line_tag(line))
    recipe = sandboxed.Recipe(
        spec=roles.SPEC,
        epoch=epoch,
        fill=lambda sources, specs: _ignore(roles.prepare(sources, specs, parameters)),
        explain=lambda log, top: None,
        macros=rpmtool.Macros(),
    )
    inputs = {"parameters": parameters.as_dict(), "texts": roles.rendered(parameters)}
    return _step("role-packages", inputs, roles.CODE, bench, recipe, lambda rpms: roles.check(rpms, parameters), 1)


def _step(
    name: str,
    inputs: Mapping[str, Any],
    code: tuple[str, ...],
    bench: sandboxed.Bench,
    recipe: sandboxed.Recipe,
    check: _Check,
    weight: int,
) -> Step:
    """A step that builds in the sandbox and proves what came out of it."""

    def action(work: Work) -> None:
        rpms = sandboxed.rpmbuild(work, bench, recipe)
        evidence = check(rpms)
        (work.out / "evidence.json").write_text(json.dumps(evidence, indent=1, default=str) + "\n")

    keyed = {**inputs, "image": bench.image.key, "macros": recipe.macros.defines()}
    return Step(name, action, keyed, (), (*code, *sandboxed.CODE, "pipeline.build.lts61"), weight)


def _upstream(source: Verified) -> str:
    """The upstream version in a Debian one: `1:1.31-1` is 1.31."""
    return source.version.partition(":")[2].rpartition("-")[0] or source.version.rpartition("-")[0]


def _ignore(_: object) -> None:
    """What `prepare` wrote is of no use here."""


def check_sources(line: Line) -> None:
    """Refuses a line that this recipe cannot build: its sources must be Debian's."""
    wanted = {line.data.kernel_source, *(tool.value for tool in Tool)}
    missing = [name for name in wanted if not isinstance(line.data.sources.get(str(name)), DebianSource)]
    if missing:
        raise Refused(f"the line {line.name} lacks Debian sources to build from: {', '.join(map(str, missing))}")
