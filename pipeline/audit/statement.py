"""Define the statement of a step's execution: in-toto v1 with SLSA v1 provenance, and what its annotations say.

docs/buildtype.md describes every field. The names of in-toto and SLSA are theirs; those inside annotations are ours.
A statement is read offline, without checkout or git: what a reader needs for a check is embedded as `content`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import partial
from typing import Any, Final, Literal, TypeVar, get_args, get_type_hints

from pipeline.core import decoder, documents
from pipeline.core.decoder import Mismatch
from pipeline.formats import git_tree
from pipeline.sources.records import IndexDigests

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:lvs-fullnat:buildtype:v1"  # docs/buildtype.md
BUILDER = "urn:lvs-fullnat:builder:local"
OF_THE_PROJECT = "a file of the project"  # the origin of a patch that is no member of a source
T = TypeVar("T")


def with_types(predicate_type: str, subject: object, predicate: object) -> dict[str, object]:
    """Return the JSON of an in-toto statement of this predicate type."""
    return {"_type": STATEMENT_TYPE, "predicateType": predicate_type, "subject": subject, "predicate": predicate}


def of_type(predicate_type: str, value: object) -> dict[str, object]:
    """Return the JSON of an in-toto statement of this predicate type. Raises `Mismatch` for anything else."""
    document = decoder.decode(dict[str, object], value)
    for name, wanted in (("_type", STATEMENT_TYPE), ("predicateType", predicate_type)):
        if document.get(name) != wanted:
            raise Mismatch(wanted, ascii(document.get(name))[:60], (name,))
    return document


class Kind(StrEnum):
    """The kinds of materials and by-products: `kind` in their annotations."""

    RECIPE = "recipe"
    LINE_FILE = "line file"
    LOCK_FILE = "lock file"
    SOURCE = "source"
    TREE = "tree"
    PATCH = "patch"
    IMAGE = "image"
    STEP = "step"
    PACKAGE = "package"
    LOG = "log"
    EVIDENCE = "evidence"
    COMPILED = "compiled sources"
    CONFIGURATION = "configuration"
    DIFFERENCE = "configuration difference"
    FACTS = "facts"


BYPRODUCTS: Final = tuple(Kind)[tuple(Kind).index(Kind.LOG) :]
MATERIALS: Final = tuple(kind for kind in Kind if kind not in BYPRODUCTS)
_DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")  # of git, or SHA-256
# The digests of which a resource has one, where that is not SHA-256.
_DIGEST_OF: Mapping[str, tuple[str, ...]] = {
    Kind.RECIPE: ("gitCommit", "sha256"),
    Kind.TREE: ("gitTree",),
    Kind.DIFFERENCE: (),
    Kind.FACTS: (),
}
_EMBEDDED = (Kind.LINE_FILE, Kind.LOCK_FILE, Kind.PATCH, Kind.IMAGE, Kind.EVIDENCE, Kind.COMPILED, Kind.CONFIGURATION)


@dataclass(frozen=True)
class Resource:
    """A resource descriptor of in-toto; `content` is in base64. What is empty is left out of the JSON."""

    name: str = ""
    uri: str = ""
    digest: Mapping[str, str] = field(default_factory=dict)
    content: str = ""
    downloadLocation: str = ""
    mediaType: str = ""
    annotations: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The kind that the annotations tell; empty for a subject."""
        return str(self.annotations.get("kind", ""))

    @property
    def data(self) -> bytes:
        """The embedded content."""
        return base64.b64decode(self.content, validate=True)

    def check(self, kinds: Iterable[str]) -> None:
        """Check what a material or by-product of one of the `kinds` must say. Raises `Mismatch`.

        `facts` and `data` of one that passes do not fail.
        """
        if self.kind not in kinds:
            raise Mismatch(f"one of {', '.join(kinds)}", ascii(self.kind)[:60], ("annotations", "kind"))
        _below("annotations", lambda: self.facts(_FACTS[self.kind]))
        wanted = _DIGEST_OF.get(self.kind, ("sha256",))
        if wanted and not any(_DIGEST.fullmatch(self.digest.get(name, "")) for name in wanted):
            raise Mismatch(f"a digest {' or '.join(wanted)}", ascii(dict(self.digest))[:60], ("digest",))
        try:
            actual = hashlib.sha256(self.data).hexdigest()
        except ValueError as error:
            raise Mismatch("base64", str(error), ("content",)) from None
        if (self.content or self.kind in _EMBEDDED) and self.digest.get("sha256") != actual:
            raise Mismatch("what the digest beside it is of", f"bytes of SHA-256 {actual}", ("content",))

    def facts(self, kind: type[T]) -> T:
        """Return the annotations as the class that defines them. Raises `Mismatch`."""
        return decoder.decode(kind, self.annotations)

    def to_json(self) -> dict[str, object]:
        """Return what is not empty."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name))}

    @classmethod
    def from_json(cls, value: object) -> Resource:
        """Read what `to_json` returned. Raises `Mismatch`."""
        if not isinstance(value, dict):
            raise Mismatch("an object", ascii(value)[:60])
        whole = {each.name: {} if each.name in ("digest", "annotations") else "" for each in fields(cls)} | value
        return cls(**vars(decoder.decode(_Whole, whole)))


@dataclass(frozen=True)
class _Whole:
    """A resource descriptor with every field, as it is read."""

    name: str
    uri: str
    digest: Mapping[str, str]
    content: str
    downloadLocation: str
    mediaType: str
    annotations: Mapping[str, Any]


def embedded(name: str, data: bytes, media_type: str, annotations: object, *, git: bool = True) -> Resource:
    """Return the descriptor of a file that is embedded whole; with its git blob id where `git` says so."""
    digest = {"sha256": hashlib.sha256(data).hexdigest()}
    digest |= {"gitBlob": git_tree.blob_id(data)} if git else {}
    content = base64.b64encode(data).decode()
    return Resource(name, digest=digest, content=content, mediaType=media_type, annotations=decoder.encode(annotations))


@dataclass(frozen=True)
class LineParameters:
    """The line: its name and kernel; for a line file outside the project its digest, and the line that it extends."""

    name: str
    kernel: str
    extends: str
    override_sha256: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class ExternalParameters:
    """The choices of the user. `options` are those of the command line that last; `command` repeats the step."""

    line: LineParameters
    step: str
    options: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class InternalParameters:
    """The choices of the project: the step's key, all inputs of that key by name, the runtime, and why the step ran.

    `runtime` is empty for a step that runs nothing in a sandbox.
    """

    key: str
    inputs: Mapping[str, str]
    runtime: str
    jobs: int
    compiler_cache: bool
    why: str


@dataclass(frozen=True)
class BuildDefinition:
    """SLSA's build definition."""

    buildType: Literal["urn:lvs-fullnat:buildtype:v1"]
    externalParameters: ExternalParameters
    internalParameters: InternalParameters
    resolvedDependencies: tuple[Resource, ...]


