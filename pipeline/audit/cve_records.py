"""Read CVE records of the Linux kernel's CNA: JSON 5, as CVEProject/cvelistV5 and the kernel's vulns.git have them.

A record is a stranger's: what is read is bounded, and one that is not of this form is named and passed over. Whether a
version is affected follows the CVE record format's "version status" (schema 5, `affected[].versions`): the range that
holds a version decides, else `defaultStatus`. Ranges of commits are not used: without the kernel's history a commit has
no place. Must not know any line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.core import documents, neutral
from pipeline.core.fs import read_limited
from pipeline.errors import Refused, UsageError

MOST = 2 << 20  # bytes of a record; the largest of the kernel's has 71 KiB
_MOST_FILES = 1_000_000  # below a directory; cvelistV5 has 320,000
_MOST_NAMES, _MOST_NAME = 10_000, 4096  # program files of a record, and characters of one
_MOST_RANGES = 10_000
_TITLE = 160  # characters
_ID = re.compile(r"CVE-\d{4}-\d{4,19}")
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9}){0,5}(-rc\d{1,3})?")
_GIT = "git"
REJECTED = "rejected"  # a directory of vulns.git, whose records say PUBLISHED

Version = tuple[int, ...]


class Status(StrEnum):
    """Status of a version in a record."""

    AFFECTED = "affected"
    UNAFFECTED = "unaffected"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Range:
    """One row of versions: from `first` on, below `below`, or up to `last`, whose `*` stands for every number.

    Without an end it is the one version `first`.
    """

    first: str
    below: str
    last: str
    status: Status

    def holds(self, version: Version) -> bool:
        """Return whether the range holds a version."""
        if not (self.below or self.last):
            return _trimmed(version) == _trimmed(numbers(self.first))
        if version < _trimmed(numbers(self.first)):
            return False
        if self.below:
            return _trimmed(version) < _trimmed(numbers(self.below))
        fixed = numbers(self.last.removesuffix("*").removesuffix("."))
        return not fixed or version[: len(fixed)] <= fixed if self.last.endswith("*") else version <= fixed


@dataclass(frozen=True)
class Affected:
    """A product in a record: the status of versions in no range, and the ranges."""

    default: Status
    ranges: tuple[Range, ...]


@dataclass(frozen=True)
class CveRecord:
    """A record about the Linux kernel. `files` are its program files; `rejected` is why it counts for nothing."""

    id: str
    title: str
    rejected: str
    files: tuple[str, ...]
    products: tuple[Affected, ...]

    def status(self, version: Version) -> Status:
        """Return the status of a version: affected where any product's ranges say so, unknown without any ranges."""
        found = {_status(product, version)[0] for product in self.products}
        return next((each for each in (Status.AFFECTED, Status.UNAFFECTED) if each in found), Status.UNKNOWN)

    def why_unaffected(self, version: Version) -> str:
        """Return why a version is not affected, in a few words."""
        for product in self.products:
            found = _status(product, version)[1]
            if found is not None and found.status is Status.UNAFFECTED:
                return f"fixed in {found.first}" if _trimmed(numbers(found.first)) else f"came with {found.below}"
        return "in no affected range"

    def fixes(self, version: Version) -> tuple[str, ...]:
        """Return the versions with a fix that come after a version, in order."""
        ends = [row.first for product in self.products for row in product.ranges if row.status is Status.UNAFFECTED]
        ends += [row.below for product in self.products for row in product.ranges if row.status is Status.AFFECTED]
        later = {end for end in ends if end and numbers(end) > version}
        return tuple(sorted(later, key=numbers))


def numbers(text: str) -> Version:
    """Return the numbers of a version; none of an empty one.

    A release candidate has those of its release: no released version lies between the two.
    """
    return tuple(map(int, text.partition("-")[0].split("."))) if text else ()


def _trimmed(version: Version) -> Version:
    """Return a version without zeros at its end: 6.1 and 6.1.0 are one."""
    while version and version[-1] == 0:
        version = version[:-1]
    return version


def _status(product: Affected, version: Version) -> tuple[Status, Range | None]:
    found = next((row for row in product.ranges if row.holds(version)), None)
    return (found.status if found else product.default), found


def parse(data: bytes) -> CveRecord | None:
    """Parse a record; None for one about no Linux kernel. Raises `ValueError` for anything else."""
    top = _object(documents.parse(object, data), "the file")
    metadata = _object(top.get("cveMetadata"), "cveMetadata")
    # vulns.git has rejected records in an older form, whose key is cveID.
    identifier = _text(metadata.get("cveId", metadata.get("cveID")), "cveMetadata.cveId")
    if not _ID.fullmatch(identifier):
        raise ValueError(f"cveMetadata.cveId: expected CVE-YEAR-NUMBER, got {identifier[:40]!r}")
    rejected = "its state is REJECTED" if metadata.get("state") == "REJECTED" else ""
    cna = _object(_object(top.get("containers"), "containers").get("cna"), "containers.cna")
    rows = [_object(row, "affected") for row in _list(cna.get("affected", []), "affected")]
    kernel = [row for row in rows if (row.get("vendor"), row.get("product")) == ("Linux", "Linux")]
    if not kernel and not (rejected and metadata.get("assignerShortName") == "Linux"):
        return None
    title = cna.get("title", "")
    names = (name for row in kernel for name in _list(row.get("programFiles", []), "programFiles"))
    files = tuple(dict.fromkeys(_path(name) for name in names))
    if len(files) > _MOST_NAMES:
        raise ValueError(f"programFiles: expected at most {_MOST_NAMES}, got {len(files)}")
    products = tuple(product for row in kernel if (product := _product(row)).ranges)
    return CveRecord(identifier, title[:_TITLE] if isinstance(title, str) else "", rejected, files, products)


