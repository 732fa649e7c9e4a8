"""Verify the patches of a line's series, and apply each series to the line's kernel tree.

A patch is known by its digest and by what it touches; a role is proven of its whole series
(`series_rules`). Prints nothing: `pipeline.commands.patches` does.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.context import RunContext
from pipeline.config.line_checks import required
from pipeline.config.line_model import Line, Patch, RoleName
from pipeline.core.fs import read_limited, scratch
from pipeline.errors import Refused, UsageError
from pipeline.formats import archive
from pipeline.patching import apply, exclusion, patch_file, role_rules, series_rules
from pipeline.patching.series_rules import RoleProof
from pipeline.sources import kernel_tree
from pipeline.sources.resolver import Sources, Verified

LARGEST = 32 << 20  # bytes of one patch; the largest known has half a megabyte
_NAMED = "name a regular file that holds the patch; what comes from a program is written to one first"


@dataclass(frozen=True)
class VerifiedPatch:
    """A patch of one role's series with the pinned digest; `data` is what is applied.

    `found` is what its content proves by itself: of a series of several patches that may be no role.
    """

    name: str
    role: RoleName
    model: Patch
    parsed: patch_file.PatchFile
    found: role_rules.Classification
    notes: tuple[str, ...]
    data: bytes
    origin: str

    @property
    def where(self) -> str:
        """The archive's member, or the project's own file."""
        return str(self.model.member or self.model.file)

    @property
    def claim(self) -> str:
        """The role that its name claims."""
        return role_rules.claimed(self.where)

    def to_json(self) -> dict[str, object]:
        """Return what evidence keeps; `role_found` is null for a patch that proves no role by itself."""
        return {
            "patch": self.name,
            "role": self.role,
            "sha256": self.parsed.sha256,
            "patch_id": self.parsed.patch_id,
            "member": self.where,
            "origin": self.origin,
            "role_claimed_by_name": self.claim,
            "role_found": self.found.role,
            "found_by": self.found.by,
            "option_number": self.found.option.numbers if self.found.option else (),
            "files": len(self.parsed.files),
            "hunks": self.parsed.hunks,
            "added": self.parsed.added,
            "removed": self.parsed.removed,
            "blank_lines_restored": self.parsed.restored,
            "left_out": [rule.model_dump(mode="json", by_alias=True) for rule in self.model.leave_out],
            "applied_sha256": hashlib.sha256(self.data).hexdigest(),
            "notes": self.notes,
        }


def verify_patches(line: Line, verified: Mapping[str, Verified]) -> list[VerifiedPatch]:
    """Verify every patch of every series by itself. Raises `Refused` for all wrong ones together."""
    found, refused = [], []
    for role, model in line.data.roles.items():
        for name in model.series:
            try:
                found.append(_verify(line, role, name, verified))
            except Refused as error:
                refused.append(error)
    _raise_together(refused)
    return found


def _raise_together(refused: Sequence[Refused]) -> None:
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
    file = str(model.file)
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


def of_role(patches: Sequence[VerifiedPatch], role: RoleName) -> list[VerifiedPatch]:
    """Return the patches of one role's series, in order."""
    return [item for item in patches if item.role is role]


@dataclass
class Trees:
    """Each role's series, applied once to a scratch copy of the line's tree when first requested."""

    line: Line
    patches: Sequence[VerifiedPatch]
    verified: Mapping[str, Verified]
    context: RunContext

    def __post_init__(self) -> None:
        self._pristine: kernel_tree.Pristine | None = None
        self._applied: dict[RoleName, apply.SeriesReport] = {}
        self._known: dict[RoleName, apply.Proof] = {}
        self._lock = threading.RLock()  # steps run beside each other

    def pristine(self) -> kernel_tree.Pristine:
        """Return the line's unpatched tree, with every file that any series touches."""
        with self._lock:
            if self._pristine is None:
                source = required(self.line.data.kernel_source, "kernel-source")
                touched = {path for item in self.patches for change in item.parsed.files for path in change.paths}
                sources = Sources(self.line, self.context.settings, self.context.console)
                self._pristine = kernel_tree.pristine(sources, self.verified[source], touched, self.context.console)
            return self._pristine

    def report(self, role: RoleName) -> apply.SeriesReport:
        """Apply one role's series. Raises `Refused` for a patch that does not apply to what earlier ones left."""
        with self._lock:
            if role not in self._applied:
                series = [(item.name, item.data) for item in of_role(self.patches, role)]
                with scratch(self.context.settings.artifacts / "scratch", "series-") as directory:
                    self._applied[role] = apply.apply_series(self.pristine().files, series, directory / "tree")
            return self._applied[role]

    def of(self, role: RoleName) -> apply.Proof:
        """Return the tree of one role. Raises `Refused` for a series with another effect than recorded."""
        with self._lock:
            if role not in self._known:
                effects = {item.name: item.model.effect for item in of_role(self.patches, role)}
                self._known[role] = apply.prove_series(self.report(role), self.pristine().listing, effects)
            return self._known[role]


def verify_roles(line: Line, patches: Sequence[VerifiedPatch], trees: Trees) -> dict[RoleName, RoleProof]:
    """Prove each role that has patches of its whole series.

    A series of one patch is that patch; one of several is applied to the tree, since only then it is known what they
    leave together. Raises `Refused` for all wrong series together, and for roles with different TCP option numbers.
    """
    proofs: dict[RoleName, RoleProof] = {}
    refused = []
    for role in line.data.roles:
        series = of_role(patches, role)
        try:
            if series:
                proofs[role] = _verify_role(role, series, line, trees)
        except Refused as error:
            refused.append(error)
    _raise_together(refused)
    role_rules.check_options({proof.title: proof.found for proof in proofs.values()})
    return proofs


def _verify_role(role: RoleName, series: Sequence[VerifiedPatch], line: Line, trees: Trees) -> RoleProof:
    alone = {item.name: item.found for item in series}
    if len(series) == 1:
        return RoleProof(role, alone, series[0].found)
    combined = [patch.combined for patch in trees.report(role).patches]
    stages = [role_rules.classify(change, line.data.rules) for change in combined if change is not None]
    return series_rules.prove_role(role, alone, stages)
