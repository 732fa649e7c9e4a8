"""Looks at a snapshot as somebody would who was only handed it: every digest, every signature, every list."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import Refused
from pipeline.files import sha256_of
from pipeline.publish import compat, contents, keys, repodata, rpmheader
from pipeline.publish.signing import check_detached
from pipeline.sources import openpgp

SUMS = "SHA256SUMS"


def verify_snapshot(path: Path, fingerprint: str | None = None) -> dict[str, Any]:
    """Checks the snapshot at `path` and returns its snapshot.json.

    `fingerprint` is the one of the key that must have signed it. Without one the key that lies beside it is
    believed, which shows that nothing was damaged but not who made it. Raises `Refused` for a file that is
    missing, added or changed, a signature that is not good, or a package that is not listed.
    """
    path = path.resolve()
    document = _document(path)
    key = _key(path, document, fingerprint)
    check_detached(path / SUMS, path / f"{SUMS}.asc", key)
    sums = _check_sums(path)
    if contents.identity(document) != document["id"]:
        raise _refused("snapshot.json does not give the snapshot's id", path / "snapshot.json")
    for name, files in document["sets"].items():
        _check_set(path / name, files, sums, key)
    _check_packages(path, document, key)
    return document


def _refused(what: str, where: Path, why: str = "") -> Refused:
    return Refused(what, where=str(where), why=why)


def _document(path: Path) -> dict[str, Any]:
    """snapshot.json, with at least what is read of it here."""
    file = path / "snapshot.json"
    try:
        document = json.loads(file.read_bytes())
        assert isinstance(document, dict) and document["format"] == contents.FORMAT
        assert all(isinstance(document[name], dict) for name in ("key", "sets", "packages"))
        contents.identity(document)
        _ = (document["id"], document["key"]["fingerprint"], contents.key_file(document), document["readers"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise _refused("this is no snapshot: its snapshot.json cannot be read", file) from None
    return document


def _key(path: Path, document: Mapping[str, Any], fingerprint: str | None) -> openpgp.PublicKey:
    named = str(document["key"]["fingerprint"])
    if fingerprint is not None and named != fingerprint:
        raise _refused("the snapshot was signed by another key", path, f"by {named}, not {fingerprint}")
    file = path / contents.key_file(document)
    try:
        return keys.public_key(str(document["key"]["name"]), named, file.read_bytes())
    except (OSError, ValueError):
        raise _refused("the public key is missing", file) from None


def _check_sums(path: Path) -> dict[str, str]:
    """Digest by file, after every file was hashed again; what is there and what is listed must be the same."""
    rows = (line.partition("  ") for line in (path / SUMS).read_text().splitlines())
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


def _check_set(directory: Path, files: list[str], sums: Mapping[str, str], key: openpgp.PublicKey) -> None:
    """repomd.xml's signature, and that metadata, directory and snapshot.json name the same packages."""
    repomd = directory / repodata.REPOMD
    if not repomd.is_file():
        raise _refused("the repository has no metadata", repomd)
    check_detached(repomd, repomd.with_name(f"{repomd.name}.asc"), key)
    listed = repodata.check(directory)
    there = {entry.name: sums[f"{directory.name}/{entry.name}"] for entry in directory.glob("*.rpm")}
    if listed != there or sorted(there) != sorted(files):
        differing = ", ".join(sorted({name for name, _ in listed.items() ^ there.items()} | set(files) ^ set(there)))
        raise _refused(f"metadata and directory do not list the same packages: {differing}", directory)


def _check_packages(path: Path, document: Mapping[str, Any], key: openpgp.PublicKey) -> None:
    places = {file: path / name / file for name, files in document["sets"].items() for file in files}
    if set(places) != set(document["packages"]):
        raise _refused("snapshot.json does not list the packages of its sets", path / "snapshot.json")
    with openpgp.rpm_checker([key]) as check:
        for file, place in places.items():
            try:
                check(place)
            except Refused as error:
                raise _refused(error.what, place, error.why) from None
            _check_row(place, document["packages"][file])
            if document["readers"]:
                compat.check(place, key_id=key.fingerprint[-16:])


def _check_row(place: Path, row: Mapping[str, Any]) -> None:
    package = rpmheader.read(place)
    found = {
        "nevra": package.nevra,
        "body_sha256": rpmheader.body_sha256(place, package),
        "sha256": sha256_of(place),
        "size": place.stat().st_size,
    }
    wrong = [name for name, value in found.items() if row.get(name) != value]
    if wrong:
        raise _refused(f"the package is not what snapshot.json says: {', '.join(wrong)}", place)
