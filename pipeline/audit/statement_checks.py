"""Check the statements about a snapshot: signed, complete, about these packages, and as the policy wants them.

Reads what is embedded in them, no checkout and no git.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.audit import dsse, embedded_files, expected_parts, publication_checks, statement
from pipeline.audit.embedded_files import EmbeddedFiles
from pipeline.audit.findings import Findings
from pipeline.audit.snapshot_checks import Audited
from pipeline.audit.statement import Kind, Resource, Statement
from pipeline.core import documents
from pipeline.core.fs import read_limited
from pipeline.errors import Refused
from pipeline.packaging.compiled_sources import CompiledSources
from pipeline.packaging.graph import key_of
from pipeline.publish import attestation_key
from pipeline.publish.layout import HOST_KEYS, PUBLISH, statement_name
from pipeline.publish.snapshot import attestations

if TYPE_CHECKING:
    from pipeline.audit.policy import CompilerCache, LinePolicy, PolicyFile

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_CHECK = "statement"
_REMOTE_CACHE = "--ccache-remote"
_CACHES: Mapping[CompilerCache, str] = {
    "own": "the compiler cache of the host that built them",
    "remote": "a compiler cache that another host may have filled",
}


@dataclass(frozen=True)
class Stated:
    """A verified statement, the digest of its envelope, and the files that it embeds."""

    step: str
    statement: Statement
    sha256: str
    files: EmbeddedFiles

    @property
    def file(self) -> str:
        """The name of its file."""
        return statement_name(self.step)

    def found(self, kind: Kind) -> list[Resource]:
        """Return the materials and by-products of a kind."""
        return self.statement.predicate.found(kind)

    @property
    def inputs(self) -> Mapping[str, str]:
        """The inputs of the step's key."""
        return self.statement.predicate.buildDefinition.internalParameters.inputs

    @cached_property
    def compiled(self) -> CompiledSources | None:
        """The files that the step compiled; None where it states none. Raises `Refused` for a damaged list."""
        try:
            found = [documents.parse(CompiledSources, resource.data) for resource in self.found(Kind.COMPILED)]
        except ValueError as error:
            what = f"{self.file}: its compiled sources cannot be read: {error}"
            raise Refused(what, hint="`./inv audit SNAPSHOT` names everything that is wrong") from None
        return found[0] if found else None


def check(audited: Audited, policy: PolicyFile, findings: Findings) -> dict[str, Stated]:
    """Check all statements of a snapshot; return the verified ones by step."""
    if audited.pem is None:
        return {}
    place = attestations(audited.path)
    stated = _verified(place, _Keys(audited.pem, policy.policy.keys.attestation), findings)
    accepted = _of_line(audited, policy)
    checks: Mapping[str, Callable[[], None]] = {
        _CHECK: lambda: _check_statements(audited, place, stated, findings),
        "subject": lambda: _check_subjects(audited, stated, findings),
        "recipe": lambda: _check_recipe(stated, policy, findings),
        "compiler cache": lambda: _check_caches(stated, policy, findings),
        "source": lambda: _check_sources(stated, accepted, findings),
        "patches": lambda: _check_patches(stated, accepted, findings),
    }
    for name, check_it in checks.items():
        with findings.failing(name, "all"):
            check_it()
    return stated


def read_all(audited: Audited) -> dict[str, Stated]:
    """Return the statements of a snapshot by step. Raises `Refused` for one that the snapshot's key did not sign."""
    place, findings = attestations(audited.path), Findings()
    found = _verified(place, _Keys(audited.pem), findings) if audited.pem else {}
    if findings.rows or not found:
        what = findings.rows[0] if findings.rows else None
        raise Refused(
            f"{what.subject}: {what.reason}" if what else f"{place}: no statements; expected those of the steps",
            where=str(place),
            why="what a statement says counts when the snapshot's attestation key signed it",
            hint="`./inv audit SNAPSHOT` names everything that is wrong",
        )
    return found


def _of_line(audited: Audited, policy: PolicyFile) -> LinePolicy:
    from pipeline.audit.policy import LinePolicy

    return (policy.policy.lines or {}).get(audited.document.line, LinePolicy())


