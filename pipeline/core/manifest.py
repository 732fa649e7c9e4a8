"""Record the content of directories that this program made, and compare them with the record.

A manifest names every file, link and directory below a root. A file's content is its SHA-256. Its stamp (size, times,
inode) is what makes the second look cheap: the kernel moves a file's change time whenever its bytes or its attributes
change, and no program can set that time. Where a stamp has moved, the content decides.

Documents whose damage must be noticed are sealed: they contain the digest of their content. A seal shows damage and
mix-ups. It is no protection against an attacker who can write to the artifacts (docs/trust.md). A directory's record
is such a document in the directory itself: its manifest, and what the directory is. Must not know the content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from io import BufferedReader
from pathlib import Path

from pipeline.core.fs import write_atomic

SEAL = "seal"  # the name of a sealed document's digest of itself
RECORD = "manifest"  # the name of a directory's record, in the directory
_ROWS = "rows"  # in a record's head: the digest of its first line, which holds the manifest
_MOST = 64 << 20  # bytes of a record; a builder image's has 2 MiB
_Stamp = tuple[int, int, int, int]


class Kind(StrEnum):
    """Type of an entry; a directory with a manifest holds no others."""

    FILE = "file"
    LINK = "link"
    DIRECTORY = "directory"


@dataclass(frozen=True)
class Entry:
    """One path. `content` is a file's SHA-256, a link's target, and empty for a directory.

    `mode` holds the permission bits. `stamp`: size in bytes, modification and change time in nanoseconds, inode;
    of files only.
    """

    kind: Kind
    mode: int
    content: str = ""
    stamp: _Stamp = (0, 0, 0, 0)

    def to_json(self) -> list[str | int]:
        """Return the entry as the row that documents store."""
        return [self.kind.value, self.mode, self.content, *self.stamp]

    @classmethod
    def from_json(cls, row: object) -> Entry:
        """Read a row that `to_json` returned. Raises `ValueError` for anything else."""
        if not isinstance(row, list) or len(row) != 7 or not isinstance(row[2], str):
            raise ValueError("a manifest's row of seven values")
        if not all(type(number) is int for number in (row[1], *row[3:])):
            raise ValueError("a manifest's row with numbers")
        return cls(Kind(row[0]), row[1], row[2], (row[3], row[4], row[5], row[6]))


@dataclass(frozen=True)
class Difference:
    """A path that differs from the manifest, and how."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


