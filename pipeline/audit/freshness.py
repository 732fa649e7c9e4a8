"""State which snapshot is a line's latest: signed, with a number that only grows and a time at which it expires.

    <root>/<line>/attestations/latest.intoto.json

An older snapshot stays validly signed for ever. Who puts one back must put back its statement too, whose number is
lower and whose time has run out. A snapshot's id is the digest of its content, so none of this can be inside.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pipeline.audit import dsse
from pipeline.audit.statement import of_type, with_types
from pipeline.core import decoder, documents
from pipeline.core.decoder import Mismatch
from pipeline.core.fs import read_limited, sha256_of
from pipeline.publish.attestation_key import AttestationKey
from pipeline.publish.verify import SUMS

PREDICATE_TYPE = "urn:lvs-fullnat:freshness:v1"  # docs/buildtype.md
FILE = "latest.intoto.json"
MOST = 1 << 16  # bytes of the statement
DAY = 86_400  # seconds
_LAST = 253_402_300_799  # the end of the year 9999, in seconds since 1970: no later time can be told
RENEWED_AFTER = DAY  # seconds at most: a second run within a day does not renew it, unless it is valid for few days
RENEWED_PART = 4  # it is renewed once this part of its time is over, so that a night that is late finds it valid


@dataclass(frozen=True)
class Digest:
    """A digest of in-toto."""

    sha256: str


@dataclass(frozen=True)
class Subject:
    """The list of the snapshot's digests, which OpenPGP signs."""

    name: Literal["SHA256SUMS"]
    digest: Digest


@dataclass(frozen=True)
class Freshness:
    """Facts of the latest snapshot: `directory` is the line's in the repository; times are seconds since 1970."""

    directory: str
    snapshot: Annotated[str, re.compile("[0-9a-f]{32}")]
    sequence: int
    issued: int
    expires: int


@dataclass(frozen=True)
class Statement:
    """The in-toto statement about a line's latest snapshot."""

    subject: tuple[Subject, ...]
    predicate: Freshness

    def to_json(self) -> dict[str, object]:
        """Return the statement with its types."""
        return with_types(PREDICATE_TYPE, self.subject, self.predicate)

    @classmethod
    def from_json(cls, value: object) -> Statement:
        """Read what `to_json` returned. Raises `Mismatch`."""
        document = of_type(PREDICATE_TYPE, value)
        subject = decoder.decode(tuple[Subject, ...], document.get("subject"))
        if len(subject) != 1:
            raise Mismatch("one subject, SHA256SUMS", str(len(subject)), ("subject",))
        stated = decoder.decode(Freshness, document.get("predicate"))
        if not 0 <= stated.issued <= stated.expires <= _LAST:
            raise Mismatch("issued before it expires", f"{stated.issued} and {stated.expires}", ("predicate",))
        return cls(subject, stated)


def path_in(place: Path) -> Path:
    """Return the statement's path below a line's directory in the repository."""
    return place / "attestations" / FILE


def renewed(path: Path, key_id: str, open_key: Callable[[], AttestationKey], days: int) -> dict[Path, bytes]:
    """Return the statement that the snapshot `path` is the latest, for `days` from now, by its own path.

    Signed with the key of id `key_id`; empty where that was stated lately. A sequence number is at least the time
    in seconds, so that it grows even when the statement before was lost, and above that one's, so that it grows when a
    clock is set back. For the holder of the lock of the line's directory, who writes it before `latest` moves.
    """
    place, now, sums = path.parent.parent, int(time.time()), sha256_of(path / SUMS)
    if _is_current(path_in(place), key_id, (path.name, sums), now, days):
        return {}
    key = open_key()
    try:
        least = read(path_in(place), key.public.pem)[0].sequence + 1
    except (OSError, ValueError):
        least = 1
    stated = Freshness(place.name, path.name, max(least, now), now, now + days * DAY)
    text = json.dumps(decoder.encode(Statement((Subject("SHA256SUMS", Digest(sums)),), stated)), sort_keys=True)
    return {path_in(place): dsse.sign(text.encode(), key)}


def read(path: Path, pem: bytes) -> tuple[Freshness, str]:
    """Return what the public key `pem` stated, and the digest of the snapshot's SHA256SUMS.

    Raises `OSError`, and `ValueError` for anything else than a statement that is signed with that key.
    """
    return verified(read_limited(path, MOST), pem)


def verified(envelope: bytes, pem: bytes) -> tuple[Freshness, str]:
    """Return the same of a statement's bytes. Raises `ValueError`."""
    return _parsed(dsse.verify(envelope, pem))


def unverified(envelope: bytes) -> Freshness:
    """Return what an envelope states, whoever signed it: for a refusal alone. Raises `ValueError`."""
    return _parsed(dsse.payload(envelope))[0]


def _is_current(path: Path, key_id: str, latest: tuple[str, str], now: int, days: int) -> bool:
    """Tell whether there is nothing to state. The signature is not verified: nobody relies on the answer."""
    try:
        envelope = read_limited(path, MOST)
        ids, (stated, digest) = dsse.key_ids(envelope), _parsed(dsse.payload(envelope))
    except (OSError, ValueError):
        return False
    same = (ids, stated.snapshot, digest, stated.expires - stated.issued) == ([key_id], *latest, days * DAY)
    return same and 0 <= now - stated.issued < min(RENEWED_AFTER, days * DAY // RENEWED_PART)


def _parsed(payload: bytes) -> tuple[Freshness, str]:
    found = documents.parse(Statement, payload)
    return found.predicate, found.subject[0].digest.sha256
