"""Type a line file: sources with their pins, keys, roles, the rules that prove a role, the patches of each series.

Reads nothing: `line_loader` reads line files, `line_checks` reports their mistakes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field

from pipeline.config.line_values import (
    BuildId,
    Config,
    Crc,
    Day,
    Dist,
    FileName,
    Fingerprint,
    Flag,
    Glibc,
    Inside,
    LineName,
    Model,
    ModuleName,
    Name,
    ObjectId,
    OptionNumber,
    PackageVersion,
    Series,
    Sha256,
    Size,
    SpecLine,
    Symbol,
    Table,
    TextLine,
    Url,
    empty,
)
from pipeline.errors import UsageError

_WRAPPED_MOST = 64 << 20  # bytes of a text that is decoded in memory

T = TypeVar("T")


class RoleName(StrEnum):
    """Role of a kernel."""

    DIRECTOR = "director"
    REALSERVER = "realserver"
    STOCK = "stock"


class Init(StrEnum):
    """The program that starts services."""

    SYSV = "sysv"
    SYSTEMD = "systemd"


class Key(Model):
    """An OpenPGP key by its full fingerprint, and the places to fetch it from."""

    title: str
    fingerprint: Fingerprint
    urls: tuple[Url, ...] = ()
    files: tuple[str, ...] = ()  # on the host, or beside the line file
    expired: Day | None = None
    sha1: Flag = False


class Member(Model):
    """A file inside an archive. `signer` limits the pin to archives signed by that key."""

    path: Inside
    size: Size
    sha256: Sha256
    signer: Name | None = None


class Tree(Model):
    """The kernel tree inside an SRPM: its archive and git tree hash; `manifest` lists its blobs."""

    archive: FileName
    git_tree: ObjectId
    entries: Size
    manifest: FileName | None = None


class Spec(Model):
    """The spec file inside an SRPM: lines it must contain, and its digest where the signer's is known."""

    path: FileName
    contains: tuple[str, ...] = Field(min_length=1)
    known: Table[Name, Sha256] = Field(default_factory=empty)


class Wrapped(Model):
    """A public text that holds the file, encoded, between the line `after` and the next line `before`.

    `size` and `sha256` are the text's own.
    """

    url: Url
    unwrap: Literal["base64"]
    after: TextLine
    before: TextLine
    size: Annotated[int, Field(gt=0, le=_WRAPPED_MOST, strict=True)]
    sha256: Sha256


class FileSource(Model):
    """A file with its digest in the line file. Wrapped copies are for when none of its addresses has it."""

    kind: Literal["file"]
    file: FileName
    urls: tuple[Url, ...] = ()
    wrapped: tuple[Wrapped, ...] = ()
    size: Size
    sha256: Sha256
    members: tuple[Member, ...] = ()


class SrpmSource(Model):
    """A source RPM. Without a digest here its pin is in the line's lock file."""

    kind: Literal["srpm"]
    file: FileName
    urls: tuple[Url, ...] = ()
    size: Size | None = None
    sha256: Sha256 | None = None
    nevra: str
    signers: tuple[Name, ...] = Field(min_length=1)
    spec: Spec
    tree: Tree
    members: tuple[Member, ...] = ()


class DebianSource(Model):
    """The upstream tarball of a Debian source package, by the digest in Debian's signed index.

    `version` is a Debian version, or a prefix that ends in '.': then the newest one is taken, or,
    with `accept_older`, the newest that the archive really has, which is said: archives list a
    new version some time before all of them hold its files. `made_for` is the upstream version that the
    patches are recorded for: of the matching ones it comes first while the archive has it. With `image`, only what is
    built in the builder image of that name needs it, and it is fetched for that image alone.
    """

    kind: Literal["debian"]
    package: Name
    version: str = Field(min_length=1)
    accept_older: Flag = False
    made_for: str | None = None
    image: Name | None = None
    sha256: Sha256 | None = None
    size: Size | None = None


class Debian(Model):
    """The Debian archive of a line: its suites, and the keys that must sign their index."""

    suites: tuple[Name, ...] = Field(min_length=1)
    keyring: tuple[Name, ...] = Field(min_length=1)


Source = Annotated[FileSource | SrpmSource | DebianSource, Field(discriminator="kind")]


class Anchors(Model):
    """The lines of a Red Hat style kernel.spec that changes of the build hang on, each once in the file."""

    patch_declared: SpecLine
    patch_applied: SpecLine
    release: SpecLine
    signing: SpecLine
    prep: SpecLine
    build: SpecLine
    debuginfo: SpecLine
    find_provides: SpecLine
    find_requires: SpecLine


