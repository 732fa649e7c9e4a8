"""Define a patch whose content was verified: what recipes and trees are given. Verifies nothing by itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pipeline.config.line_model import Patch, RoleName
from pipeline.patching import patch_file, role_rules


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
