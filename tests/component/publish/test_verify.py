"""Snapshots verified wherever they lie: any change is found, by each check on its own."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import process
from pipeline.core.fs import sha256_of
from pipeline.errors import Refused
from pipeline.publish import repodata, signing, verify
from pipeline.publish.signing import Signer
from pipeline.publish.verify import verify_snapshot
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import WHEN, rpm
from tests.fixtures.snapshots import changed, flipped, publish, wanted


@pytest.fixture
def copy(signer: Signer, tmp_path: Path) -> Path:
    """A copy of a snapshot that a test may damage."""
    made = publish(wanted(rpm(), rpm("perf")), signer, tmp_path / "original")
    target = tmp_path / "copy"
    shutil.copytree(made.path, target)
    for directory in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        directory.chmod(0o755)
    return target


def test_a_whole_snapshot_is_verified_wherever_it_lies(copy: Path, signer: Signer) -> None:
    said = verify_snapshot(copy, signer.key.fingerprint)
    assert verify.signer(copy) == signer.key.fingerprint
    assert list(said.packages) == ["ipvsadm-1.2.1-fnat.0.noarch.rpm", "perf-1.2.1-fnat.0.noarch.rpm"]


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
    signer.sign_detached(copy / "SHA256SUMS", WHEN)


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
    differs = f"the repository director: metadata, directory and snapshot.json differ in {Path(file).name}"
    for name, place in places.items():
        resummed(place, signer)
        with pytest.raises(Refused) as refused:
            verify_snapshot(place, signer.key.fingerprint)
        said[name] = refused.value.what.partition(";")[0]
    assert said == {
        "package.rpm": differs,
        "repomd.xml": "the signature is not good",
        "snapshot.json": "snapshot.json: wrong snapshot id",
        "listed": differs,
        "unsigned": differs,
    }


def test_a_package_without_a_signature_is_found_even_when_all_lists_are_right(
    signer: Signer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signer that does nothing and a publisher that believes it: the last check before the rename is left."""
    sign = Signer.sign

    def pretended(self: Signer, rpms: Sequence[signing.UnsignedPackage], into: Path) -> list[signing.SignedPackage]:
        signed = sign(self, rpms, into)
        for item, source in zip(signed, rpms, strict=True):
            changed(item.path, lambda _, source=source: source.path.read_bytes())  # type: ignore[misc]
        return signed

    monkeypatch.setattr(Signer, "sign", pretended)
    with pytest.raises(Refused, match="signature or digests are not good") as refused:
        publish(wanted(old_readers=False), signer, root)
    assert "NOTFOUND" in refused.value.why
    with pytest.raises(Refused, match=r"not installable with rpm 4\.8"):
        publish(wanted(), signer, root)
    assert not (root / "el6" / "latest").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 3}', "\udcff"])
def test_what_is_no_snapshot_is_refused(tmp_path: Path, inv: Inv, text: str) -> None:
    with pytest.raises(Refused, match=r"snapshot\.json: missing; expected"):
        verify_snapshot(tmp_path / "absent", "0" * 40)
    (tmp_path / "snapshot.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Refused, match=r"snapshot\.json: damaged; expected"):
        verify_snapshot(tmp_path, "0" * 40)


_SIGNER = {"name": "k", "identity": "Ada", "fingerprint": "F", "development": False}
_SHAPE: dict[str, Any] = {
    "format": 2,
    "id": "a",
    "line": "el6",
    "label": "el6",
    "notice": "",
    "small": False,
    "readers": "",
    "baseurl": "http://r.example",
    "key": _SIGNER,
    "attestation": None,
    "timestamp": 1,
    "sets": {},
    "packages": {},
    "made_by": {"pipeline": "1", "createrepo_c": "1", "code": "0"},
}


@pytest.mark.parametrize(
    ("changed_to", "said"),
    [
        ({"format": 999}, "format: expected 2, got 999"),
        ({"format": True}, "format: expected 2, got True"),
        ({"format": 999, "label": None, "more": 1}, "format: expected 2, got 999"),
        ({"sets": []}, "sets: expected an object"),
        ({"id": 1}, "id: expected text"),
        ({"key": {"name": "k"}}, "key: expected the keys name, identity, fingerprint, development, got none of"),
        ({"key": {**_SIGNER, "name": "../k"}}, "key.name: expected text such as"),
        ({"sets": {"..": ["a.rpm"]}}, "sets: expected keys such as"),
        ({"sets": {"stock": ["../../a.rpm"]}}, "sets.stock.0: expected text such as"),
        ({"packages": {"a.rpm": 1}}, "packages.a.rpm: expected an object"),
        ({"notes": ""}, "expected the keys format, "),
    ],
)
def test_a_snapshot_document_of_another_shape_is_refused_whatever_python_is_told(
    tmp_path: Path, inv: Inv, changed_to: dict[str, Any], said: str
) -> None:
    """`python -O` leaves out asserts."""
    (tmp_path / "snapshot.json").write_text(json.dumps(_SHAPE | changed_to))
    code = "import sys, pathlib; from pipeline.publish import verify; verify.signer(pathlib.Path(sys.argv[1]))"
    done = process.run([sys.executable, "-O", "-c", code, tmp_path], env=inv.environment(), accept=(1,))
    assert f"snapshot.json: damaged; expected {said.removeprefix('expected ')}" in done.error_text


def test_a_snapshot_document_of_the_right_shape_names_its_signer(tmp_path: Path) -> None:
    (tmp_path / "snapshot.json").write_text(json.dumps(_SHAPE))
    assert verify.signer(tmp_path) == "F"