class BuildSpec(Model):
    """How a line is built: its recipe by name, the builder images in order of preference, and what differs by line.

    `specs` is a directory below `specs/`. `glibc_max` is the newest C library that a tool may need. `old_readers`:
    the packages are for systems whose rpm and yum read the formats of that time alone.
    """

    recipe: Name
    images: tuple[Name, ...] = Field(min_length=1)
    specs: Name
    dist: Dist
    kernel_series: Series
    glibc_max: Glibc
    init: Init
    old_readers: Flag = False
    anchors: Anchors | None = None

    @property
    def glibc(self) -> tuple[int, ...]:
        """The newest C library, as numbers that compare."""
        return tuple(map(int, self.glibc_max.split(".")))

    def takes(self, version: str) -> bool:
        """Tell whether a kernel of this version is of the series: 6.1.187 is of 6.1, 6.12 is not."""
        return re.fullmatch(rf"{re.escape(self.kernel_series)}(\.[0-9]+)?", version) is not None


class ModuleSet(Model):
    """Kernel modules built out of tree, from one of the line's sources, for the kernel of the role stock.

    `modules` are the names of the modules that the package must hold, all that it may; `contains` are texts that they
    must hold, by module. With `paths` the source is the kernel's: of it these files and directories alone, with the
    series of the role that has the package, and with the spec file `kbuild` as the makefile at their top.
    """

    kind: Literal["module-set"]
    source: Name
    summary: SpecLine
    version: PackageVersion
    modules: tuple[ModuleName, ...] = Field(min_length=1)
    contains: Table[ModuleName, tuple[str, ...]] = Field(default_factory=empty)
    paths: tuple[Inside, ...] = ()
    kbuild: Inside | None = None


class ToaReader(Model):
    """The program that reads TOA on the stock kernel of real servers, from the project's own sources.

    `option_number` is the TCP option's number that it is made for: the director's.
    """

    kind: Literal["toa-reader"]
    option_number: OptionNumber


RolePackage = Annotated[ModuleSet | ToaReader, Field(discriminator="kind")]


class Role(Model):
    """A role's kernel: its patches in order, the mark of its packages, and its kernel options.

    `symbols` are exported symbols with the CRCs that a kernel of the whole configuration must have; those of the
    role stock hold for every role that does not say otherwise.

    With `kernel` the role has no kernel of its own: its machines run that role's, with the role's `packages`. Its
    series is then that of the package that is made of the kernel's source.
    """

    kernel: Literal[RoleName.STOCK] | None = None
    packages: tuple[Name, ...] = ()

    buildid: BuildId = ""
    series: tuple[Name, ...] = ()
    config: Table[Config, str] = Field(default_factory=empty)
    symbols: Table[Symbol, Crc] = Field(default_factory=empty)


class ContentRule(Model):
    """Requirements on what patches change. A path ending in '/' is a directory."""

    must_add: tuple[Inside, ...] = ()
    must_touch: tuple[Inside, ...] = ()
    must_not_touch: tuple[Inside, ...] = ()
    must_contain: tuple[str, ...] = ()


class Rule(ContentRule):
    """Requirements on a patch's content that prove its role."""

    option_define: str
    option_number: OptionNumber


class LeaveOut(Model):
    """A file section of a patch that is not applied: reason, place of its value, digests before and after."""

    file: Inside
    why: str = Field(min_length=10)
    config: Table[Config, str] = Field(default_factory=empty)
    sha256_before: Sha256
    sha256_after: Sha256


class Patch(Model):
    """One patch of a series: a member of a source, or a file of the project, and the resulting blobs."""

    role: RoleName
    source: Name | None = None
    member: Inside | None = None
    file: Inside | None = None
    sha256: Sha256
    leave_out: tuple[LeaveOut, ...] = ()
    effect: Table[Inside, ObjectId] = Field(default_factory=empty)


class ToolPatch(Model):
    """One patch of a tool's series: a file of the project."""

    file: Inside
    sha256: Sha256


class ToolSeries(ContentRule):
    """The patches of one tool, in order, and the content that proves them as a whole; none: the tool is upstream's.

    `program_contains` are texts that the built programs must hold, by the programs' paths; `effect` are the blobs that
    the whole series leaves. `release` counts the changes of the series, so that the package's release does.
    """

    patches: tuple[ToolPatch, ...] = ()
    release: int = Field(default=1, ge=1, le=9999, strict=True)
    program_contains: Table[str, tuple[str, ...]] = Field(default_factory=empty)
    effect: Table[Inside, ObjectId] = Field(default_factory=empty)