@dataclass(frozen=True)
class _Keys:
    """The keys that statements may be signed with: the snapshot's own, and those of hosts whose steps were taken.

    The latter lie beside the statements. Only those count that a policy accepts, where it names any, for statements
    that the publication's own lists by digest.
    """

    own: bytes
    accepted: tuple[str, ...] = ()

    def verify(self, envelope: bytes, place: Path, listed: Collection[str]) -> bytes:
        """Return the payload of an envelope. Raises `ValueError` and `OSError`."""
        signers = dsse.key_ids(envelope)
        if signers == [attestation_key.key_id(self.own)] or hashlib.sha256(envelope).hexdigest() not in listed:
            return dsse.verify(envelope, self.own)
        if self.accepted and not set(signers) <= set(self.accepted):
            raise ValueError(f"signed with the key {', '.join(signers)}, which the policy does not accept")
        for pem in attestation_key.trusted(place / HOST_KEYS).values() if (place / HOST_KEYS).is_dir() else ():
            if signers == [attestation_key.key_id(pem)]:
                return dsse.verify(envelope, pem)
        return dsse.verify(envelope, self.own)


def _verified(place: Path, keys: _Keys, findings: Findings) -> dict[str, Stated]:
    """Return the statements whose signature is by one of the `keys`; record what is wrong with the others."""
    found: dict[str, Stated] = {}
    files = sorted(path for path in place.iterdir() if path.name != HOST_KEYS) if place.is_dir() else []
    published = statement_name(PUBLISH)
    for path in sorted(files, key=lambda path: path.name != published):  # it lists the others
        with findings.failing(_CHECK, path.name):
            data = read_limited(path, documents.MOST)
            listed = {r.digest.get("sha256", "") for r in found[PUBLISH].found(Kind.STEP)} if PUBLISH in found else ()
            read = statement.parse(keys.verify(data, place, listed))
            step = read.predicate.buildDefinition.externalParameters.step
            if path.name != statement_name(step):
                raise ValueError(f"it is about the step {step}; expected that in a file {statement_name(step)}")
            found[step] = Stated(step, read, hashlib.sha256(data).hexdigest(), embedded_files.of(read.predicate))
    return {step: found[step] for step in sorted(found, key=statement_name)}


def _check_statements(audited: Audited, place: Path, stated: Mapping[str, Stated], findings: Findings) -> None:
    """Check that each step has its statement, and each statement all that it must say, without a contradiction."""
    makers = {step for row in audited.document.packages.values() for step in row.steps}
    for step in sorted({PUBLISH, *makers} - stated.keys()):
        if not (place / statement_name(step)).exists():
            findings.fail(
                _CHECK, statement_name(step), f"missing from {place}: how the step {step} was executed is unknown"
            )
    for step in sorted(stated.keys() - {PUBLISH, *makers}):
        findings.fail(_CHECK, statement_name(step), "surplus: no package of this snapshot is of this step")
    others = {step: each.statement for step, each in stated.items()}
    for each in stated.values():
        with findings.failing(_CHECK, each.file):
            _ = each.compiled  # it can be read
            lacking = expected_parts.missing(each.statement, each.files, others, makers)
            problems = [
                *_own_problems(each),
                *(f"a part is missing: {what}" for what in lacking),
                *_problems_of_step(audited, each),
                *_link_problems(each, stated),
            ]
            for problem in problems:
                findings.fail(_CHECK, each.file, problem)
            if not problems:
                findings.good(_CHECK, each.file, "signed; its key, inputs, materials and subjects agree")


def _own_problems(stated: Stated) -> Iterator[str]:
    """Yield what in a statement contradicts itself: its key, and dependencies left out."""
    definition = stated.statement.predicate.buildDefinition
    actual = key_of(stated.inputs)
    if actual != definition.internalParameters.key:
        yield f"its inputs give the key {actual}; expected the stated {definition.internalParameters.key}"
    for digest, why in sorted(_required(stated).items()):
        yield f"a dependency is missing: {digest}, {why}"


