"""Show how the patches of a line were verified and its roles proven, or how a patch at hand fits the rules.

The table is the evidence an auditor reads: where each patch came from, which role its name
claims, which role its content proves and by which rule, and what it leaves in the tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import __version__
from pipeline.config import git_checkout, line_checks
from pipeline.config.context import RunContext
from pipeline.config.git_checkout import Checkout
from pipeline.config.line_model import Line, LineIdentity, RoleName
from pipeline.core import documents
from pipeline.core.fs import write_atomic
from pipeline.errors import Refused, UsageError
from pipeline.patching import apply, compare, patch_file, role_rules, series, tool_series
from pipeline.patching.patched_trees import Trees
from pipeline.patching.series_rules import RoleProof
from pipeline.patching.verified_patch import VerifiedPatch
from pipeline.sources.resolver import Sources

SHOWN_OFFSETS = 12  # hunks listed by name in the text; the JSON has all


@dataclass(frozen=True)
class MadeBy:
    """The program that wrote evidence: its version, and its checkout where it is in one."""

    version: str
    checkout: Checkout | None


@dataclass(frozen=True)
class AppliedRole:
    """A role's proof, the report of its series, and the ids of the trees before and after."""

    proof: RoleProof
    pristine: str
    tree: str
    report: apply.SeriesReport

    def to_json(self) -> dict[str, object]:
        """Return it as evidence and `--json` have it."""
        trees = {"pristine": self.pristine, "tree": self.tree, "files": list(_files(self.report))}
        return {"patches": len(self.proof.alone), **self.proof.to_json(), **trees}


@dataclass(frozen=True)
class StockRole:
    """A role without patches."""

    patches: int = 0


@dataclass(frozen=True)
class AppliedTool:
    """A tool's patches, and how they applied to its source."""

    found: tool_series.VerifiedSeries
    proof: tool_series.ToolProof

    def to_json(self) -> dict[str, object]:
        """Return it as evidence and `--json` have it."""
        patches = [{"patch": name, "sha256": digest} for name, digest in self.found.digests.items()]
        proof = self.proof
        return {"source": proof.source, "found_by": proof.by, "patches": patches, "files": list(_files(proof.report))}


@dataclass(frozen=True)
class VerifiedLine(LineIdentity):
    """The verified patches of a line, and each role and each patched tool as they leave it."""

    pipeline: MadeBy
    patches: tuple[VerifiedPatch, ...]
    roles: Mapping[RoleName, AppliedRole | StockRole]
    tools: Mapping[str, AppliedTool]


@dataclass(frozen=True)
class ClassifiedFile:
    """A patch file's role by content, and the patches of the line with the same digest."""

    patch: str
    sha256: str
    role: RoleName
    by: str
    claims: str
    option: role_rules.Option
    pinned: tuple[str, ...]


def verify_line(line: Line, context: RunContext) -> VerifiedLine:
    """Verify and apply every series of the line. Raises `Refused` for the first set that is not as recorded."""
    sources = Sources(line, context.settings, context.console)
    verified = {item.name: item for item in sources.fetch()}
    by_role = series.verify_patches(line, verified)
    patched = tool_series.PatchedTools(tool_series.verify(line), verified, context.settings.artifacts)
    trees = Trees(sources, by_role, verified)
    patches = [item for series_of_role in by_role.values() for item in series_of_role]
    headings = ("patch", "sha256", "origin", "name claims", "content proves", "files", "hunks", "lines")
    if patches:
        context.console.table(headings, [_row(item) for item in patches], f"line {line.label}")
    for item in patches:
        _show_patch(item, line, context)
    proofs = series.verify_roles(line, trees)
    roles = {role: _applied(role, proofs.get(role), trees, context) for role in line.data.roles}
    tools = {item.tool: _applied_tool(item, patched, context) for item in patched.series.values() if item.patches}
    found = VerifiedLine(*line.identity, _made_by(context), tuple(patches), roles, tools)
    write_atomic(_evidence(context, line), documents.to_json(found))
    context.console.say(f"evidence: {_evidence(context, line)}")
    return found


