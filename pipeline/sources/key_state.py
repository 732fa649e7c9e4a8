"""Judge a key and its subkeys at the time of a signature, from gpg's machine-readable output.

rpm asks none of this: a signature by a revoked key is good to it. Fields and status lines are those of GnuPG's
doc/DETAILS, reasons for a revocation those of RFC 4880, 5.2.3.23. A revoked or expired key keeps what it signed
before, unless its secret part may be in other hands: then a signature's own time proves nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

_REASONS = {0: "no reason given", 1: "superseded", 2: "compromised", 3: "retired"}
_HARMLESS = (1, 3)  # leave older signatures good
_DIGESTS = {"1": "MD5", "2": "SHA-1", "3": "RIPEMD160"}  # the weak ones, by RFC 4880, 9.4
_SHA1 = "2"


@dataclass(frozen=True)
class Revocation:
    """A revocation that gpg verified. `reason` as RFC 4880 numbers them, 0 when none is given."""

    made: datetime
    reason: int

    @property
    def harmless(self) -> bool:
        """Whether older signatures stay good."""
        return self.reason in _HARMLESS

    def __str__(self) -> str:
        return f"was revoked on {self.made:%Y-%m-%d}: {_REASONS.get(self.reason, f'reason {self.reason}')}"


@dataclass(frozen=True)
class Part:
    """A primary key or a subkey. `revoked` is gpg's verdict, `revocations` its grounds."""

    fingerprint: str
    made: datetime
    expires: datetime | None
    signs: bool
    usable: bool
    revoked: bool
    revocations: tuple[Revocation, ...]


@dataclass(frozen=True)
class Block:
    """A key with its subkeys; the primary one comes first."""

    parts: tuple[Part, ...]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the primary key, which is pinned."""
        return self.parts[0].fingerprint

    def part(self, name: str) -> Part | None:
        """Return the part with this fingerprint or long key id."""
        return next((part for part in self.parts if part.fingerprint.endswith(name)), None)

    def expires(self, part: Part) -> datetime | None:
        """Return the expiry of the part or of the primary key, whichever is first."""
        return min((p.expires for p in {part, self.parts[0]} if p.expires), default=None)

    def revocations(self, part: Part) -> list[Revocation]:
        """Return the revocations of the part and of the primary key."""
        return [item for p in dict.fromkeys((part, self.parts[0])) for item in p.revocations]

    def problem(self, part: Part, when: datetime) -> str:
        """Return the reason that a signature of `when` by the part is not good; empty when it is."""
        made = f"it was made on {when:%Y-%m-%d}"
        for piece in dict.fromkeys((part, self.parts[0])):
            called = self.called(piece)
            # gpg calls a revoked key's subkeys revoked too; a verdict without any reason leaves nothing good.
            if piece.revoked and not self.revocations(piece):
                return f"{called} was revoked"
            for item in piece.revocations:
                if not item.harmless:
                    return f"{called} {item}"
                if when >= item.made:
                    return f"{made}, after {called} {item}"
            if piece.expires and when >= piece.expires:
                return f"{made}, after {called} expired on {piece.expires:%Y-%m-%d}"
            if when < piece.made:
                return f"{made}, before {called} was, on {piece.made:%Y-%m-%d}"
            if not piece.usable:
                return f"{called} is disabled or not valid"
        return "" if part.signs else f"{self.called(part)} is not one for signing"

    def called(self, part: Part) -> str:
        """Return a part's name for messages."""
        return "the key" if part is self.parts[0] else f"the subkey {part.fingerprint}"


def blocks(colons: str) -> Iterator[Block]:
    """Parse the output of `gpg --with-colons --check-sigs` or `--show-keys`: fields 2, 6, 7, 10, 11 and 12."""
    for text in re.split(r"^(?=(?:pub|sec):)", colons, flags=re.MULTILINE):
        rows = [line.split(":") for line in text.splitlines()]
        if rows and rows[0][0] in ("pub", "sec"):
            starts = [number for number, row in enumerate(rows) if row[0] in ("pub", "sec", "sub", "ssb")]
            yield Block(tuple(_part(piece) for piece in _cut(rows, starts)))


def _cut(rows: Sequence[list[str]], starts: Sequence[int]) -> list[Sequence[list[str]]]:
    """Split `rows` at `starts`."""
    return [rows[begin:end] for begin, end in itertools.pairwise([*starts, len(rows)])]


