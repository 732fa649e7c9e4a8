"""Read what the files of a kernel package state: the boot image's banner, a module's version, exported symbols.

Recipes compare these with their plan. Must not know any recipe.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core import neutral
from pipeline.errors import Refused

if TYPE_CHECKING:
    from pipeline.packaging.rpmbuild import Package

MAX_FILE = 64 << 20  # bytes read of one file; the largest is the boot image
_MAX_TEXT = 8 << 20  # bytes of one that is taken apart line by line; a whole kernel's Module.symvers has 1 MiB
_BINARY = re.compile(r"/vmlinuz[^/]*$|\.ko$")
# x86 boot protocol, Documentation/x86/boot.rst: offsets into the image and what must stand there.
_BOOT_FLAG, _MAGIC, _VERSION_POINTER = 0x1FE, 0x202, 0x20E


@dataclass(frozen=True)
class ConfigEvidence:
    """A kernel's configuration: how many of its symbols were requested and compared, and its SHA-256."""

    requested: int
    sha256: str


def read(package: Package, wanted: Collection[str]) -> dict[str, bytes]:
    """Return the content of files of a package by their paths. Raises `Refused` when one is missing."""
    from pipeline.formats import archive  # here, since to identify a package of anyone takes neither
    from pipeline.inspect import package_contents

    package_contents.require_files(package, wanted)
    found = archive.read(
        package.path, {path.lstrip("/"): MAX_FILE if _BINARY.search(path) else _MAX_TEXT for path in wanted}
    )
    content = {path: found[path.lstrip("/")] for path in wanted if path.lstrip("/") in found}
    if len(content) != len(set(wanted)):
        missing = ", ".join(sorted(set(wanted) - set(content)))
        raise Refused(
            f"{package.path.name}: damaged payload; expected {missing}, which its header lists",
            where=str(package.path),
            why="the package cannot be installed",
            hint=neutral.command(["rpmkeys", "--checksig", "-v", package.path]),
        )
    return content


def banner(image: bytes) -> str:
    """Return the version text of an x86 boot image by its beginning; empty for anything else."""
    if image[_BOOT_FLAG:_MAGIC][:2] != b"\x55\xaa" or image[_MAGIC : _MAGIC + 4] != b"HdrS":
        return ""
    pointer = int.from_bytes(image[_VERSION_POINTER : _VERSION_POINTER + 2], "little") + 0x200  # relative to it
    return image[pointer : pointer + 512].partition(b"\0")[0].decode("ascii", "replace")


def read_banner(image: bytes, package: Package, path: str, uname: str) -> str:
    """Return the version text of a boot image, whose header is checked; its first word is `uname`."""
    if not (text := banner(image)):
        raise Refused(
            f"{path} in {package.path.name}: not a boot image; expected an x86 one",
            where=str(package.path),
            why="no machine can boot it",
            hint=neutral.command(["rpm", "-qlp", package.path]),
        )
    if text.split(" ")[0] != uname:
        raise Refused(
            f"{path} in {package.path.name}: another kernel; expected {uname}, got {text!r}",
            where=str(package.path),
            why="the modules of the package would not load",
            hint=neutral.command(["rpm", "-qlp", package.path]),
        )
    return text


def check_module(module: bytes, package: Package, path: str, uname: str) -> None:
    """Raise `Refused` unless a module's vermagic names this kernel; another kernel's would not load."""
    stated = re.search(rb"\0vermagic=([^\0]*)\0", module)
    words = stated[1].decode("ascii", "replace").split() if stated else []
    if not module.startswith(b"\x7fELF") or words[:1] != [uname]:
        got = repr(words[0][:100]) if words else "no kernel"
        raise Refused(
            f"{path} in {package.path.name}: not a module of this kernel; expected {uname}, got {got}",
            where=str(package.path),
            why="the kernel would not load it",
            hint=neutral.command(["rpm", "-qlp", package.path]),
        )


def _gunzip(data: bytes) -> bytes:
    """Return the content of a gzip file. Raises `zlib.error`, and `ValueError` for one cut off or too big."""
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    text = unpacker.decompress(data, _MAX_TEXT)
    if not unpacker.eof:
        raise ValueError(f"truncated, or more than {_MAX_TEXT} bytes")
    return text


def parse_symvers(symvers: bytes, name: str) -> dict[str, str]:
    """Return exported symbols with their CRCs (`0x` and eight digits) of a Module.symvers, plain or gzip.

    Raises `Refused` for other content.
    """
    try:
        text = (_gunzip(symvers) if symvers[:2] == b"\x1f\x8b" else symvers).decode("ascii")
    except (zlib.error, ValueError) as error:
        raise _no_symvers(name, str(error)) from None
    rows = [line.split("\t") for line in text.splitlines() if line]
    if wrong := [row for row in rows if len(row) < 3 or not re.fullmatch(r"0x[0-9a-f]{8}", row[0])]:
        raise _no_symvers(name, ascii("\t".join(wrong[0])[:100]))
    return {row[1]: row[0] for row in rows}


def _no_symvers(name: str, got: str) -> Refused:
    return Refused(
        f"{name}: not a list of exported symbols; expected rows of CRC, symbol and module, got {got}",
        where=name,
        why="the kernel ABI cannot be checked",
        hint="`./inv fetch` verifies the sources",
    )
