"""Change a Red Hat style kernel.spec and its config files at anchor lines.

Each change names the line it hangs on; a spec that lacks the line, or has it twice, is refused
with that line, because a hook that moved would otherwise build an unpatched kernel in silence.
Lines are compared with blanks folded, so that Red Hat's and CentOS's spec both hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.config.line_model import Anchors
from pipeline.errors import Refused

FIRST_NUMBER = 990001  # of our patches: above every patch of the distribution, below its hook


@dataclass(frozen=True)
class Edit:
    """A change at one line of the spec: lines put before it, behind it, or in its place."""

    anchor: str
    where: Literal["before", "behind", "instead"]
    lines: tuple[str, ...]
    why: str


def spec_edits(anchors: Anchors, patches: Sequence[str], *, sign_modules: bool) -> list[Edit]:
    """Return the changes of the spec: patches declared and applied by name, signing as requested.

    `patches` are file names in order. The buildid is given on rpmbuild's command line; that the
    spec makes it part of the release is checked here.
    """
    declared = tuple(f"Patch{FIRST_NUMBER + index}: {name}" for index, name in enumerate(patches))
    applied = tuple(f"ApplyPatch {name}" for name in patches)
    edits = [
        Edit(
            anchors.patch_declared, "before", declared, "an undeclared patch is absent from the rebuilt source package"
        ),
        Edit(
            anchors.patch_applied,
            "before",
            applied,
            "behind the distribution's own patches, before the configuration is made",
        ),
        Edit(anchors.release, "before", (), "the buildid given on the command line tells the roles apart"),
    ]
    if not sign_modules:
        why = "the builder's gpg makes no key of the kind this kernel verifies"
        edits.append(Edit(anchors.signing, "instead", ("%define signmodules 0",), why))
    return edits


def overlaid(spec: str, edits: Sequence[Edit], name: str = "kernel.spec") -> str:
    """Return the spec with every edit. Raises `Refused` with the line that does not occur exactly once."""
    lines = spec.splitlines()
    before: dict[int, list[str]] = {}
    behind: dict[int, list[str]] = {}
    instead: dict[int, tuple[str, ...]] = {}
    for edit in edits:
        index = _only(lines, edit, name)
        if edit.where == "instead":
            instead[index] = edit.lines
        else:
            (before if edit.where == "before" else behind).setdefault(index, []).extend(edit.lines)
    result: list[str] = []
    for index, line in enumerate(lines):
        result += [*before.get(index, ()), *instead.get(index, (line,)), *behind.get(index, ())]
    return "\n".join(result) + "\n"


def _only(lines: Sequence[str], edit: Edit, name: str) -> int:
    wanted = _folded(edit.anchor)
    found = [index for index, line in enumerate(lines) if _folded(line) == wanted]
    if len(found) != 1:
        times = f"{len(found)} times" if found else "nowhere"
        near = "" if found else _nearest(lines, edit.anchor)
        raise Refused(
            f"{name} has the line `{edit.anchor}` {times}, and our change hangs on it",
            where=f"{name}:{found[1] + 1}" if found else name,
            why=f"{edit.why}; guessing another place could build an unpatched kernel in silence{near}",
            hint="this spec is of another release: look at it, then change [build.anchors] of the line file",
        )
    return found[0]


def _nearest(lines: Sequence[str], anchor: str) -> str:
    """Return the line most similar to a missing one, for the person who compares."""
    import difflib

    close = difflib.get_close_matches(anchor, lines, n=1, cutoff=0.6)
    return f"; most like it is line {lines.index(close[0]) + 1}: {close[0].strip()}" if close else ""


def _folded(line: str) -> str:
    return " ".join(line.split())


def configured(text: str, options: Mapping[str, str], name: str = "config-generic") -> str:
    """Return a config file with `options` set, each exactly once; `n` is written as `is not set`.

    Raises `Refused` for an option that stands there twice.
    """
    lines = text.splitlines()
    for option, value in options.items():
        pattern = re.compile(rf"{re.escape(option)}=.*|# {re.escape(option)} is not set")
        found = [index for index, line in enumerate(lines) if pattern.fullmatch(line.strip())]
        if len(found) > 1:
            where = ", ".join(f"{name}:{index + 1}" for index in found)
            raise Refused(
                f"{option} is set {len(found)} times in {name}", where=where, why="which one holds is not known"
            )
        wanted = f"# {option} is not set" if value == "n" else f"{option}={value}"
        if found:
            lines[found[0]] = wanted
        else:
            lines.append(wanted)
    return "\n".join(lines) + "\n"
