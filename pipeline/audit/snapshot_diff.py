"""Compare two published snapshots: what they were made of, and what is in their packages.

From the snapshots' own bytes: snapshot.json, RPM headers, the configuration in a kernel's package; and from the signed
statements beside them. Of a snapshot without statements the records of the steps count, and it is said that nobody
signed these. What cannot be known is named. A mark stands in paths and dependencies for the package's own version and
its kernel's, so that another version alone changes no file's name.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.audit import evidence
from pipeline.audit.statement_checks import Stated
from pipeline.core import decoder, documents, neutral
from pipeline.errors import Refused
from pipeline.formats import archive, kconfig, rpm_header
from pipeline.formats.rpm_header import RpmFile, Tag
from pipeline.packaging.compiled_sources import CompiledSources
from pipeline.publish import verify
from pipeline.publish.snapshot_contents import Document, Row

VERSION, KERNEL = "{version}", "{kernel}"  # in place of a package's version and release, and of the kernel's
PRESENT = "there"  # the value of what has none, such as a dependency
_CONFIG_MOST = 8 << 20  # bytes
_TEXT_MOST = 120  # characters of a step's input; a longer one is shown by its digest
_NUMBERED = re.compile(r"\b\d[\w.+~^-]*")
_NOT_DATA = ("id", "packages", "sets")


@dataclass(frozen=True)
class Change:
    """A value that differs; None on the side that has none."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class FileState:
    """A packaged file: the digest of its content or its link's target, its mode in octal, a regular file's bytes."""

    content: str
    size: int | None
    mode: str


@dataclass(frozen=True)
class FileChange:
    """A file that differs; None on the side that lacks it."""

    path: str
    before: FileState | None
    after: FileState | None


@dataclass(frozen=True)
class PackageChange:
    """A package that differs, with the sets that it differs in. Sizes in bytes, of the signed file.

    NEVRA and size are None on the side that lacks it. `same_content`: header and payload have the same bytes.
    """

    name: str
    sets: tuple[str, ...]
    before: str | None
    after: str | None
    size_before: int | None
    size_after: int | None
    same_content: bool = False
    files: tuple[FileChange, ...] = ()
    requires: tuple[Change, ...] = ()
    provides: tuple[Change, ...] = ()
    configuration: tuple[Change, ...] = ()


@dataclass(frozen=True)
class StepChange:
    """The inputs of a step that differ: sources, patches, parameters, texts; and the compiled files that differ."""

    step: str
    inputs: tuple[Change, ...]
    compiled: tuple[Change, ...]


@dataclass(frozen=True)
class SnapshotDiff:
    """Everything that differs between two snapshots.

    `unsigned` names what is by the word of records that nobody signed, `unknown` what could not be compared, and why.
    """

    before: str
    after: str
    facts: tuple[Change, ...]
    packages: tuple[PackageChange, ...]
    steps: tuple[StepChange, ...]
    unsigned: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether nothing differs and everything could be compared."""
        return not (self.facts or self.packages or self.steps or self.unknown)


def compare(before: Path, after: Path, artifacts: Path) -> SnapshotDiff:
    """Compare the snapshots in two directories; of one without statements, by the steps' records below `artifacts`.

    Raises `Refused` for a damaged snapshot, and for statements that the key in it did not sign.
    """
    one, other = _Side(before, artifacts), _Side(after, artifacts)
    steps, unsigned, unknown = list[StepChange](), list[str](), list[str]()
    for step in sorted(one.steps.keys() | other.steps.keys()):
        _compare_step(step, one, other, steps, unsigned, unknown)
    packages = tuple(_packages(one, other, unknown))
    facts = tuple(_facts(one, other))
    ids = one.document.id, other.document.id
    return SnapshotDiff(*ids, facts, packages, tuple(steps), tuple(unsigned), tuple(unknown))


@dataclass(frozen=True)
class _MadeFrom:
    """The parts of a step's key, and what it compiled; None where that is not known, or nothing."""

    inputs: Mapping[str, str]
    compiled: CompiledSources | None


