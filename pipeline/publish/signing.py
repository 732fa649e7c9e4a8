"""Sign packages and files, and verify all signatures with rpmkeys and gpgv.

A signature bears the package's build time, or the key's creation time where that is later: the same package
signed by the same key gives the same bytes (with the same gpg and rpm). Not reproducible: a key itself, and
therefore everything signed by another development key.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import neutral, process
from pipeline.core.fs import copy_hashed, read_limited, write_atomic
from pipeline.errors import Refused
from pipeline.formats import rpm_header
from pipeline.publish import el6_compat, keys
from pipeline.publish.keys import GnuPG, SigningKey
from pipeline.sources import openpgp

_MAX_SIGNATURE = 1 << 20  # bytes; one has some hundred

Check = Callable[[Path], openpgp.Signature]


@dataclass(frozen=True)
class UnsignedPackage:
    """A package to sign: the file, its required SHA-256, and the command that rebuilds the package."""

    path: Path
    sha256: str
    rebuild_command: str = ""

    def check(self, actual: str) -> None:
        """Raise `Refused` where the file's digest, `actual`, is another."""
        if actual != self.sha256:
            raise Refused(
                f"{self.path.name}: not the package that was built; expected SHA-256 {self.sha256}, got {actual}",
                where=str(self.path),
                why="only packages that a step built and checked are signed",
                hint=self.rebuild_command,
            )


@dataclass(frozen=True)
class SignedPackage:
    """A signed package: its path, its headers, and the digest of all but the signatures."""

    path: Path
    package: rpm_header.RpmFile
    body_sha256: str


@contextlib.contextmanager
def open_signer(gpg_key: str, directory: Path) -> Iterator[Signer]:
    """Open a signer with the key of the setting `gpg-key`; `directory` is <artifacts>/keys.

    Empty means the development key. Raises `UsageError` for a missing key and `Refused` for an unusable one.
    Removes the private home and ends its gpg-agent afterwards.
    """
    with keys.open_key(gpg_key, directory) as (key, gnupg):
        yield Signer(key, gnupg)


@dataclass(frozen=True)
class Signer:
    """A signer with one key, for as long as `open_signer` lasts."""

    key: SigningKey
    gnupg: GnuPG

    def sign(self, rpms: Sequence[Path | UnsignedPackage], into: Path) -> list[SignedPackage]:
        """Write signed copies of `rpms` to the new directory `into`, in the same order; the inputs stay unchanged.

        A copy is named by its header and hashed while its bytes are copied. Raises `Refused` where the digest is not
        the one of `UnsignedPackage`, and unless every copy is then signed by this key, over the header and over
        header and payload, and otherwise unchanged.
        """
        into.mkdir()
        with openpgp.rpm_checker([self.key.public]) as check:
            return [self._sign(rpm, into, check) for rpm in rpms]

    def sign_detached(self, file: Path, when: int) -> Path:
        """Write the detached armored signature of `file` to `<file>.asc`, with `when` as its time."""
        words = ("--digest-algo", "sha256", "--local-user", self._key_id, "--armor", "--detach-sign")
        signed = self.gnupg(*self._time_option(when), *words, stdin=file.read_bytes())
        signature = file.with_name(f"{file.name}.asc")
        write_atomic(signature, signed.out)
        check_detached(file, signature, self.key.public)
        return signature

    @property
    def _key_id(self) -> str:
        return f"{self.key.fingerprint}!"  # this very key, no subkey: rpm 4.8 knows none

    def _time_option(self, when: int) -> tuple[str, str]:
        """Return gpg's option for a signature's time: `when`, within the key's creation and the present."""
        return "--faked-system-time", f"{min(max(when, self.key.created), int(time.time()))}!"

    def _sign(self, rpm: Path | UnsignedPackage, into: Path, check: Check) -> SignedPackage:
        source = rpm if isinstance(rpm, Path) else rpm.path
        copy = into / ".unsigned"
        digest = copy_hashed(source, copy)
        if isinstance(rpm, UnsignedPackage):
            rpm.check(digest)
        try:
            package = rpm_header.read(copy)
        except Refused as error:
            error.where = str(source)
            raise
        body = rpm_header.body_sha256(copy, package)
        target = into / package.file_name
        if target.exists():
            raise Refused(
                f"{package.file_name}: two packages of this name; expected one",
                where=str(source),
                why="a set of packages is one directory: the second file would replace the first",
                hint=neutral.command(["rpm", "-qip", source]),
            )
        copy.rename(target)
        self._rpmsign(target, package.build_time)
        signed = rpm_header.read(target)
        self._prove(target, signed, check)
        if rpm_header.body_sha256(target, signed) != body:
            raise Refused(
                f"{target.name}: changed by rpmsign; expected the same header and payload",
                where=str(source),
                why="a signature must not change what is installed",
                hint=neutral.command(["rpmkeys", "--checksig", "-v", source]),
            )
        os.utime(target, (package.build_time, package.build_time))
        target.chmod(0o444)
        return SignedPackage(target, signed, body)

    def _rpmsign(self, target: Path, when: int) -> None:
        macros = {
            "__gpg": self.gnupg.program,  # rpm's own guess is a gpg2 that Debian does not have
            "_gpg_path": openpgp.escaped(self.gnupg.home.absolute()),
            "_gpg_name": self._key_id,
            "_gpg_digest_algo": "sha256",
            "_gpg_sign_cmd_extra_args": " ".join((*self.gnupg.options, *self._time_option(when))),
        }
        defined = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
        with openpgp.private_home() as home:  # a person's own macros could sign otherwise, or not at all
            env = {**self.gnupg.environment, "HOME": str(home)}
            base = ["rpmsign", "--addsign", "--rpmv3", "--dbpath", openpgp.escaped(home / "rpmdb")]
            self.gnupg.prepare()
            # By its name, which `rpmheader` let through: rpm expands macros in a path.
            process.run([*base, *defined, target.name], env=env, cwd=target.parent)

    def _prove(self, target: Path, signed: rpm_header.RpmFile, check: Check) -> None:
        why = "; ".join(el6_compat.signature_problems(signed, self.key.id))
        try:
            check(target)
        except Refused as error:
            why = error.why
        if why:
            what = f"{target.name}: not signed although rpmsign reported no error; expected signatures by {self.key.id}"
            raise Refused(what, where=str(target), why=why, hint="./inv doctor")


def check_detached(file: Path, signature: Path, key: openpgp.PublicKey) -> None:
    """Raise `Refused` unless `signature` is a good one over `file`, by `key`, which was valid at the time."""
    try:
        packets = read_limited(signature, _MAX_SIGNATURE)
        with file.open("rb") as signed:
            openpgp.check_detached(packets, signed, key, file)
    except OSError as error:
        raise Refused(
            f"the signature of {file.name}: cannot be checked; expected {signature.name} beside the file",
            where=str(file),
            why=f"{error.filename}: {error.strerror}",
            hint="`./inv build-all` publishes a whole snapshot",
        ) from None
