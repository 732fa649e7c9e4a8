"""Verify RPM signatures with OpenPGP keys pinned by full fingerprint.

A key may come from anywhere, since its fingerprint is what is trusted. rpm knows of a signature only whether it is
right; whether its key was good for it then is `keystate`'s, by gpgv. Nothing of the person's own GnuPG or RPM
configuration is read or changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.core import process, temporary
from pipeline.errors import HostLacks, Refused
from pipeline.formats import rpm_header, rpm_lead
from pipeline.formats.rpm_header import SignatureTag
from pipeline.sources import key_state
from pipeline.sources.key_state import Block, Part, Verdict

if TYPE_CHECKING:
    from pipeline.config.line_model import Key

_STAMP = "%|RSAHEADER?{%{RSAHEADER:pgpsig}}:{%|DSAHEADER?{%{DSAHEADER:pgpsig}}:{%{SIGPGP:pgpsig}}|}|"  # rpm's own text
MOST = 16 << 20  # bytes of key material; Debian's whole keyring has 0.1 MiB


@dataclass(frozen=True)
class PublicKey:
    """A key with the pinned fingerprint. `expired` and `sha1` are the line file's exceptions for it."""

    name: str
    block: Block
    armor: bytes
    expired: date | None = None
    sha1: bool = False

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the primary key."""
        return self.block.fingerprint


@dataclass(frozen=True)
class Signature:
    """A verified signature: key, time, and the sentence for evidence.

    `made` is rpm's text, `when` the signature's own time, `expires` when its key's validity ends.
    """

    signer: str
    fingerprint: str
    made: str
    sentence: str
    when: datetime
    expires: datetime | None


def public_key(name: str, key: Key, *material: bytes) -> PublicKey:
    """Return the key with `key`'s fingerprint from `material`, which may hold others, armored or not.

    What several materials say of it is put together: one may know of a revocation that another does not. Raises
    `Refused` when it is in none.
    """
    with private_home() as home:
        gpg = _gpg(home)
        # Status 2 also stands for one unusable key among good ones, and for a home whose name is too
        # long for an agent's socket; what was imported is looked at.
        for one in material:
            process.run([*gpg, "--import"], stdin=one, accept=(0, 2))
        listed = process.run([*gpg, "--with-colons", "--check-sigs"]).text
        found = {block.fingerprint: block for block in key_state.blocks(listed)}
        block = found.get(key.fingerprint)
        if block is None:
            raise Refused(
                f"the key {name} was not found",
                why=f"wanted {key.fingerprint}, had {', '.join(found) or 'no key at all'}",
            )
        armor = process.run([*gpg, "--armor", "--export", key.fingerprint]).out
    return PublicKey(name, block, armor, key.expired, key.sha1)


def fingerprints(material: bytes) -> list[str]:
    """Return the full fingerprints of the public or secret keys in `material`."""
    with private_home() as home:
        argv = [*_gpg(home), "--with-colons", "--show-keys"]
        listed = process.run(argv, stdin=material, accept=(0, 2)).text  # 2: there is no key in it
        return [block.fingerprint for block in key_state.blocks(listed)]


def keyring(keys: Sequence[PublicKey]) -> bytes:
    """Return the keys as one binary keyring for apt and gpgv."""
    with private_home() as home:
        return b"".join(process.run([*_gpg(home), "--dearmor"], stdin=key.armor).out for key in keys)


def check_rpm(rpm: Path, keys: Sequence[PublicKey]) -> Signature:
    """Verify header, payload and signature of `rpm` with `keys` only.

    Raises `Refused` for an unsigned, damaged or foreign-signed file.
    """
    with rpm_checker(keys) as check:
        return check(rpm)


@contextlib.contextmanager
def rpm_checker(keys: Sequence[PublicKey], *, digests: bool = True) -> Iterator[Callable[[Path], Signature]]:
    """Return `check_rpm` for many files, with one key database of `keys` alone; for several threads.

    Without `digests` rpm verifies signatures alone, which takes a quarter of the time, and `made` is empty: for callers
    that verify a package's own digests themselves.
    """
    with private_home() as home:
        env = process.clean_environment(HOME=str(home))  # a person's macros could soften the check
        base = ["--dbpath", escaped(home / "rpmdb")]
        process.run(["rpm", *base, "--initdb"], env=env)
        for key in keys:
            _import(home / "key.asc", key, base, env)
        ring = home / "ring.gpg"
        ring.write_bytes(keyring(keys))
        # Without this level rpmkeys calls an unsigned package fine.
        how = ["_pkgverify_level all"] if digests else ["_pkgverify_level signature", "--nodigest"]
        verify = ["rpmkeys", *base, "--define", *how, "-Kv", "-"]
        query = ["rpm", *base, "--nosignature", "--nomanifest", "-qp", "--qf", _STAMP, "-"] if digests else []
        yield lambda rpm: _check(rpm, keys, ring, env, verify, query)


def _check(
    rpm: Path,
    keys: Sequence[PublicKey],
    ring: Path,
    env: Mapping[str, str],
    verify: Sequence[str],
    query: Sequence[str],
) -> Signature:
    with rpm_lead.opened(rpm) as stream:
        verified = process.run(verify, env=env, stdin=stream, accept=range(256))
    stamp = ""
    if query:
        with rpm_lead.opened(rpm) as stream:
            stamp = process.run(query, env=env, stdin=stream, accept=range(256)).text
    lines = [line.strip() for line in verified.text.splitlines()[1:]]
    signed = [line for line in lines if "ignature" in line and line.endswith(": OK")]
    if verified.status != 0 or not signed or not all(line.endswith(": OK") for line in lines):
        raise Refused(
            "the package's signature or digests are not good",
            where=str(rpm),
            why="; ".join(lines) or verified.error_text.strip() or "no output of rpmkeys",
            hint="fetch it from another place, or name its signer's key in a line file of your own (docs/lines.md)",
        )
    key, part, when = _signer(rpm, keys, ring)
    sentence, expires = _sentence(key, part, when), key.block.expires(part)
    return Signature(key.name, key.fingerprint, stamp.partition(", Key ID")[0], sentence, when, expires)


def _import(path: Path, key: PublicKey, base: Sequence[str], env: Mapping[str, str]) -> None:
    path.write_bytes(_for_rpm(key))
    try:
        process.run(["rpmkeys", *base, "--import", path.name], env=env, cwd=path.parent)
    except process.ProgramFailed as error:
        raise HostLacks(
            f"this host's rpm does not take the key {key.name}",
            why=f"{error.what}; newer rpm refuses keys that expired or were certified with SHA-1",
            hint="run this step on a host with rpm 4.18 or older, or under `rpmkeys` built without sequoia",
        ) from None


def _for_rpm(key: PublicKey) -> bytes:
    """Return the key without revocations of subkeys, since rpm 4.18 refuses a key with one.

    It judges no revocation at all; gpgv does, with the whole key.
    """
    if not any(part.revocations for part in key.block.parts[1:]):
        return key.armor
    with private_home() as home:
        gpg = _gpg(home)
        whole = process.run([*gpg, "--dearmor"], stdin=key.armor).out
        kept = b"".join(packet for packet in _packets(whole) if not _revokes_subkey(packet))
        process.run([*gpg, "--import"], stdin=kept, accept=(0, 2))
        return process.run([*gpg, "--armor", "--export", key.fingerprint]).out


def _packets(material: bytes) -> Iterator[bytes]:
    """Yield each packet of a key that gpg has exported, with its header (RFC 4880, 4.2)."""
    while material:
        if not material[0] & 0x40:  # the old format; gpg writes no length that is left open
            start = 1 + (1 << (material[0] & 3))
            size = int.from_bytes(material[1:start])
        elif (first := material[1]) < 192:
            start, size = 2, first
        elif first < 255:
            start, size = 3, ((first - 192) << 8) + material[2] + 192
        else:
            start, size = 6, int.from_bytes(material[2:6])
        yield material[: start + size]
        material = material[start + size :]


def _revokes_subkey(packet: bytes) -> bool:
    """Return whether a packet is a subkey revocation, type 0x28 (RFC 4880, 5.2.1)."""
    if packet[0] & 0x40:
        return False  # gpg writes signatures in the old format
    start = 1 + (1 << (packet[0] & 3))
    return (packet[0] >> 2 & 15) == 2 and packet[start : start + 2] == b"\x04\x28"


_By = tuple[PublicKey, Part, datetime]
_OVER_HEADER = (SignatureTag.RSA_HEADER, SignatureTag.DSA_HEADER)
_OVER_ALL = (SignatureTag.PGP, SignatureTag.GPG)


def _signer(rpm: Path, keys: Sequence[PublicKey], ring: Path) -> _By:
    """Return signer and time of the package's first signature; gpgv judges all of them."""
    package = rpm_header.read(rpm)
    found = []
    for tag in (*_OVER_HEADER, *_OVER_ALL):
        if signature := package.signature.binary(tag):
            with rpm.open("rb", buffering=0) as stream:
                stream.seek(package.body_offset)
                signed = stream.read(package.header_size) if tag in _OVER_HEADER else stream
                found.append(_the_one(gpgv(signature, signed, keys, ring), rpm))
    if not found:
        raise Refused("the package bears no signature", where=str(rpm))
    if len({part for _, part, _ in found}) > 1:
        raise Refused("the package's signatures are by different keys", where=str(rpm))
    return found[0]


