"""Declare every setting once: its option, TOML key, environment name, default, help and docs.

Order of precedence: the option, the environment variable, the settings file (`inv.toml` in the
working directory, or the file named by FNAT_SETTINGS), the default.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pipeline.core import resources
from pipeline.core.fs import read_limited
from pipeline.core.suggestion import did_you_mean
from pipeline.errors import FileProblems, Problem, UsageError

Kind = Literal["flag", "text", "whole", "seconds", "path", "list"]
# How a text names a path of this host: as a URL of file:, as that or without any URL, unless rsync takes it for another
# host's, unless it is `development` or a fingerprint, or as the program that a command begins with.
PathRule = Literal["url", "mirror", "store", "key", "program"]
SETTINGS_FILE = "inv.toml"
HOME = "INV_HOME"  # the variable in which the launcher says where its checkout is


class Place(IntEnum):
    """Where a value comes from, the one that counts first lowest."""

    OPTION = 0
    ENVIRONMENT = 1
    FILE = 2
    DEFAULT = 3


@dataclass(frozen=True)
class Row:
    """The parts of a setting beside its name, type and default."""

    help: str
    least: float = 0  # smallest value allowed for whole numbers and seconds
    choices: tuple[str, ...] = ()  # the only texts allowed, where not every one is
    value: str = ""  # how help names the value, where the kind does not say it
    shown: str = ""  # how help names a default that depends on the host
    group: str = ""  # of help; of the row before where empty
    path: PathRule | None = None  # how a text names a path, where it may; a value of the kind `path` always does


@dataclass(frozen=True)
class Setting(Row):
    """A row of the table, made of a field of `Settings`. `name` is the option without its dashes and the TOML key."""

    name: str = ""
    kind: Kind = "text"
    default: Any = None

    @property
    def option(self) -> str:
        """The option on the command line."""
        return f"--{self.name}"

    @property
    def default_shown(self) -> str:
        """The default as help and docs show it; empty where there is none."""
        if self.kind == "flag" or self.default in (None, "", ()):
            return ""
        return self.shown or (f"{self.default:g}" if self.kind == "seconds" else str(self.default))

    @property
    def value_shown(self) -> str:
        """The value as help and docs name it."""
        named = {"whole": "NUMBER", "seconds": "SECONDS", "path": "PATH"}.get(self.kind, "VALUE")
        return self.value or "|".join(self.choices) or named

    @property
    def variable(self) -> str:
        """The environment variable of the setting."""
        return "FNAT_" + self.name.upper().replace("-", "_")

    @property
    def attribute(self) -> str:
        """The attribute name in Python."""
        return self.name.replace("-", "_")


@dataclass(frozen=True)
class Settings:
    """The values of one run; a field is the one declaration of a setting.

    `line` is empty where `line_file` alone names the line.
    """

    artifacts: Annotated[
        Path,
        Row(
            "directory of everything this tool makes; the store is in it",
            shown="`artifacts` in the checkout",
            value="DIR",
            group="line and place",
        ),
    ] = Path("artifacts")
    line: Annotated[str, Row("the line's name; `./inv lines` lists them", value="LINE")] = resources.default_line()
    line_file: Annotated[
        Path | None,
        Row(
            "a line file outside the project, in place of LINE; it may extend a line and override parts of it",
            value="FILE",
        ),
    ] = None
    mirror: Annotated[
        tuple[str, ...],
        Row(
            "directory or URL to try before a source's own addresses; may be repeated",
            value="DIR|URL",
            group="sources",
            path="mirror",
        ),
    ] = ()
    debian_mirror: Annotated[
        str, Row("Debian archive to read; default: the one the host's apt uses", value="URL", path="url")
    ] = ""
    offline: Annotated[bool, Row("make no request at all; fail when something is not in the store or a mirror")] = False
    refresh: Annotated[bool, Row("ask the signed Debian index again even where an answer is recorded")] = False
    jobs: Annotated[int, Row("downloads at a time", least=1)] = 4
    retries: Annotated[int, Row("attempts per address before the next one is tried", least=1)] = 4
    stall: Annotated[
        float, Row("seconds without a byte, or below 1 KiB/s, before a transfer is given up", least=0.1)
    ] = 30.0
    connect: Annotated[float, Row("seconds to wait for a connection", least=0.1)] = 10.0
    runtime: Annotated[str, Row("what runs builds", choices=("auto", "bubblewrap", "docker"), group="builds")] = "auto"
    image: Annotated[
        str,
        Row("builder image: centos6 or debian12; auto takes the first that the line has and that runs", value="IMAGE"),
    ] = "auto"
    centos_base: Annotated[
        str, Row("base of the centos6 image, by digest; default: CentOS 6.10's own", value="IMAGE@DIGEST")
    ] = ""
    kernel_config: Annotated[
        str,
        Row(
            "full, or small: kernels for trying, built in minutes and never published with full ones",
            choices=("full", "small"),
        ),
    ] = "full"
    build_jobs: Annotated[
        int, Row("processes that builds may use at once", least=1, shown="as many as the host has")
    ] = os.cpu_count() or 1
    build_time: Annotated[float, Row("seconds that a build may take", least=1)] = 4 * 3600.0
    build_silence: Annotated[float, Row("seconds in which a build may print nothing", least=1)] = 1800.0
    build_memory: Annotated[int, Row("MiB of memory that a build may have; bubblewrap: each process", least=1)] = 12288
    build_disk: Annotated[int, Row("MiB that a build may write, its part of the compiler cache too", least=1)] = 65536
    no_ccache: Annotated[bool, Row("compile every file, without what earlier builds left in the compiler cache")] = (
        False
    )
    ccache_remote: Annotated[
        Path | None,
        Row(
            "directory of compiler caches that one trusted host fills; they are used, and never written by others",
            value="DIR",
        ),
    ] = None
    ccache_writer: Annotated[bool, Row("this is the one host that fills ccache-remote")] = False
    build_processes: Annotated[int, Row("processes that a build may have at a time", least=1)] = 4096
    gpg_key: Annotated[
        str,
        Row(
            "key to sign with, or that must have signed what is booted: a fingerprint, or the file of an exported key; "
            "`development` for the development key; default: the key that signed last, first the development key",
            value="KEY",
            group="keys and repository",
            path="key",
        ),
    ] = ""
    module_key: Annotated[
        Path | None,
        Row(
            "private key, PEM, that kernel modules are signed with; the variable KBUILD_SIGN_PIN holds its passphrase; "
            "default: modules are not signed",
            value="FILE",
        ),
    ] = None
    module_certificate: Annotated[Path | None, Row("the certificate of module-key, PEM or DER", value="FILE")] = None
    attestation_key: Annotated[
        str,
        Row(
            "key to sign statements about steps with: the file of an ECDSA P-256 key in PEM; `development` for the "
            "development key; default: the key of the last publication, first the development key",
            value="FILE",
            path="key",
        ),
    ] = ""
    valid_days: Annotated[
        int,
        Row(
            "days for which a published snapshot is stated to be the latest; each build-all states it anew, once a day"
            " or after a quarter of them",
            least=1,
            group="keys and repository",
        ),
    ] = 30
    baseurl: Annotated[
        str, Row("address that the .repo files name; default: the last one, first a placeholder", value="URL")
    ] = ""
    sign_later: Annotated[
        bool,
        Row("make everything but signatures: a snapshot that `./inv sign UNSIGNED` signs, here or on another host"),
    ] = False
    shared_store: Annotated[
        str,
        Row(
            "store that several hosts share: finished steps go there, and missing ones are taken from there; a "
            "directory, HOST:DIR or rsync://HOST/MODULE for rsync, or http(s)://…, from which they are taken alone",
            value="STORE",
            group="many machines",
            path="store",
        ),
    ] = ""
    shared_keys: Annotated[
        Path | None,
        Row(
            "directory of public attestation keys, *.pem, of other hosts whose steps count; default: only this host's",
            value="DIR",
        ),
    ] = None
    only: Annotated[
        tuple[str, ...], Row("build only this step and what it needs; may be repeated", value="STEP", group="steps")
    ] = ()
    force: Annotated[tuple[str, ...], Row("run this step although nothing changed; may be repeated", value="STEP")] = ()
    keep_going: Annotated[bool, Row("after a failure, go on with what does not depend on it")] = False
    explain: Annotated[bool, Row("say for each step what ran or was reused, and which input decided it")] = False
    dry_run: Annotated[bool, Row("say what would run or be changed, and why; build and change nothing")] = False
    verify: Annotated[bool, Row("read what was made whole, although no file's times say that it changed")] = False
    check_reproducible: Annotated[bool, Row("build every package twice and fail unless both have the same bytes")] = (
        False
    )
    scenario: Annotated[
        tuple[str, ...],
        Row("scenario of the lab to play; may be repeated; default: all of the line's", value="SCENARIO", group="lab"),
    ] = ()
    snapshot: Annotated[
        str,
        Row("published snapshot to boot: its id, or how that begins; default: the line's latest", value="SNAPSHOT"),
    ] = ""
    server_line: Annotated[
        str,
        Row("line whose packages real servers have, where it is not LINE; published in the same DIR", value="LINE"),
    ] = ""
    keep: Annotated[bool, Row("leave each scenario's network running at its end, with a shell in each guest")] = False
    patience: Annotated[
        int,
        Row("how many times as long as usual the lab waits for guests", least=1, value="TIMES"),
    ] = 1
    capture: Annotated[bool, Row("keep the packets of each segment, as pcap files beside the report")] = False
    no_smoke: Annotated[bool, Row("do not play the lab's scenarios at the end")] = False
    keep_nights: Annotated[
        int, Row("nights whose record, snapshot, steps and sources are kept", least=1, group="nights", value="NUMBER")
    ] = 14
    update: Annotated[bool, Row("build a newer version that Debian's index has, instead of reporting it alone")] = False
    smoke_always: Annotated[bool, Row("play the lab although it passed with the same snapshot before")] = False
    notify_command: Annotated[
        str,
        Row(
            "program with its options, run without a shell, that gets the outcome as JSON",
            value="COMMAND",
            path="program",
        ),
    ] = ""
    notify_url: Annotated[str, Row("address that the outcome is posted to as JSON", value="URL")] = ""
    notify_when: Annotated[
        str,
        Row(
            "notify when a line's verdict is another one than the night before, or always", choices=("change", "always")
        ),
    ] = "change"
    json: Annotated[bool, Row("print one JSON document on standard output", group="output")] = False
    quiet: Annotated[bool, Row("no notes and no progress; errors are still printed")] = False

    @property
    def store(self) -> Path:
        """The content-addressed store's directory."""
        return self.artifacts / "store"


