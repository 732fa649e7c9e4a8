"""State the result of an audit as a signed SLSA verification summary (slsa.dev/spec/v1.0/verification_summary).

A summary says what a policy decided, so that without one there is none. A level of SLSA is claimed only where the
policy names the keys: without that, whose provenance it is was decided by the snapshot itself. Fields and levels are
those of version 1.0 alone.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from pipeline.audit import dsse, statement
from pipeline.audit.audit import Audit
from pipeline.audit.findings import Result
from pipeline.errors import UsageError
from pipeline.publish.attestation_key import AttestationKey
from pipeline.publish.verify import SUMS

PREDICATE_TYPE = "https://slsa.dev/verification_summary/v1"
VERIFIER = "urn:lvs-fullnat:verifier:audit"
LEVEL, NO_LEVEL, FAILED = "SLSA_BUILD_LEVEL_1", "SLSA_BUILD_LEVEL_0", "FAILED"
_KEYS = ("release key", "attestation key")  # checks that warn where the policy names no such keys


def check_policy(policy: str) -> None:
    """Raise `UsageError` where `policy`, the file, is empty: there is nothing that a summary could state."""
    if not policy:
        raise UsageError(
            "--vsa: a summary states the policy that decided; expected --policy FILE",
            why="without a policy the snapshot alone says what is accepted, and nobody has decided anything",
            hint="`./inv audit SNAPSHOT --write-policy FILE` writes one to compare, keep and give with --policy",
        )


def text(audit: Audit, when: datetime) -> bytes:
    """Return the summary as the bytes that are signed. Raises `UsageError` for an audit without a policy."""
    check_policy(audit.policy)
    predicate = {
        "verifier": {"id": VERIFIER},
        "timeVerified": when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "resourceUri": f"urn:lvs-fullnat:snapshot:{audit.line}:{audit.snapshot}",
        "policy": {
            "uri": f"urn:lvs-fullnat:policy:{audit.policy_sha256}",
            "digest": {"sha256": audit.policy_sha256},
        },
        "inputAttestations": [
            {"uri": name, "digest": {"sha256": digest}} for name, digest in sorted(audit.statements.items())
        ],
        "verificationResult": word(audit),
        "verifiedLevels": [_level(audit)],
        "slsaVersion": "1.0",
    }
    subject = [{"name": SUMS, "digest": {"sha256": audit.sums}}]
    whole = statement.with_types(PREDICATE_TYPE, subject, predicate)
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()


def word(audit: Audit) -> str:
    """Return the result in the word of SLSA; what a person must judge does not fail."""
    return FAILED if audit.verdict is Result.FAIL else "PASSED"


def _level(audit: Audit) -> str:
    if audit.verdict is Result.FAIL:
        return FAILED
    warned = {row.check for row in audit.findings if row.result is Result.WARN}
    return NO_LEVEL if warned & {*_KEYS} else LEVEL


def sign(audit: Audit, key: AttestationKey) -> bytes:
    """Return the signed summary of an audit that has just ended."""
    return dsse.sign(text(audit, datetime.now(UTC)), key)
