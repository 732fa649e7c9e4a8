"""Prove the role of a patch by its content; its name is only a claim.

Rules come from the line file as data: this module knows roles and rules, not any kernel. The TCP
option number plays no part in finding the role, yet it must be right: with two numbers traffic
flows and the real servers see the wrong address (domain facts, section 3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.config.line_model import ContentRule, Patch, RoleName, Rule
from pipeline.errors import Refused
from pipeline.patching.c_macros import Definition, definitions
from pipeline.patching.patch_file import Kind, PatchFile

NO_CLAIM = "-"
SHOWN = 4  # definitions of one macro
_CLAIMS = (("toa", RoleName.REALSERVER), ("lvs", RoleName.DIRECTOR), ("fullnat", RoleName.DIRECTOR))
_TITLES = {RoleName.DIRECTOR: "LVS-FULLNAT", RoleName.REALSERVER: "TOA"}


@dataclass(frozen=True)
class Clause:
    """One clause of a rule, in words, and whether the patch fulfils it."""

    text: str
    held: bool


@dataclass(frozen=True)
class Option:
    """The TCP option number of one role: the macro, the required number, and each number found."""

    define: str
    expected: int
    found: tuple[Definition, ...]
    within: str = "the patch"  # where lines are counted

    @property
    def numbers(self) -> tuple[int, ...]:
        """The different numbers the patch gives the macro."""
        return tuple(sorted({item.number for item in self.found if item.number is not None}))

    @property
    def unread(self) -> tuple[Definition, ...]:
        """Definitions whose number could not be read."""
        return tuple(item for item in self.found if item.number is None)

    @property
    def right(self) -> bool:
        """Whether the number is known and the required one."""
        return self.numbers == (self.expected,) and not self.unread

    def __str__(self) -> str:
        """Describe the numbers found, and the required one where that differs."""
        if self.right:
            return f"TCP option {self.expected} ({self.define})"
        found = "; ".join(map(self._place, self.found[:SHOWN])) or f"no {self.define} is defined"
        what = "unknown" if self.unread or not self.numbers else " and ".join(map(str, self.numbers))
        return f"TCP option number {what} ({found}), the line wants {self.expected}"

    def _place(self, item: Definition) -> str:
        number = "not to be read" if item.number is None else str(item.number)
        shown = number if item.text == number else f"{item.text or 'empty'}, which is {number}"
        when = f", depends on {item.condition}" if item.condition else ""
        return f"{self.define} in {item.path}, line {item.line} of {self.within}: {shown}{when}"

    def to_json(self) -> dict[str, object]:
        """Return the option as JSON has it; `number` is null for an unknown or ambiguous one."""
        known = self.numbers[0] if len(self.numbers) == 1 and not self.unread else None
        found = [item._asdict() for item in self.found]
        return {"define": self.define, "number": known, "expected": self.expected, "right": self.right, "found": found}


@dataclass(frozen=True)
class Classification:
    """The role that a patch's content proves, or None; `fits` are all roles whose every clause held.

    `by` says which content established the role. `options` holds each role's macro.
    """

    role: RoleName | None
    fits: tuple[RoleName, ...]
    clauses: Mapping[RoleName, tuple[Clause, ...]]
    options: Mapping[RoleName, Option]
    by: str
    depth: tuple[str, int] | None = None  # a path that a rule requires, and the directories before it, if not one

    @property
    def option(self) -> Option | None:
        """The option of the proven role."""
        return self.options[self.role] if self.role else None

    def failed(self, role: RoleName) -> tuple[str, ...]:
        """Return the clauses of `role` that the patch does not fulfil."""
        return tuple(clause.text for clause in self.clauses[role] if not clause.held)


def classify(patch: PatchFile, rules: Mapping[RoleName, Rule]) -> Classification:
    """Check the patch against every role's rule. Refuses nothing: `check` does."""
    found = {role: clauses(patch, rule) for role, rule in rules.items()}
    fits = tuple(role for role, each in found.items() if all(clause.held for clause in each))
    within = "the patched file" if patch.whole_files else "the patch"
    options = {
        r: Option(rule.option_define, rule.option_number, definitions(patch, rule.option_define), within)
        for r, rule in rules.items()
    }
    role = fits[0] if len(fits) == 1 else None
    by = by_content(found[role]) if role else ""
    return Classification(role, fits, found, options, by, None if fits else _other_depth(patch, rules))


def clauses(patch: PatchFile, rule: ContentRule) -> tuple[Clause, ...]:
    """Check what the patch changes against each requirement of `rule`."""
    return tuple(_clauses(patch, rule, b"\n".join(line for _, line in patch.added_lines())))


