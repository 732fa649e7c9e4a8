"""Share the parts of all recipes of ipvsadm and keepalived.

Covers names in spec files, the summary of keepalived's configure, and the texts in a package's programs. Must not know
any line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from pipeline.core import fs
from pipeline.errors import BuildFailed, Refused, UsageError
from pipeline.formats import archive
from pipeline.inspect import package_contents
from pipeline.packaging import log_errors, rpmbuild
from pipeline.recipes.spec_files import BuildTarget, SpecFiles

ARCH = "x86_64"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.+~-]*")  # what may stand in a spec file and a shell's line as it is
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*")
_TAG = re.compile(r"(\.[A-Za-z0-9_]+)*")
_SUMMARY_TITLE = ("Keepalived configuration", "------------------------")
_SUMMARY_ROW = re.compile(r"([A-Za-z0-9][^:]{2,30}?) +: (.*)")
_SUMMARY_MOST = 200  # rows; keepalived's has 60
_GLIBC = re.compile(r"\(GLIBC_(\d+)\.(\d+)(?:\.\d+)?\)")
_PROGRAM_MOST = 32 << 20  # bytes
_OTHER_REQUIREMENTS = r"/bin/sh|rtld\(GNU_HASH\)|config\({name}\) = .*"

Summary = Sequence[tuple[str, str]]  # of keepalived's configure: its label, its word


class Tool(StrEnum):
    """A director's administration tool."""

    IPVSADM = "ipvsadm"
    KEEPALIVED = "keepalived"


@dataclass(frozen=True)
class Content:
    """Required content of a tool's package: files, configuration files, programs with texts in them, libraries.

    `sources` are what it installs besides the build's products, by their names in SOURCES.
    """

    files: tuple[str, ...]
    config: tuple[str, ...]
    sources: tuple[str, ...]
    texts: Mapping[str, tuple[bytes, ...]]
    libraries: tuple[str, ...]


def plain(names: Collection[str]) -> None:
    """Raise `UsageError` for a text that is unsafe in a spec file or a shell's line."""
    for name in names:
        if not _PLAIN_NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot be named in a spec file", why="letters, digits and ._+~- only")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters of a tool's package that every line has.

    `guard` is RPM's Epoch, 0 for none; `tag` is empty for the project's own line and otherwise part of the release.
    `epoch` is SOURCE_DATE_EPOCH in seconds.
    """

    FIRST: ClassVar[int] = 1  # release number

    target: BuildTarget
    tool: Tool
    version: str
    epoch: int
    number: int = 1
    guard: int = 1
    tag: str = ""

    def __post_init__(self) -> None:
        if not _VERSION.fullmatch(self.version) or not _TAG.fullmatch(self.tag):
            raise UsageError(f"{self.version}-{self.release} cannot be a package's version")
        if self.number < self.FIRST or self.guard < 0:
            why = f"{self.number}, {self.guard}"
            raise UsageError(f"a release counts from {self.FIRST}, an Epoch from 0", why=why)

    @property
    def release(self) -> str:
        """RPM's release. Letters are older than digits: see the comment in the spec files."""
        return f"fnat.{self.number}{self.tag}{self.target.build.dist}"

    @property
    def nevra(self) -> str:
        """The package's name, Epoch, version, release and architecture."""
        return f"{self.tool}-{f'{self.guard}:' if self.guard else ''}{self.version}-{self.release}.{ARCH}"

    @property
    def spec(self) -> str:
        """The spec file's name in SPECS."""
        return f"{self.tool}.spec"

    def to_json(self) -> dict[str, object]:
        """Return the parameters for keys of steps and for evidence."""
        own = {name: value for name, value in vars(self).items() if name != "target"}
        return {**own, "release": self.release, "glibc": self.target.build.glibc_max}


