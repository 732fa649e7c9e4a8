"""Sign on this host what was built on another one."""

from __future__ import annotations

from dataclasses import replace

from pipeline.commands.build import BuildCommand
from pipeline.commands.build_summary import BuildResult
from pipeline.config import line_loader, line_names
from pipeline.config.context import RunContext
from pipeline.errors import UsageError
from pipeline.host import programs
from pipeline.publish import unsigned
from pipeline.publish.layout import UNSIGNED


def sign(context: RunContext, name: str) -> BuildResult:
    """Sign and publish an unsigned snapshot. Raises `UsageError` for another line's, and as `BuildCommand.sign`."""
    settings = context.settings
    path = unsigned.find(name, settings.artifacts / UNSIGNED)
    found = unsigned.read(path)
    if settings.line_file:
        line = line_loader.load(None, settings.line_file)
    else:
        line = line_names.load(found.line, settings.artifacts)
    if (line.name, line.label) != (found.line, found.label):
        what = f"the unsigned snapshot: of another line; expected {line.label}, got {found.label}"
        raise UsageError(what, where=str(path), hint="./inv sign UNSIGNED --line-file FILE")
    line_names.claim(line, settings.artifacts)
    programs.ensure({"build"}, context.console)
    chosen = replace(
        settings, line=line.name, baseurl=found.baseurl, kernel_config="small" if found.small else "full", force=()
    )
    built = BuildCommand(line, replace(context, settings=chosen)).sign(path)
    if built.summary.snapshot:
        context.console.say(f"signed: {built.summary.snapshot.path}")
    return built