def by_content(held: Iterable[Clause]) -> str:
    """Describe the content that established what a rule proves."""
    return f"by content: it {'; '.join(clause.text for clause in held)}"


def _other_depth(patch: PatchFile, rules: Mapping[RoleName, Rule]) -> tuple[str, int] | None:
    """Return a file that a rule requires and that the patch names below another number of directories than one."""
    for path in (path for rule in rules.values() for path in rule.must_add):
        if path.encode() not in patch.data:  # most patches: a thousandth of what the pattern costs
            continue
        header = re.search(rb"^\+\+\+ (\S*/)?" + re.escape(path.encode()) + rb"(?=\s)", patch.data, re.MULTILINE)
        depth = (header[1] or b"").count(b"/") if header else 1
        if depth != 1:
            return path, depth
    return None


def claimed(name: str) -> str:
    """Return the role that a file's name claims, `-` for none; directories in the name do not count."""
    base = PurePosixPath(name).name.casefold()
    claims = {role for word, role in _CLAIMS if word in base}
    return claims.pop() if len(claims) == 1 else NO_CLAIM


def check(
    name: str, patch: Patch, parsed: PatchFile, slot: RoleName, classification: Classification
) -> tuple[str, ...]:
    """Refuse a patch that the series of `slot` must not have; return notes for the person.

    `name` is the patch's in the line file. A patch in the wrong role's series comes before a wrong
    digest: it explains more.
    """
    where = patch.member or patch.file or parsed.name
    role = classification.role
    check_not_swapped(name, where, slot, classification)
    check_digest(name, where, patch, parsed)
    if role is None:
        raise no_single_role(f"patch {name}", where, classification)
    if patch.role is not role:
        raise Refused(
            f"patch {name}: declared for the role {patch.role}, its content proves {role}",
            where=where,
            why=classification.by,
            hint=f'set role = "{role}" under [patches.{name}] in series.toml',
        )
    check_option(f"patch {name}", where, role, classification.options[role])
    return notes(name, where, role)


def check_not_swapped(name: str, where: str, slot: RoleName, classification: Classification) -> None:
    """Refuse a patch whose content proves another role than that of its series."""
    if classification.role not in (None, slot):
        raise swapped(f"patch {name}", where, slot, classification.role, classification)


def check_digest(name: str, where: str, patch: Patch, parsed: PatchFile) -> None:
    """Refuse a patch with another digest than the pinned one."""
    if parsed.sha256 != patch.sha256:
        raise Refused(
            f"patch {name}: its SHA-256 is {parsed.sha256}, pinned is {patch.sha256}",
            where=where,
            why="it is not the file that was examined, whatever its name and its role",
            hint=f"fetch it again; if the change is meant, compare both versions and pin it under [patches.{name}]",
        )


def check_options(classifications: Mapping[str, Classification]) -> None:
    """Refuse roles of one line with different TCP option numbers. Keys are patch names."""
    found = {
        name: (item.role, number)
        for name, item in classifications.items()
        if item.option is not None
        for number in item.option.numbers
    }
    if len({number for _, number in found.values()}) > 1:
        listed = ", ".join(f"{name} ({role}): {number}" for name, (role, number) in sorted(found.items()))
        raise Refused(
            f"the roles of this line use different TCP option numbers: {listed}",
            where=", ".join(sorted(found)),
            why="the director would write an option the real servers do not read: traffic flows, and they"
            " see the director's local address",
            hint="take the patches of all roles from one source",
        )


def _clauses(patch: PatchFile, rule: ContentRule, text: bytes) -> Iterator[Clause]:
    kinds = {change.path: change.kind for change in patch.files}
    touched = [path for change in patch.files for path in change.paths]
    for path in rule.must_add:
        held = kinds.get(path) is Kind.ADDED
        but = f" ({kinds[path]} instead)" if path in kinds else ""
        yield Clause(f"adds {path}" if held else f"does not add {path}{but}", held)
    for path in rule.must_touch:
        held = any(is_or_below(found, path) for found in touched)
        yield Clause(f"touches {path}" if held else f"does not touch {path}", held)
    for path in rule.must_not_touch:
        hits = [found for found in touched if is_or_below(found, path)]
        what = f"touches nothing in {path}" if path.endswith("/") else f"does not touch {path}"
        yield Clause(f"touches {hits[0]}, though nothing in {path} may be" if hits else what, not hits)
    for word in rule.must_contain:
        whole = re.compile(rb"(?<!\w)" + re.escape(word.encode()) + rb"(?!\w)")
        held = any(whole.search(line) for _, line in _lines_with(word.encode(), text))
        yield Clause(f"adds {word!r}" if held else f"does not add {word!r}", held)


