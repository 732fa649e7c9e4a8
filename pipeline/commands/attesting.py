"""Sign the statements of a run's steps; load what makes them only when a step has run.

A run with nothing to do compares the key's id and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.line_loader import LARGEST
from pipeline.config.line_model import Line
from pipeline.core.fs import read_limited
from pipeline.publish import attestation_key
from pipeline.publish.attestation_key import AttestationKey, PublicKey

if TYPE_CHECKING:
    from pipeline.audit.statements import Statements
    from pipeline.commands.preparation import Preparation
    from pipeline.packaging.graph import Work
    from pipeline.packaging.step_record import Record


class RunAttester:
    """The attester of one line's steps in one run.

    `setting` gives the value of `attestation-key`, empty for the development key, `keys` is the directory of other
    hosts' public keys. The line's files are read when this is made, soon after the line was: a statement embeds what
    the run went by.
    """

    def __init__(
        self,
        line: Line,
        preparation: Preparation,
        artifacts: Path,
        setting: Callable[[], str],
        keys: Path | None = None,
    ) -> None:
        self.line, self.preparation, self.artifacts, self.setting = line, preparation, artifacts, setting
        self.keys = keys
        places = [*line.files, *([line.lock_file] if line.lock_file.is_file() else [])]
        self._texts: Mapping[Path, bytes] = {path: read_limited(path, LARGEST) for path in places}
        self._key: AttestationKey | None = None
        self._known: PublicKey | None = None

    @property
    def key_id(self) -> str:
        """The id of the key; empty for a development key that was not made yet. Raises as `attestation_key.known`."""
        if self._known is None:  # again each time: another run may have made the development key meanwhile
            self._known = attestation_key.known(self.setting(), self.artifacts / "keys")
        return self._known.id if self._known else ""

    @cached_property
    def trusted(self) -> Mapping[str, bytes]:
        """The public keys of other hosts whose statements count, by id. Raises as `attestation_key.trusted`."""
        return attestation_key.trusted(self.keys)

    @cached_property
    def _statements(self) -> Statements:
        from pipeline.audit.materials import Materials
        from pipeline.audit.statements import Statements

        materials = Materials(self.line, self.artifacts, self.preparation, self._texts)
        return Statements(self.line, materials, lambda: self.preparation.runtime.name)

    def begin(self) -> None:
        """Note which commit the code is of, before the run's first execution."""
        self._statements.materials.begin()

    def statement(self, work: Work, record: Record) -> bytes:
        """Return the signed statement of an execution that is over."""
        from pipeline.audit import dsse

        return dsse.sign(self._statements.of_execution(work, record).text(), self.open_key())

    def sign(self, payload: bytes, payload_type: str) -> bytes:
        """Return an envelope with the payload, signed by this host's key."""
        from pipeline.audit import dsse

        return dsse.sign(payload, self.open_key(), payload_type)

    def opened(self, envelope: bytes, payload_type: str | None) -> tuple[bytes, str]:
        """Return the payload of an envelope, a statement without a type, and the id of the key that signed it.

        Raises `ValueError` unless it is this host's own key or a trusted one.
        """
        from pipeline.audit import dsse

        signers = dsse.key_ids(envelope)
        own = {self.key_id: self.open_key().public.pem} if self.key_id in signers else {}
        for signer in signers:
            if pem := self.trusted.get(signer) or own.get(signer):
                return dsse.verify(envelope, pem, payload_type or dsse.PAYLOAD_TYPE), signer
        got = ", ".join(f"{signer[:16]}…" for signer in signers) or "none"
        raise ValueError(f"signed with the key {got}; expected this host's or one of shared-keys")

    def open_key(self) -> AttestationKey:
        """Return the key, a development key made on first use. Raises as `attestation_key.open_key`."""
        if self._key is None:
            self._key = attestation_key.open_key(self.setting(), self.artifacts / "keys")
            self._known = self._key.public
        return self._key

    def latest_statement(self, path: Path, days: int) -> dict[Path, bytes]:
        """Return the statement that the snapshot `path` is a line's latest, so that nobody can put an older one there.

        By its path; empty where the one that lies there will do.
        """
        from pipeline.audit import freshness

        return freshness.renewed(path, self.key_id, self.open_key, days)
