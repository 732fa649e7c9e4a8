"""Check that the key of a snapshot is still good now, as clients do when they read metadata.

rpm and gpgv judge a signature by the time at which it was made, and that stays good. dnf asks gpg about `repomd.xml`
anew with each download, and refuses it as soon as the key has expired or was revoked.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from pipeline.audit.findings import Findings
from pipeline.audit.snapshot_checks import Audited
from pipeline.publish import verify
from pipeline.sources.openpgp import PublicKey

CHECK = "release key expiry"


def check(audited: Audited, findings: Findings) -> None:
    """Record whether clients still accept the key of the snapshot."""
    with findings.failing(CHECK, audited.document.key.fingerprint):
        expires = _key_of(audited.path).block.parts[0].expires
        good = f"valid until {expires:%Y-%m-%d %H:%M} UTC" if expires else "it does not expire"
        findings.require(CHECK, audited.document.key.fingerprint, problem_of(audited.path), good)


def problem_of(path: Path) -> str:
    """Return the reason for which clients refuse the key of a snapshot now; empty while they accept it.

    Raises `Refused` without a readable snapshot.json and its key.
    """
    return problem(_key_of(path))


def problem(key: PublicKey) -> str:
    """Return the reason for which clients refuse what a key has signed; empty while they accept it.

    It is the primary key that signs, since rpm 4.8 knows no subkeys.
    """
    primary, now = key.block.parts[0], datetime.fromtimestamp(time.time(), UTC)
    if primary.revoked or primary.revocations:
        return f"it {' and '.join(map(str, primary.revocations)) or 'was revoked'}: clients refuse metadata"
    if primary.expires and primary.expires <= now:
        return f"it expired on {primary.expires:%Y-%m-%d %H:%M} UTC: clients refuse metadata"
    return ""


def _key_of(path: Path) -> PublicKey:
    document = verify.read_document(path)
    return verify.signing_key(path, document, document.key.fingerprint)
