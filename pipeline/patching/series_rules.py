"""Prove a role of a whole series of patches, and check the part that each patch has in it.

Checks the rules of the roles on the changes of the whole series. Each single patch must have its
pinned digest, must not touch what its role's rule forbids, must not be another role's patch, and must not take away
what an earlier one established. Applies nothing and reads no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pipeline.config.line_model import Patch, RoleName, Rule
from pipeline.errors import Refused
from pipeline.patching import role_rules
from pipeline.patching.patch_file import PatchFile
from pipeline.patching.role_rules import Classification, is_or_below


@dataclass(frozen=True)
class RoleProof:
    """How one role was proven: what each patch of its series proves by itself, and what the whole series does."""

    role: RoleName
    alone: Mapping[str, Classification]
    found: Classification

    @property
    def patch(self) -> str:
        """The first patch that proves the role by itself; empty where only the series does."""
        return next((name for name, found in self.alone.items() if found.role is self.role), "")

    @property
    def proven_by(self) -> str:
        """The patch that proves the role alone, or the series."""
        return self.patch or f"the series of {len(self.alone)} patches"

    @property
    def title(self) -> str:
        """The only patch, or the series by the names of its patches."""
        return " + ".join(self.alone)

    def to_json(self) -> dict[str, object]:
        """Return what evidence keeps."""
        option = self.found.option
        return {
            "role_found": self.found.role,
            "proven_by": self.proven_by,
            "found_by": self.found.by,
            "option_number": option.numbers if option else (),
        }


def check_part(
    name: str, patch: Patch, parsed: PatchFile, role: RoleName, alone: Classification, rule: Rule
) -> tuple[str, ...]:
    """Refuse one of several patches that must not be in the series of `role`; return notes for the person.

    `name` is the patch's in the line file, `rule` its role's, `alone` what the patch proves by itself.
    """
    where = patch.member or patch.file or parsed.name
    role_rules.check_not_swapped(name, where, role, alone)
    role_rules.check_digest(name, where, patch, parsed)
    if patch.role is not role:
        raise Refused(
            f"patch {name}: declared for the role {patch.role}, but it is in the {role}'s series",
            where=where,
            why="each role has its own kernel, and a patch of the other role may apply and build all the same",
            hint=f'take {name} out of [roles.{role}] series, or set role = "{role}" under [patches.{name}]',
        )
    for path, forbidden in _forbidden(parsed, rule):
        raise Refused(
            f"patch {name}: it touches {path}; no patch of the {role}'s series may touch {forbidden}",
            where=where,
            why=f"what the rules forbid a {role} is forbidden to each of its patches, even if a later one undoes it",
            hint=f"take {name} out of [roles.{role}] series, or split what touches {forbidden} from it",
        )
    return role_rules.notes(name, where, role)


def _forbidden(parsed: PatchFile, rule: Rule) -> Iterator[tuple[str, str]]:
    for path in (path for change in parsed.files for path in change.paths):
        for forbidden in rule.must_not_touch:
            if is_or_below(path, forbidden):
                yield path, forbidden


def prove_role(role: RoleName, alone: Mapping[str, Classification], stages: Sequence[Classification]) -> RoleProof:
    """Prove the role of a series of several patches.

    `stages` has one classification per patch: of what the series does up to and including that patch. Raises `Refused`
    naming the patch that undoes what an earlier one established, or the series that does not prove the role.
    """
    names = tuple(alone)
    for at in range(1, len(stages)):
        _check_kept(role, names, stages, at)
    title = " + ".join(names)
    final = stages[-1]
    if final.role is None:
        raise role_rules.no_single_role(f"series {title}", title, final)
    if final.role is not role:
        raise role_rules.swapped(f"series {title}", title, role, final.role, final)
    role_rules.check_option(f"series {title}", title, role, final.options[role])
    return RoleProof(role, alone, final)


def _check_kept(role: RoleName, names: Sequence[str], stages: Sequence[Classification], at: int) -> None:
    """Refuse patch number `at` (from 0) when a clause of the role, or its option number, held before it only."""
    name, after = names[at], stages[at]
    for number, clause in enumerate(after.clauses[role]):
        if not clause.held and stages[at - 1].clauses[role][number].held:
            since = _since(partial(_held, role, number), stages, at)
            raise _undone(name, role, names[since], f"with it, the series {clause.text}")
    if stages[at - 1].options[role].right and not after.options[role].right:
        since = _since(lambda classified: classified.options[role].right, stages, at)
        before, now = stages[at - 1].options[role], after.options[role]
        raise _undone(name, role, names[since], f"before it {before}, with it {now}")


def _held(role: RoleName, number: int, classified: Classification) -> bool:
    return classified.clauses[role][number].held


def _since(held: Callable[[Classification], bool], stages: Sequence[Classification], at: int) -> int:
    """Return the patch with which a clause that held just before patch `at` began to hold."""
    since = at - 1
    while since and held(stages[since - 1]):
        since -= 1
    return since


def _undone(name: str, role: RoleName, earlier: str, what: str) -> Refused:
    return Refused(
        f"patch {name}: it undoes what {earlier} established for the {role}: {what}",
        where=name,
        why="a role is proven of the series as a whole, and no later patch may take the proof away",
        hint=f"take {name} out of [roles.{role}] series, or compare it: ./inv patches --diff OLD NEW",
    )