class LabScenario(Model):
    """A scenario of the lab: the roles whose kernels its guests boot, or the reason that the line leaves it out.

    `known` are defects of the line's own upstream, by what does not work: expected, and shown, not hidden.
    """

    director: RoleName | None = None
    server: RoleName | None = None
    client: RoleName | None = None
    known: Table[Name, str] = Field(default_factory=empty)
    left_out: str = ""


class LineData(Model):
    """The content of a line file together with its series file."""

    schema_: Annotated[Literal[1], BeforeValidator(lambda v: v if type(v) is int else None)] = Field(alias="schema")
    name: LineName
    title: str
    kernel: str
    kernel_source: Name | None = None
    released: Day | None = None  # upstream's day: the build time of all packages
    build: BuildSpec | None = None
    keys: Table[Name, Key] = Field(default_factory=empty)
    debian: Debian | None = None
    sources: Table[Name, Source]
    roles: Table[RoleName, Role]
    packages: Table[Name, RolePackage] = Field(default_factory=empty)
    rules: Table[RoleName, Rule] = Field(default_factory=empty)
    patches: Table[Name, Patch] = Field(default_factory=empty)
    tools: Table[Name, ToolSeries] = Field(default_factory=empty)
    lab: Table[Name, LabScenario] = Field(default_factory=empty)

    @property
    def kernels(self) -> tuple[RoleName, ...]:
        """The roles that have a kernel of their own, each of which is compiled once."""
        return tuple(name for name, role in self.roles.items() if role.kernel is None)

    def patches_modules(self, role: Role) -> bool:
        """Tell whether the role's series is applied to modules beside the stock kernel."""
        packages = (self.packages.get(name) for name in role.packages)
        return any(package.paths for package in packages if isinstance(package, ModuleSet))

    def kernel_of(self, role: RoleName) -> RoleName:
        """Return the role whose kernel the machines of `role` run."""
        return self.roles[role].kernel or role

    def packages_of(self, role: RoleName) -> tuple[str, ...]:
        """Return the packages that make a role of the stock kernel; none for a role that the line lacks."""
        return self.roles[role].packages if role in self.roles else ()


@dataclass(frozen=True)
class Override:
    """A line file outside the project: the line it extends, its digest, and the keys it changes."""

    base: str
    file: str
    sha256: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class LineIdentity:
    """The line that a document is about."""

    line: str
    kernel: str
    override: Override | None


@dataclass(frozen=True)
class Line:
    """A loaded line.

    `own_specs` is the directory `specs` beside a line file outside the project that names its own spec files.
    """

    data: LineData
    files: tuple[Path, ...]
    lock_file: Path
    override: Override | None = None
    own_specs: Path | None = None

    @property
    def name(self) -> str:
        """The line's name; an override always has one of its own."""
        return self.data.name

    @property
    def base(self) -> str:
        """The name of the line that an override extends, or its own: what packages say of the line they are for."""
        return self.name if self.override is None else self.override.base

    @property
    def label(self) -> str:
        """The name in every output, which tells an override from its base."""
        return self.name if self.override is None else f"{self.name} (OVERRIDES {self.override.base})"

    @property
    def release_tag(self) -> str:
        """The mark of an override's packages in RPM's release; empty for the project's own lines."""
        return "" if self.override is None else f".override_{re.sub(r'[^a-z0-9]+', '_', self.name)}"

    @property
    def notice(self) -> str:
        """The changes of an override, for the head of every report; empty for the project's own lines."""
        if self.override is None:
            return ""
        changes = ", ".join(self.override.changes)
        file = f"{self.override.file} (sha256 {self.override.sha256[:16]}…)"
        return f"not the line {self.override.base}: {file} overrides {changes or 'nothing'}"

    @property
    def identity(self) -> tuple[str, str, Override | None]:
        """The fields of `LineIdentity`, with which each document about this line begins."""
        return self.name, self.data.kernel, self.override


def required(value: T | None, what: str) -> T:
    """Return a value of the line that this request needs. Raises `UsageError` without one."""
    if value is None:
        raise UsageError(f"the line file: no {what}; expected one for this", hint="docs/lines.md describes every key")
    return value