def _made_by(context: RunContext) -> MadeBy:
    """Return the program that wrote the evidence: its version, and the commit of its checkout."""
    checkout = git_checkout.of_project()
    if checkout is not None:
        since = ", changed since" if checkout.dirty else ""
        context.console.say(f"verified by version {__version__}, commit {checkout.commit}{since}")
    return MadeBy(__version__, checkout)


def _row(item: VerifiedPatch) -> tuple[str, ...]:
    parsed = item.parsed
    proves = item.found.role or f"part of {item.role}"
    size = (str(len(parsed.files)), str(parsed.hunks), _size(parsed))
    return (item.name, parsed.sha256[:16] + "…", item.where, item.claim, str(proves), *size)


def _show_patch(item: VerifiedPatch, line: Line, context: RunContext) -> None:
    say = context.console.say
    say(f"{item.name}: out of {item.origin}")
    if item.found.role:
        say(f"{item.name}: {item.role} {item.found.by}")
    else:
        forbidden = ", ".join(line.data.rules[item.role].must_not_touch)
        beside = f"; touches nothing in {forbidden}" if forbidden else ""
        say(f"{item.name}: no role by itself, part of the {item.role}'s series by its pinned digest{beside}")
    if item.found.option:
        say(f"{item.name}: {item.found.option}")
    for rule in item.model.leave_out:
        moved = ", ".join(f"{option}={value}" for option, value in rule.config.items()) or "nothing"
        say(f"{item.name}: {rule.file} left out ({rule.why}); to the kernel configuration: {moved}")
    if item.parsed.restored:
        say(f"{item.name}: its last {item.parsed.restored} blank lines are cut off; GNU patch puts them back")
    for note in item.notes:
        context.console.warn(f"{item.name}: {note}")


def _applied(role: RoleName, proof: RoleProof | None, trees: Trees, context: RunContext) -> AppliedRole | StockRole:
    """Print one role's proof and its series' effect, and return both."""
    say = context.console.say
    if proof is None:
        say(f"{role}: no patch; the tree stays as it is")
        return StockRole()
    say(f"{role}: proven by {proof.proven_by}")
    if not proof.patch:
        say(f"{role}: {proof.found.by}; {proof.found.option}")
    report, tree, left = trees.report(role), trees.pristine().tree, trees.of(role)
    say(
        f"{role}: {report.hunks} hunks applied, {report.offsets} at an offset, none with fuzz; "
        f"{left.changed} paths differ from the pristine tree {tree[:12]}, each as recorded: {left.tree[:12]}"
    )
    _say_offsets(report, context)
    return AppliedRole(proof, tree, left.tree, report)


def _applied_tool(
    found: tool_series.VerifiedSeries, patched: tool_series.PatchedTools, context: RunContext
) -> AppliedTool:
    """Print one tool's patches and what they leave in its source, and return both."""
    proof = patched.of(found.tool)
    rows = [
        (
            item.name,
            item.parsed.sha256[:16] + "…",
            str(len(item.parsed.files)),
            str(item.parsed.hunks),
            _size(item.parsed),
        )
        for item in found.patches
    ]
    context.console.table(("patch", "sha256", "files", "hunks", "lines"), rows, found.tool)
    _say_proof(found.tool, proof, context)
    return AppliedTool(found, proof)


def _say_proof(tool: str, proof: tool_series.ToolProof, context: RunContext) -> None:
    say, report = context.console.say, proof.report
    say(f"{tool}: {proof.by}")
    say(
        f"{tool}: {report.hunks} hunks applied, {report.offsets} at an offset, none with fuzz; "
        f"{proof.changed} paths differ from {proof.source}, each as recorded"
    )
    _say_offsets(report, context)


