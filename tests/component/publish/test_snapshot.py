"""Signed snapshots: dnf installs from them and from nothing that was touched, and no kill spoils one."""

from __future__ import annotations

import errno
import functools
import gzip
import json
import os
import resource
import shlex
import shutil
import signal
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import disk_space, faults, process
from pipeline.core.fs import sha256_of
from pipeline.errors import HostLacks, Refused, UsageError
from pipeline.publish import repodata, signing, snapshot_contents, verify
from pipeline.publish import snapshot as repository
from pipeline.publish.signing import Signer
from pipeline.publish.snapshot import Snapshot, make_snapshot
from pipeline.publish.snapshot_contents import Built, Contents
from pipeline.publish.verify import verify_snapshot
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import GZIP, WHEN, XZ, ZSTD, Dnf, agents, person, rpm, shared_keys

POINTS = (
    "snapshot.signed",
    "snapshot.repodata",
    "snapshot.before-rename",
    "snapshot.after-rename",
    "latest.before-rename",
)
PUBLISH = """\
import sys
from pathlib import Path
from pipeline.errors import PipelineError
from pipeline.publish import signing, snapshot
from pipeline.publish.snapshot_contents import Built, Contents
root, keys, *rpms = map(Path, sys.argv[1:])
wanted = Contents("el6", "el6", {"director": [Built(path, "step") for path in rpms]}, old_readers=True)
try:
    with signing.opened("", keys) as signer:
        print(snapshot.make_snapshot(wanted, signer, root).id)
except PipelineError as error:
    print(error, file=sys.stderr)
    sys.exit(error.code)
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """<artifacts>/repo. Nothing half-made may be in it when a test is over."""
    directory = tmp_path / "artifacts" / "repo"
    yield directory
    for line in directory.glob("*"):
        assert {entry.name for entry in line.iterdir()} <= {".lock", "snapshots", "latest"}


def built(*rpms: Path, step: str = "step", small: bool = False) -> list[Built]:
    return [Built(path, step, small, key=f"of {step}") for path in rpms]


def wanted(*rpms: Path, **more: Any) -> Contents:
    """One set with the packages, for old readers, of the line el6."""
    fields: dict[str, Any] = {"line": "el6", "label": "el6", "old_readers": True}
    return Contents(**(fields | {"sets": {"director": built(*(rpms or (rpm(),)))}} | more))


def changed(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Changes a file of a snapshot in spite of its mode."""
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))


