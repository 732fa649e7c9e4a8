"""Record the keys that sign a line's snapshots, apart from them: a forged snapshot may bring its own key.

<artifacts>/keys/signers/<line>     full fingerprints, a line each, the last signer's first; `<line>-small` for the
                                    small configuration. Those before it are of snapshots that are kept.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.core.fs import read_limited, write_atomic

_MOST = 50  # keys that are remembered
_MAX_RECORD = _MOST * 41  # bytes of a record


def record_path(artifacts: Path, directory: str) -> Path:
    """Return the path of the record for the snapshots below <artifacts>/repo/<directory>."""
    return artifacts / "keys" / "signers" / directory


def record(artifacts: Path, directory: str, fingerprint: str) -> None:
    """Record the key that has just signed a snapshot."""
    (artifacts / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
    earlier = [each for each in _recorded(artifacts, directory) if each != fingerprint]
    text = "".join(f"{each}\n" for each in (fingerprint, *earlier)[:_MOST])
    write_atomic(record_path(artifacts, directory), text)


def recorded_fingerprint(artifacts: Path, directory: str) -> str:
    """Return the last signer's fingerprint; empty without a readable record."""
    return next(iter(_recorded(artifacts, directory)), "")


def expected_fingerprint(artifacts: Path, directory: str, snapshot: Path) -> str:
    """Return the key that must have signed a snapshot: the one that it names if that is recorded, else the last signer.

    Empty without a readable record. Raises `Refused` without a readable snapshot.json.
    """
    from pipeline.publish import verify

    known, named = _recorded(artifacts, directory), verify.signer(snapshot)
    return named if named in known else next(iter(known), "")


def _recorded(artifacts: Path, directory: str) -> list[str]:
    try:
        found = read_limited(record_path(artifacts, directory), _MAX_RECORD).decode("ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
    return found if all(re.fullmatch("[0-9A-F]{40}", each) for each in found) else []
