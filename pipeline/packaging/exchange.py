"""Exchange finished steps with other hosts through a shared store: offer what was made, take what is missing.

results/<line>/<step>/<key>.json   the record of a key's one result and the digest of its pack, signed
packs/<two digits>/<sha256>        the result, packed

The first host that stores a key's result wins, so that all hosts work with the same bytes. A result counts when a
trusted attestation key signed its record, and everything taken is as that record says: whoever can write to the store
can withhold results, and no more. Must not know how a signature is made, nor how a store is reached.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Protocol

from pipeline.core import documents, faults, manifest
from pipeline.core.fs import write_atomic
from pipeline.errors import PipelineError, Refused
from pipeline.packaging import result_pack, step_record
from pipeline.packaging.graph import key_of
from pipeline.packaging.shared_store import SharedStore
from pipeline.packaging.step_record import Phase, Record

PAYLOAD_TYPE = "application/vnd.lvs-fullnat.step-result+json"


class Signatures(Protocol):
    """The signatures of this host, and the keys that it trusts."""

    @property
    def key_id(self) -> str:
        """The id of this host's own key."""

    def sign(self, payload: bytes, payload_type: str) -> bytes:
        """Return an envelope with the payload, signed by this host's key."""

    def opened(self, envelope: bytes, payload_type: str | None) -> tuple[bytes, str]:
        """Return the payload of an envelope and the id of the trusted key that signed it. Raises `ValueError`.

        Without a type it is a statement.
        """


@dataclass(frozen=True)
class SharedResult:
    """The result of a key in the store: its record, and SHA-256 and size in bytes of its pack."""

    record: Record
    pack: Annotated[str, re.compile(r"[0-9a-f]{64}")]
    size: int


