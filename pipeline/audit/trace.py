"""Trace a file, symbol, option or patch of a snapshot back to where it came from, and forward to what it is in.

Reads the signed statements beside the snapshot and its packages; no checkout. A symbol is looked for in the lines that
patches add, then in the boot images' maps and the modules: one of these is upstream's.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.audit import built_symbols, evidence, statement, statement_checks
from pipeline.audit.statement import Kind, Pin, Resource
from pipeline.audit.statement_checks import Stated
from pipeline.core.digests import together
from pipeline.errors import UsageError
from pipeline.formats import kconfig, rpm_header
from pipeline.patching.parser import Hunk, scan
from pipeline.publish import verify

_OPTION = re.compile(r"CONFIG_[A-Za-z0-9_]+")
_DIGEST = re.compile(r"[0-9a-f]{6,64}")
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Subject(StrEnum):
    """The kinds of things that are traced."""

    OPTION = "option of a configuration"
    PATCH = "patch"
    SOURCE_FILE = "source file"
    PACKAGED_FILE = "file of a package"
    SYMBOL = "symbol"


@dataclass(frozen=True)
class Link:
    """One link of a chain: what it is, and its name with all that identifies it."""

    what: str
    text: str


@dataclass(frozen=True)
class Chain:
    """The way of one thing: back to its origin, each link made of the next, and forward to what it is in."""

    of: str
    back: tuple[Link, ...]
    forward: tuple[Link, ...]


@dataclass(frozen=True)
class Trace:
    """The chains of one thing in a snapshot."""

    wanted: str
    kind: Subject
    snapshot: str
    chains: tuple[Chain, ...]


def trace(path: Path, wanted: str, trees: Path) -> Trace:
    """Trace `wanted` in the snapshot `path`; `trees` are the pristine trees kept below artifacts, if any are.

    Raises `Refused` where its statements are missing or not signed by the key in the snapshot, `UsageError` for a thing
    that is in none of them.
    """
    tracer = _Tracer(path, statement_checks.read_all(evidence.audited(path)), trees)
    for kind, find in (
        (Subject.OPTION, tracer.option),
        (Subject.PATCH, tracer.patch),
        (Subject.SOURCE_FILE, tracer.source_file),
        (Subject.PACKAGED_FILE, tracer.packaged_file),
        (Subject.SYMBOL, tracer.symbol),
        (Subject.SYMBOL, tracer.built_symbol),
    ):
        if chains := tuple(find(wanted)):
            return Trace(wanted, kind, path.name, chains)
    raise UsageError(
        f"{wanted}: not in this snapshot; expected a file, a symbol, an option or a patch",
        where=str(path),
        why="a source is traced by its path below the source tree, if it was compiled; a symbol, if a patch adds it, "
        "or the map of a boot image or the table of a module has it, which a static function may be missing from",
        hint="./inv trace SNAPSHOT net/netfilter/ipvs/ip_vs_conn.c",
    )


class _Tracer:
    """The statements of a snapshot, by step."""

    def __init__(self, path: Path, stated: Mapping[str, Stated], trees: Path) -> None:
        self.path, self.stated, self.document, self.trees = path, stated, verify.read_document(path), trees
        self.places = {file: path / name / file for name, files in self.document.sets.items() for file in files}

    def option(self, wanted: str) -> Iterator[Chain]:
        """Yield a chain for each kernel: value, who set it, and which patches change its entry in a Kconfig file."""
        if not _OPTION.fullmatch(wanted):
            return
        for each in self.stated.values():
            for resource in each.found(Kind.CONFIGURATION):
                package = resource.facts(statement.ConfigurationFacts).package
                value = kconfig.values(resource.data.decode(errors="replace")).get(wanted, "n: not set")
                by = [Link("set by", text) for text in _set_by(each, wanted)] or [
                    Link("set by", f"the configurations of {self._recipe(each)}, or their defaults")
                ]
                entries = tuple(self._entries(each, wanted))
                back = (*by, *entries, *self._origin(each))
                yield Chain(f"{wanted}={value} in {package}", back, self._packages(each))

    def _entries(self, each: Stated, option: str) -> Iterator[Link]:
        """Yield the hunks that have the option's entry of a Kconfig file in them, each followed by its patch."""
        entry = re.compile(rb"[ +]\s*(?:menu)?config\s+" + option.removeprefix("CONFIG_").encode() + rb"\s*")
        for resource in each.found(Kind.PATCH):
            for change in scan(resource.data, resource.name).files:
                near = [hunk for hunk in change.hunks if any(map(entry.fullmatch, hunk.body))]
                if near and Path(change.path).name.startswith("Kconfig"):
                    hunks = ", ".join(f"{hunk.number} (line {hunk.line} of the patch)" for hunk in near)
                    yield Link("entry", f"{change.path}: hunk {hunks}, of {resource.name}")
                    yield from self._patch_links(each, resource)

    def patch(self, wanted: str) -> Iterator[Chain]:
        """Yield a chain for each patch of the name, or whose digest begins so."""
        seen = set()
        for each in self.stated.values():
            for resource in each.found(Kind.PATCH):
                digest = resource.digest.get("sha256", "")
                names = {resource.name, Path(resource.name).name, resource.facts(statement.PatchFacts).path}
                named = wanted in names or (_DIGEST.fullmatch(wanted) and digest.startswith(wanted))
                if named and (each.step, digest) not in seen:
                    seen.add((each.step, digest))
                    files = resource.facts(statement.PatchFacts).files
                    counts = ((file.path, _count(len(file.hunks), "hunk")) for file in files)
                    changed = tuple(Link("changes", f"{name}: {hunks}") for name, hunks in counts)
                    sources = self._origin(each, holding=digest)
                    yield Chain(
                        f"{resource.name} in {each.step}",
                        (*self._patch_links(each, resource), *sources),
                        (*changed, *self._packages(each)),
                    )

    def source_file(self, wanted: str) -> Iterator[Chain]:
        """Yield a chain for each step that compiled the file, or whose patches change it."""
        for each in self.stated.values():
            compiled = [digest for tree in _compiled(each) for path, digest in tree if path == wanted]
            patches = list(_touching(each, wanted))
            if not compiled and not patches:
                continue
            back = [Link("compiled as", f"SHA-256 {digest}") for digest in compiled]
            for resource, file in patches:
                back.append(_hunks(resource, file))
                back += self._patch_links(each, resource)
            forward = (*self._modules(each, wanted), *self._packages(each))
            yield Chain(f"{wanted} in {each.step}", (*back, *self._origin(each)), forward)

    def _modules(self, each: Stated, source: str) -> Iterator[Link]:
        """Yield the modules that a compiled source may be in, by the names of both; none is read."""
        compiled = [path for tree in _compiled(each) for path, _ in tree]
        for file in (file for file, row in self.document.packages.items() if each.step in row.steps):
            modules = [path for path in self._paths(file) if built_symbols.is_module(path)]
            for path in built_symbols.near(modules, source):
                sources, how = built_symbols.sources_of(path, None, compiled, modules)
                if source in sources:
                    yield Link("module", f"{path} of {file}: {how}")

    def packaged_file(self, wanted: str) -> Iterator[Chain]:
        """Yield a chain for each package that has the file; a module also by its name alone, and from its sources."""
        packaged = {file: self._paths(file) for file in self.document.packages}
        called = [(file, path) for file in packaged for path in packaged[file] if built_symbols.is_called(path, wanted)]
        reading = together(lambda row: self._content(*row), called)
        for (file, path), content in zip(called, reading, strict=True):
            for each in self._steps(file):
                if any(_compiled(each)) and (data := content()) is not None:
                    made = (*self._module(each, path, data, packaged[file]), *self._origin(each))
                else:
                    patches = each.found(Kind.PATCH)
                    links = [link for resource in patches for link in self._patch_links(each, resource)]
                    made = (*links, *self._origin(each))
                yield Chain(f"{path} in {file}", (*self._package(file, each), *made), self._sets(file))

    def _content(self, file: str, path: str) -> bytes | None:
        """Return the content of a module whose sources are stated; None for other files, which are not read."""
        if built_symbols.is_module(path) and any(each.found(Kind.COMPILED) for each in self._steps(file)):
            return built_symbols.read_module(self.places[file], path)
        return None

    def _paths(self, file: str) -> list[str]:
        return [item.path for item in rpm_header.read(self.places[file]).files()]

    def _steps(self, file: str) -> list[Stated]:
        return [self.stated[step] for step in self.document.packages[file].steps if step in self.stated]

    def _package(self, file: str, each: Stated) -> tuple[Link, ...]:
        row = self.document.packages[file]
        return (Link("package", f"{file}, SHA-256 {row.sha256}"), Link("built by", self._step(each)))

    def _sets(self, file: str) -> tuple[Link, ...]:
        return tuple(Link("in the set", name) for name, files in self.document.sets.items() if file in files)

    def _module(
        self, each: Stated, path: str, data: bytes, packaged: Sequence[str], symbol: str = ""
    ) -> Iterator[Link]:
        """Yield the compiled sources of a module with the hunks in them, and then each patch that has one."""
        digests = dict(row for tree in _compiled(each) for row in tree)
        sources, how = built_symbols.sources_of(path, data, digests.keys(), packaged)
        yield Link("made of", f"{_count(len(sources), 'compiled source')}: {how}")
        patches: dict[str, Resource] = {}
        for source in sources:
            yield Link("source file", f"{source}, compiled as SHA-256 {digests[source]}")
            archives = {resource.digest.get("sha256", "") for resource in each.found(Kind.SOURCE)}
            if symbol and (lines := built_symbols.lines_of(self.trees, archives, source, symbol)):
                yield Link("defined at", f"line {', '.join(map(str, lines))} of it before all patches")
            for resource, change in _touching(each, source):
                patches[resource.name] = resource
                yield _hunks(resource, change)
        for resource in patches.values():
            yield from self._patch_links(each, resource)

    def built_symbol(self, wanted: str) -> Iterator[Chain]:
        """Yield a chain for each package in which the boot image's map, or else a module, defines a symbol."""
        if not _SYMBOL.fullmatch(wanted):
            return
        built = [file for file in self.document.packages if self._steps(file)]
        looking = together(lambda file: built_symbols.defining(self.places[file], wanted), built)
        for file, result in zip(built, looking, strict=True):
            for found in result():
                for each in self._steps(file):
                    package = (Link("defined in", found.path), *self._package(file, each))
                    if found.data is None:
                        unknown = "which of the compiled files defines it: no patch adds it, and a map does not say"
                        made: tuple[Link, ...] = (Link("not known", unknown),)
                    else:
                        made = tuple(self._module(each, found.path, found.data, self._paths(file), wanted))
                    yield Chain(f"{wanted} in {file}", (*package, *made, *self._origin(each)), self._sets(file))

    def symbol(self, wanted: str) -> Iterator[Chain]:
        """Yield a chain for each line that a patch adds with the symbol in it."""
        if not _SYMBOL.fullmatch(wanted):
            return
        word = re.compile(rb"\b" + wanted.encode() + rb"\b")
        for each in self.stated.values():
            for resource in each.found(Kind.PATCH):
                for change in scan(resource.data, resource.name).files:
                    lines = [line for hunk in change.hunks for line in _added(hunk, word)]
                    if lines:
                        where = Link("added in", f"{change.path}, line{'s' * (len(lines) > 1)} {', '.join(lines)}")
                        back = (where, *self._patch_links(each, resource), *self._origin(each))
                        yield Chain(f"{wanted} in {each.step}", back, self._packages(each))

    def _patch_links(self, each: Stated, resource: Resource) -> Iterator[Link]:
        facts, digest = resource.facts(statement.PatchFacts), resource.digest.get("sha256", "")
        yield Link("patch", f"{resource.name}, {facts.position} of the series {facts.series}, SHA-256 {digest}")
        yield Link("proven", facts.rule.by)
        yield Link("pinned by", _pin(facts.pin))
        sources = [(source, source.facts(statement.SourceFacts).members) for source in each.found(Kind.SOURCE)]
        members = [f"{name} of {source.name}" for source, rows in sources for name in rows if rows[name] == digest]
        yield Link("member" if members else "origin", ", ".join(members) or f"{facts.path}, {facts.origin}")

    def _origin(self, each: Stated, holding: str = "") -> Iterator[Link]:
        """Yield the sources of a step, or those that have a member: file, digest, address, proof, who pinned it."""
        for source in each.found(Kind.SOURCE):
            facts = source.facts(statement.SourceFacts)
            if holding and holding not in facts.members.values():
                continue
            yield Link("source", f"{source.name}, SHA-256 {source.digest.get('sha256', '')}")
            yield Link("from", source.downloadLocation)
            yield Link("proof", facts.how)
            yield Link("pinned by", _pin(facts.pin))

    def _packages(self, each: Stated) -> tuple[Link, ...]:
        rows = [file for file, row in self.document.packages.items() if each.step in row.steps]
        return (Link("step", self._step(each)), *(Link("package", file) for file in rows))

    def _step(self, each: Stated) -> str:
        return f"{each.step}, {each.statement.predicate.runDetails.metadata.startedOn}, by {self._recipe(each)}"

    @staticmethod
    def _recipe(each: Stated) -> str:
        facts = [resource.facts(statement.RecipeFacts) for resource in each.found(Kind.RECIPE)]
        commit = facts[0].commit if facts else ""
        return f"commit {commit}{' with changes' * facts[0].dirty}" if commit else "a copy without git"


