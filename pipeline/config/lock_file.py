"""Read and write lock files: sources pinned on first use, with person, time and proof.

Written by `inv pin` beside the line file, committed by people like any other source file.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pipeline.config.line_loader import LARGEST
from pipeline.config.line_model import Line
from pipeline.core.fs import read_limited, write_atomic
from pipeline.errors import FileProblems, HostLacks, Problem

_HEAD = "# Written by `inv pin`; commit it. Each table is a source that was proven and pinned on first use.\n"


@dataclass(frozen=True)
class Pin:
    """One pinned source. `size` in bytes; `pinned` an ISO 8601 time; `by` a git identity."""

    sha256: str
    size: int
    signer: str
    fingerprint: str
    signed: str
    nevra: str
    spec: str
    tree: str
    url: str
    pinned: str
    by: str


def read(line: Line) -> dict[str, Pin]:
    """Read the pins of a line, by source; none without a lock file. Raises `FileProblems`."""
    path = line.lock_file
    try:
        return parse(read_limited(path, LARGEST), path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from None


def _unreadable(path: Path, what: str) -> FileProblems:
    return FileProblems(f"{path} cannot be read", [Problem(str(path), 1, what)])


def parse(data: bytes, path: Path) -> dict[str, Pin]:
    """Read the pins out of the bytes of the lock file `path`. Raises `FileProblems`."""
    try:
        raw = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, str(error)) from None
    pins, problems = {}, []
    wanted = {field.name: (int if field.name == "size" else str) for field in fields(Pin)}
    for name, table in raw.items():
        if isinstance(table, dict) and {k: type(v) for k, v in table.items()} == wanted:
            pins[name] = Pin(**table)
        else:
            problems.append(Problem(str(path), 1, f"the table [{name}] is no pin", ", ".join(wanted)))
    if problems:
        raise FileProblems(f"{path} is not as `inv pin` writes it", problems, hint="restore it, or pin again")
    return pins


def write(line: Line, name: str, pin: Pin) -> None:
    """Add or replace the pin of one source and keep the others. Raises `HostLacks`."""
    pins = {**read(line), name: pin}
    tables = []
    for source, values in sorted(pins.items()):
        # A JSON string is a TOML basic string, as long as nothing but ASCII is escaped.
        rows = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in asdict(values).items()]
        tables.append("\n".join([f"\n[{source}]", *rows, ""]))
    try:
        write_atomic(line.lock_file, _HEAD + "".join(tables))
    except OSError as error:
        hint = "use a line file of your own, outside the project: --line-file PATH"
        raise HostLacks(f"the pin cannot be written: {error}", where=str(line.lock_file), hint=hint) from None
