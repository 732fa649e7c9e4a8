"""Print lines for people: the list, or one line whole and resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipeline.config import git_checkout, line_checks, lock_file
from pipeline.config.line_model import DebianSource, Line, RoleName
from pipeline.core.console import Console
from pipeline.errors import HostLacks


def list_lines(found: Sequence[Line], console: Console) -> list[dict[str, Any]]:
    """Print one row per line; return them as `--json` prints them."""
    listed = []
    for line in found:
        roles = {name.value: list(role.series) for name, role in line.data.roles.items()}
        listed.append({**line.evidence(), "title": line.data.title, "roles": roles})
    shown = [
        (
            item["line"],
            item["kernel"],
            ", ".join(f"{r} ({' '.join(s) or 'no patch'})" for r, s in item["roles"].items()),
        )
        for item in listed
    ]
    console.table(("line", "kernel", "roles and their patches"), shown)
    console.say("whole: ./inv lines --show LINE; a line of your own: docs/lines.md")
    return listed


def show_line(line: Line, console: Console) -> dict[str, Any]:
    """Print the resolved line with overrides and pins; return it as `--json` prints it."""
    pins = {name: asdict(pin) for name, pin in lock_file.read(line).items()}
    committed, text = _lock_change(line) if pins else (None, "")
    whole = {
        **line.evidence(),
        "files": [str(path) for path in line.files],
        "pins": pins,
        "pins_committed": committed,
        **line.data.model_dump(mode="json", by_alias=True, exclude={"name", "kernel"}),
    }
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
    console.say(f"every value: ./inv lines --json {line_checks.option(line, '--show')}")
    return whole


def _lock_change(line: Line) -> tuple[dict[str, Any] | None, str]:
    """Return the last commit of the lock file, as `--json` prints it and as text."""
    try:
        found = git_checkout.last_change(line.lock_file)
    except HostLacks as error:
        return None, f"commit unknown: {error.what}"
    if found is None:
        return None, "in no commit"
    since = "; changed since" if found.modified else ""
    return found.as_dict(), f"last changed by {found.author} on {found.date} in commit {found.commit}{since}"


def _source_row(name: str, line: Line, pins: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    source = line.data.sources[name]
    if isinstance(source, DebianSource):
        file = f"{source.package} {source.version}{'*' if source.version.endswith('.') else ''}"
        only = f", for the image {source.image} only" if source.image else ""
        return name, source.kind, file, f"Debian's signed index{only}"
    if source.sha256:
        return name, source.kind, source.file, f"sha256 {source.sha256}"
    pin = pins.get(name)
    text = f"sha256 {pin['sha256']} ({pin['signer']}, {pin['by']})" if pin else "not yet: ./inv pin"
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
