"""Read and create objects of a store that several hosts share. Each name is created once and never changed.

`SharedStore` is what the exchange of results asks of it; here is the one in a directory, local or of a network file
system. What is read is whatever somebody put there: the exchange verifies it. Must not know what an object is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from pipeline.core import manifest, neutral
from pipeline.core.fs import CHUNK, atomic
from pipeline.errors import Refused, UsageError


class SharedStore(Protocol):
    """A store of objects by name, a relative path."""

    @property
    def address(self) -> str:
        """The store's address, for people."""

    @property
    def is_writable(self) -> bool:
        """Whether this host stores anything there."""

    def check(self) -> None:
        """Raise `UsageError` or `Unreachable` unless the store is there."""

    def read(self, name: str, most: int) -> bytes | None:
        """Return an object of at most `most` bytes; None where there is none. Raises `PipelineError` and `OSError`."""

    def copy(self, name: str, target: Path, size: int) -> None:
        """Copy an object of `size` bytes to the new file `target`. Raises `PipelineError` and `OSError`."""

    def add(self, name: str, source: Path) -> bool:
        """Store a file by a name that ends in its SHA-256; return False where it is there already.

        Raises `Refused` where other bytes have this name.
        """

    def create(self, name: str, source: Path) -> bool:
        """Create an object from a file at once; False where there is one of this name, which stays as it is."""

    def remove(self, name: str) -> None:
        """Remove an object that this run has created and that nothing names."""


class DirectoryStore:
    """A store in a directory."""

    is_writable = True

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def address(self) -> str:
        """The directory."""
        return str(self.root)

    def check(self) -> None:
        """Raise `UsageError` for a directory that is missing."""
        if not self.root.is_dir():
            raise not_there(self.address, f"mkdir {neutral.word(self.root)}, or mount it")

    def read(self, name: str, most: int) -> bytes | None:
        """Return an object; None where there is none."""
        with self._found(name) as stream:
            data = stream.read(most + 1) if stream else None
        if data is not None and len(data) > most:
            raise too_large(self.address, name, most)
        return data

    def copy(self, name: str, target: Path, size: int) -> None:
        """Copy an object of `size` bytes to the new file `target`."""
        with self._found(name) as stream, target.open("xb") as copy:
            if stream is None:
                raise missing(self.address, name)
            left = size
            while piece := stream.read(CHUNK):
                left -= len(piece)
                if left < 0:
                    raise too_large(self.address, name, size)
                copy.write(piece)
        check_size(self.address, name, target, size)

    def add(self, name: str, source: Path) -> bool:
        """Store a file by a name that ends in its SHA-256."""
        if self.create(name, source):
            return True
        if manifest.sha256_at(self.root / name)[0] != PurePosixPath(name).name:
            raise other_bytes(self.address, name)
        return False

    def create(self, name: str, source: Path) -> bool:
        """Create an object by one link(2), which NFS makes atomically too."""
        try:
            with source.open("rb") as stream, atomic(self.root / name, exclusive=True) as out:
                while piece := stream.read(CHUNK):
                    out.write(piece)
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove an object."""
        (self.root / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _found(self, name: str) -> Iterator[BinaryIO | None]:
        with contextlib.ExitStack() as held:
            try:
                stream = held.enter_context(manifest.regular(self.root / name))
            except FileNotFoundError:
                stream = None
            except ValueError as error:
                raise Refused(f"{name} in the shared store: {error}", where=str(self.root / name)) from None
            yield stream


def not_there(address: str, hint: str) -> UsageError:
    """Return the error of a store whose directory is missing.

    One made now, such as where a file system is not mounted, would be another store.
    """
    return UsageError(
        f"shared-store: {address}; expected a directory that exists",
        why="a directory made now would not be the one that other hosts share",
        hint=hint,
    )


def check_size(address: str, name: str, copy: Path, size: int) -> None:
    """Raise `Refused` unless the copy of an object has `size` bytes."""
    if (found := copy.stat().st_size) != size:
        raise Refused(f"{name} in the shared store: {found} bytes; expected {size}", where=address)


def missing(address: str, name: str) -> Refused:
    """Return the error of an object that another one promises."""
    return Refused(f"{name} in the shared store: missing; expected it beside its record", where=address)


def too_large(address: str, name: str, most: int) -> Refused:
    """Return the error of an object that is larger than what is read of it."""
    return Refused(f"{name} in the shared store: more than {most} bytes; expected at most that", where=address)


def other_bytes(address: str, name: str) -> Refused:
    """Return the error of an object that is not what its name says; nothing may refer to it."""
    return Refused(f"{name} in the shared store: other bytes than its name says; nothing is stored", where=address)
