"""Print lines for people: the list, or one line whole and resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.config import git_checkout, line_checks, line_names, lock_file
from pipeline.config.context import RunContext
from pipeline.config.git_checkout import LastChange
from pipeline.config.line_model import DebianSource, Line, LineIdentity, Role, RoleName
from pipeline.config.lock_file import Pin
from pipeline.core import resources
from pipeline.core.console import Console
from pipeline.errors import HostLacks

_NAMED = 3  # patches; more are told by their number


@dataclass(frozen=True)
class ListedLine(LineIdentity):
    """A line of the list, with the names of each role's patches."""

    title: str
    roles: Mapping[RoleName, tuple[str, ...]]


@dataclass(frozen=True)
class ShownLine:
    """A whole line, its pins, and the last change of the lock file; None where that is in no commit."""

    line: Line
    pins: Mapping[str, Pin]
    pins_committed: LastChange | None

    def to_json(self) -> dict[str, object]:
        """Return it as `--json` prints it."""
        own = {"files": self.line.files, "pins": self.pins, "pins_committed": self.pins_committed}
        data = self.line.data.model_dump(mode="json", by_alias=True, exclude={"name", "kernel"})
        return {**vars(LineIdentity(*self.line.identity)), **own, **data}


def by_name(name: str, context: RunContext) -> tuple[Line, RunContext]:
    """Load the line called `name`, the project's or one that was used in the artifacts, and the context of its run."""
    line = line_names.load(name, context.settings.artifacts)
    if line.notice:
        context.console.warn(line.notice)
    file = None if name in resources.line_names() else line.files[0]
    return line, replace(context, settings=replace(context.settings, line=name, line_file=file))


def list_lines(found: Sequence[Line], console: Console) -> list[ListedLine]:
    """Print one row per line, and return the rows."""
    listed = [
        ListedLine(*line.identity, line.data.title, {name: role.series for name, role in line.data.roles.items()})
        for line in found
    ]
    roles = (", ".join(f"{name} ({_parts(role)})" for name, role in line.data.roles.items()) for line in found)
    shown = [(item.line, item.kernel, text) for item, text in zip(listed, roles, strict=True)]
    console.table(("line", "kernel", "roles, their patches and packages"), shown)
    console.say("whole: ./inv lines LINE; a line of your own: docs/lines.md")
    return listed


def _parts(role: Role) -> str:
    """Tell what makes a role: its patches, by number where there are many, and its packages."""
    patches = " ".join(role.series) if len(role.series) <= _NAMED else f"{len(role.series)} patches"
    return ", ".join(filter(None, (patches, *role.packages))) or "no patch"


def show_line(line: Line, console: Console) -> ShownLine:
    """Print the resolved line with overrides and pins."""
    pins = lock_file.read(line)
    committed, text = _lock_change(line) if pins else (None, "")
    console.say(f"line {line.label}: {line.data.title}")
    for path in line.files:
        console.say(f"read from {path}")
    console.table(
        ("source", "kind", "file", "pinned by"), [_source_row(name, line, pins) for name in line.data.sources]
    )
    if text:
        console.say(f"pins: {line.lock_file}, {text}")
    console.table(
        ("role", "buildid", "patch", "origin", "sha256", "left out"),
        [row for name in line.data.roles for row in _role_rows(name, line)],
    )
    packages = line.data.packages.items()
    if made := [(role, name, package.kind) for name, package in packages for role in _roles_with(line, name)]:
        console.table(("role", "package", "kind"), made)
    rows = [(tool, patch.file, patch.sha256) for tool, found in line.data.tools.items() for patch in found.patches]
    if rows:
        console.table(("tool", "patch", "sha256"), rows)
    console.say(f"every value: ./inv lines --json {line_checks.option(line)}")
    return ShownLine(line, pins, committed)


def _roles_with(line: Line, package: str) -> Sequence[str]:
    return [name.value for name, role in line.data.roles.items() if package in role.packages]


def _lock_change(line: Line) -> tuple[LastChange | None, str]:
    """Return the last change of the lock file, and its text."""
    try:
        found = git_checkout.last_change(line.lock_file)
    except HostLacks as error:
        return None, f"commit unknown: {error.what}"
    if found is None:
        return None, "in no commit"
    since = "; changed since" if found.modified else ""
    return found, f"last changed by {found.author} on {found.date} in commit {found.commit}{since}"


def _source_row(name: str, line: Line, pins: Mapping[str, Pin]) -> tuple[str, ...]:
    source = line.data.sources[name]
    if isinstance(source, DebianSource):
        file = f"{source.package} {source.version}{'*' if source.version.endswith('.') else ''}"
        only = f", for the image {source.image} only" if source.image else ""
        return name, source.kind, file, f"Debian's signed index{only}"
    if source.sha256:
        return name, source.kind, source.file, f"sha256 {source.sha256}"
    pin = pins.get(name)
    text = f"sha256 {pin.sha256} ({pin.signer}, {pin.by})" if pin else "not yet: ./inv pin LINE SOURCE"
    return name, source.kind, source.file, text


def _role_rows(name: RoleName, line: Line) -> Sequence[tuple[str, ...]]:
    role = line.data.roles[name]
    rows = []
    for patch_name in role.series:
        patch = line.data.patches[patch_name]
        origin = f"{patch.source}: {patch.member}" if patch.source else str(patch.file)
        left_out = ", ".join(rule.file for rule in patch.leave_out) or "nothing"
        rows.append((name.value, role.buildid or "none", patch_name, origin, patch.sha256, left_out))
    return rows or [(name.value, role.buildid or "none", "no patch", "-", "-", "-")]