class _Side:
    """One snapshot, and where records of steps may lie."""

    def __init__(self, path: Path, artifacts: Path) -> None:
        self.path, self.document, self.artifacts = path, verify.read_document(path), artifacts

    @cached_property
    def steps(self) -> dict[str, str]:
        """The keys of the steps that made the packages, by step."""
        rows = self.document.packages.values()
        return {step: key for row in rows for step, key in zip(row.steps, row.keys, strict=False)}

    @cached_property
    def stated(self) -> dict[str, Stated] | None:
        """The signed statements by step; None where there are none. Read only when a step's key differs."""
        return evidence.signed_steps(self.path)

    def made_from(self, step: str) -> _MadeFrom | None:
        """Return what a step was made from, by its statement, or its record where there are no statements."""
        key = self.steps[step]
        if self.stated is None:
            run = evidence.stored_step(self.artifacts, self.document.line, step, key)
            return _MadeFrom(run.record.inputs, run.compiled()) if run else None
        if step not in self.stated:
            return None
        each = self.stated[step]
        stated = each.statement.predicate.buildDefinition.internalParameters.key
        if stated != key:
            what = f"{each.file}: about the key {stated}; expected {key}, which snapshot.json names"
            raise Refused(what, where=str(self.path), hint=neutral.command(["./inv", "audit", self.path]))
        return _MadeFrom(each.inputs, each.compiled)

    @cached_property
    def kernels(self) -> dict[str, str]:
        """The version and release of each set's kernel."""
        named = ((name, _split(_row(self.document, file).nevra)) for name, file in self._files())
        return {name: version for name, (package, version, _) in named if package == "kernel"}

    def _files(self) -> Iterator[tuple[str, str]]:
        yield from ((name, file) for name, files in self.document.sets.items() for file in files)

    def places(self) -> dict[tuple[str, str], str]:
        """Return the file of each package by its set, and its name and architecture."""
        found = {}
        for name, file in self._files():
            package, _, arch = _split(_row(self.document, file).nevra)
            found[name, f"{package}.{arch}"] = file
        return found


def _split(nevra: str) -> tuple[str, str, str]:
    """Return name, version-release without the epoch, and architecture."""
    rest, _, arch = nevra.rpartition(".")
    name, version, release = ["", "", *rest.rsplit("-", 2)][-3:]
    return name, f"{version.rpartition(':')[2]}-{release}", arch


def _row(document: Document, file: str) -> Row:
    try:
        return document.packages[file]
    except KeyError:
        raise Refused(f"snapshot.json: no row for {file}, which a set names; expected one") from None


def _facts(one: _Side, other: _Side) -> Iterator[Change]:
    before, after = (_flat(_encoded(side.document)) for side in (one, other))
    yield from changes(before, after)
    sets = (dict.fromkeys(side.document.sets, PRESENT) for side in (one, other))
    yield from (Change(f"set {row.name}", row.before, row.after) for row in changes(*sets))


