"""Verify a snapshot from its files alone: all digests, all signatures, all lists."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.core import documents
from pipeline.core.digests import Digests, together
from pipeline.core.fs import read_limited
from pipeline.errors import Refused, difference
from pipeline.formats import rpm_header
from pipeline.publish import attestation_key, el6_compat, keys, repodata, snapshot_contents
from pipeline.publish.signing import check_detached
from pipeline.publish.snapshot_contents import Document, Row
from pipeline.sources import openpgp

SUMS = "SHA256SUMS"
MAX_DOCUMENT = 16 << 20  # bytes of snapshot.json; a line's has some KiB
_HINT = "`./inv build-all` publishes a whole snapshot"
_CHANGED = "a signed snapshot never changes: this one is damaged, or somebody changed it"


def signer(path: Path) -> str:
    """Return the claimed signer's fingerprint. Raises `Refused` without a readable snapshot.json."""
    return read_document(path).key.fingerprint


def verify_snapshot(path: Path, fingerprint: str) -> Document:
    """Check the snapshot at `path` and return its snapshot.json.

    `fingerprint` is that of the expected signing key. Raises `Refused` for a missing, added or changed file,
    a bad signature, or an unlisted package.
    """
    path = path.resolve()
    document = read_document(path)
    key = signing_key(path, document, fingerprint)
    check_detached(path / SUMS, path / f"{SUMS}.asc", key)
    sums, digests = listed_digests(path), Digests()
    for what, file in differences(path, sums, digests):
        raise _refused(what, file, _CHANGED)
    check_id(path, document)
    check_attestation_key(path, document)
    for name, files in document.sets.items():
        check_set(path / name, files, sums, key)
    with package_checker(path, document, key, digests) as check:
        for checked in together(check, document.packages):
            checked()
    return document


def check_id(path: Path, document: Document) -> None:
    """Raise `Refused` unless the snapshot's id is the digest of what its snapshot.json says."""
    actual = snapshot_contents.snapshot_id(document)
    if actual != document.id:
        what = f"snapshot.json: wrong snapshot id; expected {actual}, got {document.id}"
        raise _refused(what, path / "snapshot.json", "the id is the digest of the document's content")


def _refused(what: str, where: Path, why: str) -> Refused:
    return Refused(what, where=str(where), why=why, hint=_HINT)


def read_document(path: Path) -> Document:
    """Read the snapshot.json of a snapshot; its types restrict the names that are opened as files.

    Verifies nothing else: `verify_snapshot` does.
    """
    return documents.read(path / "snapshot.json", Document, hint=_HINT, most=MAX_DOCUMENT)


def signing_key(path: Path, document: Document, fingerprint: str) -> openpgp.PublicKey:
    """Return the key that signs the snapshot. Raises `Refused` unless it has this fingerprint and is in its file."""
    stated = document.key.fingerprint
    if stated != fingerprint:
        what = f"the snapshot: signed by another key; expected {fingerprint}, got {stated}"
        raise _refused(what, path, "a forged snapshot can bring a key of its own")
    file = path / snapshot_contents.key_file(document)
    try:
        armor = read_limited(file, openpgp.MOST)
    except OSError as error:
        what = f"{file.name}: {error.strerror}; expected the public key"
        raise _refused(what, file, "every signature of the snapshot is checked with this key") from None
    return keys.public_key(document.key.name, stated, armor)


def check_attestation_key(path: Path, document: Document) -> None:
    """Raise `Refused` unless the attestation key's file, whose digest was checked, is what snapshot.json names."""
    stated = document.attestation
    if stated is None:
        return
    try:
        pem = read_limited(path / stated.file, MAX_DOCUMENT)
        actual = attestation_key.key_id(pem)
    except (OSError, ValueError) as error:
        actual = str(error)
    if actual != stated.id or pem.decode() != stated.pem:
        what = f"{stated.file}: another attestation key than snapshot.json names; expected {stated.id}, got {actual}"
        raise _refused(what, path / stated.file, "the statements about the packages are verified with this key")