def flipped(data: bytes) -> bytes:
    """One bit in the middle is another one."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def everything(directory: Path) -> dict[str, tuple[int, str]]:
    """Mode, and digest of files, of all that is below."""
    return {
        str(path.relative_to(directory)): (path.stat().st_mode, sha256_of(path) if path.is_file() else "")
        for path in directory.rglob("*")
    }


# --- What a snapshot is ----------------------------------------------------------------------------------


def test_a_snapshot_holds_each_set_with_what_it_needs(signer: Signer, root: Path) -> None:
    common, fnat, toa = rpm("perf"), rpm("kernel", release="220.el6.fnat"), rpm("kernel", release="220.el6.toa")
    sets = {"director": built(fnat, common), "realserver": built(toa, common), "stock": built(common)}
    made = make_snapshot(wanted(sets=sets), signer, root)
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
    made = make_snapshot(wanted(), signer, root)
    for path in [made.path, *made.path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o555 if path.is_dir() else 0o444), path


def test_snapshot_json_says_what_everything_is_and_where_it_comes_from(signer: Signer, root: Path) -> None:
    sets = {
        "director": built(rpm("kernel", "Epoch: 2"), step="k1"),
        "stock": built(rpm("kernel", "Epoch: 2"), step="k2"),
    }
    made = make_snapshot(wanted(sets=sets, label="el6-x (OVERRIDES el6)", notice="not the line el6"), signer, root)
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
    made = make_snapshot(wanted(), signer, root)
    assert made.development
    assert json.loads((made.path / "snapshot.json").read_text())["key"]["development"] is True
    repo = (made.path / "el6-director.repo").read_text()
    assert "[el6-director-development]" in repo
    assert "name=el6: director (DEVELOPMENT KEY, NOT FOR PRODUCTION)" in repo
    assert "/RPM-GPG-KEY-lvs-fullnat-development\n" in repo
    assert "DEVELOPMENT KEY, NOT FOR PRODUCTION" in (made.path / "README").read_text()


def test_a_key_of_somebodys_own_is_not_called_a_development_key(inv: Inv, root: Path, tmp_path: Path) -> None:
    with signing.opened(str(person("packager").secret), tmp_path / "keys") as signer:
        made = make_snapshot(wanted(), signer, root)
    texts = "".join(path.read_text() for path in made.path.iterdir() if path.is_file())
    assert not made.development and "evelopment" not in texts.replace('"development": false', "")
    assert "[el6-director]\n" in texts
    assert f"packager <packager@example.org>\n  {made.fingerprint}" in texts


def test_a_repo_file_asks_for_both_signatures_and_guards_our_old_versions(signer: Signer, root: Path) -> None:
    packages = wanted(rpm(), rpm("keepalived"), baseurl="http://mirror.example.org/fnat/", label="a\nb", notice="c\nd")
    made = make_snapshot(packages, signer, root)
    lines = (made.path / "el6-director.repo").read_text().splitlines()
    base = "http://mirror.example.org/fnat/el6/latest"
    for line in ("gpgcheck=1", "repo_gpgcheck=1", "skip_if_unavailable=0", "priority=1", f"baseurl={base}/director"):
        assert line in lines
    assert f"gpgkey={base}/RPM-GPG-KEY-lvs-fullnat-development" in lines
    assert "#    exclude=ipvsadm keepalived" in lines
    assert lines[0].startswith("# Line a b, snapshot ") and lines[1] == "# NOTICE: c d."
    current = make_snapshot(wanted(old_readers=False), signer, root)
    assert "exclude" not in (current.path / "el6-director.repo").read_text()


def test_metadata_is_gzip_with_sha256_and_for_old_yum_with_databases(signer: Signer, root: Path) -> None:
    made = make_snapshot(wanted(rpm(), rpm("keepalived")), signer, root)
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
    current = make_snapshot(wanted(old_readers=False), signer, root)
    assert not list((current.path / "director" / "repodata").glob("*sqlite*"))


def test_the_revision_is_the_time_of_the_content(inv: Inv, root: Path, tmp_path: Path) -> None:
    with signing.opened(str(person("old", clock="20110101T120000").secret), tmp_path / "keys") as signer:
        made = make_snapshot(wanted(), signer, root)
    assert f"<revision>{WHEN}</revision>" in (made.path / "director" / repodata.REPOMD).read_text()


# --- The same content is the same snapshot ----------------------------------------------------------------


def test_the_same_content_is_found_again_and_nothing_is_signed(
    signer: Signer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_snapshot(wanted(), signer, root)
    before = everything(root)
    monkeypatch.setattr(Signer, "sign", None)
    second = make_snapshot(wanted(), signer, root)
    assert second.reused and second.path == first.path
    assert everything(root) == before


def test_the_same_content_gives_the_same_bytes_elsewhere(signer: Signer, root: Path, tmp_path: Path) -> None:
    packages = wanted(rpm(), rpm("keepalived"), rpm("perf"))
    made = make_snapshot(packages, signer, root)
    with signing.opened("", shared_keys()) as another:
        again = make_snapshot(packages, another, tmp_path / "elsewhere")
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
        return str(snapshot_contents.document(packages, snapshot_contents.members(packages), signer.key, "code")["id"])

    assert identity(wanted()) == identity(wanted()) != identity(wanted(**change()))


def test_the_order_of_the_packages_and_the_place_they_come_from_do_not_matter(
    signer: Signer, root: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copy(rpm(), tmp_path / "moved.rpm"))
    first = make_snapshot(wanted(rpm(), rpm("perf")), signer, root)
    assert make_snapshot(wanted(rpm("perf"), moved, moved), signer, root).id == first.id


def test_an_unsigned_and_a_signed_copy_of_a_package_are_the_same_content(
    signer: Signer, root: Path, tmp_path: Path
) -> None:
    [signed] = signer.sign([rpm()], tmp_path / "signed")
    first = make_snapshot(wanted(), signer, root)
    assert make_snapshot(wanted(signed.path), signer, root).id == first.id


def test_latest_goes_back_to_an_earlier_snapshot_that_is_published_again(signer: Signer, root: Path) -> None:
    first = make_snapshot(wanted(), signer, root)
    second = make_snapshot(wanted(rpm(text="two")), signer, root)
    assert first.latest.resolve() == second.path
    make_snapshot(wanted(), signer, root)
    assert first.latest.resolve() == first.path


def test_a_damaged_snapshot_is_not_reused_and_the_way_out_is_named(signer: Signer, root: Path) -> None:
    made = make_snapshot(wanted(), signer, root)
    changed(made.path / "director" / "ipvsadm-1.2.1-fnat.0.noarch.rpm", flipped)
    with pytest.raises(Refused, match="the snapshot is damaged") as refused:
        make_snapshot(wanted(), signer, root)
    process.run(["sh", "-c", refused.value.hint.partition(",")[0]])
    assert not make_snapshot(wanted(), signer, root).reused


def test_a_snapshot_can_be_removed_but_not_the_latest(signer: Signer, root: Path) -> None:
    first = make_snapshot(wanted(), signer, root)
    second = make_snapshot(wanted(rpm(text="two")), signer, root)
    repository.remove_snapshot(first.path)
    assert not first.path.exists()
    with pytest.raises(UsageError, match="latest snapshot cannot be removed"):
        repository.remove_snapshot(second.path)
    verify_snapshot(second.latest, signer.key.fingerprint)


# --- What is refused --------------------------------------------------------------------------------------


def refusal(packages: Contents, signer: Signer, root: Path) -> str:
    with pytest.raises((Refused, UsageError)) as refused:
        make_snapshot(packages, signer, root)
    assert not root.exists(), "nothing may be written"
    return str(refused.value)


def test_packages_of_the_small_configuration_never_get_into_a_full_snapshot(signer: Signer, root: Path) -> None:
    sets = {"director": [*built(rpm("perf")), *built(rpm(), small=True)]}
    said = refusal(wanted(sets=sets), signer, root)
    assert "small configuration must not be published" in said and str(rpm()) in said and str(rpm("perf")) not in said


def test_a_small_snapshot_is_apart_and_says_what_it_is(signer: Signer, root: Path) -> None:
    full = make_snapshot(wanted(), signer, root)
    small = make_snapshot(wanted(sets={"director": built(rpm(), small=True)}, small=True), signer, root)
    assert small.path.parent.parent == root / "el6-small"
    assert full.latest.resolve() == full.path and small.latest.resolve() == small.path
    repo = (small.path / "el6-small-director.repo").read_text()
    assert "[el6-small-director-development]" in repo and "/el6-small/latest/" in repo
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
    assert make_snapshot(wanted(package(), old_readers=False), signer, root).path.is_dir()


@pytest.mark.parametrize("payload", [GZIP, XZ, "w9.bzdio"])
def test_payloads_that_old_rpm_unpacks_are_published(signer: Signer, root: Path, payload: str) -> None:
    assert make_snapshot(wanted(rpm(payload=payload)), signer, root).path.is_dir()


def test_two_different_packages_of_one_name_are_refused_even_in_different_sets(signer: Signer, root: Path) -> None:
    """The guide's one version for both roles."""
    sets = {"director": built(rpm("kernel", text="fnat")), "realserver": built(rpm("kernel", text="toa"))}
    said = refusal(wanted(sets=sets), signer, root)
    assert "two different packages are called kernel-1.2.1-fnat.0.noarch" in said and "buildid" in said


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


