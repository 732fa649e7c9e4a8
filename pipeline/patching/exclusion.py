"""Leave one file's section out of a patch: exactly those bytes, by digest before and after.

For a section that cannot be applied where patches are applied, such as one of a generated file;
where its value goes instead is recorded with the rule. Applies nothing itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from pipeline.config.line_model import LeaveOut
from pipeline.errors import Refused
from pipeline.patching.parser import FileChange, scan

_SET = re.compile(r"(CONFIG_\w+)=(.*)|# (CONFIG_\w+) is not set")


def leave_out(data: bytes, rule: LeaveOut, name: str = "patch") -> bytes:
    """Return `data` without the section of `rule.file`, every other byte unchanged.

    Raises `Refused` when a digest is not the recorded one, when there is no such section, or when
    the section sets kernel options other than those the rule carries over.
    """
    _same_digest(data, rule.sha256_before, name, f"before {rule.file} is left out")
    change = next((item for item in scan(data, name).files if rule.file in item.paths), None)
    if change is None:
        raise Refused(
            f"patch {name}: there is no section of {rule.file} to leave out",
            where=name,
            why=f"the line file says: {rule.why}",
            hint=f"remove the leave-out of {rule.file} from series.toml, or pin the patch that has it",
        )
    _check_config(change, rule, name)
    start, end = change.span
    rest = data[:start] + data[end:]
    _same_digest(rest, rule.sha256_after, name, f"after {rule.file} was left out")
    return rest


def leave_all_out(data: bytes, rules: Iterable[LeaveOut], name: str = "patch") -> bytes:
    """Apply the rules in order; each one's digest before is the digest after the one above."""
    for rule in rules:
        data = leave_out(data, rule, name)
    return data


def _same_digest(data: bytes, recorded: str, name: str, when: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != recorded:
        raise Refused(
            f"patch {name}: {when} its SHA-256 is {found}, recorded is {recorded}",
            where=name,
            why="what is left out was examined for one patch only",
            hint="fetch the patch again; if it changed on purpose, examine the section and record both digests",
        )


def _check_config(change: FileChange, rule: LeaveOut, name: str) -> None:
    """Compare options and values of the section with those that the rule moves to the configuration."""
    section = dict(_settings(change))
    where = f"{name}:{change.line}"
    for option, value in rule.config.items():
        if section.get(option) != value:
            found = f"sets it to {section[option]}" if option in section else "does not set it"
            raise Refused(
                f"patch {name}: the leave-out of {rule.file} carries {option}={value} over, the section {found}",
                where=where,
                why="the kernel would be configured otherwise than its patch means",
                hint=f"correct config of the leave-out of {rule.file} in series.toml",
            )
    for option in section.keys() - rule.config.keys():
        raise Refused(
            f"patch {name}: the section of {rule.file} sets {option}={section[option]}, which no rule carries over",
            where=where,
            why="leaving the section out would lose the value silently",
            hint=f"add {option} to config of the leave-out of {rule.file} in series.toml",
        )


def _settings(change: FileChange) -> Iterable[tuple[str, str]]:
    for raw in change.added_lines():
        found = _SET.fullmatch(raw.decode(errors="replace").strip())
        if found is not None:
            yield (found[1], found[2]) if found[1] else (found[3], "n")
