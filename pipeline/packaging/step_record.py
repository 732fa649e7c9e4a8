"""The record of a step's run: what it was made from, how it ended, and every file that it made.

Lies as `meta.json` in the directory of the run, sealed. It names line, step and key, so that the record of another
run does not count in this one's place. What a step made is known by manifests, each under its root: `out`, `log`,
and by full path what the step published elsewhere. Must not know what is built.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.core import manifest
from pipeline.core.fs import read_limited, write_atomic
from pipeline.core.manifest import Difference, Manifest

FILE, OUT, LOG = "meta.json", "out", "log"  # in the directory of a run
_MOST = 64 << 20  # bytes of a record that are read


class Damaged(ValueError):
    """A record that is missing or is not what was written; its text says what is wrong, `it ...`."""


class Phase(StrEnum):
    """How far a run has come."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Record:
    """One run of a step. `begun` in seconds since 1970, `seconds` None while it runs.

    `inputs` are the parts of its key by name, `options` what a verb needs to mean the same line, `facts` what the
    step said of its run, `error` that of a run that failed. `made`: the manifest of each root. `used`: by need, the
    digest of the output that it was made from. `root`: the full path of the line's directory at that time.
    """

    line: str
    step: str
    key: str
    state: Phase
    begun: float
    pid: int
    why: str = ""
    seconds: float | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=dict)
    made: Mapping[str, Manifest] = field(default_factory=dict)
    used: Mapping[str, str] = field(default_factory=dict)
    root: str = ""

    @property
    def output(self) -> Manifest:
        """What lies in the step's `out`."""
        return self.made.get(OUT, {})

    @property
    def digest(self) -> str:
        """The digest of what lies in `out`, whenever and wherever it was written."""
        rows = [(path, entry.kind, entry.mode, entry.content) for path, entry in sorted(self.output.items())]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def write(self, place: Path) -> None:
        """Replace the record in the directory `place` of its run."""
        rows = {root: manifest.to_rows(known) for root, known in self.made.items()}
        document = {**{name: getattr(self, name) for name in _FIELDS}, "made": rows}
        write_atomic(place / FILE, manifest.sealed(document))


def read(place: Path) -> Record:
    """Read the record in the directory `place`. Raises `Damaged` for one that is missing or not what was written."""
    try:
        document = manifest.unsealed(read_limited(place / FILE, _MOST))
    except FileNotFoundError:
        raise Damaged("it is missing") from None
    except OSError as error:
        raise Damaged(f"it cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Damaged(str(error)) from None
    try:
        return Record(**{name: kind(document[name]) for name, kind in _FIELDS.items()})
    except (KeyError, TypeError, ValueError):
        raise Damaged("it has another format") from None


def take(place: Path, elsewhere: Iterable[Path]) -> dict[str, Manifest]:
    """Read everything that a step made: in the directory `place` of its run, and at the paths `elsewhere`.

    Raises `ValueError` for what no manifest can hold, and `OSError`.
    """
    own = [name for name in (OUT, LOG) if name == OUT or os.path.lexists(place / name)]
    roots = [*own, *(str(path.absolute()) for path in elsewhere)]
    return {root: manifest.take(place / root) for root in roots}


def compare(place: Path, record: Record, *, content: bool = False) -> tuple[list[Difference], Record]:
    """Compare what a step made with its record: each difference, and the record with the stamps of now.

    The same record, where no stamp has moved. Files whose stamp has not moved are read with `content` only.
    """
    differences, current = [], {}
    for root, known in record.made.items():
        try:
            found = manifest.compare(place / root, known, content=content)
        except OSError as error:
            problem = "missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
            differences.append(Difference(root, problem))
            continue
        differences += [Difference("/".join(filter(None, (root, d.path))), d.problem) for d in found.differences]
        current[root] = found.current if found.moved else known
    moved = any(current.get(root) is not known for root, known in record.made.items())
    return differences, replace(record, made=current) if moved and not differences else record


def _a(*kinds: type) -> Callable[[Any], Any]:
    def checked(value: Any) -> Any:
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError
        return value

    return checked


def _table(value: Any) -> dict[str, Any]:
    return dict(_a(dict)(value))


def _named_texts(value: Any) -> dict[str, str]:
    return {name: _a(str)(text) for name, text in _table(value).items()}


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_a(str)(text) for text in _a(list)(value))


def _made(value: Any) -> dict[str, Manifest]:
    return {root: manifest.from_rows(rows) for root, rows in _table(value).items()}


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "line": _a(str),
    "step": _a(str),
    "key": _a(str),
    "state": Phase,
    "begun": _a(int, float),
    "pid": _a(int),
    "why": _a(str),
    "seconds": _a(int, float, type(None)),
    "inputs": _named_texts,
    "used": _named_texts,
    "root": _a(str),
    "options": _texts,
    "facts": _table,
    "error": _table,
    "made": _made,
}
