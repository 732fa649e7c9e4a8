"""Mirrorlists: they name whole snapshots before, while and after a publisher runs, the latest first."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.publish import mirrorlist, snapshot
from pipeline.publish.signing import Signer, open_signer
from pipeline.publish.verify import verify_snapshot
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import person, rpm
from tests.fixtures.snapshots import built, publish, publishing, wanted

BASE = "http://repository.example/repo/el6/snapshots"


def lines(root: Path, name: str = "director") -> list[str]:
    return (root / "el6" / f"mirrorlist-{name}").read_text().splitlines()


def test_it_names_the_latest_snapshot_and_then_those_before_it_once_each(signer: Signer, root: Path) -> None:
    one = publish(wanted(), signer, root)
    assert lines(root) == [f"{BASE}/{one.id}/director/"]
    two = publish(wanted(rpm(text="two")), signer, root)
    assert lines(root) == [f"{BASE}/{two.id}/director/", f"{BASE}/{one.id}/director/"]
    publish(wanted(), signer, root)
    assert mirrorlist.ids(root / "el6" / "mirrorlist-director") == [one.id, two.id]


def test_an_address_that_changed_is_that_of_earlier_snapshots_too(signer: Signer, root: Path) -> None:
    publish(wanted(), signer, root)
    publish(wanted(rpm(text="two"), baseurl="https://other.example/x/"), signer, root)
    assert [line.partition("/el6/")[0] for line in lines(root)] == ["https://other.example/x"] * 2


def test_it_has_an_end(signer: Signer, root: Path) -> None:
    made = publish(wanted(), signer, root)
    place = root / "el6"
    many = [f"{number:032x}" for number in range(mirrorlist.MOST + 5)]
    for name in many:
        (place / "snapshots" / name / "director").mkdir(parents=True)
    (place / "mirrorlist-director").write_text("".join(f"{BASE}/{name}/director/\n" for name in many))
    for file, text in mirrorlist.changes(place, made.path).items():
        mirrorlist.change(file, text)
    found = mirrorlist.ids(place / "mirrorlist-director")
    assert found == [made.id, *many][: mirrorlist.MOST]


def test_a_snapshot_leaves_the_list_when_it_is_removed_and_one_without_the_set_is_not_in_it(
    signer: Signer, root: Path
) -> None:
    one = publish(wanted(), signer, root)
    sets = {"director": built(rpm(text="two")), "stock": built(rpm(text="two"))}
    two = publish(wanted(sets=sets), signer, root)
    assert lines(root, "stock") == [f"{BASE}/{two.id}/stock/"]
    snapshot.remove_snapshot(one.path)
    assert lines(root) == [f"{BASE}/{two.id}/director/"]
    publish(wanted(), signer, root)
    assert not (root / "el6" / "mirrorlist-stock").exists(), "readers of a set that is gone must get an error"


@pytest.mark.parametrize("damage", ["", "no address", "\udcff"], ids=["empty", "text", "bytes"])
def test_a_damaged_list_is_written_anew(signer: Signer, root: Path, damage: str) -> None:
    made = publish(wanted(), signer, root)
    (root / "el6" / "mirrorlist-director").write_bytes(damage.encode(errors="surrogateescape"))
    publish(wanted(), signer, root)
    assert lines(root) == [f"{BASE}/{made.id}/director/"]


@pytest.mark.parametrize("point", ["latest.before-rename", "mirrorlist.before-rename"])
def test_a_kill_leaves_a_list_of_whole_snapshots_and_the_next_run_repairs_it(
    inv: Inv, signer: Signer, root: Path, point: str
) -> None:
    old = publish(wanted(), signer, root)
    argv = publishing(root, rpm(text="two"))
    with process.start(argv, env=inv.environment(FNAT_TRACE_KILL=point)) as child:
        assert child.wait(60) == -signal.SIGKILL
    assert old.latest.resolve() == old.path, "`latest` is the last that is renamed"
    first, *others = mirrorlist.ids(root / "el6" / "mirrorlist-director")
    assert [first, *others][-1] == old.id and len(others) == (point == "latest.before-rename")
    for name in (first, *others):
        verify_snapshot(root / "el6" / "snapshots" / name, signer.key.fingerprint)
    new = process.run(argv, env=inv.environment()).text.strip()
    assert lines(root) == [f"{BASE}/{new}/director/", f"{BASE}/{old.id}/director/"]


def test_the_key_that_a_repo_file_names_stays_when_another_one_signs(
    inv: Inv, signer: Signer, root: Path, tmp_path: Path
) -> None:
    first = publish(wanted(), signer, root)
    with open_signer(str(person("packager").secret), tmp_path / "keys") as other:
        second = publish(wanted(), other, root)
    for made in (first, second):
        [named] = [
            line.removeprefix("gpgkey=")
            for line in (made.path / "el6-director.repo").read_text().splitlines()
            if line.startswith("gpgkey=")
        ]
        name = named.rpartition("/")[2]
        assert named == f"http://repository.example/repo/el6/keys/{name}"
        assert (root / "el6" / "keys" / name).read_bytes() == (made.path / name).read_bytes()
