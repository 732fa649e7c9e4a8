"""Signed snapshots: what is in one, what is found again, and what is refused."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import process
from pipeline.core.fs import sha256_of
from pipeline.errors import HostLacks, Refused, UsageError
from pipeline.publish import repodata, signing, snapshot, snapshot_contents
from pipeline.publish.signing import Signer
from pipeline.publish.snapshot_contents import Contents
from pipeline.publish.verify import verify_snapshot
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import GZIP, WHEN, XZ, ZSTD, person, rpm, shared_keys
from tests.fixtures.snapshots import built, changed, everything, flipped, publish, wanted

# --- What a snapshot is ----------------------------------------------------------------------------------


def test_a_snapshot_holds_each_set_with_what_it_needs(signer: Signer, root: Path) -> None:
    common, fnat, toa = rpm("perf"), rpm("kernel", release="220.el6.fnat"), rpm("kernel", release="220.el6.toa")
    sets = {"director": built(fnat, common), "realserver": built(toa, common), "stock": built(common)}
    made = publish(wanted(sets=sets), signer, root)
    assert made.path == root / "el6" / "snapshots" / made.id
    assert made.sets == ("director", "realserver", "stock") and not made.reused
    found = {name: sorted(path.name for path in (made.path / name).glob("*.rpm")) for name in made.sets}
    assert found["director"] == ["kernel-1.2.1-220.el6.fnat.noarch.rpm", "perf-1.2.1-fnat.0.noarch.rpm"]
    assert found["realserver"] == ["kernel-1.2.1-220.el6.toa.noarch.rpm", "perf-1.2.1-fnat.0.noarch.rpm"]
    assert found["stock"] == ["perf-1.2.1-fnat.0.noarch.rpm"]
    assert len({(made.path / name / "perf-1.2.1-fnat.0.noarch.rpm").stat().st_ino for name in made.sets}) == 1
    assert {path.name for path in made.path.iterdir() if path.is_file()} == {
        *("el6-director.repo", "el6-realserver.repo", "el6-stock.repo"),
        *("README", "RPM-GPG-KEY-lvs-fullnat-development", "SHA256SUMS", "SHA256SUMS.asc", "snapshot.json"),
    }
    assert (root / "el6" / "latest").readlink() == Path("snapshots", made.id)


def test_nothing_in_a_snapshot_can_be_written(signer: Signer, root: Path) -> None:
    made = publish(wanted(), signer, root)
    for path in [made.path, *made.path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o555 if path.is_dir() else 0o444), path


def test_snapshot_json_says_what_everything_is_and_where_it_comes_from(signer: Signer, root: Path) -> None:
    sets = {
        "director": built(rpm("kernel", "Epoch: 2"), step="k1"),
        "stock": built(rpm("kernel", "Epoch: 2"), step="k2"),
    }
    made = publish(wanted(sets=sets, label="el6-x (OVERRIDES el6)", notice="not the line el6"), signer, root)
    said = json.loads((made.path / "snapshot.json").read_text())
    file = "kernel-1.2.1-fnat.0.noarch.rpm"
    path = made.path / "director" / file
    assert said["packages"] == {
        file: {
            "nevra": "kernel-2:1.2.1-fnat.0.noarch",
            "body_sha256": said["packages"][file]["body_sha256"],
            "sha256": sha256_of(path),
            "size": path.stat().st_size,
            "steps": ["k1", "k2"],
            "keys": ["of k1", "of k2"],
            "unsigned_sha256": sha256_of(rpm("kernel", "Epoch: 2")),
        }
    }
    assert said["key"]["fingerprint"] == signer.key.fingerprint == made.fingerprint
    assert (said["line"], said["label"], said["notice"]) == ("el6", "el6-x (OVERRIDES el6)", "not the line el6")
    assert (said["id"], said["small"], said["readers"]) == (made.id, False, "rpm 4.8 and yum 3.2")
    assert made.path.name == made.id and len(made.id) == 32


def test_a_development_key_is_named_as_such_everywhere(signer: Signer, root: Path) -> None:
    made = publish(wanted(), signer, root)
    assert made.development
    assert json.loads((made.path / "snapshot.json").read_text())["key"]["development"] is True
    repo = (made.path / "el6-director.repo").read_text()
    assert "[el6-director-development]" in repo
    assert "name=el6: director (DEVELOPMENT KEY, NOT FOR PRODUCTION)" in repo
    assert "/RPM-GPG-KEY-lvs-fullnat-development\n" in repo
    assert "DEVELOPMENT KEY, NOT FOR PRODUCTION" in (made.path / "README").read_text()


def test_a_key_of_somebodys_own_is_not_called_a_development_key(inv: Inv, root: Path, tmp_path: Path) -> None:
    with signing.open_signer(str(person("packager").secret), tmp_path / "keys") as signer:
        made = publish(wanted(), signer, root)
    texts = "".join(path.read_text() for path in made.path.iterdir() if path.is_file())
    assert not made.development and "evelopment" not in texts.replace('"development": false', "")
    assert "[el6-director]\n" in texts
    assert f"packager <packager@example.org>\n  {made.fingerprint}" in texts


def test_a_repo_file_asks_for_both_signatures_and_guards_our_old_versions(signer: Signer, root: Path) -> None:
    packages = wanted(rpm(), rpm("keepalived"), baseurl="http://mirror.example.org/fnat/", label="a\nb", notice="c\nd")
    made = publish(packages, signer, root)
    lines = (made.path / "el6-director.repo").read_text().splitlines()
    base = "http://mirror.example.org/fnat/el6"
    for line in ("gpgcheck=1", "repo_gpgcheck=1", "skip_if_unavailable=0", "priority=1"):
        assert line in lines
    assert f"mirrorlist={base}/mirrorlist-director" in lines and "baseurl" not in "".join(lines)
    assert f"gpgkey={base}/keys/RPM-GPG-KEY-lvs-fullnat-development" in lines
    for old in ("failovermethod=priority", "mirrorlist_expire=3600"):
        assert old in lines, "yum 3.2 would begin anywhere in the list, and keep it for a day"
    assert "#    exclude=ipvsadm keepalived" in lines
    assert lines[0].startswith("# Line a b, snapshot ") and lines[1] == "# NOTICE: c d."
    current = publish(wanted(old_readers=False), signer, root)
    of_today = (current.path / "el6-director.repo").read_text()
    assert not any(word in of_today for word in ("exclude", "failovermethod", "mirrorlist_expire")), "dnf knows none"


def test_metadata_is_gzip_with_sha256_and_for_old_yum_with_databases(signer: Signer, root: Path) -> None:
    made = publish(wanted(rpm(), rpm("keepalived")), signer, root)
    names = [path.name for path in (made.path / "director" / "repodata").iterdir()]
    kinds = sorted(name.partition("-")[2] for name in names if not name.startswith("repomd"))
    tables = ("filelists", "other", "primary")
    assert kinds == sorted(f"{table}.{form}.gz" for table in tables for form in ("sqlite", "xml"))
    text = (made.path / "director" / repodata.REPOMD).read_text()
    assert 'type="sha256"' in text and 'type="sha"' not in text
    assert "<database_version>10</database_version>" in text  # what yum 3.2.29 asks for
    [database] = (made.path / "director" / "repodata").glob("*-primary.sqlite.gz")
    plain = root.parent / "primary.sqlite"
    plain.write_bytes(gzip.decompress(database.read_bytes()))
    rows = sqlite3.connect(plain).execute("select name, checksum_type from packages order by name").fetchall()
    assert rows == [("ipvsadm", "sha256"), ("keepalived", "sha256")]
    current = publish(wanted(old_readers=False), signer, root)
    assert not list((current.path / "director" / "repodata").glob("*sqlite*"))


def test_the_revision_is_the_time_of_the_content(inv: Inv, root: Path, tmp_path: Path) -> None:
    with signing.open_signer(str(person("old", clock="20110101T120000").secret), tmp_path / "keys") as signer:
        made = publish(wanted(), signer, root)
    assert f"<revision>{WHEN}</revision>" in (made.path / "director" / repodata.REPOMD).read_text()


# --- The same content is the same snapshot ---------------------------------------------------------------


def test_the_same_content_is_found_again_and_nothing_is_signed(
    signer: Signer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(wanted(), signer, root)
    before = everything(root)
    monkeypatch.setattr(Signer, "sign", None)
    second = publish(wanted(), signer, root)
    assert second.reused and second.path == first.path
    assert everything(root) == before


def test_the_same_content_gives_the_same_bytes_elsewhere(signer: Signer, root: Path, tmp_path: Path) -> None:
    packages = wanted(rpm(), rpm("keepalived"), rpm("perf"))
    made = publish(packages, signer, root)
    with signing.open_signer("", shared_keys()) as another:
        again = publish(packages, another, tmp_path / "elsewhere")
    assert made.path != again.path
    assert everything(made.path) == everything(again.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda: {"label": "el6-x (OVERRIDES el6)"},
        lambda: {"notice": "not the line el6"},
        lambda: {"baseurl": "http://mirror.example.org"},
        lambda: {"old_readers": False},
        lambda: {"sets": {"stock": built(rpm())}},
        lambda: {"sets": {"director": built(rpm(text="two"))}},
        lambda: {"sets": {"director": built(rpm(), step="another")}},
        lambda: {"sets": {"director": built(rpm(), rpm("perf"))}},
    ],
    ids=["label", "notice", "baseurl", "readers", "set", "package", "step", "one more"],
)
def test_anything_else_is_another_snapshot(inv: Inv, signer: Signer, change: Callable[[], dict[str, Any]]) -> None:
    def identity(packages: Contents) -> str:
        return snapshot_contents.document(packages, snapshot_contents.members(packages), signer.key, "code").id

    assert identity(wanted()) == identity(wanted()) != identity(wanted(**change()))


def test_the_order_of_the_packages_and_the_place_they_come_from_do_not_matter(
    signer: Signer, root: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copy(rpm(), tmp_path / "moved.rpm"))
    first = publish(wanted(rpm(), rpm("perf")), signer, root)
    assert publish(wanted(rpm("perf"), moved, moved), signer, root).id == first.id


def test_an_unsigned_and_a_signed_copy_of_a_package_are_the_same_content(
    signer: Signer, root: Path, tmp_path: Path
) -> None:
    [signed] = signer.sign([rpm()], tmp_path / "signed")
    first = publish(wanted(), signer, root)
    assert publish(wanted(signed.path), signer, root).id == first.id


def test_latest_goes_back_to_an_earlier_snapshot_that_is_published_again(signer: Signer, root: Path) -> None:
    first = publish(wanted(), signer, root)
    second = publish(wanted(rpm(text="two")), signer, root)
    assert first.latest.resolve() == second.path
    publish(wanted(), signer, root)
    assert first.latest.resolve() == first.path


def test_a_snapshot_is_made_beside_the_latest_and_becomes_it_when_it_is_moved(signer: Signer, root: Path) -> None:
    held = snapshot.make_snapshot(wanted(), signer, root)
    assert not held.latest.is_symlink()
    old = publish(wanted(rpm(text="two")), signer, root)
    assert snapshot.make_snapshot(wanted(), signer, root).reused and old.latest.resolve() == old.path
    snapshot.move_latest(held.path)
    assert held.latest.readlink() == Path("snapshots", held.id)
    snapshot.remove_snapshot(old.path)
    with pytest.raises(HostLacks, match="missing"):
        snapshot.move_latest(old.path)
    assert held.latest.resolve() == held.path


def test_a_damaged_snapshot_is_not_reused_and_the_way_out_is_named(signer: Signer, root: Path) -> None:
    made = publish(wanted(), signer, root)
    changed(made.path / "director" / "ipvsadm-1.2.1-fnat.0.noarch.rpm", flipped)
    with pytest.raises(Refused, match="the snapshot: damaged") as refused:
        publish(wanted(), signer, root)
    process.run(["sh", "-c", refused.value.hint.partition(",")[0]])
    assert not publish(wanted(), signer, root).reused


def test_a_snapshot_can_be_removed_but_not_the_latest(signer: Signer, root: Path) -> None:
    first = publish(wanted(), signer, root)
    second = publish(wanted(rpm(text="two")), signer, root)
    snapshot.remove_snapshot(first.path)
    assert not first.path.exists()
    with pytest.raises(UsageError, match="is the latest; expected an older one"):
        snapshot.remove_snapshot(second.path)
    verify_snapshot(second.latest, signer.key.fingerprint)


# --- What is refused -------------------------------------------------------------------------------------


def refusal(packages: Contents, signer: Signer, root: Path) -> str:
    with pytest.raises((Refused, UsageError)) as refused:
        publish(packages, signer, root)
    assert not root.exists(), "nothing may be written"
    return str(refused.value)


def test_packages_of_the_small_configuration_never_get_into_a_full_snapshot(signer: Signer, root: Path) -> None:
    sets = {"director": [*built(rpm("perf")), *built(rpm(), small=True)]}
    said = refusal(wanted(sets=sets), signer, root)
    assert "small configuration: not publishable" in said and str(rpm()) in said and str(rpm("perf")) not in said


def test_a_small_snapshot_is_apart_and_says_what_it_is(signer: Signer, root: Path) -> None:
    full = publish(wanted(), signer, root)
    small = publish(wanted(sets={"director": built(rpm(), small=True)}, small=True), signer, root)
    assert small.path.parent.parent == root / "el6-small"
    assert full.latest.resolve() == full.path and small.latest.resolve() == small.path
    repo = (small.path / "el6-small-director.repo").read_text()
    assert "[el6-small-director-development]" in repo and "/el6-small/mirrorlist-director\n" in repo
    assert "SMALL CONFIGURATION" in repo and "SMALL CONFIGURATION" in (small.path / "README").read_text()


@pytest.mark.parametrize(
    ("package", "why"),
    [
        (lambda: rpm(payload=ZSTD), "it requires rpmlib(PayloadIsZstd) 5.4.18-1"),
        (lambda: rpm("rich", "Requires: (perf if ipvsadm)"), "it requires rpmlib(RichDependencies) 4.12.0-1"),
        (lambda: rpm("rich", "Requires: (perf if ipvsadm)"), "the rich dependency (perf if ipvsadm)"),
        (lambda: rpm(version="1.2~rc1"), "it requires rpmlib(TildeInVersions) 4.10.0-1"),
        (lambda: rpm(version="1.2^git"), "it requires rpmlib(CaretInVersions) 4.15.0-1"),
        (lambda: rpm(options=("_binary_filedigest_algorithm 10",)), "file digests of algorithm 10"),
    ],
    ids=["zstd", "rich", "rich by name", "tilde", "caret", "sha512"],
)
def test_what_old_rpm_cannot_take_is_refused_for_it_only(
    signer: Signer, root: Path, package: Callable[[], Path], why: str
) -> None:
    assert why in refusal(wanted(package()), signer, root)
    assert publish(wanted(package(), old_readers=False), signer, root).path.is_dir()


@pytest.mark.parametrize("payload", [GZIP, XZ, "w9.bzdio"])
def test_payloads_that_old_rpm_unpacks_are_published(signer: Signer, root: Path, payload: str) -> None:
    assert publish(wanted(rpm(payload=payload)), signer, root).path.is_dir()


def test_two_different_packages_of_one_name_are_refused_even_in_different_sets(signer: Signer, root: Path) -> None:
    """The guide's one version for both roles."""
    sets = {"director": built(rpm("kernel", text="fnat")), "realserver": built(rpm("kernel", text="toa"))}
    said = refusal(wanted(sets=sets), signer, root)
    assert "kernel-1.2.1-fnat.0.noarch: two different packages" in said and "buildid" in said


@pytest.mark.parametrize(
    "change",
    [
        {"sets": {}},
        {"sets": {"director": []}},
        {"sets": {"../x": [None]}},
        {"sets": {"Director": [None]}},
        {"line": ".."},
        {"line": ""},
        {"baseurl": "no url"},
        {"baseurl": "http://a\ngpgcheck=0"},
    ],
    ids=str,
)
def test_nonsense_is_a_mistake_before_anything_is_written(signer: Signer, root: Path, change: dict[str, Any]) -> None:
    assert refusal(wanted(**change), signer, root)


def test_what_is_no_package_is_refused(signer: Signer, root: Path, tmp_path: Path) -> None:
    (tmp_path / "f.rpm").write_text("no package")
    assert "not an RPM package" in refusal(wanted(tmp_path / "f.rpm"), signer, root)
