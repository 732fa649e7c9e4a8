"""OpenPGP keys pinned by full fingerprint, and signatures of RPMs checked against them.

A key may come from anywhere, since its fingerprint is what is trusted. A good signature by an
expired key is accepted and said: CentOS 6 was signed while the key was valid. Nothing of the
person's own GnuPG or RPM configuration is read or changed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline import process, temporary
from pipeline.errors import HostLacks, Refused
from pipeline.lines import Key
from pipeline.sources import rpmlead

MOST = 16 << 20  # bytes of key material; Debian's whole keyring has 0.1 MiB


@dataclass(frozen=True)
class PublicKey:
    """A key that bears the pinned fingerprint. `ids` are the long key ids that may sign for it."""

    name: str
    fingerprint: str
    ids: tuple[str, ...]
    expires: datetime | None
    armor: bytes

    @property
    def expired(self) -> bool:
        """Whether its validity has ended by now."""
        return self.expires is not None and self.expires < datetime.now(UTC)


@dataclass(frozen=True)
class Signature:
    """A signature found good: by which key, when, and the sentence that evidence repeats."""

    signer: str
    fingerprint: str
    made: str
    said: str


def public_key(name: str, key: Key, material: bytes) -> PublicKey:
    """The key of `key`'s fingerprint out of `material`, which may hold others and be armored or not.

    Raises `Refused` when it is not among them.
    """
    with private_home() as home:
        gpg = _gpg(home)
        # Status 2 also stands for one unusable key among good ones, and for a home whose name is too
        # long for an agent's socket; what was imported is looked at.
        process.run([*gpg, "--import"], stdin=material, accept=(0, 2))
        listed = process.run([*gpg, "--with-colons", "--list-keys"]).text
        found = {block.fingerprint: block for block in _blocks(listed)}
        block = found.get(key.fingerprint)
        if block is None:
            raise Refused(
                f"the key {name} was not found",
                why=f"wanted {key.fingerprint}, had {', '.join(found) or 'no key at all'}",
            )
        armor = process.run([*gpg, "--armor", "--export", key.fingerprint]).out
    return PublicKey(name, key.fingerprint, block.ids, block.expires, armor)


def fingerprints(material: bytes) -> list[str]:
    """The full fingerprints of the public or secret keys in `material`."""
    with private_home() as home:
        argv = [*_gpg(home), "--with-colons", "--show-keys"]
        listed = process.run(argv, stdin=material, accept=(0, 2)).text  # 2: there is no key in it
        return [block.fingerprint for block in _blocks(listed)]


def keyring(keys: Sequence[PublicKey]) -> bytes:
    """The keys as one binary keyring, as apt and gpgv read it."""
    with private_home() as home:
        return b"".join(process.run([*_gpg(home), "--dearmor"], stdin=key.armor).out for key in keys)


def check_rpm(rpm: Path, keys: Sequence[PublicKey]) -> Signature:
    """Checks header, payload and signature of `rpm` against `keys` only.

    Raises `Refused` for an unsigned, damaged or foreign-signed file.
    """
    with rpm_checker(keys) as check:
        return check(rpm)


@contextlib.contextmanager
def rpm_checker(keys: Sequence[PublicKey]) -> Iterator[Callable[[Path], Signature]]:
    """`check_rpm` for many files: the database that holds `keys` alone is made once."""
    with private_home() as home:
        env = process.clean_environment(HOME=str(home))  # a person's macros could soften the check
        base = ["--dbpath", escaped(home / "rpmdb")]
        process.run(["rpm", *base, "--initdb"], env=env)
        for key in keys:
            _import(home / "key.asc", key, base, env)
        yield lambda rpm: _check(rpm, keys, base, env)


def _check(rpm: Path, keys: Sequence[PublicKey], base: Sequence[str], env: Mapping[str, str]) -> Signature:
    # Without this level rpmkeys calls an unsigned package fine.
    check = ["rpmkeys", *base, "--define", "_pkgverify_level all", "-Kv", "-"]
    with rpmlead.opened(rpm) as stream:
        said = process.run(check, env=env, stdin=stream, accept=range(256))
    query = "%|RSAHEADER?{%{RSAHEADER:pgpsig}}:{%|DSAHEADER?{%{DSAHEADER:pgpsig}}:{%{SIGPGP:pgpsig}}|}|"
    asked = ["rpm", *base, "--nosignature", "--nomanifest", "-qp", "--qf", query, "-"]
    with rpmlead.opened(rpm) as stream:
        stamp = process.run(asked, env=env, stdin=stream, accept=range(256)).text
    lines = [line.strip() for line in said.text.splitlines()[1:]]
    signed = [line for line in lines if "ignature" in line and line.endswith(": OK")]
    if said.status != 0 or not signed or not all(line.endswith(": OK") for line in lines):
        raise Refused(
            "the package's signature or digests are not good",
            where=str(rpm),
            why="; ".join(lines) or said.error_text.strip() or "rpmkeys said nothing",
            hint="fetch it from another place, or name its signer's key in a line file of your own (docs/lines.md)",
        )
    signer = _signer(signed[0], keys, rpm)
    ends = f", and the key expired on {signer.expires:%Y-%m-%d}" if signer.expires and signer.expired else ""
    sentence = f"good signature by {signer.name} ({signer.fingerprint}){ends}"
    return Signature(signer.name, signer.fingerprint, stamp.partition(", Key ID")[0], sentence)


def _import(path: Path, key: PublicKey, base: Sequence[str], env: Mapping[str, str]) -> None:
    path.write_bytes(key.armor)
    try:
        process.run(["rpmkeys", *base, "--import", path.name], env=env, cwd=path.parent)
    except process.ProgramFailed as error:
        raise HostLacks(
            f"this host's rpm does not take the key {key.name}",
            why=f"{error.what}; newer rpm refuses expired keys and keys certified with SHA-1",
            hint="run this step on a host with rpm 4.18 or older, or under `rpmkeys` built without sequoia",
        ) from None


def _signer(line: str, keys: Sequence[PublicKey], rpm: Path) -> PublicKey:
    found = re.search(r"key ID ([0-9a-f]+)", line, re.IGNORECASE)
    for key in keys:
        if found and any(key_id.endswith(found[1].upper()) for key_id in key.ids):
            return key
    raise Refused(f"rpmkeys names a signer that is none of the pinned keys: {line}", where=str(rpm))


@dataclass(frozen=True)
class _Block:
    fingerprint: str
    ids: tuple[str, ...]
    expires: datetime | None


def _blocks(colons: str) -> Iterator[_Block]:
    """Primary keys out of `gpg --with-colons` (GnuPG's doc/DETAILS: fields 5, 7 and 10)."""
    for text in re.split(r"^(?=(?:pub|sec):)", colons, flags=re.MULTILINE):
        rows = [line.split(":") for line in text.splitlines()]
        if rows and rows[0][0] in ("pub", "sec"):
            ids = tuple(row[4] for row in rows if row[0] in ("pub", "sec", "sub", "ssb"))
            fingerprint = next(row[9] for row in rows if row[0] == "fpr")
            expires = datetime.fromtimestamp(int(rows[0][6]), UTC) if rows[0][6] else None
            yield _Block(fingerprint, ids, expires)


def _gpg(home: Path) -> list[str]:
    # An agent is of no use without secret keys; started all the same it would outlive us.
    return ["gpg", "--homedir", str(home), "--no-autostart", "--batch", "--no-tty", "--quiet"]


def escaped(path: Path) -> str:
    """A path as rpm takes it for a macro's value: `%` begins a macro, which may run a program."""
    return str(path).replace("%", "%%")


@contextlib.contextmanager
def private_home() -> Iterator[Path]:
    """A home for GnuPG and rpm with nobody's settings."""
    with temporary.scratch("home-") as directory:
        try:
            yield directory
        finally:
            if (directory / "pubring.kbx").exists():
                # Where there is a /run/user/<uid>, `gpg --import` makes a directory for an agent's sockets there.
                process.run(["gpgconf", "--homedir", directory, "--remove-socketdir"], accept=range(256))