def _part(rows: Sequence[Sequence[str]]) -> Part:
    row = rows[0]
    fingerprint = next(other[9] for other in rows if other[0] == "fpr")
    return Part(
        fingerprint,
        _time(row[5]),
        _time(row[6]) if row[6] else None,
        "s" in row[11],
        row[1] not in ("i", "d") and "D" not in row[11],
        row[1] == "r",
        tuple(_revocations(rows)),
    )


def _revocations(rows: Sequence[Sequence[str]]) -> Iterator[Revocation]:
    """Return the revocations of a key or subkey: classes 20 and 28; other classes are of user ids."""
    for row in rows:
        if row[0] == "rev" and row[1] == "!" and row[10][:2] in ("20", "28"):
            _, _, reason = row[10].partition(",")
            yield Revocation(_time(row[5]), int(reason or "0", 16))


def _time(field: str) -> datetime:
    return datetime.fromtimestamp(int(field), UTC)


class Known(Protocol):
    """A pinned key. `sha1` allows its signatures over SHA-1."""

    @property
    def name(self) -> str:
        """The key's name in the line file."""

    @property
    def sha1(self) -> bool:
        """Whether its signatures over SHA-1 are accepted."""

    @property
    def block(self) -> Block:
        """The key with its subkeys."""


K = TypeVar("K", bound=Known)


@dataclass(frozen=True)
class Verdict(Generic[K]):
    """Result of one signature: key, part and time; or the problem."""

    by: tuple[K, Part, datetime] | None
    problem: str = ""


def verdicts(status: str, keys: Sequence[K]) -> list[Verdict[K]]:
    """Return one verdict for each signature in gpgv's status lines."""
    rows = [line.split()[1:] for line in status.splitlines() if line.startswith("[GNUPG:] ")]
    starts = [number for number, row in enumerate(rows) if row[0] == "NEWSIG"]
    return [_verdict({row[0]: row[1:] for row in group}, keys) for group in _cut(rows, starts)]


def _verdict(status: dict[str, list[str]], keys: Sequence[K]) -> Verdict[K]:
    if valid := status.get("VALIDSIG"):
        return _judge(valid, status, keys)
    if "BADSIG" in status:
        return Verdict(None, "it is not over this content")
    if bad := status.get("ERRSIG"):
        return Verdict(None, _unchecked(bad, keys))
    return Verdict(None, f"gpgv did not check it: {', '.join(status)}")


def _judge(valid: Sequence[str], status: dict[str, list[str]], keys: Sequence[K]) -> Verdict[K]:
    """Return the verdict of a cryptographically valid signature, from key, time, end and digest in VALIDSIG."""
    fingerprint, when, ends, digest, primary = valid[0], _time(valid[2]), valid[3], valid[7], valid[9]
    key = next((key for key in keys if key.block.fingerprint == primary), None)
    part = key.block.part(fingerprint) if key else None
    if key is None or part is None:
        return Verdict(None, f"it is by {primary}, which is none of the pinned keys")
    problem = key.block.problem(part, when) or _weak(digest, key)
    if "EXPSIG" in status:
        problem = problem or f"it was only good until {_time(ends):%Y-%m-%d}"
    if not problem and not {"GOODSIG", "EXPKEYSIG", "REVKEYSIG"} & status.keys():
        problem = f"gpgv does not call it good: {', '.join(status)}"
    return Verdict(None, problem) if problem else Verdict((key, part, when))


def _weak(digest: str, key: Known) -> str:
    """Return the reason to refuse a digest algorithm: MD5 and RIPEMD160 always, SHA-1 unless the line accepts it."""
    if digest not in _DIGESTS or (digest == _SHA1 and key.sha1):
        return ""
    more = f"; `sha1 = true` under [keys.{key.name}] accepts that" if digest == _SHA1 else ""
    return f"its digest is {_DIGESTS[digest]}, which can be forged{more}"


def _unchecked(bad: Sequence[str], keys: Sequence[Known]) -> str:
    """Return the reason in ERRSIG: key id, algorithm, digest, class, time, and a code of libgpg-error."""
    key_id, digest, when, code = bad[0], bad[2], _time(bad[4]), bad[5]
    for key in keys:
        if part := key.block.part(key_id):
            if problem := key.block.problem(part, when) or _weak(digest, key):
                return problem
            if part is not key.block.parts[0]:
                return f"the subkey {part.fingerprint} does not certify that it belongs to the key (error {code})"
            return f"gpgv cannot check it (error {code} of libgpg-error)"
    return f"it is by the key id {key_id}, which is none of the pinned keys"
