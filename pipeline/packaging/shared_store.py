"""Read and create objects of a store that several hosts share. Each name is created once and never changed.

A directory, local or of a network file system. What is read is whatever somebody put there: the exchange of results
verifies it. Must not know what an object is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.core import manifest
from pipeline.core.fs import CHUNK, atomic
from pipeline.errors import Refused, UsageError


class SharedStore(Protocol):
    """A store of objects by name, a relative path."""

    @property
    def address(self) -> str:
        """The store's address, for people."""

    def read(self, name: str, most: int) -> bytes | None:
        """Return an object of at most `most` bytes; None where there is none. Raises `PipelineError` and `OSError`."""

    def copy(self, name: str, target: BinaryIO, size: int) -> None:
        """Write an object of `size` bytes into `target`. Raises `PipelineError` and `OSError`, without one too."""

    def create(self, name: str, source: Path) -> bool:
        """Create an object from a file at once; False where there is one of this name, which stays as it is."""

    def remove(self, name: str) -> None:
        """Remove an object that this run has created and that nothing names."""


class DirectoryStore:
    """A store in a directory. It must be there: one on a file system that is not mounted would be another one."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UsageError(
                f"shared-store: {root}; expected a directory that exists",
                why="a directory made now would not be the one that other hosts share",
                hint=f"mkdir {root}, or mount it",
            )
        self.root = root

    @property
    def address(self) -> str:
        """The directory."""
        return str(self.root)

    def read(self, name: str, most: int) -> bytes | None:
        """Return an object; None where there is none."""
        with self._found(name) as stream:
            data = stream.read(most + 1) if stream else None
        if data is not None and len(data) > most:
            raise too_large(self.address, name, most)
        return data

    def copy(self, name: str, target: BinaryIO, size: int) -> None:
        """Write an object of `size` bytes into `target`."""
        with self._found(name) as stream:
            if stream is None:
                raise missing(self.address, name)
            for piece in pieces(stream, size, self.address, name):
                target.write(piece)

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


def pieces(stream: BinaryIO, size: int, address: str, name: str) -> Iterator[bytes]:
    """Yield the bytes of an object that must be `size` long. Raises `Refused` for more or fewer."""
    left = size
    while piece := stream.read(CHUNK):
        left -= len(piece)
        if left < 0:
            raise too_large(address, name, size)
        yield piece
    if left:
        raise Refused(f"{name} in the shared store: {size - left} bytes; expected {size}", where=address)


def missing(address: str, name: str) -> Refused:
    """Return the error of an object that another one promises."""
    return Refused(f"{name} in the shared store: missing; expected it beside its record", where=address)


def too_large(address: str, name: str, most: int) -> Refused:
    """Return the error of an object that is larger than what is read of it."""
    return Refused(f"{name} in the shared store: more than {most} bytes; expected at most that", where=address)
