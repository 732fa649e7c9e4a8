"""Type a line file: sources with their pins, keys, roles, the rules that prove a role, the patches of each series.

Reads nothing: `line_loader` reads line files, `line_checks` reports their mistakes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from pipeline.errors import UsageError

SCHEMES = ("http", "https", "ftp", "file")
_RESERVED = ("all", "lab", "latest", "probe-kernel", "reproducible")  # beside lines' directories, or words of commands
_SHOWN = 60  # characters of a value in a message
_WRAPPED_MOST = 64 << 20  # bytes of a text that is decoded in memory


class RoleName(StrEnum):
    """Role of a kernel."""

    DIRECTOR = "director"
    REALSERVER = "realserver"
    STOCK = "stock"


class Init(StrEnum):
    """The program that starts services."""

    SYSV = "sysv"
    SYSTEMD = "systemd"


def _mistake(kind: str, message: str, allowed: str) -> PydanticCustomError:
    # The text goes in as a value: as a template its braces would be read.
    return PydanticCustomError(kind, "{message}", {"message": message, "allowed": allowed})


def pattern(name: str, expression: str, allowed: str) -> Any:
    """Check a string by a regular expression, in an `Annotated`; `name` and `allowed` are for the message."""
    compiled = re.compile(expression)

    def check(value: str) -> str:
        if compiled.fullmatch(value):
            return value
        shown = repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…")
        raise _mistake(name, f"{shown} is not a {name}", allowed)

    return AfterValidator(check)


def _url(value: str) -> str:
    with contextlib.suppress(ValueError):  # urllib's own refusal: brackets, ports
        parts = urlsplit(value if value.isprintable() and " " not in value else "")
        addressed = parts.scheme == "file" or (parts.hostname and parts.port != 0)
        if parts.scheme in SCHEMES and addressed and PurePosixPath(parts.path).name:
            return value
    allowed = f"{', '.join(SCHEMES)} URLs that end in a file name; a blank is written %20"
    raise _mistake("url", f"{value!r} is not a URL of a file", allowed)


def _inside(value: str) -> str:
    """Check that a relative POSIX path stays below the directory it is joined to."""
    parts = value.split("/")
    if value and not value.startswith("/") and ".." not in parts and "\\" not in value and "\0" not in value:
        return value
    allowed = "a relative path without '..'"
    raise _mistake("path", f"{value!r} leaves its directory", allowed)


Sha256 = Annotated[str, pattern("SHA-256", r"[0-9a-f]{64}", "64 lower-case hexadecimal digits")]
ObjectId = Annotated[str, pattern("git object id", r"[0-9a-f]{40}", "40 lower-case hexadecimal digits")]
Fingerprint = Annotated[str, pattern("key fingerprint", r"[0-9A-F]{40}", "40 upper-case hexadecimal digits, no spaces")]
# Directories bear it: beside others, with -small behind it for the small configuration, and in a package's release.
_LINE = rf"(?=.{{1,48}}$)(?!(?:{'|'.join(_RESERVED)})$)(?!.*-small$)[a-z0-9]+(?:-[a-z0-9]+)*"
_LINES = f"lower-case letters and digits, '-' between, 48 at most; not {', '.join(_RESERVED)}, no -small at the end"
LineName = Annotated[str, pattern("name", _LINE, _LINES)]
Name = Annotated[str, pattern("name", r"[a-z0-9][a-z0-9.-]{0,63}", "up to 64 lower-case letters, digits, '-' and '.'")]
_FILE = "one file name without '/' and blanks: letters, digits, '_', '.', '+', '~', '-', 200 at most"
FileName = Annotated[str, pattern("file name", r"[A-Za-z0-9][\w.+~-]{0,199}", _FILE)]
BuildId = Annotated[str, pattern("buildid", r"(\.[a-z0-9_]+)?", "empty, or '.' and lower-case letters, digits, '_'")]
Config = Annotated[str, pattern("kernel option", r"CONFIG_[A-Z0-9_]+", "CONFIG_ and upper-case letters, digits, '_'")]
Dist = Annotated[str, pattern("dist", r"\.[a-z0-9_]+", "'.' and lower-case letters, digits, '_'")]
Series = Annotated[str, pattern("series of kernels", r"[0-9]+(\.[0-9]+)+", "numbers with '.' between, such as 6.1")]
Glibc = Annotated[str, pattern("version of glibc", r"[0-9]+\.[0-9]+", "two numbers with '.' between, such as 2.34")]
Symbol = Annotated[str, pattern("symbol", r"[A-Za-z_][A-Za-z0-9_]*", "a C identifier")]
Crc = Annotated[str, pattern("CRC", r"0x[0-9a-f]{8}", "0x and 8 lower-case hexadecimal digits")]
PackageVersion = Annotated[str, pattern("package's version", r"[0-9]+(\.[0-9]+)*", "numbers with '.' between")]
ModuleName = Annotated[str, pattern("module", r"[a-z0-9][a-z0-9_]{0,55}", "56 lower-case letters, digits, '_' at most")]
SpecLine = Annotated[str, pattern("line of a spec file", r"\S(.*\S)?", "one line, no blank around it")]
TextLine = Annotated[str, pattern("line of a text", r"[^\r\n]*[^\s][^\r\n]*", "one line that is not blank")]
Url = Annotated[str, AfterValidator(_url)]
Inside = Annotated[str, AfterValidator(_inside)]
Size = Annotated[int, Field(gt=0, lt=1 << 63, strict=True)]  # TOML has types of its own: 5.0, "5" and true are no sizes
Flag = Annotated[bool, Field(strict=True)]
Day = Annotated[date, Field(strict=True)]


K = TypeVar("K")
T = TypeVar("T")
V = TypeVar("V")
# A table that cannot be changed after it was read.
Table = Annotated[Mapping[K, V], AfterValidator(MappingProxyType), PlainSerializer(dict)]


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


class Model(BaseModel):
    """A frozen table without unknown keys; keys are written with dashes."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )


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
    known: Table[Name, Sha256] = Field(default_factory=_empty)


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
    new version some time before all of them hold its files. With `image`, only what is built in the
    builder image of that name needs it, and it is fetched for that image alone.
    """

    kind: Literal["debian"]
    package: Name
    version: str = Field(min_length=1)
    accept_older: Flag = False
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
    contains: Table[ModuleName, tuple[str, ...]] = Field(default_factory=_empty)
    paths: tuple[Inside, ...] = ()
    kbuild: Inside | None = None


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
    config: Table[Config, str] = Field(default_factory=_empty)
    symbols: Table[Symbol, Crc] = Field(default_factory=_empty)


class ContentRule(Model):
    """Requirements on what patches change. A path ending in '/' is a directory."""

    must_add: tuple[Inside, ...] = ()
    must_touch: tuple[Inside, ...] = ()
    must_not_touch: tuple[Inside, ...] = ()
    must_contain: tuple[str, ...] = ()


class Rule(ContentRule):
    """Requirements on a patch's content that prove its role."""

    option_define: str
    option_number: int = Field(ge=1, le=255, strict=True)