Manifest = Mapping[str, Entry]


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison. `current` has the present stamps where nothing else differs."""

    differences: tuple[Difference, ...]
    current: Manifest
    moved: bool = False


def scan(root: Path) -> dict[str, Entry]:
    """Read everything below `root` into a manifest, without following links.

    A `root` that is a file or a link is the one entry, under the empty path.
    Raises `ValueError` for special files, and `OSError`.
    """
    return {path: _entry(root / path, status, path) for path, status in _walk(root)}


def compare(root: Path, manifest: Manifest, *, content: bool = False) -> Comparison:
    """Compare the entries below `root` with their manifest.

    Files whose stamp is that of the manifest are taken for the same, unless `content` asks to read everything.
    Raises `OSError` when it cannot be read.
    """
    differences: list[Difference] = []
    current: dict[str, Entry] = {}
    moved = False
    for path, status in _walk(root):
        expected = manifest.get(path)
        if expected is None:
            differences.append(Difference(path, "not expected there" if path else "no directory"))
            continue
        if not content and expected.kind is Kind.FILE and _is_same(expected, status):
            current[path] = expected
            continue
        if expected.kind is Kind.FILE and stat.S_ISREG(status.st_mode) and status.st_size != expected.stamp[0]:
            # Not read to its end, which a sparse file may have far away.
            differences.append(Difference(path, f"{status.st_size} bytes; expected {expected.stamp[0]}"))
            continue
        try:
            found = _entry(root / path, status, path)
        except ValueError as error:
            differences.append(Difference(path, str(error)))
            continue
        if problem := _problem(expected, found):
            differences.append(Difference(path, problem))
        current[path] = found
        moved = moved or found.stamp != expected.stamp
    missing = sorted(manifest.keys() - current.keys() - {difference.path for difference in differences})
    differences += [Difference(path, "missing") for path in missing]
    return Comparison(tuple(differences), current, moved)


def to_rows(manifest: Manifest) -> dict[str, list[str | int]]:
    """Return the manifest in the form that documents store."""
    return {path: entry.to_json() for path, entry in sorted(manifest.items())}


def from_rows(rows: object) -> dict[str, Entry]:
    """Read the rows that `to_rows` returned. Raises `ValueError` for anything else."""
    if not isinstance(rows, dict):
        raise ValueError("a manifest is a table of paths")
    return {path: Entry.from_json(row) for path, row in rows.items()}


def seal(document: Mapping[str, object]) -> str:
    """Return the document as JSON text with a digest of its content; values must be JSON types."""
    plain = json.loads(json.dumps({name: value for name, value in document.items() if name != SEAL}, default=str))
    return json.dumps({**plain, SEAL: _digest(plain)}, indent=1) + "\n"


def unseal(text: str | bytes) -> dict[str, object]:
    """Read a document that `seal` returned, without its digest.

    Raises `ValueError` for a text that is empty, no such document, or was changed after sealing.
    """
    if not text.strip():
        raise ValueError("empty")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not a JSON document") from None
    if not isinstance(document, dict) or not isinstance(document.get(SEAL), str):
        raise ValueError("no seal")
    if document.pop(SEAL) != _digest(document):
        raise ValueError("its seal does not match its content")
    return document


def record(root: Path, about: Mapping[str, object]) -> None:
    """Record the entries below `root` and their identity `about`, in JSON types, in the directory itself.

    The manifest is a line of its own, so that the head can be read without it.
    """
    _write_record(root, about, {path: entry for path, entry in scan(root).items() if not _is_record(path)})


def about(root: Path) -> dict[str, object]:
    """Return the recorded identity of the directory at `root`, without comparing its content.

    Raises `ValueError` for a record that is damaged or no regular file, and `OSError`.
    """
    return _read_record(root)[0]


def check(root: Path, expected: Mapping[str, object], *, content: bool = False) -> tuple[Difference, ...]:
    """Return the differences between `root` and its record, and between the record's identity and `expected`.

    Files are read where a stamp moved, or all of them for `content`; the stamps of those that are the same still
    are recorded anew. Never raises: an unreadable file is a difference.
    """
    try:
        known, rows = _read_record(root)
    except (OSError, ValueError) as error:
        return (Difference(RECORD, f"no record of what was made: {error}"),)
    if other := [name for name, value in expected.items() if known.get(name) != value]:
        differing = "; ".join(f"{name} {known.get(name)}, expected {expected[name]}" for name in other)
        return (Difference(RECORD, f"the record of something else: {differing}"),)
    try:
        entries = from_rows(json.loads(rows))
        found = compare(root, entries, content=content)
    except (OSError, ValueError) as error:
        return (Difference(".", str(error)),)
    differences = tuple(d for d in found.differences if not _is_record(d.path))
    if found.moved and not differences:
        with contextlib.suppress(OSError):  # another user's, or a full disk: the next look reads again
            _write_record(root, known, found.current)
    return differences


def sha256_at(path: Path) -> tuple[str, os.stat_result]:
    """Return a regular file's SHA-256 and its status after reading; follow no link and wait for no FIFO.

    Raises `ValueError` for what is no regular file, and `OSError`.
    """
    with regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), os.fstat(stream.fileno())


@contextlib.contextmanager
def regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading; follow no link and wait for no FIFO. Raises `ValueError` for anything else."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("no regular file")
        yield stream


def text_at(path: Path) -> bytes:
    """Return the text of a regular file no larger than a record may be; raise as `regular` does."""
    with regular(path) as stream:
        data = stream.read(_MOST + 1)
    if len(data) > _MOST:
        raise ValueError(f"expected at most {_MOST} bytes, got more")
    return data


def stamp(status: os.stat_result) -> _Stamp:
    """Return a file's size in bytes, modification and change time in nanoseconds, and inode."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _write_record(root: Path, about: Mapping[str, object], manifest: Manifest) -> None:
    rows = json.dumps(to_rows(manifest), separators=(",", ":"))
    head = seal({**about, _ROWS: hashlib.sha256(rows.encode()).hexdigest()})
    write_atomic(root / RECORD, f"{rows}\n{head}")


def _read_record(root: Path) -> tuple[dict[str, object], bytes]:
    """Return the directory's identity, and the text of its manifest, whose digest was verified."""
    rows, _, head = text_at(root / RECORD).partition(b"\n")
    known = unseal(head)
    if known.pop(_ROWS, None) != hashlib.sha256(rows).hexdigest():
        raise ValueError("its seal is not that of its manifest")
    return known, rows


def _is_record(path: str) -> bool:
    """Return whether `path` is the directory's record, or a leftover of writing one."""
    return path == RECORD or path.startswith(f".{RECORD}.")


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every path below `root`, relative to it, with its status; `root` itself where it is no directory."""
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode):
        yield "", status
        return
    todo = [""]
    while todo:
        here = todo.pop()
        with os.scandir(root / here) as entries:
            for entry in entries:
                path = f"{here}/{entry.name}" if here else entry.name
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    todo.append(path)
                yield path, status


def _entry(place: Path, status: os.stat_result, path: str) -> Entry:
    if stat.S_ISREG(status.st_mode):
        digest, status = sha256_at(place)
        return Entry(Kind.FILE, stat.S_IMODE(status.st_mode), digest, stamp(status))
    if stat.S_ISLNK(status.st_mode):
        return Entry(Kind.LINK, 0o777, str(place.readlink()))
    if stat.S_ISDIR(status.st_mode):
        return Entry(Kind.DIRECTORY, stat.S_IMODE(status.st_mode))
    raise ValueError(f"{path} is neither file, link nor directory")


def _is_same(expected: Entry, status: os.stat_result) -> bool:
    return (
        stat.S_ISREG(status.st_mode)
        and stamp(status) == expected.stamp
        and stat.S_IMODE(status.st_mode) == expected.mode
    )


def _problem(expected: Entry, found: Entry) -> str:
    if found.kind is not expected.kind:
        return f"a {found.kind}; expected a {expected.kind}"
    if found.content != expected.content:
        what = "SHA-256" if found.kind is Kind.FILE else "target"
        return f"{what} {found.content[:64]}; expected {expected.content[:64]}"
    if found.mode != expected.mode:
        return f"mode {found.mode:04o}; expected {expected.mode:04o}"
    return ""


def _digest(plain: object) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
