"""Read and write documents that this program wrote: one frozen dataclass each, validated field by field when read.

`read` is for callers that need the document: its error names the file, the mismatch and the remedy. Callers that can do
without use `parse` or `unseal`, which raise `ValueError`. `pipeline.core.decoder` defines the types of fields,
`pipeline.core.manifest` the seal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pipeline.core import decoder, manifest
from pipeline.core.decoder import Mismatch
from pipeline.core.fs import read_limited
from pipeline.errors import Refused

MOST = 64 << 20  # bytes of a document; the largest, the record of an image, has 2 MiB
T = TypeVar("T")


def read_text(path: Path, *, hint: str, most: int = MOST) -> str:
    """Return the text of a file. Raises `Refused` for one missing, unreadable or not UTF-8; `hint` is the remedy."""
    try:
        return read_limited(path, most).decode()
    except FileNotFoundError:
        raise Refused(
            f"{path.name}: missing; expected the document of an earlier run", where=str(path), hint=hint
        ) from None
    except OSError as error:
        raise damaged(path, "text", error.strerror or str(error), hint) from None
    except UnicodeDecodeError as error:
        raise damaged(path, "text in UTF-8", f"byte {error.object[error.start]:#04x} at {error.start}", hint) from None


def read(path: Path, kind: type[T], *, hint: str, most: int = MOST) -> T:
    """Read the document of a file of at most `most` bytes. Raises `Refused` as `read_text` does."""
    text = read_text(path, hint=hint, most=most)
    try:
        return parse(kind, text)
    except Mismatch as error:
        raise damaged(path, error.wanted.removeprefix("expected "), error.got, hint) from None
    except ValueError as error:
        raise damaged(path, "a JSON object", f"{len(text)} characters: {error}", hint) from None


def parse(kind: type[T], text: str | bytes) -> T:
    """Read a document out of JSON text. Raises `ValueError`, for another shape `Mismatch`."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    return decoder.decode(kind, value)


def to_json(document: Any) -> str:
    """Write a document as JSON text."""
    return json.dumps(decoder.encode(document), indent=1) + "\n"


def seal(document: Any) -> str:
    """Write a document as JSON text that bears the digest of its content."""
    return manifest.seal(decoder.encode(document))


def unseal(kind: type[T], text: str | bytes) -> T:
    """Read what `seal` returned. Raises `ValueError` for anything else, for another shape `Mismatch`."""
    return decoder.decode(kind, manifest.unseal(text))


def damaged(path: Path, expected: str, got: str, hint: str) -> Refused:
    """Return the error of a document that says something else than it must."""
    return Refused(f"{path.name}: damaged; expected {expected}, got {got}", where=str(path), hint=hint)