@dataclass(frozen=True)
class Builder:
    """SLSA's builder: who is trusted for the statement, and the version of the program."""

    id: str
    version: Mapping[str, str]


@dataclass(frozen=True)
class Metadata:
    """SLSA's metadata of a build; times are of RFC 3339."""

    invocationId: str
    startedOn: str
    finishedOn: str


@dataclass(frozen=True)
class RunDetails:
    """SLSA's run details."""

    builder: Builder
    metadata: Metadata
    byproducts: tuple[Resource, ...]


@dataclass(frozen=True)
class Provenance:
    """SLSA's provenance predicate."""

    buildDefinition: BuildDefinition
    runDetails: RunDetails

    def found(self, kind: Kind) -> list[Resource]:
        """Return the materials and by-products of a kind."""
        all_of_it: Iterable[Resource] = (*self.buildDefinition.resolvedDependencies, *self.runDetails.byproducts)
        return [resource for resource in all_of_it if resource.kind == kind]


@dataclass(frozen=True)
class Statement:
    """An in-toto statement with SLSA provenance."""

    subject: tuple[Resource, ...]
    predicate: Provenance

    def to_json(self) -> dict[str, object]:
        """Return the statement with its types."""
        return with_types(PREDICATE_TYPE, self.subject, self.predicate)

    @classmethod
    def from_json(cls, value: object) -> Statement:
        """Read what `to_json` returned. Raises `Mismatch`."""
        document = of_type(PREDICATE_TYPE, value)
        subject = _below("subject", lambda: decoder.decode(tuple[Resource, ...], document.get("subject")))
        predicate = _below("predicate", lambda: decoder.decode(Provenance, document.get("predicate")))
        definition, details = predicate.buildDefinition, predicate.runDetails
        for place, resources, kinds, once in (
            ("predicate.buildDefinition.resolvedDependencies", definition.resolvedDependencies, MATERIALS, Kind.RECIPE),
            ("predicate.runDetails.byproducts", details.byproducts, BYPRODUCTS, Kind.FACTS),
        ):
            for resource in resources:
                _below(f"{place}.{resource.name}", partial(resource.check, kinds))
            found = sum(resource.kind == once for resource in resources)
            if found != 1:
                raise Mismatch(f"one of the kind {once}", str(found or "none"), (place,))
        return cls(subject, predicate)

    def text(self) -> bytes:
        """Return the statement as the bytes that are signed."""
        return json.dumps(decoder.encode(self), sort_keys=True, separators=(",", ":")).encode()