def write(texts: Mapping[str, str], spec: str, sources: Path, specs: Path) -> list[Path]:
    """Write the text called `spec` into `specs` and the others into `sources`; return the paths."""
    written = []
    for name, text in texts.items():
        path = (specs if name == spec else sources) / name
        fs.write_atomic(path, text)
        written.append(path)
    return written


def summary(lines: Iterable[str]) -> dict[str, str]:
    """Return the table at the end of keepalived's configure by label; empty without one."""
    found: dict[str, str] = {}
    above, inside = "", False
    for line in lines:
        if (above, line) == _SUMMARY_TITLE:
            found, inside = {}, True
        elif inside and len(found) < _SUMMARY_MOST and (row := _SUMMARY_ROW.match(line)):
            found[row[1]] = row[2].strip()
        above = line
    return found


def explain_summary(log: Path, wanted: Summary, hint: str) -> None:
    """Raise `BuildFailed` when a build's log shows that keepalived's configure found less than required."""
    table = summary(log_errors.lines(log))
    wrong = [(label, word) for label, word in wanted if table and table.get(label) != word]
    if wrong:
        rows = (f"  {label}: {table.get(label, 'missing')}, must be {word}" for label, word in wrong)
        raise BuildFailed(
            "\n".join(["keepalived's configure did not find what it must", *rows]),
            where=str(log),
            why="configure ends with success all the same: the program would do nothing with virtual servers",
            hint=hint,
        )


def programs(package: rpmbuild.Package, texts: Mapping[str, tuple[bytes, ...]], *more: bytes) -> dict[str, bytes]:
    """Read the programs named in `texts` from the package; check that each contains its texts and `more`.

    A program's own texts say what was compiled into it, without running it. Raises `Refused`.
    """
    found = archive.read(package.path, {path.lstrip("/"): _PROGRAM_MOST for path in texts})
    for path, wanted in texts.items():
        program = found.get(path.lstrip("/"), b"")
        if not program.startswith(b"\x7fELF"):
            raise Refused(f"{path} in {package.path.name} is no program", where=str(package.path))
        if missing := [text.strip(b"\0").decode() for text in (*wanted, *more) if text not in program]:
            why = f"not in it: {', '.join(missing)}"
            raise Refused(f"{path} in {package.path.name} was built without a part", where=str(package.path), why=why)
    return {path: found[path.lstrip("/")] for path in texts}


def libraries(
    package: rpmbuild.Package,
    found: package_contents.PackageMetadata,
    allowed: Collection[str],
    others: Collection[str] = (),
) -> list[str]:
    """Check the libraries that a package requires: only `allowed`, and otherwise only `others`.

    Raises `Refused`. Every package may require `/bin/sh`, and its own configuration.
    """
    needed = sorted({name.partition("(")[0] for name in found.requires if ".so." in name})
    rest = [name for name in found.requires if ".so." not in name and name not in others]
    surplus = [name for name in needed if name not in allowed]
    surplus += [name for name in rest if not re.fullmatch(_OTHER_REQUIREMENTS.format(name=package.name), name)]
    if surplus:
        why = "who installs the package would need that too"
        raise Refused(f"{package.path.name} requires {', '.join(surplus)}", where=str(package.path), why=why)
    return needed


def glibc(package: rpmbuild.Package, found: package_contents.PackageMetadata, newest: tuple[int, ...]) -> str:
    """Return the C library version that a package needs, at most `newest`. Raises `Refused`."""
    versions = [tuple(map(int, pair)) for name in found.requires for pair in _GLIBC.findall(name)]
    needed = max(versions, default=(0, 0))
    if needed > newest:
        why = f"the systems it is for have {'.'.join(map(str, newest))}"
        what = f"{package.path.name} needs version {'.'.join(map(str, needed))} of the C library"
        raise Refused(what, where=str(package.path), why=why)
    return ".".join(map(str, needed))


def installed(files: SpecFiles, names: Collection[str]) -> dict[str, str]:
    """Return the texts of a tool's additional installed files, by name."""
    return {name: files.text(f"tools/{name}") for name in names}
