"""Record which source files a build compiled or included, each with its digest as the compiler read it.

The record is `compiled-sources.json` in a step's output, beside the packages and in none of them. It is made from what
the compiler itself wrote in the build, read after the build's end. That is the build's own word, as its packages are:
a source that changes the build can change its record. Not listed: what an assembler includes with `.incbin`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final, Literal

from pipeline.core import documents
from pipeline.core.fs import write_atomic
from pipeline.errors import BuildFailed
from pipeline.formats import compiler_records
from pipeline.formats.compiler_records import Compilation
from pipeline.packaging import outputs
from pipeline.packaging.outputs import BuildOutputs, OutputLimits
from pipeline.packaging.rpmbuild import TOPDIR

FILE = "compiled-sources.json"
FORMAT: Final = 1
_BUILD = "BUILD"
_RECORDS = OutputLimits(file=8 << 20, total=2 << 30, count=60_000)  # bytes and files; a small Linux 6.1 has some 1,300
_MOST_FILES = 200_000  # read by the compiler; half of a small Linux 6.1 reads 3,600
_COPIES = 8  # of a tree that share files: Red Hat's spec builds in a linked copy of the pristine tree
Digest = Annotated[str, re.compile("[0-9a-f]{64}")]


@dataclass(frozen=True)
class SourceTree:
    """The files of one tree that the compiler read: SHA-256 by path below the tree.

    `files` became part of what is packaged, or were read to compile it; generated ones are among them.
    `build_programs` were read only for programs that run in the build; kernel-devel has some of these programs.
    `unread` are files of either kind that were gone when the build had ended, or that were reached through a link.
    """

    files: Mapping[str, Digest]
    build_programs: Mapping[str, Digest]
    unread: tuple[str, ...]


@dataclass(frozen=True)
class CompiledSources:
    """The source files of one step. `trees` by their paths in the build; `compilations` is the number of objects.

    `outside`: how many files were the builder image's own.
    """

    format: Literal[1]
    step: str
    compilations: int
    outside: int
    trees: Mapping[str, SourceTree]

    @property
    def paths(self) -> frozenset[str]:
        """The paths of all files of what is packaged, each below its tree."""
        return frozenset(path for tree in self.trees.values() for path in (*tree.files, *tree.unread))


@dataclass(frozen=True)
class Recorded:
    """Where a build leaves the compiler's records: below the directories `trees` of BUILD; `*` stands for a part.

    `endings` are those of the records' names. Names in a record of kernel code are relative to `base`, one of the
    trees; those in any other to a directory above the record.
    """

    trees: tuple[str, ...]
    endings: tuple[str, ...] = compiler_records.MAKE
    base: str = ""


def kbuild(tree: str, *more: str) -> Recorded:
    """Return where Kbuild leaves its records: below `tree`, or below `more` for modules built against it."""
    return Recorded((*more, tree), (compiler_records.KBUILD,), tree)


def path_of(out: Path) -> Path:
    """Return the path of the record in a step's output."""
    return out / FILE


def read(path: Path, *, hint: str = "./inv status --verify") -> CompiledSources:
    """Read a record. Raises `Refused` for one that is missing or damaged."""
    return documents.read(path, CompiledSources, hint=hint)


def write(out: Path, found: CompiledSources) -> None:
    """Write a record into a step's output."""
    write_atomic(path_of(out), documents.to_json(found))


def collect(built: BuildOutputs, where: Recorded) -> CompiledSources:
    """Collect the record of a build that has ended.

    Raises `BuildFailed` where no compilation was recorded, or more than a build of ours has.
    """
    trees = [tree for pattern in where.trees for tree in _matching(built.top, pattern)]
    base = next(_matching(built.top, where.base), "") if where.base else ""
    reader = _Reader(built.top, trees, base)
    for tree in trees:
        for path, data in built.read_below(f"{_BUILD}/{tree}", where.endings, _RECORDS):
            text = data.decode(errors="surrogateescape")
            kbuild_form = path.endswith(compiler_records.KBUILD)
            parse = compiler_records.parse_kbuild if kbuild_form else compiler_records.parse_rules
            if found := parse(text):
                reader.add(posixpath.dirname(path), found, of_package=found.is_kernel or not kbuild_form)
    if not reader.compilations or reader.count > _MOST_FILES:
        raise BuildFailed(
            f"{built.step}: {reader.count} compiled sources recorded; expected 1 to {_MOST_FILES}",
            where=str(built.top / _BUILD),
            why="which sources a package was compiled from could not be told",
            hint=built.hint,
        )
    return reader.result(built.step)


def _matching(top: Path, pattern: str) -> Iterator[str]:
    """Yield the directories below BUILD that a pattern names, in order; each part of it may have `*`."""
    found = [""]
    for part in pattern.split("/"):
        found = [
            f"{place}/{name}".lstrip("/")
            for place in found
            for name in ([part] if "*" not in part else sorted(outputs.names(top, f"{_BUILD}/{place}".rstrip("/"))))
            if fnmatchcase(name, part)
        ]
    yield from (place for place in found if outputs.names(top, f"{_BUILD}/{place}"))


@dataclass
class _Reader:
    """The files read so far. Paths are those inside the sandbox, as the compiler knew them."""

    top: Path
    trees: Sequence[str]
    base: str
    compilations: int = 0
    outside: set[str] = field(default_factory=set)
    of_package: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.of_package) + len(self.others)

    def add(self, directory: str, found: Compilation, *, of_package: bool) -> None:
        """Add one compilation, recorded in `directory` below the top."""
        self.compilations += 1
        begin = f"{_BUILD}/{self.base}" if found.is_kernel else self._working_directory(directory, found.files[0])
        known = self.of_package if of_package else self.others
        for name in found.files:
            path = posixpath.normpath(f"{TOPDIR}/{begin}/{name}" if not name.startswith("/") else name)
            if self._tree(path):
                known.add(path)
            else:
                self.outside.add(path)

    def _working_directory(self, directory: str, first: str) -> str:
        """Return the directory that names in a record are relative to: the nearest from which the first exists."""
        while directory and not first.startswith("/"):
            if self._digest(posixpath.normpath(f"{TOPDIR}/{directory}/{first}")):
                return directory
            directory = posixpath.dirname(directory)
        return directory

    def _tree(self, path: str) -> str:
        return next((tree for tree in self.trees if path.startswith(f"{TOPDIR}/{_BUILD}/{tree}/")), "")

    def _digest(self, path: str) -> str:
        if path not in self.digests:
            self.digests[path] = outputs.sha256(self.top, path.removeprefix(f"{TOPDIR}/"), links=_COPIES)
        return self.digests[path]

    def result(self, step: str) -> CompiledSources:
        trees = {}
        for tree in self.trees:
            prefix = f"{TOPDIR}/{_BUILD}/{tree}/"
            own, others = (
                {path.removeprefix(prefix): self._digest(path) for path in sorted(known) if self._tree(path) == tree}
                for known in (self.of_package, self.others - self.of_package)
            )
            trees[tree] = SourceTree(
                files={path: digest for path, digest in own.items() if digest},
                build_programs={path: digest for path, digest in others.items() if digest},
                unread=tuple(sorted(path for path, digest in (own | others).items() if not digest)),
            )
        return CompiledSources(FORMAT, step, self.compilations, len(self.outside), trees)
