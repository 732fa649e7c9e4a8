"""Read documents that this program wrote, and report damaged ones by name, problem and remedy.

Whoever can go on without a document reads it for themselves; this is for those who cannot.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.core.fs import read_limited
from pipeline.errors import Refused

MOST = 64 << 20  # bytes of a document; the largest, the record of an image, has 2 MiB


def read_text(path: Path, *, hint: str) -> str:
    """Return the text of a file. Raises `Refused` for one missing, unreadable or not UTF-8; `hint` is the remedy."""
    try:
        return read_limited(path, MOST).decode()
    except FileNotFoundError:
        raise Refused(
            f"{path.name}: missing; expected the document of an earlier run", where=str(path), hint=hint
        ) from None
    except OSError as error:
        raise damaged(path, "text", error.strerror or str(error), hint) from None
    except UnicodeDecodeError as error:
        raise damaged(path, "text in UTF-8", f"byte {error.object[error.start]:#04x} at {error.start}", hint) from None


def read_json(path: Path, *names: str, hint: str) -> dict[str, Any]:
    """Return the JSON object of a file with the keys `names`. Raises `Refused` as `read_text` does."""
    text = read_text(path, hint=hint)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, "a JSON object", f"{len(text)} characters: {error}", hint) from None
    if not isinstance(document, dict):
        raise damaged(path, "a JSON object", f"one of {type(document).__name__}", hint)
    if missing := [name for name in names if name not in document]:
        raise damaged(path, f"`{'`, `'.join(names)}` in it", f"none of `{'`, `'.join(missing)}`", hint)
    return document


def damaged(path: Path, expected: str, got: str, hint: str) -> Refused:
    """Return the error of a document with other content than expected."""
    return Refused(f"{path.name}: damaged; expected {expected}, got {got}", where=str(path), hint=hint)
