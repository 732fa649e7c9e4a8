"""The typed model of a line file, and how one is read.

A line is data: sources with their pins, keys, roles, the rules that prove a role, and the
patches of each series. This module reads and checks that data; it fetches and applies nothing.
Every mistake is reported at once, with file:line and what is allowed.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError
from pydantic_core import PydanticCustomError

from pipeline import files, paths
from pipeline.errors import FileProblems, Problem, UsageError

if TYPE_CHECKING:  # it reads the model below
    from pipeline.linechecks import Found

SCHEMES = ("http", "https", "ftp", "file")
_RESERVED = ("all", "lab", "latest", "probe-kernel", "reproducible")  # beside lines' directories, or words of commands
LARGEST = 4 << 20  # bytes of a line file; the largest has 40 thousand
_SHOWN = 60  # characters of a value in a message


class RoleName(StrEnum):
    """What a kernel is for."""

    DIRECTOR = "director"
    REALSERVER = "realserver"
    STOCK = "stock"


def _mistake(kind: str, said: str, allowed: str) -> PydanticCustomError:
    # The text goes in as a value: as a template its braces would be read.
    return PydanticCustomError(kind, "{said}", {"said": said, "allowed": allowed})


def _pattern(name: str, pattern: str, allowed: str) -> Any:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value):
            return value
        shown = repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…")
        raise _mistake(name, f"{shown} is not a {name}", allowed)

    return AfterValidator(check)


def _url(value: str) -> str:
    with contextlib.suppress(ValueError):  # urllib's own refusal: brackets, ports
        parts = urlsplit(value)
        addressed = parts.scheme == "file" or (parts.hostname and parts.port != 0)
        if parts.scheme in SCHEMES and addressed and PurePosixPath(parts.path).name:
            return value
    allowed = f"{', '.join(SCHEMES)} URLs that end in a file name"
    raise _mistake("url", f"{value!r} is not a URL of a file", allowed)


def _inside(value: str) -> str:
    """A relative POSIX path that stays where it is joined."""
    parts = value.split("/")
    if value and not value.startswith("/") and ".." not in parts and "\\" not in value and "\0" not in value:
        return value
    allowed = "a relative path without '..'"
    raise _mistake("path", f"{value!r} leaves its directory", allowed)


Sha256 = Annotated[str, _pattern("SHA-256", r"[0-9a-f]{64}", "64 lower-case hexadecimal digits")]
ObjectId = Annotated[str, _pattern("git object id", r"[0-9a-f]{40}", "40 lower-case hexadecimal digits")]
Fingerprint = Annotated[
    str, _pattern("key fingerprint", r"[0-9A-F]{40}", "40 upper-case hexadecimal digits, no spaces")
]
# Directories bear it: beside others, with -small behind it for the small configuration, and in a package's release.
_LINE = rf"(?=.{{1,48}}$)(?!(?:{'|'.join(_RESERVED)})$)(?!.*-small$)[a-z0-9]+(?:-[a-z0-9]+)*"
_LINES = f"lower-case letters and digits, '-' between, 48 at most; not {', '.join(_RESERVED)}, no -small at the end"
LineName = Annotated[str, _pattern("name", _LINE, _LINES)]
Name = Annotated[str, _pattern("name", r"[a-z0-9][a-z0-9.-]{0,63}", "up to 64 lower-case letters, digits, '-' and '.'")]
FileName = Annotated[
    str, _pattern("file name", r"[A-Za-z0-9][\w.+~-]{0,199}", "one file name without '/', 200 at most")
]
BuildId = Annotated[str, _pattern("buildid", r"(\.[a-z0-9_]+)?", "empty, or '.' and lower-case letters, digits, '_'")]
Config = Annotated[str, _pattern("kernel option", r"CONFIG_[A-Z0-9_]+", "CONFIG_ and upper-case letters, digits, '_'")]
Url = Annotated[str, AfterValidator(_url)]
Inside = Annotated[str, AfterValidator(_inside)]
Size = Annotated[int, Field(gt=0, strict=True)]  # TOML has types of its own: 5.0, "5" and true are no sizes
Flag = Annotated[bool, Field(strict=True)]
Day = Annotated[date, Field(strict=True)]


K = TypeVar("K")
V = TypeVar("V")
# A table that cannot be changed after it was read.
Table = Annotated[Mapping[K, V], AfterValidator(MappingProxyType), PlainSerializer(dict)]


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


class Model(BaseModel):
    """Frozen, and no key may be misspelt; keys are written with dashes."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )


