"""Gather from records what a line's kernel was made of: compiled sources, patches, the source's tree, the changelog."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.audit import cve_report, evidence
from pipeline.audit.cve_records import numbers
from pipeline.audit.cve_report import KernelBuild, OurHunks
from pipeline.audit.evidence import StoredStep
from pipeline.config.context import RunContext
from pipeline.config.line_model import Line, SrpmSource
from pipeline.core import documents
from pipeline.errors import PipelineError, Refused, UsageError
from pipeline.formats import rpm_header
from pipeline.formats.rpm_header import Tag
from pipeline.packaging import step_record

_KERNEL = "kernel:"


def find(line: Line, context: RunContext) -> tuple[KernelBuild, tuple[str, ...]]:
    """Return the newest build of the line's kernels in the requested configuration, and what could not be known.

    Kernels of several roles, and modules built against one of them, count as one build. Raises `UsageError` where no
    build with a record of compiled sources is there.
    """
    small = context.settings.kernel_config == "small"
    runs = _newest(line, context, small=small)
    kernels = [run for run in runs if run.record.step.startswith(_KERNEL)]
    if not kernels:
        wanted = "small" if small else "full"
        raise UsageError(
            f"line {line.label}: no {wanted} kernel whose compiled sources are recorded; expected one",
            where=str(context.settings.artifacts / "steps" / line.name),
            why="which files were compiled decides what concerns a kernel",
            hint=f"./inv build kernel --line {line.name} --kernel-config {wanted}",
        )
    newest = max(kernels, key=lambda run: run.record.begun)
    version, uname = (str(_parameters(newest)[name]) for name in ("version", "uname"))
    unames = {str(_parameters(run)["uname"]) for run in kernels if _parameters(run)["version"] == version}
    steps = [run for run in runs if _parameters(run)["uname"] in unames]
    compiled = [found.paths for run in steps if (found := run.compiled())]
    is_vendor = isinstance(line.data.sources[str(line.data.kernel_source)], SrpmSource)
    tree, patches, notes = _source(line, context, vendor=is_vendor)
    build = KernelBuild(
        line.name,
        version,
        uname,
        {run.record.step: run.record.key for run in steps},
        frozenset().union(*compiled),
        tree,
        patches,
        *(cve_report.claimed(_changelog(newest)) if is_vendor else (None,)),
    )
    return build, notes


def _newest(line: Line, context: RunContext, *, small: bool) -> list[StoredStep]:
    """Return the newest run of each step that compiled kernel code in this configuration."""
    found: dict[str, StoredStep] = {}
    for run in evidence.finished_runs(context.settings.artifacts, line.name):
        step, parameters = run.record.step, _parameters(run)
        is_kernel = step.startswith(_KERNEL)
        if step in found or "uname" not in parameters or (is_kernel and parameters.get("small", False) is not small):
            continue
        if run.compiled() is not None and (not is_kernel or _is_version(parameters.get("version"))):
            found[step] = run
    return list(found.values())


def _parameters(run: StoredStep) -> Mapping[str, Any]:
    try:
        found = documents.parse(object, run.record.inputs.get("parameters", "{}"))
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _is_version(value: object) -> bool:
    return isinstance(value, str) and all(part.isdigit() for part in value.split(".")) and bool(numbers(value))


def _changelog(run: StoredStep) -> str:
    """Return the changelog of the kernel's package, newest entry first. Raises `Refused` without that package."""
    for path in sorted((run.place / step_record.OUT / "rpms").glob("kernel-*.rpm")):
        package = rpm_header.read(path)
        if package.name == "kernel":
            return "\n".join(package.header.texts(Tag.CHANGELOG_TEXT))
    raise Refused(f"{run.record.step}: no package kernel in its output; expected one", where=str(run.place))


def _source(
    line: Line, context: RunContext, *, vendor: bool
) -> tuple[frozenset[str] | None, Mapping[str, tuple[OurHunks, ...]] | None, tuple[str, ...]]:
    """Return the paths of the pristine tree, the line's hunks by path, and why one of these is not known."""
    from pipeline.patching import series
    from pipeline.patching.patched_trees import Trees
    from pipeline.sources.resolver import Sources

    sources = Sources(line, context.settings, context.console)
    try:
        verified = {item.name: item for item in sources.fetch()}
        by_role = series.verify_patches(line, verified)
        tree = None if vendor else frozenset(Trees(sources, by_role, verified).pristine().listing)
    except PipelineError as error:
        return None, None, (f"files of the source and hunks of the line's patches are not known: {error.what}",)
    found: dict[str, list[OurHunks]] = {}
    for role, items in by_role.items():
        for item in items:
            for row in _hunks(role.value, item.name, item.parsed.files):
                found.setdefault(row.path, []).append(row)
    return tree, {path: tuple(rows) for path, rows in found.items()}, ()


def _hunks(role: str, patch: str, changes: Any) -> Iterator[OurHunks]:
    for change in changes:
        for path in change.paths:
            yield OurHunks(role, patch, path, tuple(hunk.number for hunk in change.hunks))