def gpgv(
    signature: bytes, signed: bytes | IO[bytes], keys: Sequence[PublicKey], ring: Path
) -> list[Verdict[PublicKey]]:
    """Return the verdict of each OpenPGP signature in `signature` over `signed`, with `keys` in `ring`."""
    with private_home() as home:
        file = home / "signature"
        file.write_bytes(signature)
        argv = ["gpgv", "--homedir", str(home), "--keyring", str(ring), "--status-fd", "1", str(file), "-"]
        return key_state.verdicts(process.run(argv, stdin=signed, accept=range(256)).text, keys)


def check_detached(signature: bytes, signed: bytes | IO[bytes], key: PublicKey, where: Path) -> None:
    """Raise `Refused` unless `key` signed, and was good for that at the time."""
    with private_home() as home:
        ring = home / "ring.gpg"
        ring.write_bytes(keyring([key]))
        _the_one(gpgv(signature, signed, [key], ring), where)


def _the_one(found: Sequence[Verdict[PublicKey]], where: Path) -> _By:
    """Return the verdict of the only signature. Raises `Refused` for a bad one, for none and for several."""
    if len(found) == 1 and found[0].by:
        return found[0].by
    why = "; ".join(verdict.problem for verdict in found if verdict.problem)
    raise Refused(
        "the signature is not good",
        where=str(where),
        why=why or f"expected one signature, got {len(found)}",
        hint="docs/trust.md says how a key is judged",
    )