# --- Verifying --------------------------------------------------------------------------------------------


@pytest.fixture
def copy(signer: Signer, tmp_path: Path) -> Path:
    """A copy of a snapshot that a test may damage."""
    made = make_snapshot(wanted(rpm(), rpm("perf")), signer, tmp_path / "original")
    target = tmp_path / "copy"
    shutil.copytree(made.path, target)
    for directory in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        directory.chmod(0o755)
    return target


def test_a_whole_snapshot_is_verified_wherever_it_lies(copy: Path, signer: Signer) -> None:
    said = verify_snapshot(copy, signer.key.fingerprint)
    assert verify.signer(copy) == signer.key.fingerprint
    assert list(said["packages"]) == ["ipvsadm-1.2.1-fnat.0.noarch.rpm", "perf-1.2.1-fnat.0.noarch.rpm"]


@functools.cache
def _files_of_a_snapshot() -> tuple[str, ...]:
    package, repomd = "director/ipvsadm-1.2.1-fnat.0.noarch.rpm", "director/repodata/repomd.xml"
    loose = ("README", "SHA256SUMS", "SHA256SUMS.asc", "snapshot.json", "el6-director.repo")
    return (package, repomd, f"{repomd}.asc", "director/repodata/*-primary.xml.gz", *loose, "RPM-GPG-KEY-*")


