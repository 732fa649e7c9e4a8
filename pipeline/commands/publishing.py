"""Plan the step that publishes a line's packages: the sets of packages, and the key that signs them.

Knows no recipe: a step is known here by its name and by the record of what it made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline.config import next_command
from pipeline.config.line_model import Line, RoleName
from pipeline.core import documents
from pipeline.core.fs import read_limited, write_atomic
from pipeline.packaging.graph import Step, Work
from pipeline.packaging.step_record import STATEMENT, Published
from pipeline.publish import unsigned as unsigned_snapshots
from pipeline.publish.layout import HOST_KEYS, PLACEHOLDER, PUBLISH, UNSIGNED, directory_of, statement_name
from pipeline.recipes.base import MODULES_STEP

if TYPE_CHECKING:
    from pipeline.audit.unsigned_checks import Verified
    from pipeline.config.settings import Settings
    from pipeline.packaging.scheduler import Scheduler
    from pipeline.publish.attestation_key import PublicKey
    from pipeline.publish.snapshot_contents import BuiltPackage, Contents

DEVELOPMENT = "development"  # a value of the settings gpg-key and attestation-key
_TOOLS = ("ipvsadm", "keepalived")


@dataclass(frozen=True)
class Publishing:
    """The publication of one line in one run.

    `options` are what a command line needs to mean the same line; `old_readers`: the repository is for rpm and yum of
    a time before today's digests. `last` are the inputs of the last publication, empty for none: a key or an address
    that is not given is the last one, so that no forgotten option moves `latest` to a snapshot that clients refuse.
    `last_attestation_key` is that of the last publication in any configuration: all share the steps of the tools.
    """

    line: Line
    settings: Settings
    options: tuple[str, ...]
    old_readers: bool
    last: Mapping[str, str] = field(default_factory=dict)
    last_attestation_key: str = DEVELOPMENT

    @property
    def gpg_key(self) -> str:
        """The key to sign with, as `signing.open_signer` takes it."""
        key = self.settings.gpg_key or self.last.get("gpg-key", DEVELOPMENT)
        return "" if key == DEVELOPMENT else key

    @property
    def attestation_key(self) -> str:
        """The key to sign statements with, as `attestation_key.open_key` takes it."""
        key = self.settings.attestation_key or self.last_attestation_key
        return "" if key == DEVELOPMENT else key

    @property
    def baseurl(self) -> str:
        """The address that the .repo files name."""
        return self.settings.baseurl or self.last.get("baseurl", PLACEHOLDER)

    @property
    def small(self) -> bool:
        """Whether kernels get the small configuration."""
        return self.settings.kernel_config == "small"

    @property
    def directory(self) -> str:
        """The line's directory in the repository."""
        return directory_of(self.line.name, small=self.small)

    def step(self, needs: Sequence[str]) -> Step:
        """Return the step that publishes what the steps `needs` made; with `sign-later` one that leaves it unsigned."""
        if self.settings.sign_later:
            return Step(UNSIGNED, self._leave_unsigned, self._inputs(), tuple(needs), (__name__,), local=True)
        inputs = {**self._inputs(), "gpg-key": self.gpg_key or DEVELOPMENT}
        return Step(PUBLISH, self._publish, inputs, tuple(needs), (__name__,), local=True)

    def signing_step(self, path: Path, verified: Verified) -> Step:
        """Return the step that signs and publishes the verified unsigned snapshot `path`."""
        inputs = {**self._inputs(), "gpg-key": self.gpg_key or DEVELOPMENT, "unsigned": path.resolve().name}

        def sign(work: Work) -> None:
            work.stated.update(verified.stated)
            key = self._public_attestation_key()
            beside = {name: data for name, data in verified.beside.items() if name != f"{HOST_KEYS}/{key.id}.pem"}
            self._publish_contents(work, verified.document.contents(path, key), beside)

        return Step(PUBLISH, sign, inputs, (), (__name__,), local=True)

    def _inputs(self) -> dict[str, object]:
        return {
            "line": self.line.label,
            "notice": self.line.notice,
            "attestation-key": self.attestation_key or DEVELOPMENT,
            "baseurl": self.baseurl,
            "small": self.small,
            "old-readers": self.old_readers,
        }

    def is_certain(self) -> bool:
        """Return whether a run publishes with a person's key, as far as that is known before its plan is."""
        from pipeline.publish import signers

        settings = self.settings
        if (
            not self.gpg_key
            or settings.sign_later
            or settings.dry_run
            or (settings.only and PUBLISH not in settings.only)
        ):
            return False
        return PUBLISH in settings.force or not signers.recorded_fingerprint(settings.artifacts, self.directory)

    def try_key(self) -> None:
        """Sign now, so that an unusable key is reported before hours of building."""
        from pipeline.publish import signing

        with signing.open_signer(self.gpg_key, self.settings.artifacts / "keys"):
            pass

    def _publish(self, work: Work) -> None:
        self._publish_contents(work, self._contents(work), self._statements(work))

    def _leave_unsigned(self, work: Work) -> None:
        path = unsigned_snapshots.write(
            self.settings.artifacts / UNSIGNED, self._contents(work), self._statements(work)
        )
        write_atomic(work.out / "id", f"{path.name}\n")
        work.elsewhere.append(path)

    def _publish_contents(self, work: Work, wanted: Contents, statements: Mapping[str, bytes]) -> None:
        """Publish; `statements` are files to write beside the snapshot, by name."""
        from pipeline.audit import sbom
        from pipeline.publish import signers, signing, snapshot

        artifacts = self.settings.artifacts
        with signing.open_signer(self.gpg_key, artifacts / "keys") as signer:
            made = snapshot.make_snapshot(wanted, signer, artifacts / "repo")
        signers.record(artifacts, wanted.directory, made.fingerprint)
        work.facts.snapshot = Published(
            made.id, made.path, made.latest, made.fingerprint, made.development, self.baseurl
        )
        beside = snapshot.attestations(made.path)
        copies = [beside / name for name in statements]
        for copy, data in zip(copies, statements.values(), strict=True):
            write_atomic(copy, data)
        bills = sbom.publish(made.path, beside)
        record = signers.record_path(artifacts, wanted.directory)
        work.elsewhere.extend([made.path, record, *copies, bills])
        work.statements.append(beside / statement_name(PUBLISH))

    def _statements(self, work: Work) -> dict[str, bytes]:
        """Return the statements of the steps that made the packages, by their names beside a snapshot.

        With them the public keys of the other hosts that made some.
        """
        from pipeline.publish import attestation_key

        others = attestation_key.trusted(self.settings.shared_keys)
        signers = sorted({work.records[name].attested for name in work.needs} & others.keys())
        keys = {f"{HOST_KEYS}/{signer}.pem": others[signer] for signer in signers}
        attested = {name: out for name, out in work.needs.items() if work.records[name].attested}
        return keys | {
            statement_name(name): read_limited(out.parent / STATEMENT, documents.MOST) for name, out in attested.items()
        }

    def _public_attestation_key(self) -> PublicKey:
        from pipeline.publish import attestation_key

        return attestation_key.open_key(self.attestation_key, self.settings.artifacts / "keys").public

    def _contents(self, work: Work) -> Contents:
        """Return which package goes into which set: a role's kernel, and what that role needs beside it."""
        from pipeline.publish.snapshot_contents import Contents

        data = self.line.data
        tools = [package for name in _TOOLS for package in self._built(work, name)]
        patched = (RoleName.DIRECTOR, RoleName.REALSERVER)
        roles = {role: self._built(work, "role-packages", f"lvs-fnat-{role}") for role in patched}
        # A role's package requires the packages that make the role: without them no set can install it.
        alone = [rpm for role, built in roles.items() if not data.packages_of(role) for rpm in built]
        beside = {
            RoleName.DIRECTOR: [*tools, *roles[RoleName.DIRECTOR]],
            RoleName.REALSERVER: roles[RoleName.REALSERVER],
            RoleName.STOCK: [*tools, *alone],
        }
        kernels = {role: self._built(work, f"kernel:{data.kernel_of(role)}") for role in data.roles}
        own = {
            role: [rpm for name in data.packages_of(role) for rpm in self._built(work, f"{MODULES_STEP}:{name}")]
            for role in data.roles
        }
        return Contents(
            line=self.line.name,
            label=self.line.label,
            sets={role.value: [*kernels[role], *own[role], *beside[role]] for role in data.roles},
            notice=self.line.notice,
            old_readers=self.old_readers,
            small=self.small,
            baseurl=self.baseurl,
            attestation=self._public_attestation_key(),
        )

    def _built(self, work: Work, step: str, prefix: str = "") -> list[BuiltPackage]:
        """Return the packages of a step by its record, whatever lies in its directory."""
        from pipeline.publish.snapshot_contents import BuiltPackage

        if step not in work.records:
            return []
        made = work.records[step]
        small = self.small and step.startswith("kernel:")
        rebuild = next_command.command("build-all", ["--force", step], self.options)
        return [
            BuiltPackage(work.needs[step] / name, step, small, entry.content, made.key, rebuild)
            for name, entry in sorted(made.output.items())
            if PurePosixPath(name).match(f"rpms/{prefix}*.rpm")
        ]


def last_publications(runner: Scheduler, *, small: bool) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return the inputs of the newest publication in this configuration, and in any; empty for none."""
    records = sorted(runner.records(PUBLISH), key=lambda record: record.begun, reverse=True)
    inputs = [record.inputs for record in records]
    own = (each for each in inputs if each.get("small") == json.dumps(small))
    return next(own, {}), next(iter(inputs), {})
