"""`inv patches`: proves every patch of a line by content, applies each series, and says so.

The table is the evidence an auditor reads: where each patch came from, which role its name
claims, which role its content proves and by which rule, and what it leaves in the tree.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.context import RunContext
from pipeline.config.line_checks import required
from pipeline.config.line_model import Line, Patch, RoleName
from pipeline.core.fs import read_limited, scratch, write_atomic
from pipeline.errors import Refused, UsageError
from pipeline.formats import archive
from pipeline.patching import apply, compare, exclusion, patch_file, role_rules
from pipeline.sources import kernel_tree
from pipeline.sources.resolver import Sources, Verified

LARGEST = 32 << 20  # bytes of one patch; the largest known has half a megabyte
_NAMED = "name a regular file that holds the patch; what comes from a program is written to one first"
SHOWN_OFFSETS = 12  # hunks listed by name in the text; the JSON has all


@dataclass(frozen=True)
class Proven:
    """A patch of one series whose content is what the series says; `data` is what is applied."""

    name: str
    slot: RoleName
    model: Patch
    parsed: patch_file.PatchFile
    found: role_rules.Classification
    notes: tuple[str, ...]
    data: bytes
    origin: str

    def row(self) -> tuple[str, ...]:
        """As the table shows it."""
        size = (str(len(self.parsed.files)), str(self.parsed.hunks), f"+{self.parsed.added} -{self.parsed.removed}")
        return (self.name, self.parsed.sha256[:16] + "…", self.where, self.claim, str(self.found.role), *size)

    @property
    def where(self) -> str:
        """The archive's member, or our own file."""
        return str(self.model.member or self.model.file)

    @property
    def claim(self) -> str:
        """The role its name claims."""
        return role_rules.claimed(self.where)

    def as_dict(self) -> dict[str, Any]:
        """As evidence keeps it."""
        return {
            "patch": self.name,
            "role": self.slot.value,
            "sha256": self.parsed.sha256,
            "patch_id": self.parsed.patch_id,
            "member": self.where,
            "origin": self.origin,
            "role_claimed_by_name": self.claim,
            "role_found": self.found.role,
            "found_by": self.found.by,
            "option_number": list(self.found.option.numbers) if self.found.option else [],
            "files": len(self.parsed.files),
            "hunks": self.parsed.hunks,
            "added": self.parsed.added,
            "removed": self.parsed.removed,
            "blank_lines_restored": self.parsed.restored,
            "left_out": [rule.model_dump(mode="json", by_alias=True) for rule in self.model.leave_out],
            "applied_sha256": hashlib.sha256(self.data).hexdigest(),
            "notes": list(self.notes),
        }


def prove_line(line: Line, context: RunContext) -> dict[str, Any]:
    """Proves and applies every series of the line. Raises `Refused` for the first set that is not what it says."""
    sources = Sources(line, context.settings, context.console)
    verified = {item.name: item for item in sources.fetch()}
    proven = prove_series(line, verified)
    headings = ("patch", "sha256", "origin", "name claims", "content proves", "files", "hunks", "lines")
    context.console.table(headings, [item.row() for item in proven], f"line {line.label}")
    for item in proven:
        _say_proven(item, context)
    tree = pristine(line, proven, verified, context) if proven else None
    applied = {role: _applied(role, of_role(proven, role), tree, context) for role in line.data.roles}
    document = {**line.evidence(), "patches": [item.as_dict() for item in proven], "roles": applied}
    write_atomic(_evidence(context, line), json.dumps(document, indent=2, default=str) + "\n")
    context.console.say(f"evidence: {_evidence(context, line)}")
    return document


def prove_series(line: Line, verified: Mapping[str, Verified]) -> list[Proven]:
    """Every patch of every series, proven; all that is refused is raised together."""
    proven, refused = [], []
    for slot, role in line.data.roles.items():
        for name in role.series:
            try:
                proven.append(_prove(line, slot, name, verified))
            except Refused as error:
                refused.append(error)
    if refused:
        raise refused[0] if len(refused) == 1 else Refused("\n".join(map(str, refused)))
    role_rules.check_options({item.name: item.found for item in proven})
    return proven


def _prove(line: Line, slot: RoleName, name: str, verified: Mapping[str, Verified]) -> Proven:
    model = line.data.patches[name]
    data, origin = _patch_bytes(line, name, model, verified)
    parsed = patch_file.parse(data, name)
    found = role_rules.classify(parsed, line.data.rules)
    notes = role_rules.check(name, model, parsed, slot, found)
    return Proven(name, slot, model, parsed, found, notes, exclusion.leave_all_out(data, model.leave_out, name), origin)