_KINDS: Mapping[Any, Kind] = {
    bool: "flag",
    str: "text",
    int: "whole",
    float: "seconds",
    Path: "path",
    Path | None: "path",
    tuple[str, ...]: "list",
}


def _rows() -> Iterator[Setting]:
    hints = get_type_hints(Settings, include_extras=True)
    group = ""
    for each in fields(Settings):
        kind, row = get_args(hints[each.name])
        group = row.group or group
        yield Setting(
            **{**vars(row), "group": group}, name=each.name.replace("_", "-"), kind=_KINDS[kind], default=each.default
        )


ROWS = tuple(_rows())
TABLE: Mapping[str, Setting] = {row.name: row for row in ROWS}

_HINT = "docs/commands.md has every setting"
_LARGEST = 1 << 20  # bytes of a settings file
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_Read = Callable[[Setting, Any], Any]


def load(options: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Settings:
    """Load settings, with options as given (attribute names; None, False and () mean not given).

    Raises `UsageError` for a value that is not allowed and `FileProblems` for the settings file.
    """
    environ = os.environ if environ is None else environ
    from_file = _read_file(Path(environ.get("FNAT_SETTINGS", SETTINGS_FILE)), "FNAT_SETTINGS" in environ)
    values, places = {}, {}
    for row in ROWS:
        given = options.get(row.attribute)
        if given not in (None, False, (), []):
            values[row.attribute], places[row.name] = _checked(row, given, row.option), Place.OPTION
        elif environ.get(row.variable):
            values[row.attribute] = _checked(row, environ[row.variable], row.variable)
            places[row.name] = Place.ENVIRONMENT
        else:
            values[row.attribute] = from_file.get(row.name, row.default)
            places[row.name] = Place.FILE if row.name in from_file else Place.DEFAULT
    if places["artifacts"] is Place.DEFAULT:
        values["artifacts"] = default_artifacts(environ)
    # A line and a line file are one choice: the place that counts first makes it, and there both must agree.
    if places["line-file"] < places["line"]:
        values["line"] = ""
    elif places["line"] < places["line-file"]:
        values["line_file"] = None
    return Settings(**values)


def default_artifacts(environ: Mapping[str, str]) -> Path:
    """Return the default in the launcher's checkout, wherever it was called; the name alone where that is here."""
    home, default = environ.get(HOME), TABLE["artifacts"].default
    return default if home is None or Path(home) == Path.cwd() else Path(home, default)


def _read_file(path: Path, required: bool) -> dict[str, object]:
    try:
        text = read_limited(path, _LARGEST).decode()
        raw = tomllib.loads(text)
    except FileNotFoundError:
        if not required:
            return {}
        hint = "unset FNAT_SETTINGS or name a file"
        raise UsageError("the settings file: not found", where=str(path), hint=hint) from None
    except OSError as error:
        hint = "unset FNAT_SETTINGS or name a file" if required else f"mv {path} another-name"
        raise UsageError(f"the settings file cannot be read: {error.strerror}", where=str(path), hint=hint) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number of too many digits
        raise UsageError(f"the settings file is not TOML: {error}", where=str(path)) from None
    values, problems = {}, []
    for key, value in raw.items():
        if key not in TABLE:
            problems.append(
                Problem(
                    str(path),
                    _line_of(text, key),
                    f"unknown setting {key!r}{did_you_mean(key, TABLE)}",
                    ", ".join(TABLE),
                )
            )
            continue
        try:
            values[key] = _checked(TABLE[key], value, key)
        except UsageError as error:
            problems.append(Problem(str(path), _line_of(text, key), error.what))
    if problems:
        raise FileProblems(f"{len(problems)} mistake(s) in {path}", problems)
    return values


def _line_of(text: str, key: str) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if line.split("=")[0].strip().strip("\"'") == key:
            return number
    return 1


def _checked(row: Setting, value: Any, origin: str) -> Any:
    """Convert `value` to the row's type. Raises `UsageError` that names its origin."""
    reader: dict[str, _Read] = {
        "flag": _flag,
        "text": _text_allowed,
        "whole": lambda r, v: _number(r, int(str(v))),
        "seconds": lambda r, v: _number(r, float(str(v))),
        "path": lambda _, v: Path(_named(v)).expanduser(),
        "list": lambda _, v: tuple(v.split()) if isinstance(v, str) else tuple(_text(item) for item in v),
    }
    try:
        return reader[row.kind](row, value)
    except (ValueError, TypeError, RuntimeError):  # the last of a home that is not known
        number = f"a number, {row.least:g} or more"
        texts = f"one of {', '.join(row.choices)}" if row.choices else "text without control characters"
        wanted = {"flag": "true or false", "text": texts, "path": "a path", "list": "a list of texts"}
        meant = did_you_mean(value, row.choices) if isinstance(value, str) else ""
        raise UsageError(f"{origin}: {value!r}; expected {wanted.get(row.kind, number)}{meant}", hint=_HINT) from None


def _named(value: Any) -> str:
    """Return the text of a path. Raises `ValueError` for an empty one, which would be the current directory."""
    if value == "":
        raise ValueError(value)
    return _text(value)


def _text(value: Any) -> str:
    if not isinstance(value, str | Path):
        raise TypeError(value)
    if not isinstance(value, Path) and _CONTROL.search(value):  # what a setting is written into has lines of its own
        raise ValueError(value)
    return str(value)


def _text_allowed(row: Setting, value: Any) -> str:
    if row.choices and value not in row.choices:
        raise ValueError(value)
    return _text(value)


def _flag(_: Setting, value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if isinstance(value, bool):
        return value
    try:
        return words[str(value).lower()]
    except KeyError:
        raise ValueError(value) from None


def _number(row: Setting, value: Any) -> Any:
    if not row.least <= value < float("inf"):
        raise ValueError(value)
    return value
