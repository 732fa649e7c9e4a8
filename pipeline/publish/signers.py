"""Record the key that signs a line's snapshots, apart from them: a forged snapshot may bring its own key.

<artifacts>/keys/signers/<line>     the full fingerprint; `<line>-small` for the small configuration
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.core.fs import read_limited, write_atomic

_MAX_RECORD = 100  # bytes of a record


def record_path(artifacts: Path, directory: str) -> Path:
    """Return the path of the record for the snapshots below <artifacts>/repo/<directory>."""
    return artifacts / "keys" / "signers" / directory


def record(artifacts: Path, directory: str, fingerprint: str) -> None:
    """Record the key that has just signed a snapshot."""
    (artifacts / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(record_path(artifacts, directory), f"{fingerprint}\n")


def recorded_fingerprint(artifacts: Path, directory: str) -> str:
    """Return the recorded fingerprint; empty without a readable record."""
    try:
        found = read_limited(record_path(artifacts, directory), _MAX_RECORD).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return found if re.fullmatch("[0-9A-F]{40}", found) else ""