class Key(Model):
    """An OpenPGP key, known by its full fingerprint; where the key itself can be had."""

    title: str
    fingerprint: Fingerprint
    urls: tuple[Url, ...] = ()
    files: tuple[str, ...] = ()  # on the host, or beside the line file
    expired: Day | None = None
    sha1: bool = False


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


class FileSource(Model):
    """A file with its digest in the line file."""

    kind: Literal["file"]
    file: FileName
    urls: tuple[Url, ...] = ()
    size: Size
    sha256: Sha256
    members: tuple[Member, ...] = ()


class SrpmSource(Model):
    """A source RPM. Without a digest here it is pinned on first use, in the line's lock file."""

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
    """The part of Debian's archive a line reads: its suites, and the keys their index must be signed by."""

    suites: tuple[Name, ...] = Field(min_length=1)
    keyring: tuple[Name, ...] = Field(min_length=1)


Source = Annotated[FileSource | SrpmSource | DebianSource, Field(discriminator="kind")]


class Role(Model):
    """What a kernel is for: its patches in order, what marks its packages, and its kernel options."""

    buildid: BuildId = ""
    series: tuple[Name, ...] = ()
    config: Table[Config, str] = Field(default_factory=_empty)


class Rule(Model):
    """What a patch's content must be for its role to be proven. A path ending in '/' is a directory."""

    must_add: tuple[Inside, ...] = ()
    must_touch: tuple[Inside, ...] = ()
    must_not_touch: tuple[Inside, ...] = ()
    must_contain: tuple[str, ...] = ()
    option_define: str
    option_number: int = Field(ge=1, le=255, strict=True)


class LeaveOut(Model):
    """A file section of a patch that is left out: why, where its value goes, digests before and after."""

    file: Inside
    why: str = Field(min_length=10)
    config: Table[Config, str] = Field(default_factory=_empty)
    sha256_before: Sha256
    sha256_after: Sha256


class Patch(Model):
    """One patch of a series: a member of a source, or a file of ours, and the blobs it must leave."""

    role: RoleName
    source: Name | None = None
    member: Inside | None = None
    file: Inside | None = None
    sha256: Sha256
    leave_out: tuple[LeaveOut, ...] = ()
    effect: Table[Inside, ObjectId] = Field(default_factory=_empty)


class Play(Model):
    """A scenario of the lab: the roles whose kernels its parts boot, or why the line leaves it out.

    `known` are defects of the line's own upstream, by what does not work: expected, and shown, not hidden.
    """

    director: RoleName | None = None
    server: RoleName | None = None
    client: RoleName | None = None
    known: Table[Name, str] = Field(default_factory=_empty)
    left_out: str = ""


class LineData(Model):
    """The content of a line file together with its series file."""

    schema_: Annotated[Literal[1], BeforeValidator(lambda v: None if isinstance(v, bool) else v)] = Field(
        alias="schema"
    )
    name: LineName
    title: str
    kernel: str
    kernel_source: Name | None = None
    released: Day | None = None  # upstream's day; everything that is built bears it
    keys: Table[Name, Key] = Field(default_factory=_empty)
    debian: Debian | None = None
    sources: Table[Name, Source]
    roles: Table[RoleName, Role]
    rules: Table[RoleName, Rule] = Field(default_factory=_empty)
    patches: Table[Name, Patch] = Field(default_factory=_empty)
    lab: Table[Name, Play] = Field(default_factory=_empty)


