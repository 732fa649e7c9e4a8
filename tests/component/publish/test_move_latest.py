"""Moving `latest` as a whole: what fails in its midst leaves mirrorlists, statement and `latest` as they were."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.core import faults, process
from pipeline.errors import HostLacks
from pipeline.publish import mirrorlist, snapshot
from pipeline.publish.signing import Signer
from pipeline.publish.snapshot import Snapshot
from tests.fixtures.rpms import rpm
from tests.fixtures.snapshots import built, publish, wanted

SETS = ("director", "stock")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repo"


@pytest.fixture
def place(root: Path, signer: Signer) -> Path:
    """A line's directory with a latest snapshot of two sets and a statement."""
    made = publish(wanted(sets={name: built(rpm()) for name in SETS}), signer, root)
    place = made.latest.parent
    (place / "attestations").mkdir(exist_ok=True)
    (place / "attestations" / "latest.intoto.json").write_text("the old one")
    return place


@pytest.fixture
def held(root: Path, signer: Signer, place: Path) -> Snapshot:
    """Another snapshot, which is not the latest."""
    return snapshot.make_snapshot(wanted(sets={name: built(rpm(text="two")) for name in SETS}), signer, root)


def seen(place: Path) -> dict[str, str | bytes]:
    """All that tells readers which snapshot is the latest, and every leftover beside it."""
    found = [*place.iterdir(), *(place / "attestations").iterdir()]
    files = [path for path in found if path.is_file() and path.name != ".lock"]
    return {
        **{str(path.relative_to(place)): path.read_bytes() for path in files},
        "latest": str((place / "latest").readlink()),
    }


def stated(path: Path) -> dict[Path, bytes]:
    return {path.parent.parent / "attestations" / "latest.intoto.json": path.name.encode()}


@contextlib.contextmanager
def immutable(path: Path) -> Iterator[None]:
    process.run(["chattr", "+i", path])
    try:
        yield
    finally:
        process.run(["chattr", "-i", path])


@contextlib.contextmanager
def directory(path: Path) -> Iterator[None]:
    kept = path.read_bytes()
    path.unlink()
    path.mkdir()
    try:
        yield
    finally:
        path.rmdir()
        path.write_bytes(kept)


@pytest.mark.parametrize("name", ["mirrorlist-director", "mirrorlist-stock", "attestations/latest.intoto.json"])
@pytest.mark.parametrize("broken", [immutable, directory])
def test_a_file_that_cannot_be_replaced_leaves_all_as_it_was(
    place: Path, held: Snapshot, name: str, broken: Callable[[Path], contextlib.AbstractContextManager[None]]
) -> None:
    before = seen(place)
    with broken(place / name), pytest.raises((OSError, HostLacks)):
        snapshot.move_latest(held.path, stated)
    assert seen(place) == before
    snapshot.move_latest(held.path, stated)
    assert set(mirrorlist.leads(place).values()) == {held.id}
    assert (place / "attestations" / "latest.intoto.json").read_text() == held.id


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_full_disk_at_any_point_leaves_all_as_it_was(
    place: Path, held: Snapshot, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, passed = seen(place), list[str]()

    def full(point: str) -> None:
        passed.append(point)
        if len(passed) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(faults, "point", full)
    with pytest.raises(HostLacks, match="no disk space"):
        snapshot.move_latest(held.path, stated)
    assert seen(place) == before


def test_a_link_that_moved_and_could_not_be_synced_is_put_back(
    place: Path, held: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = seen(place)

    def failing(path: Path) -> None:
        assert (place / "latest").readlink().name == held.id
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(snapshot, "_fsync", failing)
    with pytest.raises(OSError, match="Input/output"):
        snapshot.move_latest(held.path, stated)
    assert seen(place) == before


def test_the_first_snapshot_that_cannot_be_released_leaves_nothing_that_leads_to_it(
    signer: Signer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = snapshot.make_snapshot(wanted(), signer, root)

    def failing(point: str) -> None:
        if point == "latest.before-rename":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(faults, "point", failing)
    with pytest.raises(HostLacks):
        snapshot.move_latest(made.path, stated)
    assert mirrorlist.leads(made.latest.parent) == {}
    assert not (made.latest.parent / "attestations" / "latest.intoto.json").exists()