def _set_by(each: Stated, option: str) -> Iterator[str]:
    """Yield the tables of embedded line files that set an option for the step: its role's, and those of its patches."""
    patches = {resource.name for resource in each.found(Kind.PATCH)}
    for resource in each.found(Kind.LINE_FILE):
        document = tomllib.loads(resource.data.decode())
        for name, role in _tables(document.get("roles")):
            if f"kernel:{name}" == each.step and option in (role.get("config") or {}):
                yield f"[roles.{name}.config] in {resource.name}"
        for name, patch in _tables(document.get("patches")):
            if name in patches and any(option in (row.get("config") or {}) for row in patch.get("leave-out") or ()):
                yield f"[[patches.{name}.leave-out]] in {resource.name}: the patch's value, in a file that is left out"


def _tables(value: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, dict):
        yield from ((name, table) for name, table in value.items() if isinstance(table, dict))


def _compiled(each: Stated) -> Iterator[Iterator[tuple[str, str]]]:
    for tree in each.compiled.trees.values() if each.compiled else ():
        yield iter(tree.files.items())


def _touching(each: Stated, path: str) -> Iterator[tuple[Resource, statement.FileFacts]]:
    for resource in each.found(Kind.PATCH):
        for file in resource.facts(statement.PatchFacts).files:
            if path in (file.path, file.old_path):
                yield resource, file


def _hunks(resource: Resource, file: statement.FileFacts) -> Link:
    hunks = ", ".join(f"{hunk.number} (line {hunk.line} of the patch)" for hunk in file.hunks)
    return Link("hunks", f"{hunks or 'none'}, of {resource.name}")


def _added(hunk: Hunk, word: re.Pattern[bytes]) -> Iterator[str]:
    """Yield the numbers, in the new file, of the added lines that hold the word."""
    number = hunk.new_start
    for line in hunk.body:
        if line[:1] == b"+" and word.search(line):
            yield str(number)
        number += line[:1] in (b"+", b" ")


def _pin(pin: Pin) -> str:
    who = ", ".join(filter(None, (pin.by, pin.at, pin.commit and f"commit {pin.commit}")))
    return f"{pin.file}: {who}" if who and pin.file else who or pin.file or "nobody"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