def _patch_bytes(line: Line, name: str, model: Patch, verified: Mapping[str, Verified]) -> tuple[bytes, str]:
    """A patch and where it came from: a member of a verified source, or a file of ours."""
    if model.source is not None and model.member is not None:
        source = verified[model.source]
        found = archive.read(source.path, {model.member: LARGEST}).get(model.member)
        if found is None:
            raise Refused(f"patch {name}: {source.file} has no {model.member}", where=str(source.path))
        return found, f"{source.file} (sha256 {source.sha256}) from {source.origin}"
    file = str(model.file)
    places = [path.parent / file for path in line.files]
    place = next((path for path in places if path.is_file()), None)
    if place is None:
        raise UsageError(f"patch {name}: the file {file} is not there", where=", ".join(map(str, places)))
    return _bytes(place), f"a file of this project, {place}"


def _say_proven(item: Proven, context: RunContext) -> None:
    say = context.console.say
    say(f"{item.name}: out of {item.origin}")
    say(f"{item.name}: {item.slot} {item.found.by}")
    if item.found.option:
        say(f"{item.name}: {item.found.option}")
    for rule in item.model.leave_out:
        moved = ", ".join(f"{option}={value}" for option, value in rule.config.items()) or "nothing"
        say(f"{item.name}: {rule.file} left out ({rule.why}); to the kernel configuration: {moved}")
    if item.parsed.restored:
        say(f"{item.name}: its last {item.parsed.restored} blank lines are cut off; GNU patch puts them back")
    for note in item.notes:
        context.console.warn(f"{item.name}: {note}")


def of_role(proven: Sequence[Proven], role: RoleName) -> list[Proven]:
    """The patches of one role's series, in order."""
    return [item for item in proven if item.slot is role]


def pristine(
    line: Line, proven: Sequence[Proven], verified: Mapping[str, Verified], context: RunContext
) -> kernel_tree.Pristine:
    """The line's unpatched tree, with every file that any series touches."""
    source = required(line.data.kernel_source, "kernel-source")
    touched = {path for item in proven for change in item.parsed.files for path in change.paths}
    sources = Sources(line, context.settings, context.console)
    return kernel_tree.pristine(sources, verified[source], touched, context.console)


def apply_role(
    series: Sequence[Proven], tree: kernel_tree.Pristine, context: RunContext
) -> tuple[apply.SeriesReport, apply.Proof]:
    """Applies one role's series to a scratch copy of the real tree and proves what it leaves."""
    effect: dict[str, str] = {}
    for item in series:
        effect |= item.model.effect
    with scratch(context.settings.artifacts / "scratch", "series-") as room:
        report = apply.apply_series(tree.files, [(item.name, item.data) for item in series], room / "tree")
    return report, apply.prove(report, tree.listing, effect)


@dataclass
class Trees:
    """What each role's series leaves of the line's tree, proven when it is first asked for."""

    line: Line
    proven: Sequence[Proven]
    verified: Mapping[str, Verified]
    context: RunContext

    def __post_init__(self) -> None:
        self._known: dict[RoleName, apply.Proof] = {}
        self._lock = threading.Lock()  # steps run beside each other

    def of(self, role: RoleName) -> apply.Proof:
        """The tree of one role. Raises `Refused` when the series does not leave what is recorded."""
        with self._lock:
            if role not in self._known:
                tree = pristine(self.line, self.proven, self.verified, self.context)
                self._known[role] = apply_role(of_role(self.proven, role), tree, self.context)[1]
            return self._known[role]


def _applied(
    role: RoleName, series: Sequence[Proven], tree: kernel_tree.Pristine | None, context: RunContext
) -> dict[str, Any]:
    """What one role's series did, said and as evidence keeps it."""
    if not series or tree is None:
        context.console.say(f"{role}: no patch; the tree stays as it is")
        return {"patches": 0}
    report, proof = apply_role(series, tree, context)
    context.console.say(
        f"{role}: {report.hunks} hunks applied, {report.offsets} at an offset, none with fuzz; "
        f"{proof.changed} paths differ from the pristine tree {tree.tree[:12]}, each as recorded: {proof.tree[:12]}"
    )
    offsets = list(_offsets(report))
    for text in offsets[:SHOWN_OFFSETS]:
        context.console.say(f"  {text}")
    if len(offsets) > SHOWN_OFFSETS:
        context.console.say(f"  and {len(offsets) - SHOWN_OFFSETS} more")
    return {"patches": len(series), "pristine": tree.tree, "tree": proof.tree, "files": list(_files(report))}


def _offsets(report: apply.SeriesReport) -> Iterator[str]:
    for patch in report.patches:
        for file in patch.files:
            for hunk in file.hunks:
                if hunk.offset:
                    yield f"{patch.name}: {file.path} hunk {hunk.number} moved by {hunk.offset} lines"


def _files(report: apply.SeriesReport) -> Iterator[dict[str, Any]]:
    for patch in report.patches:
        for file in patch.files:
            yield {
                "patch": patch.name,
                "path": file.path,
                "status": file.status,
                "before": file.before.blob if file.before else None,
                "after": file.after.blob if file.after else None,
                "hunks": [{"number": hunk.number, "offset": hunk.offset, "fuzz": 0} for hunk in file.hunks],
            }


