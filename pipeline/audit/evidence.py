"""Find a published snapshot by what a person calls it, its signed statements, and the record of a step that made it.

Of a snapshot, only the signatures of its statements are verified: an audit does the rest. Changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.audit import statement_checks
from pipeline.audit.snapshot_checks import Audited
from pipeline.audit.statement_checks import Stated
from pipeline.core.fs import read_limited
from pipeline.errors import Refused, UsageError
from pipeline.packaging import compiled_sources, inventory, step_record
from pipeline.packaging.compiled_sources import CompiledSources
from pipeline.packaging.inventory import Snapshot
from pipeline.packaging.step_record import Record
from pipeline.publish import snapshot as snapshots
from pipeline.publish import verify

LATEST = "latest"
_LEAST = 6  # characters of an id that is cut short
_KEY = re.compile(r"[0-9a-f]{8,64}")
_HINT = "`./inv status` names each latest snapshot"


@dataclass(frozen=True)
class StoredStep:
    """A finished run of a step below artifacts: its directory and its record."""

    place: Path
    record: Record

    def compiled(self) -> CompiledSources | None:
        """Return its record of compiled sources; None where the step made none, or an older version made it."""
        path = compiled_sources.path_of(self.place / step_record.OUT)
        return compiled_sources.read(path) if path.is_file() else None


def find_snapshots(names: tuple[str, str], artifacts: Path) -> tuple[Path, Path]:
    """Return the directories of two snapshots: each an id or its beginning, a path, `latest`, or `DIRECTORY/latest`.

    `latest` alone is that of the other one's repository directory, or the only one. Raises `UsageError` for any other
    name.
    """
    known = inventory.snapshots(artifacts)
    given = [None if name == LATEST else find_snapshot(name, artifacts) for name in names]
    directories = {path.resolve().parent.parent.name for path in given if path is not None}
    latest = [snapshot for snapshot in known if snapshot.is_latest]
    fitting = [snapshot for snapshot in latest if snapshot.directory in directories] or latest
    if None in given and len(fitting) != 1:
        choice = ", ".join(f"{snapshot.directory}/{LATEST}" for snapshot in latest)
        raise UsageError(
            f"{LATEST}: {len(fitting)} snapshots; expected one",
            why=f"there are {choice}" if latest else f"nothing is published below {artifacts}",
            hint=f"./inv diff {fitting[0].directory}/{LATEST} SNAPSHOT" if fitting else "./inv build-all",
        )
    first, second = (fitting[0].path if path is None else path for path in given)
    return first, second


def find_snapshot(name: str, artifacts: Path) -> Path:
    """Return a snapshot's directory: by its id or the beginning of that, a path, or the name of a line for its latest.

    Raises `UsageError` for any other name.
    """
    known = inventory.snapshots(artifacts)
    if latest := _latest(name, known):
        return latest
    found = _with_id(name, known)
    path = Path(name)
    if len(found) == 1:
        return found[0]
    if not found and (path / "snapshot.json").is_file():
        return path.resolve()
    if name and path.is_dir() and not found:
        what = f"{name}: no snapshot; expected a directory with snapshot.json"
        raise UsageError(what, where=str(path), why="a snapshot is one directory below snapshots/", hint=_HINT)
    got = f"got the beginning of {len(found)} ids" if found else "got no id, path or latest"
    why = f"published: {', '.join(one.id for one in known) or 'none'}"
    hint = _HINT if known else "`./inv build-all` publishes one; or give the directory of one"
    raise UsageError(f"{name!r}: not a snapshot; expected one, {got}", why=why, hint=hint)


def audited(path: Path) -> Audited:
    """Return a snapshot with its attestation key. Raises `Refused` for a missing key, or another than it names."""
    document = verify.read_document(path)
    if document.attestation is None:
        raise Refused("the snapshot: no statements; expected an attestation key", where=str(path))
    verify.check_attestation_key(path, document)
    return Audited(path, document, read_limited(path / document.attestation.file, verify.MAX_DOCUMENT))


def signed_steps(path: Path) -> dict[str, Stated] | None:
    """Return the statements beside a snapshot by step; None where there are none at all.

    Raises `Refused` for one that the key in the snapshot did not sign.
    """
    place = snapshots.attestations(path)
    if verify.read_document(path).attestation is None or not place.is_dir() or not any(place.iterdir()):
        return None
    return statement_checks.read_all(audited(path))


def is_id(name: str, artifacts: Path) -> bool:
    """Return whether `find_snapshot` finds the snapshot by its id: whoever names one so means that one, latest or not.

    A path says nothing of that, however it is written: `latest` and the directory that it leads to are one place.
    """
    known = inventory.snapshots(artifacts)
    return not _latest(name, known) and len(_with_id(name, known)) == 1


def _latest(name: str, known: Sequence[Snapshot]) -> Path | None:
    for snapshot in known:
        if snapshot.is_latest and name in (snapshot.directory, f"{snapshot.directory}/{LATEST}"):
            return snapshot.path
    return None


def _with_id(name: str, known: Sequence[Snapshot]) -> list[Path]:
    return [one.path for one in known if one.id == name or (len(name) >= _LEAST and one.id.startswith(name))]


def stored_step(artifacts: Path, line: str, step: str, key: str) -> StoredStep | None:
    """Return the step that a snapshot names by line, step and key; None where it is not below `artifacts`."""
    if not _KEY.fullmatch(key) or "/" in f"{line}{step}":
        return None
    place = artifacts / "steps" / line / step.replace(":", "-") / key
    try:
        record = step_record.read(place)
    except step_record.Damaged:
        return None
    same = (record.line, record.step, record.key, record.state) == (line, step, key, step_record.Phase.DONE)
    return StoredStep(place, record) if same else None


def finished_runs(artifacts: Path, line: str) -> Iterator[StoredStep]:
    """Yield every finished run of each step of a line, of each the newest first.

    Raises `Refused` for a damaged record.
    """
    for step in inventory.steps(artifacts / "steps" / line):
        for run in reversed([run for run in inventory.runs(step) if run.state is inventory.RunState.DONE]):
            try:
                yield StoredStep(run.path, step_record.read(run.path))
            except step_record.Damaged as error:
                raise Refused(f"{step.name}: its record is damaged: {error}", where=str(run.path)) from None
