"""Link the findings of an audit with the parts of its page that they are about, and back.

Names are a stranger's, so the id of a part is its kind and a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.audit.findings import Finding

STEP, SERIES, PROOF, PART = "step", "series", "proof", "part"
FACTS, FLOWS, PATCHES, ROLES, BILL = "facts", "flows", "patches", "roles", "bill"  # whole sections
# By check: the kind of part that its subject names, and the section where none has that name.
_PLACES = {
    "package": (PART, BILL),
    "subject": (PART, BILL),
    "source": (PART, BILL),
    "statement": (STEP, FLOWS),
    "recipe": (STEP, FLOWS),
    "patches": (SERIES, PATCHES),
    "role": (PROOF, ROLES),
    "interface": (PROOF, ROLES),
    "configuration": (PROOF, ROLES),
    "option number": (PROOF, ROLES),
}


def finding_id(number: int) -> str:
    """Return the id of a finding by its place in the audit's order."""
    return f"finding-{number}"


@dataclass
class Links:
    """The parts of a page: ids by kind and name, and the sections that it has."""

    sections: set[str] = field(default_factory=lambda: {FACTS})
    _ids: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, kind: str, name: str, section: str) -> str:
        """Return the id of a new part; of two with one name findings lead to the first."""
        self.sections.add(section)
        made = f"{kind}-{len(self._ids)}"
        key = (kind, name) if (kind, name) not in self._ids else (kind, f"{name}\0{made}")
        self._ids[key] = made
        return made

    def target(self, row: Finding) -> str:
        """Return the id of what a finding is about; a section's where it is about no single part of it."""
        kind, section = _PLACES.get(row.check, ("", FACTS))
        return self._ids.get((kind, row.subject)) or (section if section in self.sections else FACTS)

    def back(self, findings: Sequence[Finding]) -> dict[str, list[tuple[int, Finding]]]:
        """Return the findings about each part, or section, with their places in the audit's order."""
        found: dict[str, list[tuple[int, Finding]]] = {}
        for number, row in enumerate(findings):
            found.setdefault(self.target(row), []).append((number, row))
        return found