def _evidence(context: RunContext, line: Line) -> Path:
    return context.settings.artifacts / "evidence" / line.name / "patches.json"


def _read_patch(path: str) -> patch_file.PatchFile:
    return patch_file.parse(_bytes(Path(path)), path)


def _bytes(path: Path) -> bytes:
    try:
        return read_limited(path, LARGEST)
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        what = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the patch cannot be read: {what}", where=str(path), hint=_NAMED) from None


def classify_file(path: str, line: Line, context: RunContext) -> dict[str, Any]:
    """The role of any patch file by the line's rules; refuses one that fits none or several."""
    parsed = _read_patch(path)
    found = role_rules.classify(parsed, line.data.rules)
    claim = role_rules.claimed(path)
    if not line.data.rules:
        raise UsageError(
            f"the line {line.name} has no rules to hold a patch against", hint="./inv patches el6 --classify FILE"
        )
    context.console.table(
        ("patch", "sha256", "name claims", "content proves", "files", "hunks", "lines"),
        [
            (
                Path(path).name,
                parsed.sha256,
                claim,
                str(found.role or "no single role"),
                len(parsed.files),
                parsed.hunks,
                f"+{parsed.added} -{parsed.removed}",
            )
        ],
    )
    for role in line.data.rules:
        failed, option = found.failed(role), found.options[role]
        seen = f"; {option}" if option.found or not failed else ""
        context.console.say(f"{role}: {'; '.join(failed) or _fit(option)}{seen}")
    known = [name for name, model in line.data.patches.items() if model.sha256 == parsed.sha256]
    context.console.say(f"pinned in the line {line.label}: {', '.join(known) or 'no'}")
    if found.role is None or found.option is None:
        raise _unfit(path, parsed, found, line)
    if not found.option.right:
        why = "director and real servers must agree on it; if not, the servers see the director's address"
        context.console.warn(f"{path}: {found.role} by content, but {found.option}; {why}")
    return {
        "patch": path,
        "sha256": parsed.sha256,
        "role": found.role,
        "by": found.by,
        "claims": claim,
        "option": found.option.as_dict(),
        "pinned": known,
    }


def _fit(option: role_rules.Option) -> str:
    return "fits" if option.right else "fits in all but the option's number"


def _unfit(path: str, parsed: patch_file.PatchFile, found: role_rules.Classification, line: Line) -> Refused:
    """Why the patch has no single role, with the depth of its paths where only that is another."""
    what = "the patch fits the rules of " + ("several roles" if found.fits else "no role")
    for wanted in (path for rule in line.data.rules.values() for path in rule.must_add):
        header = re.search(rb"^\+\+\+ (\S*/)?" + re.escape(wanted.encode()) + rb"(?=\s)", parsed.data, re.MULTILINE)
        depth = (header[1] or b"").count(b"/") if header else 1
        if depth != 1:
            return Refused(
                f"{what}: its paths are those of patch -p{depth}, and only -p1 is read",
                where=path,
                why=f"it names {wanted} with {depth} directories before it, not with one such as a/ or b/",
                hint="have it made with git diff, or with diff -uprN OLD NEW beside both trees",
            )
    return Refused(what, where=path, hint=f"./inv lines --show {line.name} prints its rules")


def compare_files(pair: Sequence[str], line: Line, context: RunContext) -> dict[str, Any]:
    """Two versions of a patch, file by file, by what they do."""
    one, other = (_read_patch(path) for path in pair)
    result = compare.compare(one, other, line.data.rules)
    for letter, side in (("A", result.a), ("B", result.b)):
        options = ", ".join(
            f"{name} {'/'.join(map(str, numbers)) or 'unknown'}" for name, numbers in side.options.items()
        )
        role = side.role or "no single role"
        context.console.say(f"{letter}: {side.name} sha256 {side.sha256}, {role}, {options or 'no option number'}")
    for file in result.differing:
        context.console.say(f"{file.path}: {file.verdict}" + (f" ({'; '.join(file.about)})" if file.about else ""))
        for text in file.lines:
            context.console.say(f"    {text}")
        if file.left_out:
            context.console.say(f"    and {file.left_out} lines more")
    same = len(result.files) - len(result.differing)
    context.console.say(f"{same} files with the same effect, {len(result.differing)} that differ")
    return {
        "same_effect": result.same_effect,
        "a": _side(result.a),
        "b": _side(result.b),
        "files": [{"path": f.path, "verdict": f.verdict, "about": f.about, "lines": f.lines} for f in result.files],
    }


def _side(side: compare.Side) -> dict[str, Any]:
    return {"name": side.name, "sha256": side.sha256, "role": side.role, "options": side.options}