def _say_offsets(report: apply.SeriesReport, context: RunContext) -> None:
    offsets = list(_offsets(report))
    for text in offsets[:SHOWN_OFFSETS]:
        context.console.say(f"  {text}")
    if len(offsets) > SHOWN_OFFSETS:
        context.console.say(f"  and {len(offsets) - SHOWN_OFFSETS} more")


def _size(parsed: patch_file.PatchFile) -> str:
    return f"+{parsed.added} -{parsed.removed}"


def _offsets(report: apply.SeriesReport) -> Iterator[str]:
    for patch in report.patches:
        for file in patch.files:
            for hunk in file.hunks:
                if hunk.offset:
                    yield f"{patch.name}: {file.path} hunk {hunk.number} moved by {hunk.offset} lines"


def _files(report: apply.SeriesReport) -> Iterator[dict[str, object]]:
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


def _read(path: str) -> patch_file.PatchFile:
    return patch_file.parse(series.read_patch(Path(path)), path)


def classify_file(path: str, line: Line, context: RunContext) -> ClassifiedFile:
    """Find the role of any patch file by the line's rules. Raises `Refused` for one that fits none or several."""
    parsed = _read(path)
    found = role_rules.classify(parsed, line.data.rules)
    claim = role_rules.claimed(path)
    if not line.data.rules:
        raise UsageError(
            f"the line {line.name} has no rules to hold a patch against",
            hint="`./inv lines` shows the lines with patches; ./inv patches LINE --classify FILE",
        )
    role = str(found.role or "no single role")
    size = (len(parsed.files), parsed.hunks, _size(parsed))
    headings = ("patch", "sha256", "name claims", "content proves", "files", "hunks", "lines")
    context.console.table(headings, [(Path(path).name, parsed.sha256, claim, role, *size)])
    for each in line.data.rules:
        failed, option = found.failed(each), found.options[each]
        seen = f"; {option}" if option.found or not failed else ""
        context.console.say(f"{each}: {'; '.join(failed) or _fit(option)}{seen}")
    pinned = _pinned(parsed, line)
    named = [f"{name} ({place})" if place else name for name, place in pinned.items()]
    context.console.say(f"pinned in the line {line.label}: {', '.join(named) or 'no'}")
    if found.role is None or found.option is None:
        raise _unfit(path, found, line, pinned)
    if not found.option.right:
        why = "director and real servers must agree on it; if not, the servers see the director's address"
        context.console.warn(f"{path}: {found.role} by content, but {found.option}; {why}")
    return ClassifiedFile(path, parsed.sha256, found.role, found.by, claim, found.option, tuple(pinned))


def _pinned(parsed: patch_file.PatchFile, line: Line) -> dict[str, str]:
    """Return the names of the line's patches with this digest, each with its place in its series."""
    found = {}
    for name, model in line.data.patches.items():
        if model.sha256 == parsed.sha256:
            places = [
                f"{role.series.index(name) + 1} of {len(role.series)} in the {role_name}'s series"
                for role_name, role in line.data.roles.items()
                if name in role.series and len(role.series) > 1
            ]
            found[name] = ", ".join(places)
    return found


def _fit(option: role_rules.Option) -> str:
    return "fits" if option.right else "fits in all but the option's number"


def _unfit(path: str, found: role_rules.Classification, line: Line, pinned: Mapping[str, str]) -> Refused:
    """Return the reason that the patch has no single role, such as a part of a series or another depth."""
    what = "the patch fits the rules of " + ("several roles" if found.fits else "no role")
    for name, place in pinned.items():
        if place:
            why = f"it is {name}, patch {place}; a role is proven of a series as a whole"
            return Refused(what, where=path, why=why, hint=f"./inv patches {line_checks.option(line)}")
    if found.depth is not None:
        return role_rules.wrong_depth(what, path, *found.depth)
    return Refused(what, where=path, hint=f"`./inv lines {line.name}` prints its rules")


def compare_files(pair: Sequence[str], line: Line, context: RunContext) -> compare.Comparison:
    """Compare two versions of a patch, file by file, by their effect."""
    one, other = (_read(path) for path in pair)
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
    return result