@dataclass(frozen=True)
class Override:
    """A line file outside the project: which line it extends, its digest, and the keys it changes."""

    base: str
    file: str
    sha256: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """A line as everything else sees it."""

    data: LineData
    files: tuple[Path, ...]
    lock_file: Path
    override: Override | None = None

    @property
    def name(self) -> str:
        """The line's name; an override always has one of its own."""
        return self.data.name

    @property
    def label(self) -> str:
        """The name as every output shows it: an override cannot be taken for what it extends."""
        return self.name if self.override is None else f"{self.name} (OVERRIDES {self.override.base})"

    @property
    def release_tag(self) -> str:
        """What an override's packages bear in RPM's release, for the same reason; empty for the project's own lines."""
        return "" if self.override is None else f".override_{re.sub(r'[^a-z0-9]+', '_', self.name)}"

    @property
    def notice(self) -> str:
        """What an override changes, for the head of every report; empty for the project's own lines."""
        if self.override is None:
            return ""
        changes = ", ".join(self.override.changes)
        file = f"{self.override.file} (sha256 {self.override.sha256[:16]}…)"
        return f"not the line {self.override.base}: {file} overrides {changes or 'nothing'}"

    def evidence(self) -> dict[str, Any]:
        """What every piece of evidence says of the line it is about."""
        override = None if self.override is None else vars(self.override)
        return {"line": self.name, "kernel": self.data.kernel, "override": override}


@dataclass(frozen=True)
class _Document:
    """A TOML file as read, kept for the line numbers of its keys."""

    path: Path
    text: str
    sha256: str
    raw: dict[str, Any]

    def line(self, path: Sequence[str | int]) -> int:
        from pipeline import tomlpos

        return tomlpos.line_of(self.text, path)


def names() -> list[str]:
    """The lines that come with the project."""
    return sorted(p.stem for p in paths.lines_dir().glob("*.toml") if not p.name.endswith(".lock.toml"))


def load(name: str | None = None, line_file: Path | None = None) -> Line:
    """The line called `name`, or the one in `line_file`, which may extend one of the project's.

    Raises `UsageError` when there is no such line and `FileProblems` with every mistake at once.
    """
    if line_file is not None:
        own, ours = line_file.resolve(), paths.lines_dir()  # however a line of the project is named
        line = _load_file(ours / own.name if own.parent == ours.resolve() else line_file)
        if name not in (None, line.name):
            raise UsageError(
                f"--line-file holds the line {line.name}, not {name}", where=str(line_file), hint="leave --line out"
            )
        return line
    path = paths.lines_dir() / f"{name}.toml"
    if name not in names():
        raise UsageError(f"there is no line {name!r}", why=f"known: {', '.join(names())}", hint="./inv lines")
    return _load_file(path)


def _load_file(path: Path) -> Line:
    own = _read(path)
    base_name = own.raw.get("extends")
    documents, override = [own], None
    if base_name is not None:
        documents.append(_base_document(own, base_name))
    series = paths.patches_dir() / documents[-1].path.stem / "series.toml"
    if series.is_file() and documents[-1].path.parent == paths.lines_dir():
        documents.append(_read(series))
    if base_name is not None:
        base: dict[str, Any] = {}
        for document in documents[1:]:
            base |= document.raw
        changes = tuple(sorted(set(_changes(own.raw, base))))
        override = Override(str(base_name), str(path), own.sha256, changes)
    data = _validated(documents, overriding=override is not None)
    beside = paths.locks_dir() if path.parent == paths.lines_dir() else path.parent
    lock = beside / f"{path.name.removesuffix('.toml')}.lock.toml"
    return Line(data, tuple(document.path for document in documents), lock, override)


def _base_document(own: _Document, base_name: object) -> _Document:
    mistakes = []
    if base_name not in names():
        mistakes.append(Problem(str(own.path), own.line(["extends"]), f"no line {base_name!r}", ", ".join(names())))
    elif own.raw.get("name", base_name) == base_name:
        allowed = f"a name of its own, such as {base_name}-house"
        mistakes.append(
            Problem(str(own.path), own.line(["name"]), "an override must not bear the base's name", allowed)
        )
    if mistakes:
        raise FileProblems(f"1 mistake in {own.path}", mistakes)
    return _read(paths.lines_dir() / f"{base_name}.toml")


