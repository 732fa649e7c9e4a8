"""Publish signed repository snapshots: staged, verified, and published by one rename.

    <root>/<line>/snapshots/<id>/<set>/{*.rpm,repodata/}
                                 RPM-GPG-KEY-<name>, ATTESTATION-KEY-<name>.pem, <line>-<set>.repo, README,
                                 snapshot.json, SHA256SUMS{,.asc}
    <root>/<line>/attestations/<id>/<step>.intoto.json
    <root>/<line>/sboms/<id>/<package>.{cdx,spdx}.json
    <root>/<line>/latest -> snapshots/<id>
    <root>/<line>/mirrorlist-<set>, keys/             what .repo files name: pipeline/publish/mirrorlist.py

Statements lie beside snapshots, not inside: they tell when a step ran, and a snapshot's id is the digest of its
content.

A published snapshot never changes. `latest` does: readers resolve it once, since files of two snapshots do not
belong together. Making a snapshot and making it the latest are two things: one that must pass tests first is held, and
readers do not see it. `latest` is the last that is renamed: a killed run leaves it unchanged, and the next run removes
the leftovers; a run that fails leaves mirrorlists, statement and `latest` as they were.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.core import faults, fingerprint, neutral
from pipeline.core.disk_space import FULL, removed_error, writing
from pipeline.core.fs import restored_on_error, scratch, sha256_of, write_atomic
from pipeline.core.locks import locked
from pipeline.errors import Refused, UsageError
from pipeline.publish import el6_compat, mirrorlist, repodata, snapshot_contents
from pipeline.publish.signing import SignedPackage, Signer
from pipeline.publish.snapshot_contents import Contents, Document, Member
from pipeline.publish.verify import SUMS, verify_snapshot

_WORK_PREFIX = ".making-"


@dataclass(frozen=True)
class Snapshot:
    """A published snapshot. `reused`: the snapshot existed already."""

    id: str
    path: Path
    latest: Path
    label: str
    notice: str
    fingerprint: str
    development: bool
    sets: tuple[str, ...]
    reused: bool


def make_snapshot(contents: Contents, signer: Signer, root: Path) -> Snapshot:
    """Publish `contents` below `root`, <artifacts>/repo; `latest` stays, until `move_latest` is called.

    An existing snapshot of the same content and key is verified and reused. Raises `UsageError` and `Refused`
    for unpublishable content, `Refused` for a damaged snapshot, `HostLacks` without disk space.
    """
    members = snapshot_contents.members(contents)
    document = snapshot_contents.document(contents, members, signer.key, fingerprint.digest(__name__))
    place = root / contents.directory
    path = place / "snapshots" / document.id
    with writing(place), locked(place / ".lock"):
        _remove_leftovers(place)
        reused = path.exists()
        if reused:
            _check_existing(path, document)
        else:
            _make(place, path, document, members, signer)
        _make_read_only(path)
    key = signer.key
    sets = tuple(document.sets)
    return Snapshot(
        document.id,
        path,
        place / "latest",
        contents.label,
        contents.notice,
        key.fingerprint,
        key.development,
        sets,
        reused,
    )


def move_latest(path: Path, statement: Callable[[Path], Mapping[Path, bytes]] = lambda _: {}) -> None:
    """Point the mirrorlists and at last `latest` to the snapshot `path`: all of them, or none where one cannot be.

    `statement` gets the path, and returns the content of the files that state which snapshot is the latest; they are
    written before `latest` moves. Raises `HostLacks` where the snapshot was removed meanwhile.
    """
    place = path.parent.parent
    with writing(place), locked(place / ".lock"):
        _remove_leftovers(place)
        if not (path / SUMS).is_file():
            raise removed_error(path)
        mirrorlist.add_key(place, path)
        lists, stated = mirrorlist.changes(place, path), statement(path)
        with contextlib.ExitStack() as restored:
            for file in (*lists, *stated):
                restored.enter_context(restored_on_error(file))
            restored.enter_context(_link_restored_on_error(place / "latest"))
            for file, text in lists.items():
                mirrorlist.change(file, text)
            for file, content in stated.items():
                write_atomic(file, content)
            _replace_link(place / "latest", path)


def attestations(path: Path) -> Path:
    """Return the directory of the statements about what is in the snapshot `path`."""
    return path.parent.parent / "attestations" / path.name


def bills_of_materials(path: Path) -> Path:
    """Return the directory of the bills of materials of the snapshot `path`."""
    return path.parent.parent / "sboms" / path.name


def remove_snapshot(path: Path, *, wait: bool = True) -> None:
    """Remove a snapshot atomically, and what lies beside it. Raises `UsageError` for the one that `latest` points to.

    `wait=False` raises `Locked` while another run publishes.
    """
    place = path.parent.parent
    with writing(place), locked(place / ".lock", wait=wait):
        _remove_leftovers(place)
        if path.resolve() == (place / "latest").resolve():
            raise UsageError(
                f"the snapshot {path.name}: is the latest; expected an older one",
                where=str(path),
                why="installed systems read the repository through `latest`",
                hint="`./inv build-all` publishes a newer snapshot",
            )
        mirrorlist.forget(place, path.name)
        with scratch(place, _WORK_PREFIX) as work:
            _make_writable(path)
            path.rename(work / path.name)
            for beside in (attestations(path), bills_of_materials(path)):
                if beside.exists():
                    beside.rename(work / beside.parent.name)


def _check_existing(path: Path, document: Document) -> None:
    """Raise `Refused` for a snapshot that is damaged, or another than the planned one."""
    name = neutral.word(path)
    hint = f"chmod -R u+w {name} && rm -r {name}, then run the same command again"
    try:
        existing = verify_snapshot(path, document.key.fingerprint)
    except Refused as error:
        why = ": ".join(filter(None, (error.where, error.why)))
        raise Refused(f"the snapshot: damaged: {error.what}", where=str(path), why=why, hint=hint) from error
    if existing.id != document.id:
        what = f"the snapshot: another one in this place; expected {document.id}, got {existing.id}"
        raise Refused(what, where=str(path), why="a snapshot's directory bears its id", hint=hint)


def _make(place: Path, path: Path, document: Document, members: Mapping[str, Member], signer: Signer) -> None:
    with scratch(place, _WORK_PREFIX) as work, writing(place):
        staging = work / path.name
        staging.mkdir()
        signed = signer.sign([member.unsigned for member in members.values()], work / "signed")
        faults.point("snapshot.signed")
        for name, files in document.sets.items():
            _fill(staging / name, [work / "signed" / file for file in files])
            repomd = repodata.create(staging / name, document.timestamp, databases=bool(document.readers))
            signer.sign_detached(repomd, document.timestamp)
        faults.point("snapshot.repodata")
        _write_texts(staging, _with_signed_digests(document, signed), signer)
        for file in staging.rglob("*"):
            _seal_and_sync(file)
        _check_compatible(document, signed, signer)
        verify_snapshot(staging, signer.key.fingerprint)
        path.parent.mkdir(exist_ok=True)
        faults.point("snapshot.before-rename")
        staging.rename(path)
        _fsync(path.parent)
        faults.point("snapshot.after-rename")


def _fill(directory: Path, files: list[Path]) -> None:
    """Link a set's packages to the signed files, or copy them where there are no hard links."""
    directory.mkdir()
    for file in files:
        try:
            (directory / file.name).hardlink_to(file)
        except OSError as error:
            if error.errno in FULL:
                raise
            shutil.copy2(file, directory / file.name)