def is_or_below(path: str, rule: str) -> bool:
    """Return whether `path` is the rule's file, or below the rule's directory (which ends in '/')."""
    return path.startswith(rule) if rule.endswith("/") else path == rule


def _lines_with(word: bytes, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield offset and text of each line with `word`: a search for bytes is far quicker than a pattern."""
    at = data.find(word)
    while at >= 0:
        start, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
        end = len(data) if end < 0 else end
        yield start, data[start:end]
        at = data.find(word, end)


def swapped(title: str, where: str, slot: RoleName, role: RoleName, classification: Classification) -> Refused:
    """Return the error of a patch in the other role's series, with the consequence for the two known roles.

    `title` is the patch, or the series of several.
    """
    consequences = {
        (RoleName.REALSERVER, RoleName.DIRECTOR): (
            "this is the mistake of the best-known guide: its TOA section applies the LVS patch. That applies cleanly,"
            " builds and boots; only then `modprobe toa` fails and the real servers see the director's local address"
        ),
        (RoleName.DIRECTOR, RoleName.REALSERVER): (
            "it applies cleanly, builds and boots; only then `ipvsadm -b` is accepted with exit status 0 and installs"
            " Masq instead of FullNat, and `ipvsadm -P` says 'Protocol not available'"
        ),
    }
    effect = consequences.get((slot, role), "it might well apply, build and boot, and fail only in use")
    claim = claimed(where)
    despite = f", whatever its name claims ({claim})" if claim not in (NO_CLAIM, role) else ""
    return Refused(
        f"{title}: the {_TITLES.get(role, role)} patch is in the {slot}'s series: its content proves the role {role}",
        where=where,
        why=f"{effect}. Role established {classification.by}{despite}",
        hint=f"give [roles.{slot}] the {_TITLES.get(slot, slot)} patch, in its series or as its member in [patches]",
    )


def no_single_role(title: str, where: str, classification: Classification) -> Refused:
    """Return the error of content that fits no role, or several, with each failed clause."""
    if classification.fits:
        return Refused(
            f"{title}: its content fits the rules of several roles: {', '.join(classification.fits)}",
            where=where,
            why="a kernel has one role; rules that do not tell roles apart prove nothing",
            hint="split the patch, or sharpen must-not-touch under [rules] in series.toml",
        )
    if classification.depth is not None:
        return wrong_depth(f"{title}: its content fits the rules of no role", where, *classification.depth)
    reasons = "\n".join(f"  not {role}: it {'; '.join(classification.failed(role))}" for role in classification.clauses)
    return Refused(
        f"{title}: its content fits the rules of no role\n{reasons}".rstrip(),
        where=where,
        why="what a kernel is for must be proven by what its patch contains",
        hint="is it the right file? [rules] in series.toml says what each role's patch must contain",
    )


def wrong_depth(what: str, where: str, path: str, depth: int) -> Refused:
    """Return the error of a patch that names `path` below another number of directories than one."""
    return Refused(
        f"{what}: its paths are those of patch -p{depth}, and only -p1 is read",
        where=where,
        why=f"it names {path} with {depth} directories before it, not with one such as a/ or b/",
        hint="have it made with git diff, or with diff -uprN OLD NEW beside both trees",
    )


def check_option(title: str, where: str, role: RoleName, option: Option) -> None:
    """Refuse a patch or series without the line's number of the role's option macro."""
    silent = "director and real servers must agree on it; if not, traffic flows and the servers see the local address"
    if not option.numbers or option.unread:
        shown = f": {option}" if option.found else ""
        raise Refused(
            f"{title}: it does not define {option.define}, the {role}'s TCP option number, as a number{shown}",
            where=where,
            why=silent,
            hint=f"set option-define under [rules.{role}] to the macro the patch uses",
        )
    if not option.right:
        other = next(item for item in option.found if item.number != option.expected)
        raise Refused(
            f"{title}: TCP option number {other.number} ({option.define} in {other.path}, line {other.line} of"
            f" {option.within}), the line's {role} uses {option.expected}",
            where=where,
            why=silent,
            hint="take both patches from one source, or change option-number of both [rules] together",
        )


def notes(name: str, where: str, role: RoleName) -> tuple[str, ...]:
    """Return notes where a file's name claims another role than its content proves."""
    claim = claimed(where)
    if claim in (NO_CLAIM, role):
        return ()
    return (f"patch {name}: the file's name claims {claim}, its content proves {role}; content decides",)