def _encoded(document: Document) -> dict[str, Any]:
    return {name: value for name, value in decoder.encode(document).items() if name not in _NOT_DATA}


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    """Return the names whose values differ, in order."""
    names = sorted(before.keys() | after.keys())
    return [Change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Return the leaves of a JSON value by their ways; a list is one value."""
    if isinstance(value, Mapping):
        return {way: leaf for key, item in value.items() for way, leaf in _flat(item, f"{name}.{key}").items()}
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    if len(text) > _TEXT_MOST or "\n" in text:
        text = f"sha256:{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()}"
    return {name.lstrip("."): text}


def _compare_step(
    step: str, one: _Side, other: _Side, found: list[StepChange], unsigned: list[str], unknown: list[str]
) -> None:
    keys = one.steps.get(step), other.steps.get(step)
    if keys[0] == keys[1] or None in keys:  # the same inputs; a step of one side alone shows by its packages
        return
    made = one.made_from(step), other.made_from(step)
    if made[0] is None or made[1] is None:
        lacking: dict[str, list[str]] = {}
        for side in (side for side, each in zip((one, other), made, strict=True) if each is None):
            lacking.setdefault("record" if side.stated is None else "statement", []).append(side.steps[step])
        texts = [f"no {what} of {', '.join(of)}" for what, of in lacking.items()]
        unknown.append(f"sources, patches and parameters of {step}: {'; '.join(texts)}")
        return
    if without := [side.document.id for side in (one, other) if side.stated is None]:
        unsigned.append(f"sources, patches and parameters of {step}: no statements beside {' and '.join(without)}")
    inputs = changes(*(_inputs(each.inputs) for each in made if each))
    before, after = (each.compiled for each in made if each)
    compiled = []
    if before is not None and after is not None:
        compiled = changes(*(dict(_files(side)) for side in (before, after)))
    elif before is not after:
        unknown.append(f"compiled sources of {step}: not recorded for {keys[0] if before is None else keys[1]}")
    found.append(StepChange(step, tuple(inputs), tuple(compiled)))


def _inputs(parts: Mapping[str, str]) -> dict[str, str]:
    """Return the parts of a step's key; those that are JSON by their leaves."""
    found: dict[str, str] = {}
    for name, text in parts.items():
        try:
            value = documents.parse(object, text)
        except ValueError:
            value = text
        found |= _flat(value, name)
    return found


def _files(sources: CompiledSources) -> Iterator[tuple[str, str]]:
    """Yield path and digest; `*` stands for the version in a tree's name, which is left out of the only one."""
    for name, tree in sources.trees.items():
        prefix = f"{_NUMBERED.sub('*', name)}/" if len(sources.trees) > 1 else ""
        yield from ((f"{prefix}{path}", digest) for path, digest in tree.files.items())


def _packages(one: _Side, other: _Side, unknown: list[str]) -> Iterator[PackageChange]:
    before, after = one.places(), other.places()
    pairs: dict[tuple[str, str | None, str | None], list[str]] = {}
    for name, package in sorted(before.keys() | after.keys(), key=lambda key: (key[1], key[0])):
        pairs.setdefault((package, before.get((name, package)), after.get((name, package))), []).append(name)
    for (package, old, new), sets in pairs.items():
        first = _row(one.document, old) if old else None
        second = _row(other.document, new) if new else None
        found = PackageChange(
            package.rpartition(".")[0],
            tuple(sets),
            first.nevra if first else None,
            second.nevra if second else None,
            first.size if first else None,
            second.size if second else None,
        )
        if not (first and second and old and new):
            yield found
        elif first.body_sha256 == second.body_sha256:
            if first.sha256 != second.sha256:  # signed by another key
                yield replace(found, same_content=True)
        else:
            name = sets[0]
            places = [one.path / name / old, other.path / name / new]
            kernels = [side.kernels.get(name, "") for side in (one, other)]
            yield replace(found, **_contents(places, kernels, unknown))


def _contents(places: list[Path], kernels: list[str], unknown: list[str]) -> dict[str, Any]:
    packages = [rpm_header.read(path) for path in places]
    marks = [_marks(package, kernel) for package, kernel in zip(packages, kernels, strict=True)]
    states = [_states(package, mark) for package, mark in zip(packages, marks, strict=True)]
    paths = sorted(states[0].keys() | states[1].keys())
    found: dict[str, Any] = {
        "files": tuple(
            FileChange(path, states[0].get(path), states[1].get(path))
            for path in paths
            if states[0].get(path) != states[1].get(path)
        )
    }
    for kind in ("requires", "provides"):
        sides = (
            {mark(row): PRESENT for row in package.dependencies(kind.upper().removesuffix("S"))}
            for package, mark in zip(packages, marks, strict=True)
        )
        found[kind] = tuple(changes(*sides))
    if packages[0].name == packages[1].name == "kernel":
        values = [_configuration(path, package, unknown) for path, package in zip(places, packages, strict=True)]
        if None not in values:
            found["configuration"] = tuple(changes(*(value for value in values if value is not None)))
    return found


def _marks(package: RpmFile, kernel: str) -> Callable[[str], str]:
    own = f"{package.header.text(Tag.VERSION)}-{package.header.text(Tag.RELEASE)}"
    pairs = ((own, VERSION),) if kernel in ("", own) else ((own, VERSION), (kernel, KERNEL))

    def marked(text: str) -> str:
        for version, mark in pairs:
            text = text.replace(version, mark)
        return text

    return marked


def _states(package: RpmFile, mark: Callable[[str], str]) -> dict[str, FileState]:
    rows = package.files()
    sizes: Iterable[int | None] = package.sizes() or [None] * len(rows)
    return {
        mark(row.path): FileState(mark(row.content), size if stat.S_ISREG(row.mode) else None, f"{row.mode:06o}")
        for row, size in zip(rows, sizes, strict=True)
    }


def _configuration(path: Path, package: RpmFile, unknown: list[str]) -> dict[str, str] | None:
    """Return the symbols of the configuration in a kernel's package, which stands first in its payload."""
    wanted = next((row.path for row in package.files() if row.path.startswith("/boot/config-")), "")
    for item, data in archive.members(path) if wanted else ():
        if item.path == wanted.lstrip("/"):
            return kconfig.values(data[:_CONFIG_MOST].decode(errors="replace"))
    unknown.append(f"configuration of {package.nvra}: the package has no /boot/config")
    return None
