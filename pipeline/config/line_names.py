"""Reserve a line's name for one line file in an artifacts directory, whose steps and repository bear that name.

The project's own names are kept by `line_loader`; this is for two files of other people's that have the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.config import line_loader
from pipeline.config.line_model import Line
from pipeline.core import disk_space, documents, resources
from pipeline.core.fs import read_limited, sha256_of, write_atomic
from pipeline.core.locks import locked
from pipeline.core.suggestion import unknown
from pipeline.errors import HostLacks, UsageError

_LARGEST = 1 << 16  # bytes of a record


@dataclass(frozen=True)
class Owner:
    """The document of a name: the full path of the line file that has it, and the SHA-256 of its content."""

    file: str
    sha256: str


def claim(line: Line, artifacts: Path, *, write: bool = True) -> None:
    """Record the line file that owns the name. A copy of the file, or new content in its place, is the same line.

    A copy does not take the name, so that it cannot become another line later; a file that was moved does.
    Raises `UsageError` when another file has it. Without `write` nothing is remembered.
    """
    if line.name in resources.line_names():
        return
    file = line.files[0].resolve()
    own = Owner(str(file), sha256_of(file))
    record = artifacts / "lines" / f"{line.name}.json"
    if not write and not record.exists():
        return
    try:
        with locked(record.with_suffix(".lock")):
            recorded = _read(record)
            if recorded and recorded.file != own.file and recorded.sha256 != own.sha256:
                raise UsageError(
                    f"line name {line.name}: used by another line file; expected {recorded.file}, got {file}",
                    where=str(record),
                    why="both files would share steps, evidence and repository; if the other file is"
                    f" given up for good, remove {record}",
                    hint=f'change name = "{line.name}" in {file}, or add --artifacts DIR for a place of its own',
                )
            owns = recorded is None or recorded.file == own.file or not Path(recorded.file).is_file()
            if write and recorded != own and owns:
                write_atomic(record, documents.to_json(own))
    except OSError as error:
        other = HostLacks(f"a line's name cannot be remembered: {error.strerror}", where=str(record))
        raise disk_space.host_error(error, artifacts) or other from None


def load(name: str, artifacts: Path) -> Line:
    """Load the line called `name`: one of the project's, or that of the line file which has the name in `artifacts`.

    Raises as `line_loader.load` does.
    """
    if name in resources.line_names():
        return line_loader.load(name)
    records = {path.stem: path for path in sorted((artifacts / "lines").glob("*.json"))}
    owner = _read(records[name]) if name in records else None
    if owner is None:
        raise unknown("line", name, (*resources.line_names(), *records), hint="./inv lines")
    return line_loader.load(name, Path(owner.file))


def _read(record: Path) -> Owner | None:
    try:
        return documents.parse(Owner, read_limited(record, _LARGEST))
    except (FileNotFoundError, ValueError):  # or damaged
        return None