def _product(row: dict[str, Any]) -> Affected:
    rows = [_object(each, "versions") for each in _list(row.get("versions", []), "versions")]
    if len(rows) > _MOST_RANGES:
        raise ValueError(f"versions: expected at most {_MOST_RANGES}, got {len(rows)}")
    ranges = tuple(_range(each) for each in rows if each.get("versionType") != _GIT)
    return Affected(_state(row.get("defaultStatus", Status.UNKNOWN), "defaultStatus"), ranges)


def _range(row: dict[str, Any]) -> Range:
    return Range(
        _version(row.get("version"), "version"),
        _version(row["lessThan"], "lessThan") if "lessThan" in row else "",
        _version(row["lessThanOrEqual"], "lessThanOrEqual", open_end=True) if "lessThanOrEqual" in row else "",
        _state(row.get("status"), "status"),
    )


def _version(value: object, name: str, *, open_end: bool = False) -> str:
    text = _text(value, f"versions.{name}")
    fixed = text.removesuffix("*").removesuffix(".") if open_end and text.endswith("*") else text
    if not (_VERSION.fullmatch(fixed) or (open_end and text == "*")):
        raise ValueError(f"versions.{name}: expected numbers and dots, got {text[:40]!r}")
    return text


def _state(value: object, name: str) -> Status:
    try:
        return Status(_text(value, name))
    except ValueError:
        raise ValueError(f"{name}: expected affected, unaffected or unknown, got {str(value)[:40]!r}") from None


def _path(value: object) -> str:
    text = _text(value, "programFiles")
    if not 0 < len(text) <= _MOST_NAME:
        raise ValueError(f"programFiles: expected a path of at most {_MOST_NAME} characters, got {len(text)}")
    return text.removeprefix("./").lstrip("/")


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected text, got {type(value).__name__}")
    return value


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name}: expected a list, got {type(value).__name__}")
    return value


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected an object, got {type(value).__name__}")
    return value


@dataclass(frozen=True)
class Skipped:
    """A file that is no record of this form, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class RecordSet:
    """The content of a directory or file: records of the kernel, the number of those of others, skipped files."""

    records: tuple[CveRecord, ...]
    others: int
    skipped: tuple[Skipped, ...]


def read(path: Path, line: str = "") -> RecordSet:
    """Read all records in a file, or in the `.json` files below a directory; a record that is there twice counts once.

    `line` is the name that hints give the verb, empty where another option names the line. Raises `UsageError` where
    no record of the kernel is there, and `Refused` where none can be read.
    """
    records: dict[str, CveRecord] = {}
    skipped, others = list[Skipped](), 0
    for file in _files(path, line):
        try:
            found = parse(read_limited(file, MOST))
        except OSError as error:
            skipped.append(Skipped(file, error.strerror or str(error)))
        except ValueError as error:
            skipped.append(Skipped(file, f"no CVE record: {str(error)[:200]}"))
        else:
            others += found is None
            if found is not None and found.id not in records:
                records[found.id] = _placed(found, file.parts)
    if not records and skipped:
        raise Refused(
            f"{path}: no CVE record can be read; expected JSON 5 records of the kernel's CNA",
            where=str(skipped[0].path),
            why=skipped[0].why,
            hint=_hint(line),
        )
    if not records:
        raise _nothing(path, line, f"{others} records of other products")
    return RecordSet(tuple(records[name] for name in sorted(records, key=order)), others, tuple(skipped))


def order(identifier: str) -> tuple[int, int]:
    """Return the key that sorts CVE ids by year and number."""
    _, year, number = identifier.split("-")
    return int(year), int(number)


def _placed(found: CveRecord, parts: Sequence[str]) -> CveRecord:
    if REJECTED not in parts or found.rejected:
        return found
    return CveRecord(found.id, found.title, f"it lies in a directory {REJECTED}", found.files, found.products)


def _hint(line: str) -> str:
    command = neutral.command(["./inv", "cves", *filter(None, [line]), "vulns/cve"])
    return f"git clone https://git.kernel.org/pub/scm/linux/security/vulns.git; then {command}"


def _nothing(path: Path, line: str, got: str) -> UsageError:
    return UsageError(
        f"{path}: no CVE record of the Linux kernel; expected a file or a directory with some, got {got}",
        why="records are fetched by you: from CVEProject/cvelistV5 or git.kernel.org's vulns.git",
        hint=_hint(line),
    )


def _files(path: Path, line: str) -> Iterator[Path]:
    """Yield the file itself, or the `.json` files below a directory in order; no link to a directory is followed."""
    if not path.exists():
        raise _nothing(path, line, "nothing")
    if not path.is_dir():
        yield path
        return
    pending, count = [path], 0
    while pending:
        try:
            entries = sorted(pending.pop().iterdir())
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}", where=str(error.filename)) from None
        pending += reversed([entry for entry in entries if entry.is_dir() and not entry.is_symlink()])
        for file in _named(entries):
            count += 1
            if count > _MOST_FILES:
                raise Refused(f"{path}: more than {_MOST_FILES} files; expected records of CVE", where=str(file))
            yield file
    if not count:
        raise _nothing(path, line, "no file whose name ends with .json")


def _named(entries: Iterable[Path]) -> Iterator[Path]:
    yield from (entry for entry in entries if entry.name.endswith(".json") and not entry.is_dir())
