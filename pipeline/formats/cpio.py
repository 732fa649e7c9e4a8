"""Write cpio archives in the `newc` format, which the kernel unpacks as its initramfs.

Deterministic: the same entries give the same bytes, whatever their order. Everything belongs to
root and is as old as the epoch. Knows nothing of what an initramfs is for.

Format and limits: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst and
init/initramfs.c.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import PipelineError

LIMIT = 256 << 20  # bytes of one archive by default: it is held in memory here and in a small guest
PATH_LIMIT = 4096  # PATH_MAX; the kernel skips longer names and refuses longer link targets, NUL included
BLOCK = 512  # archives are padded to this, as GNU cpio does
_FIELD_MOST = (1 << 32) - 1  # every header field is 8 hexadecimal digits
_MAJOR_LIMIT, _MINOR_LIMIT = 1 << 12, 1 << 20  # Linux: MINORBITS is 20 of 32 bits
_TRAILER = "TRAILER!!!"


class CpioError(PipelineError):
    """An entry that this format, or the kernel that unpacks it, cannot represent."""


@dataclass(frozen=True)
class Entry:
    """One member. `path` is relative, `mode` holds type and permissions, `device` is (major, minor)."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str, mode: int = 0o755) -> Entry:
    """Return a directory's entry; the kernel creates no parent directories itself."""
    return Entry(path, stat.S_IFDIR | mode)


def file(path: str, data: bytes, mode: int = 0o644) -> Entry:
    """Return a regular file's entry."""
    return Entry(path, stat.S_IFREG | mode, data)


def symlink(path: str, target: str) -> Entry:
    """Return a symbolic link's entry; `target` is stored unchanged."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def device(path: str, kind: Literal["c", "b"], major: int, minor: int, mode: int = 0o600) -> Entry:
    """Return a character or block device node's entry."""
    kinds = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}
    return Entry(path, kinds[kind] | mode, device=(major, minor))


def archive(entries: Iterable[Entry], *, limit: int = LIMIT) -> bytes:
    """Return the whole archive, of at most `limit` bytes. Raises `CpioError` for an invalid entry.

    Entries are written in the order of their paths, so that directories come before what is in them.
    """
    known: dict[str, Entry] = {}
    parts, size = [], 0
    for number, entry in enumerate(sorted(entries, key=lambda entry: entry.path), 1):
        _check(entry, known)
        known[entry.path] = entry
        parts.append(_member(entry, number))
        size += len(parts[-1])
        if size > limit:
            raise CpioError(f"the archive would be larger than {limit} bytes", where=entry.path)
    parts.append(_member(Entry(_TRAILER, 0), 0))
    whole = b"".join(parts)
    return whole + b"\0" * (-len(whole) % BLOCK)


def _check(entry: Entry, known: Mapping[str, Entry]) -> None:
    """Refuse an entry that is invalid by itself or after the `known` ones."""
    names = entry.path.split("/")
    if not all(names) or {".", ".."} & set(names) or "\0" in entry.path or entry.path == _TRAILER:
        raise CpioError("not a path inside the archive", where=repr(entry.path))
    if entry.path in known:
        raise CpioError("the path is in the archive twice", where=entry.path)
    parent = "/".join(names[:-1])
    if parent and not (parent in known and stat.S_ISDIR(known[parent].mode)):
        raise CpioError("its directory is not in the archive", where=entry.path)
    link = entry.data if stat.S_ISLNK(entry.mode) else b"-"
    if not link or b"\0" in link:
        raise CpioError("not a target of a symbolic link", where=entry.path)
    if max(len(entry.path.encode()), len(link)) >= PATH_LIMIT:
        raise CpioError(f"the kernel takes no path of {PATH_LIMIT} bytes or more", where=entry.path[:80])
    major, minor = entry.device
    if not (0 <= major < _MAJOR_LIMIT and 0 <= minor < _MINOR_LIMIT):
        raise CpioError(f"no device number of Linux: {major}, {minor}", where=entry.path)


def _member(entry: Entry, inode: int) -> bytes:
    """Return header, name and content, each padded to 4 bytes. Inode 0 is reserved for the trailer."""
    if len(entry.data) > _FIELD_MOST:
        raise CpioError("the format holds no file of 4 GiB or more", where=entry.path)
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device of the file system, device node, name size, checksum
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08x" % value for value in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
