"""State the result of an audit as a signed SLSA verification summary (slsa.dev/spec/v1.0/verification_summary)."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from pipeline import __version__
from pipeline.audit import dsse, statement
from pipeline.audit.audit import Audit
from pipeline.audit.findings import Result
from pipeline.publish.attestation_key import AttestationKey
from pipeline.publish.verify import SUMS

PREDICATE_TYPE = "https://slsa.dev/verification_summary/v1"
VERIFIER = "urn:lvs-fullnat:verifier:audit"
LEVEL = "SLSA_BUILD_LEVEL_1"


def text(audit: Audit, when: datetime) -> bytes:
    """Return the summary as the bytes that are signed. Without a policy of the user the URI is that of the default."""
    policy = {"uri": audit.policy or "urn:lvs-fullnat:policy:default"}
    predicate = {
        "verifier": {"id": VERIFIER, "version": {"lvs-fullnat-pipeline": __version__}},
        "timeVerified": when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "resourceUri": f"urn:lvs-fullnat:snapshot:{audit.line}:{audit.snapshot}",
        "policy": {**policy, "digest": {"sha256": audit.policy_sha256}} if audit.policy_sha256 else policy,
        "inputAttestations": [
            {"uri": name, "digest": {"sha256": digest}} for name, digest in sorted(audit.statements.items())
        ],
        "verificationResult": word(audit),
        "verifiedLevels": ["FAILED"] if audit.verdict is Result.FAIL else [LEVEL],
        "slsaVersion": "1.0",
    }
    subject = [{"name": SUMS, "digest": {"sha256": audit.sums}}]
    whole = statement.with_types(PREDICATE_TYPE, subject, predicate)
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()


def word(audit: Audit) -> str:
    """Return the result in the word of SLSA; what a person must judge does not fail."""
    return "FAILED" if audit.verdict is Result.FAIL else "PASSED"


def sign(audit: Audit, key: AttestationKey) -> bytes:
    """Return the signed summary of an audit that has just ended."""
    return dsse.sign(text(audit, datetime.now(UTC)), key)
