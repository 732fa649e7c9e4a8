"""Verify the patches of a line's series, and prove each role by the series as a whole.

A patch is known by its digest and by what it touches; a role is proven of its whole series
(`series_rules`). Prints nothing: `pipeline.commands.patches` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.line_model import Line, Patch, RoleName
from pipeline.core.fs import read_limited
from pipeline.errors import Refused, UsageError
from pipeline.formats import archive
from pipeline.patching import exclusion, patch_file, role_rules, series_rules
from pipeline.patching.series_rules import RoleProof
from pipeline.patching.verified_patch import VerifiedPatch

if TYPE_CHECKING:
    from pipeline.patching.patched_trees import Trees
    from pipeline.sources.records import Verified

LARGEST = 32 << 20  # bytes of one patch; the largest known has half a megabyte
_NAMED = "name a regular file that holds the patch; what comes from a program is written to one first"


def verify_patches(line: Line, verified: Mapping[str, Verified]) -> dict[RoleName, list[VerifiedPatch]]:
    """Verify every patch of every role's series by itself. Raises `Refused` for all wrong ones together."""
    found: dict[RoleName, list[VerifiedPatch]] = {role: [] for role in line.data.roles}
    refused = []
    for role, model in line.data.roles.items():
        for name in model.series:
            try:
                found[role].append(_verify(line, role, name, verified))
            except Refused as error:
                refused.append(error)
    raise_together(refused)
    return found


def raise_together(refused: Sequence[Refused]) -> None:
    """Raise the errors as one, if there are any."""
    if refused:
        raise refused[0] if len(refused) == 1 else Refused("\n".join(map(str, refused)))


def _verify(line: Line, role: RoleName, name: str, verified: Mapping[str, Verified]) -> VerifiedPatch:
    model = line.data.patches[name]
    data, origin = _patch_bytes(line, name, model, verified)
    parsed = patch_file.parse(data, name)
    found = role_rules.classify(parsed, line.data.rules)
    if len(line.data.roles[role].series) == 1:
        notes = role_rules.check(name, model, parsed, role, found)
    else:
        notes = series_rules.check_part(name, model, parsed, role, found, line.data.rules[role])
    return VerifiedPatch(
        name, role, model, parsed, found, notes, exclusion.leave_all_out(data, model.leave_out, name), origin
    )


def _patch_bytes(line: Line, name: str, model: Patch, verified: Mapping[str, Verified]) -> tuple[bytes, str]:
    """Return a patch and its origin: a member of a verified source, or a file of the project."""
    if model.source is not None and model.member is not None:
        source = verified[model.source]
        found = archive.read(source.path, {model.member: LARGEST}).get(model.member)
        if found is None:
            raise Refused(f"patch {name}: {source.file} has no {model.member}", where=str(source.path))
        return found, f"{source.file} (sha256 {source.sha256}) from {source.origin}"
    return project_file(line, name, str(model.file))


def project_file(line: Line, name: str, file: str) -> tuple[bytes, str]:
    """Return the patch `name` of ours, and its origin: a file beside one of the line's. Raises `UsageError`."""
    places = [path.parent / file for path in line.files]
    place = next((path for path in places if path.is_file()), None)
    if place is None:
        raise UsageError(f"patch {name}: the file {file} is not there", where=", ".join(map(str, places)))
    return read_patch(place), f"a file of this project, {place}"


def read_patch(path: Path) -> bytes:
    """Read a patch file. Raises `UsageError` for one that cannot be read or has more than `LARGEST` bytes."""
    try:
        return read_limited(path, LARGEST)
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        what = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the patch cannot be read: {what}", where=str(path), hint=_NAMED) from None


def verify_roles(line: Line, trees: Trees) -> dict[RoleName, RoleProof]:
    """Prove each role that has patches of its whole series.

    A series of one patch is that patch; one of several is applied to the tree, since only then it is known what they
    leave together. Raises `Refused` for all wrong series together, and for roles with different TCP option numbers.
    """
    proofs: dict[RoleName, RoleProof] = {}
    refused = []
    for role, series in trees.series.items():
        try:
            if series:
                proofs[role] = _verify_role(role, series, line, trees)
        except Refused as error:
            refused.append(error)
    raise_together(refused)
    role_rules.check_options({proof.title: proof.found for proof in proofs.values()})
    return proofs


def _verify_role(role: RoleName, series: Sequence[VerifiedPatch], line: Line, trees: Trees) -> RoleProof:
    alone = {item.name: item.found for item in series}
    if len(series) == 1:
        return RoleProof(role, alone, series[0].found)
    combined = [patch.combined for patch in trees.report(role).patches]
    stages = [role_rules.classify(change, line.data.rules) for change in combined if change is not None]
    return series_rules.prove_role(role, alone, stages)