def _sentence(key: PublicKey, part: Part, when: datetime) -> str:
    """Return evidence's sentence about a good signature and the later state of its key."""
    pieces = dict.fromkeys((part, key.block.parts[0]))
    since = [f"{key.block.called(piece)} {item}" for piece in pieces for item in piece.revocations]
    since += [
        f"{key.block.called(piece)} expired on {piece.expires:%Y-%m-%d}"
        for piece in pieces
        if piece.expires and piece.expires <= datetime.now(UTC)
    ]
    later = f" of {when:%Y-%m-%d}, and {' and '.join(since)}" if since else ""
    return f"good signature by {key.name} ({key.fingerprint}){later}"


def _gpg(home: Path) -> list[str]:
    # An agent is of no use without secret keys; started all the same it would outlive us.
    return ["gpg", "--homedir", str(home), "--no-autostart", "--batch", "--no-tty", "--quiet"]


def escaped(path: Path) -> str:
    """Escape a path for the value of an rpm macro: `%` begins a macro, which may run a program."""
    return str(path).replace("%", "%%")


@contextlib.contextmanager
def private_home() -> Iterator[Path]:
    """Yield a home for GnuPG and rpm without anybody's settings."""
    with temporary.scratch("home-") as directory:
        try:
            yield directory
        finally:
            if (directory / "pubring.kbx").exists():
                # Where there is a /run/user/<uid>, `gpg --import` makes a directory for an agent's sockets there.
                process.run(["gpgconf", "--homedir", directory, "--remove-socketdir"], accept=range(256))
