"""Join CVE records with the compiled sources of a line's kernel, and with the files that the line's patches change.

For a kernel of upstream's, version ranges and compiled files decide, and each verdict says why. For a vendor's kernel,
whose version says nothing about the fixes in it, only the vendor's own changelog counts: what it does not name is not
known here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pipeline.audit.cve_records import CveRecord, RecordSet, Skipped, Status, numbers, order

_CVE = re.compile(r"\bCVE-\d{4}-\d{4,19}\b")
# An entry of a vendor's changelog, `- [area] title (author) [numbers] {CVE-...}`, that may take an older one back.
_ENTRY = re.compile(
    r"- (?P<before>Revert: )?(?P<area>\[[^]]*\] )?(?P<revert>Revert:? )?\"?(?P<title>.*?)\"?"
    r"(?: \([^()]*\))?(?: \[[\d ]*\])?(?: \{[^}]*\})?"
)


class Verdict(StrEnum):
    """The meaning of a record for a kernel."""

    CONCERNS = "concerns"
    UNDECIDED = "undecided"
    NOISE = "noise"
    CLAIMED_FIXED = "claimed-fixed"
    NOT_CLAIMED = "not-claimed"


@dataclass(frozen=True)
class OurHunks:
    """The hunks of one of the line's patches in one file, by their numbers in it."""

    role: str
    patch: str
    path: str
    hunks: tuple[int, ...]


@dataclass(frozen=True)
class KernelBuild:
    """The kernel that records are joined with. `steps` with their keys are the builds whose sources count.

    `compiled` are the paths that any of them compiled. `tree` are all paths of the pristine source, and `patches` the
    line's hunks by path: None where unknown. `claims` are what the vendor's changelog claims fixed, None for an
    upstream kernel; `reverted` what it claimed and took back.
    """

    line: str
    version: str
    uname: str
    steps: Mapping[str, str]
    compiled: frozenset[str]
    tree: frozenset[str] | None
    patches: Mapping[str, tuple[OurHunks, ...]] | None
    claims: frozenset[str] | None
    reverted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Finding:
    """A record's verdict, and why. `compiled` are those of its files that the kernel was compiled from."""

    id: str
    verdict: Verdict
    why: str
    title: str
    files: tuple[str, ...]
    compiled: tuple[str, ...]
    fixes: tuple[str, ...]
    hunks: tuple[OurHunks, ...]


@dataclass(frozen=True)
class CveReport:
    """All verdicts about one kernel. `others` records are of other products; `notes` say what could not be known.

    `claims` are all that the vendor's changelog claims fixed, whether a record is there or not, and `reverted` all that
    it took back.
    """

    line: str
    version: str
    uname: str
    steps: Mapping[str, str]
    compiled: int
    vendor: bool
    claims: tuple[str, ...]
    reverted: tuple[str, ...]
    counts: Mapping[str, int]
    findings: tuple[Finding, ...]
    others: int
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


def claimed(changelog: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return what a vendor's changelog claims fixed, and what it claimed before it reverted the change.

    The newest entry comes first. A later entry can claim what was reverted again; the revert of a change that names
    nothing, such as a mistake, may be the fix itself.
    """
    claims, reverted, titles = set[str](), set[str](), dict[str, frozenset[str]]()
    for line in reversed(changelog.splitlines()):
        named, match = frozenset(_CVE.findall(line)), _ENTRY.fullmatch(line)
        title = f"{match['area'] or ''}{match['title']}" if match else ""
        taken_back = titles.get(title, frozenset()) if match and (match["before"] or match["revert"]) else frozenset()
        claims = claims - taken_back | named - taken_back
        reverted = reverted - named | taken_back
        if match and not taken_back:
            titles[title] = named
    return frozenset(claims), frozenset(reverted)


def report(found: RecordSet, build: KernelBuild, notes: Sequence[str]) -> CveReport:
    """Judge every record."""
    findings = tuple(judge(record, build) for record in found.records)
    return CveReport(
        build.line,
        build.version,
        build.uname,
        build.steps,
        len(build.compiled),
        build.claims is not None,
        tuple(sorted(build.claims or (), key=order)),
        tuple(sorted(build.reverted, key=order)),
        dict(sorted(Counter(finding.verdict.value for finding in findings).items())),
        findings,
        found.others,
        found.skipped,
        tuple(notes),
    )


def judge(record: CveRecord, build: KernelBuild) -> Finding:
    """Judge one record."""
    version = numbers(build.version)
    compiled = tuple(path for path in record.files if path in build.compiled)
    decide = _of_upstream if build.claims is None else _of_vendor
    verdict, why = (Verdict.NOISE, record.rejected) if record.rejected else decide(record, build, compiled)
    hunks = tuple(row for path in record.files for row in (build.patches or {}).get(path, ()))
    fixes = record.fixes(version) if verdict in (Verdict.CONCERNS, Verdict.UNDECIDED) else ()
    return Finding(record.id, verdict, why, record.title, record.files, compiled, fixes, hunks)


def _of_upstream(record: CveRecord, build: KernelBuild, compiled: Sequence[str]) -> tuple[Verdict, str]:
    version = numbers(build.version)
    status = record.status(version)
    if status is Status.UNAFFECTED:
        return Verdict.NOISE, record.why_unaffected(version)
    absent = [path for path in record.files if build.tree is not None and path not in build.tree]
    if record.files and not compiled and build.tree is not None and not absent:
        return Verdict.NOISE, "none of its files was compiled"
    if status is Status.UNKNOWN:
        return Verdict.UNDECIDED, "it has no range of versions"
    if not record.files:
        return Verdict.UNDECIDED, "it names no files"
    if compiled:
        branch = ".".join(map(str, version[:2]))
        fix = next((fix for fix in record.fixes(version) if numbers(fix)[:2] == version[:2]), "")
        why = f"fixed in {fix}" if fix else f"no fix in {branch}"
        only_headers = all(path.endswith(".h") for path in compiled)
        return Verdict.CONCERNS, f"{why}; only headers" if only_headers else why
    if build.tree is None:
        return Verdict.UNDECIDED, "none of its files was compiled, but the source's own names are not known"
    return Verdict.UNDECIDED, f"this source has no {absent[0]}: it may have another name here"


def _of_vendor(record: CveRecord, build: KernelBuild, compiled: Sequence[str]) -> tuple[Verdict, str]:
    if record.id in (build.claims or ()):
        return Verdict.CLAIMED_FIXED, "the vendor's changelog names it"
    if record.id in build.reverted:
        return Verdict.NOT_CLAIMED, "the vendor's changelog reverts the change that it named it for"
    return Verdict.NOT_CLAIMED, "the vendor's changelog does not name it: neither fixed nor affected is known"