@dataclass(frozen=True)
class Exchange:
    """The exchange of one line's results. `warn` prints what a person must know although the run goes on."""

    line: str
    store: SharedStore
    signatures: Signatures
    warn: Callable[[str], None]

    def settle(self, place: Path, record: Record, *, keep: bool) -> SharedResult | None:
        """Offer the result in `place`; return that of the store where it has another one, to be taken instead.

        None where both are the same, where the store cannot be used, and with `keep`, which only reports another one.
        """
        with self._reported(record.step):
            shared = self._find(record.step, place.parent.name, record.key)
            if shared is None and not self.store.is_writable:
                return None
            if shared is None:
                if problem := result_pack.problem(record):
                    self.warn(f"{record.step}: its result is not shared: {problem}")
                    return None
                if self._offer(place, record):
                    return None
                shared = self._find(record.step, place.parent.name, record.key)
            if shared is None or shared.record.digest == record.digest:
                return None
            if not self._is_made_from(shared, record.used):
                return None
            other = f"made with the key {shared.record.attested[:16]}…"
            what = "is kept here all the same" if keep else "gives way to it"
            self.warn(f"{record.step}: the shared store has another result of {record.key}, {other}; this one {what}")
            return None if keep else shared
        return None

    def find(self, step: str, directory: str, key: str, used: Mapping[str, str]) -> SharedResult | None:
        """Return the store's result of a key that was made from the outputs `used`; None without one that counts."""
        with self._reported(step):
            shared = self._find(step, directory, key)
            return shared if shared is not None and self._is_made_from(shared, used) else None
        return None

    def _is_made_from(self, shared: SharedResult, used: Mapping[str, str]) -> bool:
        if shared.record.used == used:
            return True
        others = sorted(name for name in used if shared.record.used.get(name) != used[name])
        what = "was made from other outputs of"
        self.warn(f"{shared.record.step}: the shared store's result {what} {', '.join(others)}; it is not used")
        return False

    def take(self, shared: SharedResult, work: Path, root: Path) -> Record | None:
        """Copy a result of the store into the new directory `work`; return its record there, None where it is refused.

        `root` is the directory of the line's steps.
        """
        with self._reported(shared.record.step):
            packed = work.with_name(f"{work.name}.pack")
            try:
                self.store.copy(_pack_name(shared.pack), packed, shared.size)
                digest, _ = manifest.sha256_at(packed)
                if digest != shared.pack:
                    raise Refused(
                        f"its pack has the SHA-256 {digest}; expected {shared.pack}", where=self.store.address
                    )
                current = result_pack.unpack(packed, work, shared.record)
                self._check_statement(work, shared.record)
            finally:
                packed.unlink(missing_ok=True)
            faults.point("step.taken")
            taken = replace(current, root=str(root.absolute()))
            taken.write(work)
            return taken
        return None

    def _find(self, step: str, directory: str, key: str) -> SharedResult | None:
        name = self._result_name(directory, key)
        envelope = self.store.read(name, documents.MOST)
        if envelope is None:
            return None
        try:
            payload, signer = self.signatures.opened(envelope, PAYLOAD_TYPE)
            shared = documents.parse(SharedResult, payload)
        except ValueError as error:
            raise Refused(f"its record is refused: {error}", where=f"{self.store.address}/{name}") from None
        if problem := self._problem(shared, step, key, signer):
            raise Refused(f"its record is refused: {problem}", where=f"{self.store.address}/{name}")
        return shared

    def _problem(self, shared: SharedResult, step: str, key: str, signer: str) -> str:
        record = shared.record
        if (record.line, record.step, record.key, record.state) != (self.line, step, key, Phase.DONE):
            return f"it is about {record.line} {record.step} {record.key}, {record.state}; expected {step} {key}, done"
        if record.attested != signer:
            return f"it is signed with the key {signer[:16]}…, its statement with {record.attested[:16]}…"
        if key_of(record.inputs) != key:
            return "its inputs give another key"
        if not 0 <= shared.size <= result_pack.LIMITS.total + (result_pack.LIMITS.members << 12):
            return f"its pack has {shared.size} bytes"
        return result_pack.problem(record)

    def _offer(self, place: Path, record: Record) -> bool:
        """Store a result; False where another host was faster."""
        if record.attested != self.signatures.key_id:
            return True  # another host's: that one offers it
        packed = place.with_name(f".work-{record.key}.pack")
        listed = packed.with_suffix(".json")
        try:
            with packed.open("wb") as stream:
                digest, size = result_pack.pack(place, record, stream)
            own_pack = self.store.add(_pack_name(digest), packed)
            faults.point("step.packed")
            payload = documents.to_json(SharedResult(record, digest, size)).encode()
            write_atomic(listed, self.signatures.sign(payload, PAYLOAD_TYPE))
            first = self.store.create(self._result_name(place.parent.name, record.key), listed)
            if own_pack and not first:
                self.store.remove(_pack_name(digest))
            return first
        finally:
            packed.unlink(missing_ok=True)
            listed.unlink(missing_ok=True)

    def _check_statement(self, work: Path, record: Record) -> None:
        """Raise `Refused` unless the key that signed the record signed the statement as well."""
        try:
            _, signer = self.signatures.opened(manifest.text_at(work / step_record.STATEMENT), None)
        except ValueError as error:
            raise Refused(f"its statement is refused: {error}", where=self.store.address) from None
        if signer != record.attested:
            raise Refused(f"its statement is signed with the key {signer[:16]}…", where=self.store.address)

    def _result_name(self, directory: str, key: str) -> str:
        return f"results/{self.line}/{directory}/{key}.json"

    @contextlib.contextmanager
    def _reported(self, step: str) -> Iterator[None]:
        """Turn what is wrong with the store into a warning: the run goes on without it, and builds."""
        try:
            yield
        except PipelineError as error:
            where = f" ({error.where})" if error.where else ""
            self.warn(f"{step}: the shared store is not used: {error.what}{where}")
        except OSError as error:
            self.warn(f"{step}: the shared store is not used: {error.strerror or error} ({self.store.address})")


def _pack_name(digest: str) -> str:
    return f"packs/{digest[:2]}/{digest}"