def _check_compatible(document: Document, signed: list[SignedPackage], signer: Signer) -> None:
    if document.readers:
        for package in signed:
            el6_compat.check(package.path, key_id=signer.key.id)


def _with_signed_digests(document: Document, signed: list[SignedPackage]) -> Document:
    """Return snapshot.json with the sizes and digests of the signed files."""
    packages = dict(document.packages)
    for package in signed:
        name = package.path.name
        packages[name] = replace(packages[name], size=package.path.stat().st_size, sha256=sha256_of(package.path))
    return replace(document, packages=packages)


def _write_texts(staging: Path, document: Document, signer: Signer) -> None:
    directory = document.directory
    texts: dict[str, str | bytes] = {
        f"{directory}-{name}.repo": snapshot_contents.repo_file(document, name) for name in document.sets
    }
    texts |= {
        snapshot_contents.key_file(document): signer.key.armor,
        "README": snapshot_contents.readme(document),
        "snapshot.json": snapshot_contents.to_json(document),
    }
    if document.attestation is not None:
        texts[document.attestation.file] = document.attestation.pem
    for name, text in texts.items():
        write_atomic(staging / name, text)
    files = sorted(str(file.relative_to(staging)) for file in staging.rglob("*") if file.is_file())
    write_atomic(staging / SUMS, "".join(f"{sha256_of(staging / file)}  {file}\n" for file in files))
    signer.sign_detached(staging / SUMS, document.timestamp)


def _seal_and_sync(path: Path) -> None:
    """Sync an entry to disk before publication; directories stay writable until then, for a later cleanup."""
    if path.is_file():
        path.chmod(0o444)
    _fsync(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_read_only(path: Path) -> None:
    """Protect the snapshot's directories against accidental changes."""
    for directory in [*(entry for entry in path.rglob("*") if entry.is_dir()), path]:
        directory.chmod(0o555)


def _make_writable(path: Path) -> None:
    for directory in [path, *(entry for entry in path.rglob("*") if entry.is_dir())]:
        directory.chmod(0o755)


def _replace_link(link: Path, path: Path) -> None:
    """Point `link` to `path` by one rename."""
    target = path.relative_to(link.parent)
    if link.is_symlink() and link.readlink() == target:
        return
    temporary = link.with_name(f".{link.name}-new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    faults.point("latest.before-rename")
    temporary.replace(link)
    _fsync(link.parent)


@contextlib.contextmanager
def _link_restored_on_error(link: Path) -> Iterator[None]:
    """Put a link back as it is now, or remove it where there is none, when the block raises; that needs no space."""
    copy, before = link.with_name(f".{link.name}-before"), link.readlink() if link.is_symlink() else None
    if before is not None:
        copy.symlink_to(before)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            if before is None:
                link.unlink(missing_ok=True)
            elif link.readlink() != before:
                copy.replace(link)
        raise
    finally:
        copy.unlink(missing_ok=True)


def _remove_leftovers(place: Path) -> None:
    """Remove the remains of killed runs, for the holder of the lock."""
    for name in (".latest-new", ".latest-before"):
        (place / name).unlink(missing_ok=True)
    for left in (*place.glob(f".{mirrorlist.PREFIX}*"), *(place / "attestations").glob(".latest.*")):
        left.unlink(missing_ok=True)
    with scratch(place, _WORK_PREFIX):
        pass  # it removes the others
