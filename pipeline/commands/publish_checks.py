"""Check that a line's latest snapshot may take the place of what is published on a target.

What cannot be read or verified there is refused, since it may be newer.
"""

from __future__ import annotations

import time
from pathlib import Path

from pipeline.audit import freshness, release_key
from pipeline.audit.freshness import Freshness
from pipeline.core import neutral
from pipeline.core.rsync import Target
from pipeline.errors import Refused, UsageError
from pipeline.publish import mirrorlist, upload, verify
from pipeline.publish.snapshot_contents import Document


def check(place: Path, fingerprint: str, target: Target, replaces: str) -> None:
    """Raise `Refused` unless the latest snapshot of a line's directory may be published to `target` now.

    Its key, that of `fingerprint`, and the statement that it is the latest must not have expired, and its number must
    be no lower than the target's. `replaces` is the id of the target's latest snapshot, where its statement cannot be
    verified. Raises `UsageError` where that is another one.
    """
    path = (place / "latest").resolve()
    document = verify.read_document(path)
    if problem := release_key.problem(verify.signing_key(path, document, fingerprint)):
        raise Refused(
            f"the release key {fingerprint}: {problem}; expected one that is good now",
            where=str(path),
            why="a client that takes it up would get no updates at all",
            hint="`./inv build-all --gpg-key NEW`, as docs/publishing.md tells",
        )
    stated, pem = _stated(place, document)
    there = _Published(target, place.name)
    if replaces and replaces != there.latest:
        what = f"--replaces: not the latest snapshot there; expected {there.latest or 'none'}, got {replaces}"
        raise UsageError(what, where=target.name, hint="./inv --help publish")
    number, problem = there.number(pem)
    if number > stated.sequence:
        raise Refused(
            f"the target: has a newer publication, number {number}; expected none after {stated.sequence}",
            where=target.name,
            why="another host published there, or these artifacts are old ones",
            hint="`./inv build-all` states anew what is the latest here",
        )
    if problem and (not there.latest or there.latest not in (document.id, replaces)):
        raise Refused(
            f"the target: {problem}; expected a statement that this host's attestation key has signed",
            where=f"{target.name}: {place.name}/{upload.LATEST_STATEMENT}",
            why="what is there may be newer than this snapshot, and clients would go back",
            hint=there.next_command(),
        )


def _stated(place: Path, document: Document) -> tuple[Freshness, bytes]:
    """Return the statement that the snapshot is the latest, and the public key that signed it. Raises `Refused`."""
    if document.attestation is None:
        raise _not_stated(place, document.id, "a snapshot that names no attestation key")
    pem = document.attestation.pem.encode()
    try:
        stated = freshness.read(freshness.path_in(place), pem)[0]
    except (OSError, ValueError) as error:
        raise _not_stated(place, document.id, str(error)) from None
    if stated.snapshot != document.id:
        raise _not_stated(place, document.id, stated.snapshot)
    if time.time() > stated.expires:
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(stated.expires))
        raise Refused(
            f"the statement of the latest snapshot: expired {day}; expected one that is valid now",
            where=str(freshness.path_in(place)),
            why="every audit of what is published would fail",
            hint="`./inv build-all` states anew what is the latest here",
        )
    return stated, pem


def _not_stated(place: Path, identity: str, got: str) -> Refused:
    what = f"the statement of the latest snapshot: expected one about {identity}, got {got}"
    return Refused(what, where=str(freshness.path_in(place)), hint="./inv build-all")


class _Published:
    """The publication of a line on a target; `latest` is the id of its latest snapshot, empty without one."""

    def __init__(self, target: Target, line: str) -> None:
        self.target, self.line = target, line
        names = target.names(line) or []
        self.leads = [name for name in names if name == "latest" or name.startswith(mirrorlist.PREFIX)]
        self.latest = self._latest(names)

    def _latest(self, names: list[str]) -> str:
        link = self.target.link(f"{self.line}/latest") if "latest" in names else None
        if link is not None:
            return Path(link).name
        publications = upload.publications(self.target, self.line) if upload.FILE in names else ()
        return publications[-1].id if publications else ""

    def number(self, pem: bytes) -> tuple[int, str]:
        """Return the number of the latest publication, 0 without one, and why that is not certain.

        A number that is signed by another key than `pem` counts too: it can only lead to a refusal.
        """
        try:
            envelope = self.target.read(f"{self.line}/{upload.LATEST_STATEMENT}", freshness.MOST)
        except Refused as error:
            return 0, error.what
        if envelope is None:
            return 0, "nothing states the number of what it leads clients to" if self.leads else ""
        try:
            stated = freshness.unverified(envelope)
        except ValueError as error:
            return 0, f"its statement of the latest snapshot cannot be read: {error}"
        if stated.directory != self.line:
            return stated.sequence, f"its statement is about {stated.directory}"
        try:
            freshness.verified(envelope, pem)
        except ValueError as error:
            return stated.sequence, f"its statement of the latest snapshot is not verified: {error}"
        return stated.sequence, ""

    def next_command(self) -> str:
        """Return the command to publish all the same, for who knows that it may be replaced."""
        look = neutral.command(["rsync", f"{self.target.name.rstrip('/')}/{self.line}/"])
        if not self.latest:
            return f"`{look}` shows what is there; without its mirrorlists no client is led to any of it"
        words = ["./inv", "publish", "--to", self.target.name, "--replaces", self.latest]
        return f"if the attestation key was changed, and that one is older: `{neutral.command(words)}`"
