"""Check a snapshot from its bytes up: key, signatures, digests, lists, and every package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.audit.findings import Findings
from pipeline.core.digests import Digests, together
from pipeline.core.fs import read_limited
from pipeline.publish import attestation_key, verify
from pipeline.publish.signing import check_detached
from pipeline.publish.snapshot_contents import Document
from pipeline.sources import openpgp

if TYPE_CHECKING:
    from pipeline.audit.policy import PolicyFile


@dataclass(frozen=True)
class Audited:
    """A snapshot whose snapshot.json could be read; `pem` is its attestation key, None without a usable one."""

    path: Path
    document: Document
    pem: bytes | None


def check(path: Path, policy: PolicyFile, findings: Findings) -> Audited | None:
    """Check everything inside the snapshot `path`; None where its snapshot.json cannot be read."""
    with findings.failing("snapshot", path.name):
        document = verify.read_document(path)
        _check_release_key(document, policy, findings)
        key = None
        with findings.failing("signature", verify.SUMS):
            key = verify.signing_key(path, document, document.key.fingerprint)
            check_detached(path / verify.SUMS, path / f"{verify.SUMS}.asc", key)
            findings.good("signature", verify.SUMS, f"by {document.key.fingerprint}, and by no other key")
        digests = Digests()
        _check_files(path, document, digests, findings)
        if key is not None:
            _check_sets(path, document, key, findings)
            _check_packages(path, document, key, digests, findings)
        return Audited(path, document, _attestation_key(path, document, policy, findings))
    return None


def _check_release_key(document: Document, policy: PolicyFile, findings: Findings) -> None:
    key, accepted = document.key, policy.policy.keys
    if accepted.release:
        problem = "" if key.fingerprint in accepted.release else "a key that the policy does not accept"
        findings.require("release key", key.fingerprint, problem, "accepted by the policy")
    else:
        findings.warn("release key", key.fingerprint, "no policy names release keys; whoever made this chose its key")
    _check_development("release key", key.fingerprint, policy, findings, development=key.development)


def _check_development(check: str, key: str, policy: PolicyFile, findings: Findings, *, development: bool) -> None:
    if not development or policy.policy.keys.development:
        return
    record = findings.warn if policy.is_default else findings.fail
    record(check, key, "a development key: whoever could read its directory could have signed this")


def _check_files(path: Path, document: Document, digests: Digests, findings: Findings) -> None:
    with findings.failing("files", verify.SUMS):
        listed = verify.listed_digests(path)
        wrong = [(str(file.relative_to(path)), what) for what, file in verify.differences(path, listed, digests)]
        for file, what in wrong:
            findings.fail("files", file, what)
        if not wrong:
            findings.good("files", verify.SUMS, f"{len(listed)} files, none missing, added or changed")
    with findings.failing("snapshot id", document.id):
        verify.check_id(path, document)
        elsewhere = path.parent.name == "snapshots" and path.name != document.id
        problem = f"it lies in the place of the snapshot {path.name}" if elsewhere else ""
        findings.require("snapshot id", document.id, problem, "the digest of what snapshot.json says")


def _check_sets(path: Path, document: Document, key: openpgp.PublicKey, findings: Findings) -> None:
    with findings.failing("repository metadata", verify.SUMS):
        sums = verify.listed_digests(path)
        for name, files in document.sets.items():
            with findings.failing("repository metadata", name):
                verify.check_set(path / name, files, sums, key)
                findings.good("repository metadata", name, f"signed; lists {len(files)} packages, all there")


def _check_packages(
    path: Path, document: Document, key: openpgp.PublicKey, digests: Digests, findings: Findings
) -> None:
    # What a package has of digests inside is verified when its role is read.
    checker = verify.package_checker(path, document, key, digests, own_digests=False)
    with findings.failing("package", "all"), checker as check_package:
        for file, checked in zip(document.packages, together(check_package, document.packages), strict=True):
            with findings.failing("package", file):
                checked()
                findings.good("package", file, "signatures, digest, header and payload as snapshot.json lists them")


def _attestation_key(path: Path, document: Document, policy: PolicyFile, findings: Findings) -> bytes | None:
    stated, accepted = document.attestation, policy.policy.keys
    if stated is None:
        findings.fail("attestation key", "snapshot.json", "no attestation key: no statement can be verified")
        return None
    with findings.failing("attestation key", stated.file):
        verify.check_attestation_key(path, document)
        pem = read_limited(path / stated.file, verify.MAX_DOCUMENT)
        if accepted.attestation:
            problem = "" if attestation_key.key_id(pem) in accepted.attestation else "the policy does not accept it"
            findings.require("attestation key", stated.id, problem, "accepted by the policy")
        else:
            findings.warn(
                "attestation key", stated.id, "no policy names attestation keys; the release key vouches for it"
            )
        _check_development("attestation key", stated.id, policy, findings, development=stated.development)
        return pem
    return None
