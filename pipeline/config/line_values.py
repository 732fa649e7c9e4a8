"""Define the values that line files hold: names, digests, paths, URLs, numbers, and tables that cannot be changed.

Each type checks itself, with a message for the person who wrote the value. Knows no table of a line file.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import date
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticCustomError

SCHEMES = ("http", "https", "ftp", "file")
_RESERVED = ("all", "lab", "latest", "probe-kernel", "reproducible")  # beside lines' directories, or words of commands
_SHOWN = 60  # characters of a value in a message


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
OptionNumber = Annotated[int, Field(ge=1, le=255, strict=True)]  # of a TCP option
Flag = Annotated[bool, Field(strict=True)]
Day = Annotated[date, Field(strict=True)]


K = TypeVar("K")
V = TypeVar("V")
# A table that cannot be changed after it was read.
Table = Annotated[Mapping[K, V], AfterValidator(MappingProxyType), PlainSerializer(dict)]


def empty() -> Mapping[Any, Any]:
    """Return a table without rows, for a field that is left out."""
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
