"""Recognise kernel images by content, find them in a directory, and unpack them from a Debian package.

Identifies an image by the x86 boot header, not by its name. The caller has verified the package. Must not know why an
image is booted.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import re
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from pipeline.core import fs, process
from pipeline.errors import HostLacks, Refused

IMAGE_LIMIT = 64 << 20  # bytes; distribution kernels have 8 to 20 MiB
MEMBER_LIMIT = 20_000  # tar members looked at; Debian's kernel packages have about 5,000, boot/ first
_STREAM_LIMIT = 1 << 30  # bytes unpacked while looking; Debian's cloud kernel has 105 MB in all
_BOOT_FLAG, _HEADER_MAGIC = 0x1FE, 0x202  # Documentation/arch/x86/boot.rst
_AR_MAGIC, _AR_HEADER = b"!<arch>\n", 60  # deb(5), ar(5)
_NAME = re.compile(r"(?:\./)?boot/(vmlinuz-[0-9A-Za-z][0-9A-Za-z.+~_-]*)")


def is_bzimage(path: Path) -> bool:
    """Return whether the file is a readable x86 boot image (bzImage; Debian's vmlinuz)."""
    try:
        if not path.is_file():  # a FIFO would be waited for
            return False
        with path.open("rb") as stream:
            return _is_bzimage(stream.read(_HEADER_MAGIC + 4))
    except OSError:
        return False


def _is_bzimage(start: bytes) -> bool:
    return start[_BOOT_FLAG:_HEADER_MAGIC][:2] == b"\x55\xaa" and start[_HEADER_MAGIC : _HEADER_MAGIC + 4] == b"HdrS"


def kernels_in(directory: Path, release: str = "") -> list[Path]:
    """Return the readable images `vmlinuz-*` of a directory: that of `release` first, then by descending version."""
    images = sorted((path for path in directory.glob("vmlinuz-*") if is_bzimage(path)), key=_version, reverse=True)
    return sorted(images, key=lambda path: path.name != f"vmlinuz-{release}")


def _version(path: Path) -> list[tuple[int, str]]:
    """Return a sort key with numbers compared as numbers: 6.10 is newer than 6.9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", path.name)]


def kernel_from_deb(package: Path, into: Path) -> Path:
    """Unpack the kernel image of a Debian package to `into` and return its path.

    Raises `Refused` for a package without one, or one that is no package.
    """
    try:
        with _data_tar(package) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            name, data = _image_of(tar)
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, zlib.error) as error:
        raise Refused(f"no kernel image could be read from the package: {error}", where=str(package)) from error
    if not _is_bzimage(data):
        raise Refused(f"{name} in the package is no x86 kernel image", where=str(package))
    fs.write_atomic(into / name, data)
    return into / name


def _image_of(tar: tarfile.TarFile) -> tuple[str, bytes]:
    """Return name and content of the image among the members."""
    for number, member in enumerate(tar):
        if number >= MEMBER_LIMIT:
            break
        found = _NAME.fullmatch(member.name)
        if found is None or not member.isreg():
            continue
        if member.size > IMAGE_LIMIT:
            raise Refused(f"{member.name} is larger than {IMAGE_LIMIT} bytes")
        content = tar.extractfile(member)
        if content is not None:  # a regular file has content
            return found[1], content.read()
    raise Refused("there is no boot/vmlinuz-* in the package")


@contextlib.contextmanager
def _data_tar(package: Path) -> Iterator[IO[bytes]]:
    """Yield the package's files as one tar stream, from dpkg-deb where present, else read here."""
    if shutil.which("dpkg-deb") is None:
        with package.open("rb") as stream, _open_data(stream) as data:
            yield cast(IO[bytes], _Bounded(data))
        return
    # it fails because the pipe was closed early; an empty stream shows other failures
    with process.start(["dpkg-deb", "--fsys-tarfile", package], stderr=subprocess.DEVNULL) as child:
        yield cast(IO[bytes], _Bounded(process.pipe(child.stdout)))


def _open_data(package: IO[bytes]) -> IO[bytes]:
    """Yield the unpacked `data.tar*` member of an ar archive."""
    if package.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise Refused("not a Debian package")
    while len(header := package.read(_AR_HEADER)) == _AR_HEADER:
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58].strip()
        if header[58:] != b"`\n" or not size.isdigit():
            break
        if name in _OPENERS:
            return _OPENERS[name](package)
        if name.startswith("data.tar"):
            raise HostLacks(f"{name} cannot be read without dpkg-deb", hint="install the package dpkg")
        package.seek(int(size) + int(size) % 2, io.SEEK_CUR)
    raise Refused("the package holds no files")


def _open_xz(stream: IO[bytes]) -> IO[bytes]:
    return lzma.LZMAFile(stream)  # data.tar is the last member: what follows it is at most one byte of padding


def _open_gzip(stream: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=stream))


_OPENERS = {"data.tar.xz": _open_xz, "data.tar.gz": _open_gzip}


@dataclass
class _Bounded:
    """A stream that raises once more is read than any kernel package holds."""

    stream: IO[bytes]
    left: int = _STREAM_LIMIT

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes. Raises `Refused` beyond the bound."""
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise Refused(f"the package unpacks to more than {_STREAM_LIMIT} bytes")
        return data
