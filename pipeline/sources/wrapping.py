"""Unwrap a source from a public text that holds it, and verify both.

The text has a digest of its own, so that nothing but the very text that somebody looked at is decoded; what comes out
is held against the digest of the source as any download is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.fs import read_limited
from pipeline.errors import HostLacks, Refused
from pipeline.formats import base64_text
from pipeline.sources.transport import Address, local_path

if TYPE_CHECKING:
    from pipeline.config.line_model import Wrapped


@dataclass(frozen=True)
class WrappedAddress(Address):
    """The address of a text with a file inside, and its place there."""

    wrapped: Wrapped = field(kw_only=True)

    @property
    def origin(self) -> str:
        """The address and the unwrapping, as the store records where a file came from."""
        return f"{self.shown} (sha256 {self.wrapped.sha256}), {self.wrapped.unwrap} after {self.wrapped.after!r}"


def address(wrapped: Wrapped) -> WrappedAddress:
    """Return the address of a wrapped copy."""
    return WrappedAddress(wrapped.url, local_path(wrapped.url), wrapped=wrapped)


def unwrapped(path: Path, wrapped: Wrapped, sha256: str, size: int) -> bytes:
    """Return the file of `size` bytes with the digest `sha256` that the text at `path` holds.

    Raises `Refused` for another text than the pinned one, one that cannot be unwrapped, or another file in it.
    """
    try:
        text = read_limited(path, wrapped.size)
    except OSError as error:
        raise HostLacks(f"the downloaded file cannot be read: {error.strerror}", where=str(path)) from None
    if hashlib.sha256(text).hexdigest() != wrapped.sha256:
        raise Refused(f"another file than the pinned wrapper; expected sha256 {wrapped.sha256}")
    data = base64_text.decoded(text, wrapped.after, wrapped.before, size)
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise Refused(f"the file after {wrapped.after!r}: sha256 {actual}; expected {sha256}")
    return data