def _required(stated: Stated) -> dict[str, str]:
    """Return the digests and keys that the step's inputs name and no dependency has."""
    known = {resource.digest.get("sha256", "") for kind in (Kind.SOURCE, Kind.PATCH) for resource in stated.found(kind)}
    patches = [resource.facts(statement.PatchFacts) for resource in stated.found(Kind.PATCH)]
    known |= {patch.applied_sha256 for patch in patches}
    known |= {left.sha256_after for patch in patches for left in patch.left_out}
    declared = stated.files.pins
    wanted = {}
    for name, value in stated.inputs.items():
        for digest in _DIGEST.findall(value):
            if name in ("source", "sources", "patches") or digest in declared:
                wanted[digest] = declared.get(digest) or f"of its input {name}"
    steps = {r.name: r.facts(statement.StepFacts).key for r in stated.found(Kind.STEP)}
    keys = {name.removeprefix("step "): key for name, key in stated.inputs.items() if name.startswith("step ")}
    wanted |= {key: f"the step {name}" for name, key in keys.items() if steps.get(name) != key}
    images = {resource.facts(statement.ImageFacts).key for resource in stated.found(Kind.IMAGE)}
    if (image := stated.inputs.get("image", "")) and image not in images:
        wanted[image] = "the builder image"
    return {digest: why for digest, why in wanted.items() if digest not in known}


def _problems_of_step(audited: Audited, stated: Stated) -> Iterator[str]:
    """Yield how the statement is about another line, or another run than the one that snapshot.json lists."""
    line = stated.statement.predicate.buildDefinition.externalParameters.line.name
    if line != audited.document.line:
        yield f"it is about the line {line}; expected {audited.document.line}"
    key = stated.statement.predicate.buildDefinition.internalParameters.key
    listed = {
        listed_key
        for row in audited.document.packages.values()
        for step, listed_key in zip(row.steps, row.keys, strict=True)
        if step == stated.step
    }
    if listed and listed != {key}:
        yield f"it is about the execution {key}; expected {', '.join(sorted(listed))}, as snapshot.json lists"


def _link_problems(stated: Stated, all_of_them: Mapping[str, Stated]) -> Iterator[str]:
    """Yield the steps whose output was used and whose statement here is another one."""
    for resource in stated.found(Kind.STEP):
        other, digest = all_of_them.get(resource.name), resource.digest.get("sha256")
        if other is not None and other.sha256 != digest:
            yield f"it used the step {resource.name} as {digest} states it; expected {other.sha256}, the statement here"


def _check_subjects(audited: Audited, stated: Mapping[str, Stated], findings: Findings) -> None:
    """Check that each package is a subject of the statements of its steps and of the publication."""
    for file, row in audited.document.packages.items():
        problems = []
        published = _digests(stated.get(PUBLISH))
        if PUBLISH in stated and (published.get(file), published.get(f"{file}#body")) != (row.sha256, row.body_sha256):
            problems.append(f"{statement_name(PUBLISH)} is about another package of this name")
        for step in row.steps:
            made = {Path(name).name: digest for name, digest in _digests(stated.get(step)).items()}
            if step in stated and (made.get(file), made.get(f"{file}#body")) != (row.unsigned_sha256, row.body_sha256):
                problems.append(f"{statement_name(step)} is not about this package")
        found = {PUBLISH, *row.steps} <= stated.keys()
        if problems or found:
            findings.require("subject", file, "; ".join(problems), f"made by {', '.join(row.steps)}, by its statement")
    if PUBLISH in stated:
        publication_checks.check(audited, _digests(stated[PUBLISH]), findings)


def _digests(stated: Stated | None) -> dict[str, str]:
    return {r.name: r.digest.get("sha256", "") for r in stated.statement.subject} if stated else {}


def _check_recipe(stated: Mapping[str, Stated], policy: PolicyFile, findings: Findings) -> None:
    recipes = [resource.facts(statement.RecipeFacts) for _, resource in _all(stated, Kind.RECIPE)]
    for commit, dirty in sorted({(recipe.commit, recipe.dirty) for recipe in recipes}):
        if not commit:
            findings.warn("recipe", "unknown", "from a copy without git: no commit is known")
        elif dirty and not policy.policy.dirty:
            record = findings.warn if policy.is_default else findings.fail
            record("recipe", commit, "from a checkout with changes that no commit has")
        else:
            findings.good(
                "recipe", commit, "from a checkout with changes, which the policy accepts" if dirty else "no changes"
            )


