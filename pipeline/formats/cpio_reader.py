"""Read cpio archives in the `newc` format as a stream, in bounded memory.

Yields one member after the other; the caller reads its content, or leaves it. A member that leaves the tree is refused.
Formats: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst, and for files of 4 GiB and more rpm's
own header (lib/cpio.c), which has nothing but the file's number in the header's list.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass

from pipeline.formats.cpio import PATH_LIMIT
from pipeline.formats.decompression import Stream

_MAGICS, _STRIPPED = (b"070701", b"070702"), b"07070X"
_FIELDS = struct.Struct(">13I")  # of a header behind its magic, each in eight hexadecimal digits
_NUMBER = struct.Struct(">I")
_TRAILER = b"TRAILER!!!"
_PADDING = 64 << 10  # bytes behind the trailer; rpm writes none, cpio up to a block


@dataclass(frozen=True)
class Member:
    """A member. `path` is absolute, without the leading `.` of rpm's payloads; `inode` and `links` tell hard links.

    `mode` is 0 for a member of rpm's own header format, whose path, mode and size the package's header states.
    """

    path: str
    mode: int
    size: int
    inode: tuple[int, int, int]
    links: int
    number: int | None = None

    @property
    def is_regular(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)


def members(
    stream: Stream, size_of: Callable[[int], int], most: int, count: int, plain: Container[str] = ()
) -> Iterator[tuple[Member, Callable[[], Iterator[bytes]]]]:
    """Yield each member with a function that yields its content in pieces, to be used before the next one.

    `size_of` returns the size of the file with a number in the package's list, `most` and `count` are the bytes of a
    member and the members that are read at most; `plain` has paths that were looked at. Raises `Refused`.
    """
    for _ in range(count + 1):
        member = _header(stream, size_of, plain)
        if member is None:
            stream.end(_PADDING)
            return
        if member.size > most:
            raise stream.refuse(f"{member.path[:80]!a} has {member.size} bytes; expected at most {most}")
        content = _Content(stream, member.size)
        yield member, content.pieces
        stream.skip(content.left + -member.size % 4)
    raise stream.refuse(f"more than {count} members")


@dataclass
class _Content:
    stream: Stream
    left: int

    def pieces(self) -> Iterator[bytes]:
        for piece in self.stream.pieces(self.left):
            self.left -= len(piece)
            yield piece


def _header(stream: Stream, size_of: Callable[[int], int], plain: Container[str]) -> Member | None:
    """Return the next member, None for the trailer."""
    magic = stream.exactly(6)
    if magic == _STRIPPED:
        (number,) = _numbers(stream, _NUMBER)
        stream.skip(2)  # the header's 14 bytes are padded to 16
        return Member(f"#{number}", 0, size_of(number), (0, 0, number), 1, number)
    if magic not in _MAGICS:
        raise stream.refuse(f"no header of a cpio member: {magic!a}")
    inode, mode, _, _, links, _, size, major, minor, _, _, length, _ = _numbers(stream, _FIELDS)
    if not 1 < length <= PATH_LIMIT:
        raise stream.refuse(f"a path of {length} bytes; expected at most {PATH_LIMIT}")
    name = stream.exactly(length + -(6 + 2 * _FIELDS.size + length) % 4)[:length]
    if name == _TRAILER + b"\0":
        return None
    return Member(_path(stream, name, plain), mode, size, (major, minor, inode), links)


def _numbers(stream: Stream, layout: struct.Struct) -> tuple[int, ...]:
    text = stream.exactly(2 * layout.size)
    try:
        found: tuple[int, ...] = layout.unpack(bytes.fromhex(text.decode("ascii")))
    except (ValueError, struct.error):  # what is no digit, and blanks, which fromhex leaves out
        raise stream.refuse(f"no numbers in the header of a cpio member: {text[:26]!a}") from None
    return found


def _path(stream: Stream, name: bytes, plain: Container[str]) -> str:
    """Return a member's path. Raises `Refused` for one that leaves the tree, or that a file system cannot have."""
    text = name[:-1].decode(errors="backslashreplace")
    if name[-1:] == b"\0" and text.startswith("./") and text[1:] in plain:
        return text[1:]
    if name[-1:] != b"\0" or "\0" in text:
        raise stream.refuse(f"a path that does not end where its header says: {text[:80]!a}")
    if text.startswith("/"):
        raise stream.refuse(f"an absolute path: {text[:80]!a}")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise stream.refuse(f"a path that leaves the tree through '..': {text[:80]!a}")
    if not text.isprintable():
        raise stream.refuse(f"a path with characters that cannot be printed: {text[:80]!a}")
    return "/" + "/".join(parts)
