"""Write files that people may edit, and never over their edits: the first line holds the digest of the others."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core import fs
from pipeline.errors import UsageError

State = Literal["new", "unchanged", "updated", "overwritten"]
_MOST = 1 << 20  # bytes of such a file
_MARK = re.compile(r"# sha256 of the lines below: ([0-9a-f]{64})\n")


@dataclass(frozen=True)
class WrittenFile:
    """A file, and what became of the one that was there."""

    path: Path
    state: State


@dataclass(frozen=True)
class RenderedFiles:
    """The files of a kind, and the commands to type next."""

    kind: str
    lines: tuple[str, ...]
    files: tuple[WrittenFile, ...]
    next: tuple[str, ...]


def write_all(directory: Path, files: Mapping[str, str], *, overwrite: bool, hint: str) -> tuple[WrittenFile, ...]:
    """Write every file, or none where one of them is another's or was edited. The texts' comments begin with `#`.

    Raises `UsageError` with `hint` for those, unless they are to be overwritten.
    """
    marked = {directory / name: _marked(text) for name, text in files.items()}
    states = {path: _state(path, text, overwrite=overwrite, hint=hint) for path, text in marked.items()}
    for path, text in marked.items():
        if states[path] != "unchanged":
            _write(path, text)
    return tuple(WrittenFile(path, state) for path, state in states.items())


def _marked(text: str) -> str:
    return f"# sha256 of the lines below: {hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def _is_untouched(text: str) -> bool:
    found = _MARK.match(text)
    return found is not None and _marked(text[found.end() :]) == text


def _state(path: Path, text: str, *, overwrite: bool, hint: str) -> State:
    """Return what becomes of the file that is there. Raises `UsageError` where it must stay."""
    try:
        found = fs.read_limited(path, _MOST).decode(errors="replace")
    except FileNotFoundError:
        return "new"
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="another directory: --output DIR") from None
    if found == text:
        return "unchanged"
    if _is_untouched(found):
        return "updated"
    if overwrite:
        return "overwritten"
    got = "an edited one" if _MARK.match(found) else "another"
    what = f"{path}: expected a file as this program wrote it, got {got}"
    raise UsageError(what, why="what a person wrote there would be lost", hint=hint)


def _write(path: Path, text: str) -> None:
    try:
        fs.write_atomic(path, text)
    except (FileExistsError, NotADirectoryError):
        what = f"{path.parent}: expected a directory, got something else"
        raise UsageError(what, hint="another directory: --output DIR") from None