def listed_digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by SHA256SUMS. Raises `Refused` unless exactly the listed files exist."""
    rows = (line.partition("  ") for line in documents.read_text(path / SUMS, hint=_HINT).splitlines())
    listed = {name: digest for digest, _, name in rows}
    there = set(_files(path)) - {SUMS, f"{SUMS}.asc"}
    if there != set(listed):
        what = f"SHA256SUMS: lists other files than there are; {difference(listed, there)}"
        raise _refused(what, path / SUMS, _CHANGED)
    return listed


def differences(path: Path, listed: Mapping[str, str], digests: Digests) -> Iterator[tuple[str, Path]]:
    """Hash all files; yield each that is not as listed, with the difference."""
    hashed = together(digests.sha256_of, [path / name for name in listed])
    for (name, digest), result in zip(listed.items(), hashed, strict=True):
        actual = result()
        if actual != digest:
            yield f"{name}: not as SHA256SUMS lists it; expected SHA-256 {digest}, got {actual}", path / name


def _files(path: Path) -> Iterator[str]:
    for entry in path.rglob("*"):
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            what = f"{entry.relative_to(path)}: a link or special file; expected files and directories only"
            raise _refused(what, entry, "SHA256SUMS covers nothing else")
        if entry.is_file():
            yield str(entry.relative_to(path))


def check_set(directory: Path, files: Sequence[str], sums: Mapping[str, str], key: openpgp.PublicKey) -> None:
    """Check repomd.xml's signature, and that metadata, directory and snapshot.json list the same packages.

    Raises `Refused`.
    """
    repomd = directory / repodata.REPOMD
    if not repomd.is_file():
        what = f"the repository {directory.name}: no metadata; expected {repodata.REPOMD}"
        raise _refused(what, repomd, "yum and dnf install nothing without it")
    check_detached(repomd, repomd.with_name(f"{repomd.name}.asc"), key)
    listed = repodata.check(directory)
    there = {entry.name: sums[f"{directory.name}/{entry.name}"] for entry in directory.glob("*.rpm")}
    if listed != there or sorted(there) != sorted(files):
        differing = ", ".join(sorted({name for name, _ in listed.items() ^ there.items()} | set(files) ^ set(there)))
        what = f"the repository {directory.name}: metadata, directory and snapshot.json differ in {differing}"
        raise _refused(what, directory, _CHANGED)


@contextlib.contextmanager
def package_checker(
    path: Path, document: Document, key: openpgp.PublicKey, digests: Digests, *, own_digests: bool = True
) -> Iterator[Callable[[str], None]]:
    """Yield a check of one package by file name: its signatures by `key`, and its row in snapshot.json.

    Several threads may use it at once. Without `own_digests` those inside the packages are the caller's to verify; the
    files' digests are verified all the same. Raises `Refused`; here where packages and sets differ.
    """
    places = {file: path / name / file for name, files in document.sets.items() for file in files}
    if set(places) != set(document.packages):
        what = f"snapshot.json: packages and sets differ; {difference(places, document.packages)}"
        raise _refused(what, path / "snapshot.json", _CHANGED)
    with openpgp.rpm_checker([key], digests=own_digests) as check_signatures:

        def check(file: str) -> None:
            place = places[file]
            try:
                check_signatures(place)
            except Refused as error:
                raise _refused(error.what, place, error.why) from None
            _check_row(place, document.packages[file], digests)
            if document.readers:
                el6_compat.check(place, key_id=key.fingerprint[-16:])

        yield check


def _check_row(place: Path, row: Row, digests: Digests) -> None:
    package = rpm_header.read(place)
    actual = {
        "nevra": package.nevra,
        "body_sha256": rpm_header.body_sha256(place, package),
        "sha256": digests.sha256_of(place),
        "size": place.stat().st_size,
    }
    wrong = [
        f"expected {name} {getattr(row, name)}, got {value}"
        for name, value in actual.items()
        if getattr(row, name) != value
    ]
    if wrong:
        raise _refused(f"{place.name}: not as snapshot.json lists it; {'; '.join(wrong)}", place, _CHANGED)