@pytest.mark.parametrize("name", _files_of_a_snapshot())
@pytest.mark.parametrize("how", ["flipped", "removed", "emptied"])
def test_any_file_that_is_not_as_it_was_is_found(copy: Path, signer: Signer, name: str, how: str) -> None:
    [path] = copy.glob(name)
    if how == "removed":
        path.unlink()
    else:
        changed(path, flipped if how == "flipped" else lambda data: b"")
    with pytest.raises(Refused):
        verify_snapshot(copy, signer.key.fingerprint)


def test_added_files_links_and_directories_are_found(copy: Path, signer: Signer) -> None:
    more = copy / "director" / "more"
    adding: tuple[Callable[[], object], ...] = (lambda: more.write_text("x"), lambda: more.symlink_to("README"))
    for add in adding:
        add()
        with pytest.raises(Refused):
            verify_snapshot(copy, signer.key.fingerprint)
        more.unlink()
    verify_snapshot(copy, signer.key.fingerprint)


def test_another_key_than_the_expected_one_is_refused(copy: Path) -> None:
    with pytest.raises(Refused, match="signed by another key"):
        verify_snapshot(copy, "0" * 40)


def resummed(copy: Path, signer: Signer) -> None:
    """SHA256SUMS made and signed again, as one who has the key but not the care would."""
    names = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    kept = [name for name in names if not name.startswith("SHA256SUMS")]
    changed(copy / "SHA256SUMS", lambda _: "".join(f"{sha256_of(copy / n)}  {n}\n" for n in kept).encode())
    (copy / "SHA256SUMS.asc").unlink()
    signer.detach(copy / "SHA256SUMS", WHEN)


def test_right_sums_do_not_make_up_for_anything_else(copy: Path, signer: Signer, tmp_path: Path) -> None:
    """Each check on its own: all digests are right, one other thing is not."""
    names = ("package.rpm", "repomd.xml", "snapshot.json", "listed", "unsigned")
    places = {name: Path(shutil.copytree(copy, tmp_path / name)) for name in names}
    file = "director/ipvsadm-1.2.1-fnat.0.noarch.rpm"
    changed(places["package.rpm"] / file, flipped)
    changed(places["repomd.xml"] / "director" / repodata.REPOMD, lambda data: data + b"\n")
    changed(places["snapshot.json"] / "snapshot.json", lambda data: data.replace(b'"step"', b'"other"'))
    (places["listed"] / file).unlink()
    (places["unsigned"] / file).unlink()
    shutil.copy(rpm(), places["unsigned"] / file)
    said = {}
    for name, place in places.items():
        resummed(place, signer)
        with pytest.raises(Refused) as refused:
            verify_snapshot(place, signer.key.fingerprint)
        said[name] = refused.value.what
    assert said == {
        "package.rpm": "metadata and directory do not list the same packages: ipvsadm-1.2.1-fnat.0.noarch.rpm",
        "repomd.xml": "the signature is not good",
        "snapshot.json": "snapshot.json does not give the snapshot's id",
        "listed": "metadata and directory do not list the same packages: ipvsadm-1.2.1-fnat.0.noarch.rpm",
        "unsigned": "metadata and directory do not list the same packages: ipvsadm-1.2.1-fnat.0.noarch.rpm",
    }