class LeaveOut(Model):
    """A file section of a patch that is not applied: reason, place of its value, digests before and after."""

    file: Inside
    why: str = Field(min_length=10)
    config: Table[Config, str] = Field(default_factory=_empty)
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
    effect: Table[Inside, ObjectId] = Field(default_factory=_empty)


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
    program_contains: Table[str, tuple[str, ...]] = Field(default_factory=_empty)
    effect: Table[Inside, ObjectId] = Field(default_factory=_empty)


class LabScenario(Model):
    """A scenario of the lab: the roles whose kernels its guests boot, or the reason that the line leaves it out.

    `known` are defects of the line's own upstream, by what does not work: expected, and shown, not hidden.
    """

    director: RoleName | None = None
    server: RoleName | None = None
    client: RoleName | None = None
    known: Table[Name, str] = Field(default_factory=_empty)
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
    keys: Table[Name, Key] = Field(default_factory=_empty)
    debian: Debian | None = None
    sources: Table[Name, Source]
    roles: Table[RoleName, Role]
    packages: Table[Name, ModuleSet] = Field(default_factory=_empty)
    rules: Table[RoleName, Rule] = Field(default_factory=_empty)
    patches: Table[Name, Patch] = Field(default_factory=_empty)
    tools: Table[Name, ToolSeries] = Field(default_factory=_empty)
    lab: Table[Name, LabScenario] = Field(default_factory=_empty)

    @property
    def kernels(self) -> tuple[RoleName, ...]:
        """The roles that have a kernel of their own, each of which is compiled once."""
        return tuple(name for name, role in self.roles.items() if role.kernel is None)

    def patches_modules(self, role: Role) -> bool:
        """Tell whether the role's series is applied to modules beside the stock kernel."""
        return any(self.packages[name].paths for name in role.packages if name in self.packages)

    def kernel_of(self, role: RoleName) -> RoleName:
        """Return the role whose kernel the machines of `role` run."""
        return self.roles[role].kernel or role


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
