"""Verify a snapshot from its files alone: all digests, all signatures, all lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.core import documents
from pipeline.core.decoder import Mismatch
from pipeline.core.fs import read_limited, sha256_of
from pipeline.errors import Refused
from pipeline.formats import rpm_header
from pipeline.publish import el6_compat, keys, repodata, snapshot_contents
from pipeline.publish.signing import check_detached
from pipeline.publish.snapshot_contents import Document, Row
from pipeline.sources import openpgp

SUMS = "SHA256SUMS"
MAX_DOCUMENT = 16 << 20  # bytes of snapshot.json; a line's has some KiB
_HINT = "./inv build-all publishes a whole one"


def signer(path: Path) -> str:
    """Return the claimed signer's fingerprint. Raises `Refused` for no snapshot."""
    return _document(path).key.fingerprint


def verify_snapshot(path: Path, fingerprint: str) -> Document:
    """Check the snapshot at `path` and return its snapshot.json.

    `fingerprint` is the one of the key that must have signed it. Raises `Refused` for a file that is
    missing, added or changed, a signature that is not good, or a package that is not listed.
    """
    path = path.resolve()
    document = _document(path)
    key = _key(path, document, fingerprint)
    check_detached(path / SUMS, path / f"{SUMS}.asc", key)
    sums = _check_sums(path)
    if snapshot_contents.snapshot_id(document) != document.id:
        raise _refused("snapshot.json does not give the snapshot's id", path / "snapshot.json")
    for name, files in document.sets.items():
        _check_set(path / name, files, sums, key)
    _check_packages(path, document, key)
    return document


def _refused(what: str, where: Path, why: str = "") -> Refused:
    return Refused(what, where=str(where), why=why)


def _document(path: Path) -> Document:
    """Read snapshot.json; its types restrict the names that are opened as files."""
    file = path / "snapshot.json"
    try:
        return documents.parse(Document, read_limited(file, MAX_DOCUMENT))
    except Mismatch as error:
        raise _refused(f"this is no snapshot: snapshot.json: {error}", file) from None
    except (OSError, ValueError):
        raise _refused("this is no snapshot: its snapshot.json cannot be read", file) from None


def _key(path: Path, document: Document, fingerprint: str) -> openpgp.PublicKey:
    named = document.key.fingerprint
    if named != fingerprint:
        raise _refused("the snapshot was signed by another key", path, f"expected {fingerprint}, got {named}")
    file = path / snapshot_contents.key_file(document)
    try:
        material = read_limited(file, openpgp.MOST)
    except OSError:
        raise _refused("the public key is missing", file) from None
    return keys.public_key(document.key.name, named, material)


def _check_sums(path: Path) -> dict[str, str]:
    """Return the digests by file, after hashing all files; the existing and the listed files must be the same."""
    rows = (line.partition("  ") for line in documents.read_text(path / SUMS, hint=_HINT).splitlines())
    listed = {name: digest for digest, _, name in rows}
    there = set(_files(path)) - {SUMS, f"{SUMS}.asc"}
    if there != set(listed):
        differing = ", ".join(sorted(there ^ set(listed)))
        raise _refused(f"files are missing or were added: {differing}", path / SUMS)
    for name, digest in listed.items():
        if sha256_of(path / name) != digest:
            raise _refused("a file is not what SHA256SUMS says", path / name)
    return listed


def _files(path: Path) -> Iterator[str]:
    for entry in path.rglob("*"):
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise _refused("a snapshot holds files and directories only", entry)
        if entry.is_file():
            yield str(entry.relative_to(path))


def _check_set(directory: Path, files: Sequence[str], sums: Mapping[str, str], key: openpgp.PublicKey) -> None:
    """Check repomd.xml's signature, and that metadata, directory and snapshot.json list the same packages."""
    repomd = directory / repodata.REPOMD
    if not repomd.is_file():
        raise _refused("the repository has no metadata", repomd)
    check_detached(repomd, repomd.with_name(f"{repomd.name}.asc"), key)
    listed = repodata.check(directory)
    there = {entry.name: sums[f"{directory.name}/{entry.name}"] for entry in directory.glob("*.rpm")}
    if listed != there or sorted(there) != sorted(files):
        differing = ", ".join(sorted({name for name, _ in listed.items() ^ there.items()} | set(files) ^ set(there)))
        raise _refused(f"metadata and directory do not list the same packages: {differing}", directory)


def _check_packages(path: Path, document: Document, key: openpgp.PublicKey) -> None:
    places = {file: path / name / file for name, files in document.sets.items() for file in files}
    if set(places) != set(document.packages):
        raise _refused("snapshot.json does not list the packages of its sets", path / "snapshot.json")
    with openpgp.rpm_checker([key]) as check:
        for file, place in places.items():
            try:
                check(place)
            except Refused as error:
                raise _refused(error.what, place, error.why) from None
            _check_row(place, document.packages[file])
            if document.readers:
                el6_compat.check(place, key_id=key.fingerprint[-16:])


def _check_row(place: Path, row: Row) -> None:
    package = rpm_header.read(place)
    found = {
        "nevra": package.nevra,
        "body_sha256": rpm_header.body_sha256(place, package),
        "sha256": sha256_of(place),
        "size": place.stat().st_size,
    }
    wrong = [name for name, value in found.items() if getattr(row, name) != value]
    if wrong:
        raise _refused(f"the package is not what snapshot.json says: {', '.join(wrong)}", place)