def test_a_package_without_a_signature_is_found_even_when_all_lists_are_right(
    signer: Signer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signer that does nothing and a publisher that believes it: the last check before the rename is left."""
    sign = Signer.sign

    def pretended(self: Signer, rpms: Sequence[signing.Unsigned], into: Path) -> list[signing.Signed]:
        signed = sign(self, rpms, into)
        for item, source in zip(signed, rpms, strict=True):
            changed(item.path, lambda _, source=source: source.path.read_bytes())  # type: ignore[misc]
        return signed

    monkeypatch.setattr(Signer, "sign", pretended)
    with pytest.raises(Refused, match="signature or digests are not good") as refused:
        make_snapshot(wanted(old_readers=False), signer, root)
    assert "NOTFOUND" in refused.value.why
    with pytest.raises(Refused, match="cannot take"):
        make_snapshot(wanted(), signer, root)
    assert not (root / "el6" / "latest").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 2}', "\udcff"])
def test_what_is_no_snapshot_is_refused(tmp_path: Path, inv: Inv, text: str) -> None:
    with pytest.raises(Refused, match="this is no snapshot"):
        verify_snapshot(tmp_path / "absent", "0" * 40)
    (tmp_path / "snapshot.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Refused, match="this is no snapshot"):
        verify_snapshot(tmp_path, "0" * 40)


_SHAPE = {"format": 1, "id": "a", "readers": "", "key": {"name": "k", "fingerprint": "F"}, "sets": {}, "packages": {}}


@pytest.mark.parametrize(
    ("changed_to", "said"),
    [
        ({"format": 999}, "format: expected 1, got 999"),
        ({"format": True}, "format: expected 1, got True"),
        ({"sets": []}, "sets: expected dict"),
        ({"id": 1}, "id: expected str"),
        ({"key": {"name": "k"}}, "key: expected its name and fingerprint"),
        ({"key": {"name": "../k", "fingerprint": "F"}}, "key: expected a name"),
        ({"sets": {"..": ["a.rpm"]}}, "sets: expected names"),
        ({"sets": {"stock": ["../../a.rpm"]}}, "sets: expected names"),
        ({"packages": {"a.rpm": 1}}, "packages: expected an object each"),
    ],
)
def test_a_snapshot_document_of_another_shape_is_refused_whatever_python_is_told(
    tmp_path: Path, inv: Inv, changed_to: dict[str, Any], said: str
) -> None:
    """`python -O` leaves out asserts."""
    (tmp_path / "snapshot.json").write_text(json.dumps(_SHAPE | changed_to))
    code = "import sys, pathlib; from pipeline.publish import verify; verify.signer(pathlib.Path(sys.argv[1]))"
    done = process.run([sys.executable, "-O", "-c", code, tmp_path], env=inv.environment(), accept=(1,))
    assert f"this is no snapshot: snapshot.json: {said}" in done.error_text


def test_a_snapshot_document_of_the_right_shape_names_its_signer(tmp_path: Path) -> None:
    (tmp_path / "snapshot.json").write_text(json.dumps(_SHAPE))
    assert verify.signer(tmp_path) == "F"


# --- dnf ----------------------------------------------------------------------------------------------------


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """The directory over HTTP on 127.0.0.1; the URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def repo_of(snapshot: Snapshot, name: str = "director") -> str:
    return next(snapshot.path.glob(f"*-{name}.repo")).read_text()


def packages() -> list[Path]:
    """One that needs another, by name and by a file's name."""
    return [rpm("keepalived", "Requires: ipvsadm, /bin/sh"), rpm(), rpm("base", "Provides: /bin/sh")]


@pytest.mark.parametrize("old_readers", [True, False])
def test_dnf_installs_from_a_directory(signer: Signer, root: Path, tmp_path: Path, old_readers: bool) -> None:
    made = make_snapshot(wanted(*packages(), baseurl=f"file://{root}", old_readers=old_readers), signer, root)
    dnf = Dnf(tmp_path / "dnf")
    done = dnf.install(repo_of(made), "keepalived")
    assert done.status == 0, done.text + done.error_text
    assert [dnf.installed(name) for name in ("keepalived", "ipvsadm", "base")] == ["one"] * 3


def test_dnf_installs_over_http(signer: Signer, root: Path, tmp_path: Path) -> None:
    root.mkdir(parents=True)
    with served(root) as url:
        made = make_snapshot(wanted(*packages(), baseurl=url), signer, root)
        dnf = Dnf(tmp_path / "dnf")
        done = dnf.install(repo_of(made), "keepalived")
    assert done.status == 0, done.text + done.error_text
    assert dnf.installed("keepalived") == dnf.installed("ipvsadm") == "one"


def touched(name: str, change: Callable[[bytes], bytes] | None) -> Callable[[Path], None]:
    """Changes or removes the one file called so."""

    def touch(snapshot: Path) -> None:
        [path] = snapshot.glob(f"director/{name}")
        if change is None:
            path.parent.chmod(0o755)
            path.unlink()
        else:
            changed(path, change)

    return touch


@pytest.mark.parametrize(
    ("touch", "said"),
    [
        (touched("ipvsadm-*.rpm", flipped), "checksum"),
        (
            touched("repodata/repomd.xml", lambda data: data.replace(b"<revision>1", b"<revision>2")),
            "Bad GPG signature",
        ),
        (touched("repodata/*-primary.xml.gz", flipped), "checksum"),
        (touched("repodata/repomd.xml.asc", None), "repomd.xml.asc"),
    ],
    ids=["package", "repomd.xml", "primary.xml.gz", "no repomd.xml.asc"],
)
@pytest.mark.parametrize("over", ["file", "http"])
def test_dnf_refuses_what_was_touched(
    signer: Signer, root: Path, tmp_path: Path, touch: Callable[[Path], None], said: str, over: str
) -> None:
    root.mkdir(parents=True)
    with served(root) as url:
        made = make_snapshot(wanted(baseurl=url if over == "http" else f"file://{root}"), signer, root)
        touch(made.path)
        dnf = Dnf(tmp_path / "dnf")
        done = dnf.install(repo_of(made), "ipvsadm")
    assert done.status != 0 and not dnf.installed("ipvsadm")
    assert said in done.text + done.error_text


def test_dnf_refuses_a_repository_of_another_key(signer: Signer, root: Path, tmp_path: Path) -> None:
    made = make_snapshot(wanted(baseurl=f"file://{root}"), signer, root)
    public = person("packager").public
    lines = repo_of(made).splitlines()
    other = "\n".join(f"gpgkey=file://{public}" if line.startswith("gpgkey=") else line for line in lines)
    dnf = Dnf(tmp_path / "dnf")
    done = dnf.install(other, "ipvsadm")
    assert done.status != 0 and not dnf.installed("ipvsadm")
    assert "Bad GPG signature" in done.text + done.error_text


def test_dnf_refuses_an_unsigned_package_although_the_metadata_is_signed(
    signer: Signer, root: Path, tmp_path: Path
) -> None:
    """gpgcheck by itself: nothing is wrong with the digests."""
    made = make_snapshot(wanted(baseurl=f"file://{root}"), signer, root)
    loose = tmp_path / "loose"
    loose.mkdir()
    shutil.copy(rpm(), loose)
    signer.detach(repodata.make(loose, WHEN, databases=False), WHEN)
    lines = repo_of(made).splitlines()
    other = "\n".join(f"baseurl=file://{loose}" if line.startswith("baseurl=") else line for line in lines)
    dnf = Dnf(tmp_path / "dnf")
    done = dnf.install(other, "ipvsadm")
    assert done.status != 0 and not dnf.installed("ipvsadm")
    assert "is not signed" in done.text + done.error_text


# --- Kills, two at once, readers, full disks ----------------------------------------------------------------


def publishing(root: Path, *rpms: Path) -> list[str]:
    """The command of a publisher in a process of its own."""
    return [sys.executable, "-c", PUBLISH, str(root), str(shared_keys()), *map(str, rpms)]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_leaves_the_old_snapshot_and_the_next_run_completes(
    inv: Inv, signer: Signer, root: Path, point: str
) -> None:
    old = make_snapshot(wanted(), signer, root)
    before = everything(old.path)
    argv = publishing(root, rpm(text="two"))
    with process.start(argv, env=inv.environment(FNAT_TRACE_KILL=point)) as child:
        assert child.wait(60) == -signal.SIGKILL
    assert old.latest.resolve() == old.path
    assert everything(old.path) == before
    verify_snapshot(old.latest, signer.key.fingerprint)
    new = process.run(argv, env=inv.environment()).text.strip()
    assert new != old.id
    assert old.latest.resolve().name == new
    verify_snapshot(old.latest, signer.key.fingerprint)
    assert {path.name for path in (root / "el6" / "snapshots").iterdir()} == {old.id, new}
    for path in old.latest.resolve().rglob("*"):
        assert not path.stat().st_mode & 0o222, f"{path} can be written"


def test_what_a_kill_left_goes_even_when_the_next_run_has_nothing_to_do(inv: Inv, signer: Signer, root: Path) -> None:
    old = make_snapshot(wanted(), signer, root)
    argv = publishing(root, rpm(text="two"))
    with process.start(argv, env=inv.environment(FNAT_TRACE_KILL="latest.before-rename")) as child:
        child.wait(60)
    assert make_snapshot(wanted(), signer, root).reused
    assert {entry.name for entry in (root / "el6").iterdir()} == {".lock", "snapshots", "latest"}
    assert old.latest.resolve() == old.path


def test_a_snapshot_is_complete_beside_its_place_and_moved_there_by_one_rename(
    signer: Signer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[int]] = {}

    def point(name: str) -> None:
        for pattern in (".making-*/*/snapshot.json", "snapshots/*/snapshot.json"):
            for file in (root / "el6").glob(pattern):
                verify_snapshot(file.parent, signer.key.fingerprint)
                seen.setdefault(name, []).append(file.parent.stat().st_ino)

    monkeypatch.setattr(faults, "point", point)
    make_snapshot(wanted(), signer, root)
    assert list(seen) == ["snapshot.before-rename", "snapshot.after-rename", "latest.before-rename"]
    assert len({number for numbers in seen.values() for number in numbers}) == 1


def test_a_killed_publisher_leaves_nothing_running(inv: Inv, root: Path) -> None:
    with process.start(publishing(root, rpm()), env=inv.environment(FNAT_TRACE_KILL=POINTS[0])) as child:
        child.wait(60)
    assert inv.living() == agents(inv) == []
    process.run(publishing(root, rpm()), env=inv.environment())
    assert inv.living(0) == agents(inv, 0) == []
    assert list(inv.tmp.iterdir()) == []


def test_two_publishers_of_the_same_content_make_one_snapshot(inv: Inv, root: Path) -> None:
    argv, env = publishing(root, rpm(), rpm("perf")), inv.environment()
    with process.start(argv, env=env) as one, process.start(argv, env=env) as two:
        said = [child.communicate(timeout=60) for child in (one, two)]
    assert said[0] == said[1], said
    assert [path.name for path in (root / "el6" / "snapshots").iterdir()] == [said[0][0].decode().strip()]


def test_two_publishers_of_different_content_make_two_whole_snapshots(inv: Inv, root: Path) -> None:
    env = inv.environment()
    with (
        process.start(publishing(root, rpm()), env=env) as one,
        process.start(publishing(root, rpm("perf")), env=env) as two,
    ):
        said = [child.communicate(timeout=60)[0].decode().strip() for child in (one, two)]
    assert {path.name for path in (root / "el6" / "snapshots").iterdir()} == set(said) and len(set(said)) == 2
    with signing.opened("", shared_keys()) as signer:
        for name in said:
            verify_snapshot(root / "el6" / "snapshots" / name, signer.key.fingerprint)
    assert (root / "el6" / "latest").resolve().name in said


def test_a_reader_never_sees_a_broken_repository(signer: Signer, root: Path) -> None:
    latest = make_snapshot(wanted(), signer, root).latest
    over, seen, broken = threading.Event(), list[str](), list[str]()

    def read() -> None:
        while not over.is_set():
            snapshot = latest.resolve()
            sums = (line.split("  ") for line in (snapshot / "SHA256SUMS").read_text().splitlines())
            broken.extend(name for digest, name in sums if sha256_of(snapshot / name) != digest)
            there = {path.name for path in (snapshot / "director").glob("*.rpm")}
            if set(repodata.check(snapshot / "director")) != there:
                broken.append(str(snapshot))
            seen.append(snapshot.name)

    def reading() -> None:
        try:
            read()
        except (OSError, Refused, ValueError) as error:
            broken.append(repr(error))

    reader = threading.Thread(target=reading)
    reader.start()
    try:
        for number in range(4):
            make_snapshot(wanted(rpm(text=str(number))), signer, root)
            make_snapshot(wanted(), signer, root)
    finally:
        over.set()
        reader.join()
    assert broken == []
    assert len(set(seen)) >= 4 and len(seen) > 20


@contextmanager
def no_room(limit: int) -> Iterator[None]:
    """No file of this process and its children may grow beyond `limit` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [0, 2000, 5000, 20_000], ids=["nothing", "copying", "rpmsign", "createrepo_c"])
def test_no_room_is_the_hosts_fault_and_the_old_snapshot_stays(signer: Signer, root: Path, limit: int) -> None:
    old, new = make_snapshot(wanted(), signer, root), wanted(rpm(text="two"))
    before = everything(root)
    with no_room(limit), pytest.raises(HostLacks, match="the shell's limit `ulimit -f`"):
        make_snapshot(new, signer, root)
    assert {name: row for name, row in everything(root).items() if name != "el6/.lock"} == {
        name: row for name, row in before.items() if name != "el6/.lock"
    }
    verify_snapshot(old.latest, signer.key.fingerprint)
    assert make_snapshot(new, signer, root).latest.resolve() != old.path


def test_a_disk_that_is_really_full_is_told_apart_at_every_point(inv: Inv, tmp_path: Path) -> None:
    """A file system of 400 KiB in a namespace of its own, with less and less room left on it."""
    mount = tmp_path / "mount"
    mount.mkdir()
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    good = shlex.join(publishing(mount / "repo", rpm()))
    other = shlex.join(publishing(mount / "repo", rpm(text="two"), rpm("perf")))
    script = f"""
    mount -t tmpfs -o size=400k tmpfs {mount} || exit 99
    {good} > /dev/null || exit 98
    before=$(readlink {mount}/repo/el6/latest)
    for free in 4 16 24 40 60; do
        left=$(df --output=avail -k {mount} | tail -1)
        head -c $(( (left - free) * 1024 )) /dev/zero > {mount}/filler
        {other} > /dev/null
        echo "$free $? $(readlink {mount}/repo/el6/latest) $(ls -A {mount}/repo/el6 | tr '\\n' ' ')"
        rm {mount}/filler
    done
    echo "was $before"
    {other} > /dev/null; echo "then $?"
    """
    done = process.run(["unshare", *user, "--mount", "bash", "-c", script], env=inv.environment(), accept=range(256))
    assert done.status == 0, done.text + done.error_text
    *rows, was, then = done.text.splitlines()
    assert len(rows) == 5
    for row in rows:
        _, status, latest, left = row.split(" ", 3)
        assert (status, latest) == ("7", was.removeprefix("was ")), row + done.error_text
        assert left.split() == [".lock", "latest", "snapshots"]
    assert then == "then 0", done.error_text
    assert done.error_text.count("no disk space is left") == 5


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_repository_that_may_not_be_written_is_the_hosts_fault(tmp_path: Path, number: int) -> None:
    with pytest.raises(HostLacks, match="cannot be written") as lacks, disk_space.writing(tmp_path):
        raise OSError(number, os.strerror(number))
    assert lacks.value.where == str(tmp_path)


def test_other_failures_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_space.writing(tmp_path):
        (tmp_path / "absent").read_bytes()
    for script in ("echo 'file operation error' >&2; exit 3", "kill -9 $$"):
        with pytest.raises(process.ProgramFailed), disk_space.writing(tmp_path):
            process.run(["sh", "-c", script])


def test_createrepo_that_is_not_installed_is_the_hosts_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HostLacks, match="createrepo_c is not installed"):
        repodata.make(tmp_path, 1, databases=False)


def test_the_sums_file_is_one_that_sha256sum_reads(signer: Signer, root: Path) -> None:
    made = make_snapshot(wanted(), signer, root)
    done = process.run(["sha256sum", "--check", "--strict", verify.SUMS], cwd=made.path)
    assert done.text.count(": OK") == len([p for p in made.path.rglob("*") if p.is_file()]) - 2