def _read(path: Path) -> _Document:
    try:
        data = files.read_limited(path, LARGEST)
        if data.startswith(codecs.BOM_UTF8):
            raise FileProblems(
                f"{path} is not TOML", [Problem(str(path), 1, "it begins with a byte order mark", "none")]
            )
        text = data.decode()
        return _Document(path, text, hashlib.sha256(data).hexdigest(), tomllib.loads(text))
    except FileNotFoundError:
        raise UsageError("the line file is not there", where=str(path), hint="./inv lines") from None
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"the line file cannot be read: {what}", where=str(path), hint="./inv lines") from None
    except ValueError as error:  # also a number of more digits than Python takes
        found = re.search(r"at line (\d+)", str(error))
        number = int(found[1]) if found else 1 if "at end of document" not in str(error) else text.count("\n") + 1
        raise FileProblems(f"{path} is not TOML", [Problem(str(path), number, str(error))]) from None
    except RecursionError:
        raise FileProblems(f"{path} is not TOML", [Problem(str(path), 1, "it is nested too deeply")]) from None


def _changes(own: Mapping[str, Any], base: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of what `own` sets, down to the depth where `base` has no table."""
    for key, value in own.items():
        if prefix or key not in ("schema", "extends", "name", "title"):
            if _goes_deeper(key, value, base):
                yield from _changes(value, base[key], f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"


def _merged(own: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `own` laid over it: tables key by key, everything else whole."""
    result = dict(base)
    for key, value in own.items():
        result[key] = _merged(value, result[key]) if _goes_deeper(key, value, result) else value
    return result


def _goes_deeper(key: str, value: Any, base: Mapping[str, Any]) -> bool:
    """Whether a table is laid over the base's key by key. What a patch leaves is one statement: whole or not."""
    return key != "effect" and isinstance(value, dict) and isinstance(base.get(key), dict)


def _validated(documents: Sequence[_Document], *, overriding: bool) -> LineData:
    """The line the documents give together. What is wrong without the override too is its base's mistake."""
    from pipeline import linechecks  # not at the top: it reads the model above

    own = documents[0]
    stem = own.path.stem if own.path.parent == paths.lines_dir() else None
    data, found = _judged(documents)
    if not any(path == ("name",) for path, _, _ in found):
        found += linechecks.check_name(own.raw, stem, names())
    if data is not None and not found:
        return data
    inherited = set(_judged(documents[1:])[1]) if overriding else set()
    problems = []
    for item in dict.fromkeys(found):
        guilty = documents[1:] if item in inherited else documents[:1] if overriding else documents
        problems.append(_located(guilty, *item))
    title = f"{len(problems)} mistake(s) in the line file {documents[0].path}"
    raise FileProblems(title, problems, hint="docs/lines.md describes every key")


def _judged(documents: Sequence[_Document]) -> tuple[LineData | None, list[Found]]:
    """The merged documents, the first of them on top, as data; and every mistake in them."""
    from pipeline import linechecks  # not at the top: it reads the model above

    raw: dict[str, Any] = {}
    for document in reversed(documents):
        raw = _merged(document.raw, raw)
    raw.pop("extends", None)
    try:
        data = LineData.model_validate(raw)
    except ValidationError as error:
        return None, [linechecks.explain(raw, dict(item)) for item in error.errors(include_url=False)]
    return data, list(linechecks.cross_checks(data))


def _located(documents: Sequence[_Document], path: Sequence[str | int], what: str, allowed: str) -> Problem:
    """The problem in the document that says most about `path`; the first of equals."""
    from pipeline.linechecks import existing

    document = max(documents, key=lambda d: len(existing(d.raw, path)))
    return Problem(str(document.path), document.line(existing(document.raw, path)), what, allowed)
