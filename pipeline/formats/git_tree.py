"""Compute git's object ids of files and trees without a repository.

A kernel tree is known by its git tree id: the hash git gives a tree whose files are all added
(ignore rules, attributes and line-end conversion play no part). No repository and no program is needed: a kernel's
tens of thousands of files pass by once, in a tar stream, and an index would want each on disk and copied into its
objects. Knows nothing of archives.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.fs import read_limited
from pipeline.errors import UsageError

FILE, EXECUTABLE, SYMLINK = "100644", "100755", "120000"


@dataclass(frozen=True)
class Entry:
    """One file of a tree: git's mode (six digits) and the blob's object id (40 hex digits)."""

    mode: str
    blob: str


Listing = Mapping[str, Entry]


@dataclass(frozen=True)
class Difference:
    """A path on which two trees differ, and how, relative to the expected tree."""

    path: str
    kind: Literal["missing", "extra", "changed"]
    expected: Entry | None
    actual: Entry | None


def blob_id(data: bytes) -> str:
    """Return the object id of a file's content."""
    return _object_id(b"blob", data)


def file_mode(permissions: int) -> str:
    """Return git's mode of a regular file with these permission bits; only the owner's execute bit counts."""
    return EXECUTABLE if permissions & stat.S_IXUSR else FILE


def of_directory(root: Path, only: Iterable[str] | None = None) -> dict[str, Entry]:
    """Return the listing of a directory, or of the existing paths in `only`."""
    names = _walk(root) if only is None else (name for name in only if os.path.lexists(root / name))
    return {name: _entry(root / name) for name in names}


def tree_id(listing: Listing) -> str:
    """Return the git tree id of a listing, in git's object format, which has no empty directories."""
    children: dict[str, dict[str, Entry | None]] = {"": {}}
    for path, entry in listing.items():
        parent, _, name = path.rpartition("/")
        children.setdefault(parent, {})[name] = entry
        while parent:
            above, _, name = parent.rpartition("/")
            known = children.setdefault(above, {})
            if name in known:
                break
            known[name] = None
            parent = above
    return _tree("", children)


def compare(expected: Listing, actual: Listing) -> list[Difference]:
    """Return every difference of the two listings, in order of paths."""
    found = []
    for path in sorted(expected.keys() | actual.keys()):
        one, other = expected.get(path), actual.get(path)
        if one != other:
            kind: Literal["missing", "extra", "changed"] = (
                "missing" if other is None else "extra" if one is None else "changed"
            )
            found.append(Difference(path, kind, one, other))
    return found


_LARGEST = 16 << 20  # bytes of a manifest; that of Linux 2.6.32 has half a million


def read_manifest(path: Path) -> dict[str, Entry]:
    """Read a listing stored as xz-compressed lines `mode blob path`."""
    try:
        reader = lzma.LZMADecompressor()
        plain = reader.decompress(read_limited(path, _LARGEST), max_length=8 * _LARGEST)
        if not reader.eof:
            raise ValueError(f"truncated, or more than {8 * _LARGEST} bytes")
        rows = [line.split(" ", 2) for line in plain.decode().splitlines()]
        return {name: Entry(mode, blob) for mode, blob, name in rows}
    except (OSError, lzma.LZMAError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        hint = "docs/lines.md says how a manifest is made"
        raise UsageError(f"the tree's manifest cannot be read: {what}", where=str(path), hint=hint) from None


def _object_id(kind: bytes, data: bytes) -> str:
    return hashlib.sha1(kind + b" %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _walk(root: Path) -> Iterator[str]:
    for directory, subdirectories, files in os.walk(root):
        prefix = os.path.relpath(directory, root)
        links = [name for name in subdirectories if Path(directory, name).is_symlink()]
        for name in (*files, *links):
            yield name if prefix == "." else f"{prefix}/{name}"


def _entry(path: Path) -> Entry:
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        return Entry(SYMLINK, blob_id(os.fsencode(path.readlink())))
    return Entry(file_mode(info.st_mode), blob_id(path.read_bytes()))


def _tree(path: str, children: Mapping[str, Mapping[str, Entry | None]]) -> str:
    rows = []
    for name, entry in children[path].items():
        if entry is None:
            below = _tree(f"{path}/{name}".lstrip("/"), children)
            rows.append((name + "/", b"40000", name, below))  # git sorts directories as if named with a slash
        else:
            rows.append((name, entry.mode.encode(), name, entry.blob))
    rows.sort(key=lambda row: row[0].encode())
    return _object_id(b"tree", b"".join(mode + b" " + n.encode() + b"\0" + bytes.fromhex(o) for _, mode, n, o in rows))
