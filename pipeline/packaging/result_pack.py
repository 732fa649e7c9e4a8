"""Pack a step's result into one file and unpack it elsewhere, both held against the step's record.

A pack is a tar file in the order of the record, without times and owners: the same result gives the same bytes. What
unpacks is taken for the work of a stranger until every byte, mode and link is as the record says.
"""

from __future__ import annotations

import hashlib
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.core import manifest
from pipeline.core.manifest import Entry, Kind
from pipeline.errors import Refused
from pipeline.formats import archive
from pipeline.packaging import step_record
from pipeline.packaging.step_record import Record

_ROOTS = (step_record.OUT, step_record.LOG, step_record.STATEMENT)
_REQUIRED = (step_record.OUT, step_record.STATEMENT)
_MODES = stat.S_IRWXU | stat.S_IRWXG | stat.S_IROTH | stat.S_IXOTH  # nothing special, nothing that anybody may write
LIMITS = archive.Limits()


def problem(record: Record) -> str:
    """Return why a result cannot be packed, or not taken from a pack; empty where it can."""
    if any(root.startswith("/") for root in record.made):
        return "a part of it was published elsewhere on its host"
    if surplus := sorted(record.made.keys() - set(_ROOTS)):
        return f"it has parts of no known kind: {', '.join(surplus)}"
    if lacking := [root for root in _REQUIRED if root not in record.made]:
        return f"it has no {lacking[0]}"
    entries = dict(_entries(record))
    if wrong := [path for path in entries if path.startswith("/") or ".." in path.split("/")]:
        return f"{wrong[0]} leads out of it"
    if wrong := [path for path, entry in entries.items() if entry.kind is not Kind.LINK and entry.mode & ~_MODES]:
        return f"{wrong[0]} has the mode {entries[wrong[0]].mode:04o}"
    if len(entries) > LIMITS.members or sum(max(entry.stamp[0], 0) for entry in entries.values()) > LIMITS.total:
        return f"it has more than {LIMITS.members} files or {LIMITS.total} bytes"
    return ""


def pack(place: Path, record: Record, target: BinaryIO) -> tuple[str, int]:
    """Write the result in `place` into `target`; return the SHA-256 and the number of bytes written.

    Raises `Refused` for a file with other bytes than its record has.
    """
    out = _Hashing(target)
    with tarfile.open(fileobj=cast(BinaryIO, out), mode="w|", format=tarfile.PAX_FORMAT) as packed:
        for path, entry in _entries(record):
            member = tarfile.TarInfo(path)
            member.mode = 0o755 if entry.kind is Kind.DIRECTORY or entry.mode & stat.S_IXUSR else 0o644
            if entry.kind is Kind.DIRECTORY:
                member.type = tarfile.DIRTYPE
                packed.addfile(member)
            elif entry.kind is Kind.LINK:
                member.type, member.linkname = tarfile.SYMTYPE, entry.content
                packed.addfile(member)
            else:
                _add_file(packed, member, place / path, entry)
    return out.digest.hexdigest(), out.size


def _add_file(packed: tarfile.TarFile, member: tarfile.TarInfo, path: Path, entry: Entry) -> None:
    member.size = entry.stamp[0]
    try:
        with manifest.regular(path) as stream:
            read = _HashedReading(stream)
            packed.addfile(member, cast(BinaryIO, read))
            surplus = stream.read(1)
    except ValueError as error:
        raise Refused(f"{member.name}: {error}; expected the file of the record", where=str(path)) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise Refused(f"{member.name}: it became shorter; expected {member.size} bytes", where=str(path)) from None
    if surplus or read.digest.hexdigest() != entry.content:
        raise Refused(f"{member.name}: other bytes than its record has; nothing is stored", where=str(path))


def unpack(packed: Path, place: Path, record: Record) -> Record:
    """Unpack into the empty directory `place`; return the record with the times that files have there.

    Raises `Refused` unless all is as the record says, which itself was verified before.
    """
    archive.unpack(packed, place, "of the shared result", LIMITS)
    for path, entry in sorted(_entries(record), reverse=True):  # what is below a directory before its mode closes it
        target = place / path
        if entry.kind is not Kind.LINK and target.exists() and not target.is_symlink():
            target.chmod(entry.mode)
    differences, current = step_record.compare(place, record, content=True)
    surplus = sorted(path.name for path in place.iterdir() if path.name not in record.made)
    if differences or surplus:
        found = str(differences[0]) if differences else f"{surplus[0]}: not expected there"
        raise Refused(f"the shared result of {record.step}: {found}", why="its record says otherwise", where=str(place))
    return current


def _entries(record: Record) -> Iterator[tuple[str, Entry]]:
    """Yield path and entry of everything that a result holds, in the order of a pack."""
    if step_record.OUT in record.made:
        yield step_record.OUT, Entry(Kind.DIRECTORY, 0o755)
    for root in _ROOTS:
        for path, entry in sorted(record.made.get(root, {}).items()):
            yield "/".join(filter(None, (root, path))), entry


class _Hashing:
    """A stream that hashes and counts what is written through it."""

    def __init__(self, out: BinaryIO) -> None:
        self.out, self.digest, self.size = out, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.out.write(data)


class _HashedReading:
    """A file that hashes what is read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.digest.update(data)
        return data
