"""Prove a kernel source RPM: signature, NEVRA, spec, members and the kernel tree inside.

Knows no kernel line: what must hold comes from the line file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipeline.config.line_model import SrpmSource
from pipeline.core.fs import scratch
from pipeline.errors import Refused
from pipeline.formats import archive, git_tree, rpm_header
from pipeline.formats.rpm_header import Tag
from pipeline.sources import openpgp, tree_difference
from pipeline.sources.records import Proof


def prove(
    rpm: Path, source: SrpmSource, keys: Sequence[openpgp.PublicKey], manifest: Path | None, parent: Path
) -> Proof:
    """Check the SRPM at `rpm` against everything in the line file, the cheapest check first.

    `manifest` lists the pristine tree, so that a tree that differs can be told path by path. The
    payload is unpacked below `parent`, and removed again.
    Raises `Refused` for the first thing that does not hold.
    """
    signature = openpgp.check_rpm(rpm, keys)
    check_accepted(signature.signer, signature.when, signature.expires, keys, rpm)
    nevra = _nevra(rpm)
    if nevra != source.nevra:
        raise Refused(f"{source.file} holds another package", where=str(rpm), why=f"wanted {source.nevra}, had {nevra}")
    with scratch(parent) as directory:
        payload = directory / "payload"
        archive.unpack(rpm, payload, source.file)
        spec = _check_spec(payload, source, signature)
        members = _check_members(payload, source, signature)
        tree, entries = _check_tree(payload, source, manifest)
    accepted = any(key.expired for key in keys if key.name == signature.signer)
    expires = signature.expires.timestamp() if signature.expires else None
    return Proof(
        signature.signer,
        signature.fingerprint,
        signature.made,
        signature.sentence,
        expires,
        accepted,
        nevra,
        spec,
        members,
        tree,
        entries,
    )


def check_accepted(
    signer: str, when: datetime, expires: datetime | None, keys: Sequence[openpgp.PublicKey], where: Path
) -> None:
    """Refuse a signature by an expired key unless the line file accepts that key and time.

    Who has the secret part of an expired key can set back a signature's time, so somebody must have decided.
    """
    key = next(key for key in keys if key.name == signer)
    setting = f"`expired = {key.expired or (expires and expires.date())}` under [keys.{signer}]"
    if key.expired and when.date() >= key.expired:
        why = f"it was signed on {when:%Y-%m-%d}; {setting} accepts what was signed before that day"
        raise Refused(f"the key {signer} had expired when the package was signed", where=str(where), why=why)
    if not key.expired and expires and expires <= datetime.now(UTC):
        raise Refused(
            f"the key {signer} has expired, and the line file does not say that this is accepted",
            where=str(where),
            why=f"it expired on {expires:%Y-%m-%d}; the package says it was signed on {when:%Y-%m-%d}",
            hint=f"where that can be believed, put {setting} in the line file (docs/lines.md)",
        )


def _nevra(rpm: Path) -> str:
    found = rpm_header.read(rpm)
    epoch = f"{found.header.number(Tag.EPOCH)}:" if Tag.EPOCH in found.header.tags else ""
    return f"{found.name}-{epoch}{found.header.text(Tag.VERSION)}-{found.header.text(Tag.RELEASE)}"


def _file(payload: Path, name: str, source: SrpmSource) -> Path:
    path = payload / name
    if not path.is_file() or path.is_symlink():
        raise Refused(f"{source.file} lacks the file {name}")
    return path


def _check_spec(payload: Path, source: SrpmSource, signature: openpgp.Signature) -> str:
    data = _file(payload, source.spec.path, source).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    known = source.spec.known.get(signature.signer)
    if known not in (None, digest):
        raise Refused(
            f"{source.spec.path} is not the one {signature.signer} signed", why=f"wanted {known}, had {digest}"
        )
    lines = {" ".join(line.split()) for line in data.decode(errors="replace").splitlines()}
    if missing := [line for line in source.spec.contains if line not in lines]:
        listed = "; ".join(missing)
        raise Refused(f"{source.spec.path} lacks lines the build hooks into", why=f"missing: {listed}")
    return digest


def _check_members(payload: Path, source: SrpmSource, signature: openpgp.Signature) -> dict[str, str]:
    """Return digests of the pinned members; a pin for another signer's file is recorded, not compared."""
    found = {}
    for member in source.members:
        data = _file(payload, member.path, source).read_bytes()
        found[member.path] = hashlib.sha256(data).hexdigest()
        if member.signer in (None, signature.signer) and found[member.path] != member.sha256:
            raise Refused(
                f"{member.path} in {source.file} is not the pinned one",
                why=f"wanted {member.sha256} ({member.size} bytes), had {found[member.path]} ({len(data)} bytes)",
            )
    return found


def _check_tree(payload: Path, source: SrpmSource, manifest: Path | None) -> tuple[str, int]:
    with archive.opened(_file(payload, source.tree.archive, source)) as stream:
        actual = archive.listing(stream, source.tree.archive, strip=1)
    tree = git_tree.tree_id(actual)
    if tree != source.tree.git_tree:
        raise tree_difference.refusal(source, tree, actual, git_tree.read_manifest(manifest) if manifest else None)
    return tree, len(actual)
