"""Record a step's run: its inputs, its end, and all files that it made.

Lies as `meta.json` in the directory of the run, sealed. It names line, step and key, so that the record of another
run does not count in this one's place. What a step made is known by manifests, each under its root: `out`, `log`,
and by full path what the step published elsewhere. Must not know what is built.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from pipeline.core import documents, manifest
from pipeline.core.decoder import Mismatch
from pipeline.core.fs import read_limited, write_atomic
from pipeline.core.manifest import Difference, Manifest
from pipeline.errors import ErrorDocument
from pipeline.packaging.ccache import CacheStatistics

FILE, OUT, LOG = "meta.json", "out", "log"  # in the directory of a run
STATEMENT = "statement.intoto.json"  # likewise: the signed statement of the run


class Damaged(ValueError):
    """A record that is missing or was changed; the text names the problem, `it ...`."""


class Phase(StrEnum):
    """The phases of a run."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Published:
    """A published snapshot and the link that leads to it. `development`: its key is the one for development.

    `baseurl` is the address that its .repo files name.
    """

    id: str
    path: Path
    latest: Path
    fingerprint: str
    development: bool
    baseurl: str


@dataclass
class Facts:
    """The facts of a run besides its output, which its action fills in; `compilations` is their number."""

    compilations: int = 0
    ccache: CacheStatistics | None = None
    snapshot: Published | None = None


@dataclass(frozen=True)
class Record:
    """One run of a step. `begun` in seconds since 1970, `seconds` None while it runs.

    `inputs` are the parts of its key by name, `options` what a verb needs to mean the same line, `facts` those of the
    run, `error` that of a run that failed. `made`: the manifest of each root. `used`: by need, the digest of the
    output that it was made from. `root`: the full path of the line's directory at that time. `attested`: the id of the
    key that the run's statement is signed with, empty without one.
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
    facts: Facts = field(default_factory=Facts)
    error: ErrorDocument | None = None
    made: Mapping[str, Manifest] = field(default_factory=dict)
    used: Mapping[str, str] = field(default_factory=dict)
    root: str = ""
    attested: str = ""

    @property
    def output(self) -> Manifest:
        """The manifest of the step's `out`."""
        return self.made.get(OUT, {})

    @property
    def digest(self) -> str:
        """The digest of the content of `out`, independent of time and place."""
        rows = [(path, entry.kind, entry.mode, entry.content) for path, entry in sorted(self.output.items())]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def write(self, place: Path) -> None:
        """Replace the record in the directory `place` of its run."""
        write_atomic(place / FILE, documents.seal(self))


def read(place: Path) -> Record:
    """Read the record in the directory `place`. Raises `Damaged` for one that is missing or was changed."""
    try:
        return documents.unseal(Record, read_limited(place / FILE, documents.MOST))
    except FileNotFoundError:
        raise Damaged("it is missing") from None
    except OSError as error:
        raise Damaged(f"it cannot be read: {error.strerror}") from None
    except Mismatch as error:
        raise Damaged(f"it has another format: {error}") from None
    except ValueError as error:
        raise Damaged(str(error)) from None


def scan(place: Path, elsewhere: Iterable[Path]) -> dict[str, Manifest]:
    """Read the manifests of a step's output: in the directory `place` of its run, and at the paths `elsewhere`.

    Raises `ValueError` for special files, and `OSError`.
    """
    own = [name for name in (OUT, LOG) if name == OUT or os.path.lexists(place / name)]
    roots = [*own, *(str(path.absolute()) for path in elsewhere)]
    return {root: manifest.scan(place / root) for root in roots}


def compare(place: Path, record: Record, *, content: bool = False) -> tuple[list[Difference], Record]:
    """Compare a step's output with its record: return the differences, and the record with current time stamps.

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