def _check_caches(stated: Mapping[str, Stated], policy: PolicyFile, findings: Findings) -> None:
    """Check whose compiler caches gave object files to the steps: who fills one can put code into what is built."""
    found: dict[CompilerCache, list[str]] = {}
    for step, each in stated.items():
        definition = each.statement.predicate.buildDefinition
        (facts,) = (resource.facts(statement.RunFacts) for resource in each.found(Kind.FACTS))
        if not definition.internalParameters.compiler_cache or not facts.compilations or not facts.cache_hits:
            continue
        remote = any(word.startswith(_REMOTE_CACHE) for word in definition.externalParameters.options)
        found.setdefault("remote" if remote else "own", []).append(step)
    if not found:
        findings.good("compiler cache", "none", "every file was compiled for these packages")
    accepted = policy.policy.compiler_cache
    for cache, steps in found.items():
        reason = f"{', '.join(steps)}: object files may be out of {_CACHES[cache]}"
        if accepted is not None and accepted not in ("remote", cache):
            findings.fail("compiler cache", cache, f"{reason}; the policy accepts {_CACHES.get(accepted, 'no cache')}")
        elif accepted is None and cache == "remote":
            findings.warn("compiler cache", cache, f"{reason}, and no policy says whether to accept that")
        else:
            findings.good("compiler cache", cache, reason)


def _check_sources(stated: Mapping[str, Stated], accepted: LinePolicy, findings: Findings) -> None:
    """Check that each source is pinned by an embedded file or a signed index, and is the policy's."""
    found: dict[tuple[str, str], list[tuple[Stated, Resource]]] = {}
    for each, resource in _all(stated, Kind.SOURCE):
        found.setdefault((resource.name, resource.digest["sha256"]), []).append((each, resource))
    for (name, digest), rows in sorted(found.items()):
        facts = [resource.facts(statement.SourceFacts) for _, resource in rows]
        pins = [
            each.files.pins.get(digest) or ("a signed index of Debian" if fact.pin.indexes else "")
            for (each, _), fact in zip(rows, facts, strict=True)
        ]
        if accepted.sources is not None and accepted.sources.get(name) != digest:
            known = accepted.sources.get(name)
            findings.fail("source", name, f"{digest}; the policy accepts {known or 'no source of this name'}")
        else:
            reason = f"{digest}: {pins[0]}, {facts[0].how}"
            findings.require("source", name, "" if all(pins) else f"{digest}: pinned by no embedded file", reason)
    if accepted.sources is None and found:
        findings.warn("source", "all", "no policy names the accepted sources")


def _check_patches(stated: Mapping[str, Stated], accepted: LinePolicy, findings: Findings) -> None:
    """Check that each series is pinned by the embedded files, applied without fuzz, and is the policy's.

    Several steps may have applied one: each has all of it. A series that only the policy names was applied by none.
    """
    series: dict[str, dict[str, list[Resource]]] = {}
    for each, resource in _all(stated, Kind.PATCH):
        series.setdefault(resource.facts(statement.PatchFacts).series, {}).setdefault(each.step, []).append(resource)
    for name, steps in sorted(series.items()):
        problems: list[str] = []
        for step, patches in steps.items():
            patches.sort(key=lambda resource: resource.facts(statement.PatchFacts).position)
            pins = stated[step].files.pins
            problems += [
                f"{resource.name} has the digest {digest}, which no embedded file pins"
                for resource in patches
                if (digest := resource.digest["sha256"]) not in pins
            ]
            if accepted.patches is not None:
                problems += _not_accepted(patches, accepted.patches.get(name, ()))
        first = next(iter(steps.values()))
        rule = first[0].facts(statement.PatchFacts).rule
        proof = f"{len(first)} patches; {rule.by}" if len(first) > 1 else rule.by
        findings.require("patches", name, "; ".join(dict.fromkeys(problems)), proof)
    for name, digests in sorted((accepted.patches or {}).items()):
        if digests and name not in series:
            findings.fail("patches", name, f"the policy has {len(digests)} of this series; no statement has any")
    if accepted.patches is None and series:
        findings.warn("patches", "all", "no policy names the accepted patches")


def _not_accepted(patches: Sequence[Resource], wanted: Sequence[str]) -> Iterator[str]:
    """Yield how a series, in order, is not the policy's."""
    digests = [resource.digest["sha256"] for resource in patches]
    if digests != list(wanted):
        unknown = [f"{resource.name} ({d})" for resource, d in zip(patches, digests, strict=True) if d not in wanted]
        yield f"the policy does not accept {', '.join(unknown) or 'this selection or order'}"


def _all(stated: Mapping[str, Stated], kind: Kind) -> Iterator[tuple[Stated, Resource]]:
    for each in stated.values():
        for resource in each.found(kind):
            yield each, resource