def _below(place: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except Mismatch as error:
        raise error.below(place) from None


def parse(payload: bytes) -> Statement:
    """Read a statement out of a verified envelope's payload. Raises `ValueError`, for another shape `Mismatch`.

    What every statement must have is checked here, the annotations of each kind too: nobody who reads one that was
    returned has to. What a statement of this step must have besides is for the audit to say.
    """
    return documents.parse(Statement, payload)


# What annotations say, by kind.


@dataclass(frozen=True)
class Pin:
    """The author and time of a digest's pin: by git's history of `file`, by the lock file, or by a signed index.

    `commit` is the oldest one since which the file has had the digest; empty where git does not know it. `indexes` are
    the signed indexes that an answer was found in.
    """

    file: str
    by: str
    at: str
    commit: str
    indexes: tuple[IndexDigests, ...] = ()


@dataclass(frozen=True)
class RecipeFacts:
    """The project's own code: its version, and whether the checkout differs from `commit`; empty without a checkout.

    `code` is the digest of the code that made the step's output, as its key has it.
    """

    version: str
    commit: str
    dirty: bool
    code: str
    kind: Literal["recipe"] = "recipe"


@dataclass(frozen=True)
class LineFileFacts:
    """A line file or a series file: the last commit that changed it, empty where git knows none.

    `modified` is whether the embedded bytes are others than those of that commit.
    """

    kind: Literal["line file", "lock file"]
    commit: str
    author: str
    date: str
    modified: bool


@dataclass(frozen=True)
class SourceFacts:
    """A verified source. `how` is the sentence about its proof, `members` the pinned SHA-256 of files inside."""

    version: str
    size: int
    how: str
    pin: Pin
    members: Mapping[str, str]
    kind: Literal["source"] = "source"


@dataclass(frozen=True)
class TreeFacts:
    """A kernel tree: pristine, or after a role's series; the number of changed paths."""

    source: str
    role: str
    changed: int
    kind: Literal["tree"] = "tree"


@dataclass(frozen=True)
class HunkFacts:
    """One hunk: its number in its file, its line in the patch, and how many lines from there it applied."""

    number: int
    line: int
    offset: int


@dataclass(frozen=True)
class FileFacts:
    """The effect of a patch on one file: git blob ids before and after, empty for none, and the result of each hunk."""

    path: str
    old_path: str
    status: str
    before: str
    after: str
    hunks: tuple[HunkFacts, ...]


@dataclass(frozen=True)
class LeftOutFacts:
    """A part of a patch that was not applied: why, the configuration in its place, and the digests around it."""

    file: str
    why: str
    config: Mapping[str, str]
    sha256_before: str
    sha256_after: str


@dataclass(frozen=True)
class RuleFacts:
    """The rule that proved a role or a tool's series, in words, and which patch or series fulfilled it.

    `option_numbers` are the TCP option numbers that were found.
    """

    role: str
    by: str
    proven_by: str
    option_numbers: tuple[int, ...]


@dataclass(frozen=True)
class PatchFacts:
    """A patch of a series: of a role's kernel, or of a tool. `position` counts from 1.

    `applied_sha256` is the digest of what was applied: the patch without what was left out. `patch_id` is git's
    stable one, empty where it has none.
    """

    series: str
    position: int
    origin: str
    path: str
    patch_id: str
    applied_sha256: str
    left_out: tuple[LeftOutFacts, ...]
    rule: RuleFacts
    pin: Pin
    files: tuple[FileFacts, ...]
    kind: Literal["patch"] = "patch"


@dataclass(frozen=True)
class ImageFacts:
    """A builder image: its key, which is the digest of its packages; its list of packages is the content."""

    key: str
    packages: int
    kind: Literal["image"] = "image"


@dataclass(frozen=True)
class StepFacts:
    """A step whose output was used: its key, and the digest of that output. The digest beside is its statement's.

    `output` is empty for packages that another host built and this one signed.
    """

    key: str
    output: str
    kind: Literal["step"] = "step"


@dataclass(frozen=True)
class PackageFacts:
    """A package of another step that was used."""

    step: str
    kind: Literal["package"] = "package"


@dataclass(frozen=True)
class ByproductFacts:
    """A by-product without further facts."""

    kind: Literal["log", "evidence", "compiled sources"]


@dataclass(frozen=True)
class ConfigurationFacts:
    """A kernel's finished configuration, which is the content; of which package."""

    package: str
    kind: Literal["configuration"] = "configuration"


@dataclass(frozen=True)
class DifferenceFacts:
    """All options in which a kernel's finished configuration differs from that of the stock kernel.

    By symbol: the stock kernel's value and its own; `n` for what is not set.
    """

    package: str
    stock: str
    symbols: Mapping[str, tuple[str, ...]]
    kind: Literal["configuration difference"] = "configuration difference"


@dataclass(frozen=True)
class RunFacts:
    """Figures of the run: files that were compiled, and how many the compiler cache gave or lacked; -1 for unknown."""

    seconds: float
    compilations: int
    cache_hits: int
    cache_misses: int
    kind: Literal["facts"] = "facts"


_CLASSES = (RecipeFacts, LineFileFacts, SourceFacts, TreeFacts, PatchFacts, ImageFacts, StepFacts, PackageFacts)
_CLASSES_OF_BYPRODUCTS = (ByproductFacts, ConfigurationFacts, DifferenceFacts, RunFacts)
_FACTS: Mapping[str, type] = {
    kind: each for each in (*_CLASSES, *_CLASSES_OF_BYPRODUCTS) for kind in get_args(get_type_hints(each)["kind"])
}
