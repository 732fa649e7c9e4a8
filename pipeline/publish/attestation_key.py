"""Open the attestation key, ECDSA P-256, that statements are signed with: of a file, or a development key created here.

A key of its own, apart from the OpenPGP key: what OpenPGP signs in an envelope verifies nowhere else, and ECDSA P-256
everywhere. Its public half is a file of each snapshot, which the OpenPGP signature covers. Its secret half is read by
this program alone, in <artifacts>/keys or where its owner keeps it, and no sandbox has a mount of either.

<artifacts>/keys/attestation/{secret.pem,public.pem,README}   the development key
<artifacts>/keys/attestation-keys/<sha256>                    the public half of a key, by the digest of its file
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import faults, neutral
from pipeline.core.disk_space import writing
from pipeline.core.fs import atomic, read_limited, scratch, write_atomic
from pipeline.core.locks import locked
from pipeline.errors import HostLacks, Refused, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DEVELOPMENT = "lvs-fullnat-development"
CURVE = "secp256r1"
MOST = 1 << 16  # bytes of a key's file
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----\s([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*")
_MAKE = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out attestation.pem"
_README = """LVS FULLNAT development attestation key (NOT for production)

Made by this tool on first use, without a passphrase. Whoever can read this directory can sign statements with it:
never trust them outside a test machine. For anything else set `attestation-key` to the file of a key of your own.
"""


@dataclass(frozen=True)
class PublicKey:
    """The public half of an attestation key, in PEM."""

    pem: bytes
    development: bool

    @property
    def id(self) -> str:
        """The SHA-256 of the key in DER: what envelopes name as `keyid`."""
        return key_id(self.pem)

    @property
    def name(self) -> str:
        """The key's name in files."""
        return DEVELOPMENT if self.development else f"lvs-fullnat-{self.id[:8]}"


@dataclass(frozen=True)
class AttestationKey:
    """An attestation key whose secret half is in the file `secret`."""

    public: PublicKey
    secret: Path

    def sign(self, data: bytes) -> bytes:
        """Return the ECDSA signature over SHA-256 of `data`, in DER."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        return _secret_key(self.secret, _read(self.secret)).sign(data, ec.ECDSA(hashes.SHA256()))


def key_id(pem: bytes) -> str:
    """Return the id of a public key in PEM, and nothing else. Raises `ValueError` for anything but one."""
    found = _PEM.fullmatch(pem)
    if found is None:
        raise ValueError("no public key in PEM")
    return hashlib.sha256(base64.b64decode(found[1])).hexdigest()


def verify(pem: bytes, signature: bytes, data: bytes) -> bool:
    """Tell whether `signature`, in DER, is by the public key `pem` over `data`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = serialization.load_pem_public_key(pem)
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != CURVE:
        return False
    try:
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def trusted(directory: Path | None) -> dict[str, bytes]:
    """Return by id the public keys of the files *.pem in the directory of the setting `shared-keys`.

    Raises `UsageError` for a directory or a file that is none of that.
    """
    if directory is None:
        return {}
    hint = "openssl pkey -in attestation.pem -pubout -out NAME.pem"
    if not directory.is_dir():
        what = "shared-keys: expected a directory of public attestation keys"
        raise UsageError(what, where=str(directory), why="results that other hosts share count by these", hint=hint)
    found = {}
    for file in sorted(directory.glob("*.pem")):
        try:
            pem = read_limited(file, MOST)
            found[key_id(pem)] = pem
        except (OSError, ValueError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            what = f"shared-keys: {problem}; expected the public half of an attestation key, ECDSA P-256 in PEM"
            raise UsageError(what, where=str(file), hint=hint) from None
    return found


def known(setting: str, directory: Path) -> PublicKey | None:
    """Return the public half of the key of the setting `attestation-key`; None for a development key not made yet.

    Empty means the development key. `directory` is <artifacts>/keys. Raises `UsageError` for a missing key and
    `Refused` for an unusable one.
    """
    if not setting:
        public = directory / "attestation" / "public.pem"
        return PublicKey(_read(public), True) if public.exists() else None
    file = Path(setting).expanduser()
    data = _read(file)
    kept = directory / "attestation-keys" / hashlib.sha256(data).hexdigest()
    with contextlib.suppress(OSError, ValueError):  # so that a run with nothing to sign loads no cryptography
        pem = read_limited(kept, MOST)
        key_id(pem)
        return PublicKey(pem, False)
    pem = _public_pem(_secret_key(file, data))
    with writing(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept.parent.mkdir(exist_ok=True)
        write_atomic(kept, pem)
    return PublicKey(pem, False)


def open_key(setting: str, directory: Path) -> AttestationKey:
    """Return the key of the setting `attestation-key`, a development key made on first use. Raises as `known` does."""
    secret = Path(setting).expanduser() if setting else _development(directory)
    data = _read(secret)
    return AttestationKey(PublicKey(_public_pem(_secret_key(secret, data)), not setting), secret)


def _read(file: Path) -> bytes:
    try:
        return read_limited(file, MOST)
    except OSError as error:
        raise UsageError(
            f"the attestation key: {error.strerror}; expected the file of a key",
            where=str(file),
            why="attestation-key is the path of a secret key, ECDSA P-256 in PEM, without a passphrase",
            hint=_MAKE,
        ) from None


def _secret_key(file: Path, data: bytes) -> EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(file, "not read", "the file is no secret key in PEM") from error
    except TypeError:
        raise _unusable(
            file, "has a passphrase", "a night signs without a person; protect the file by its mode"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != CURVE:
        got = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__
        raise _unusable(file, f"another kind, {got}", "openssl and sigstore's verifiers take ECDSA P-256 alike")
    return key


def _unusable(file: Path, what: str, why: str) -> Refused:
    what = f"the attestation key: {what}; expected an ECDSA P-256 key in PEM without a passphrase"
    return Refused(what, where=str(file), why=why, hint=_MAKE)


def _public_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _development(directory: Path) -> Path:
    """Return the file of the development key's secret half, created on first use."""
    file = directory / "attestation" / "secret.pem"
    if not file.exists():
        with writing(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(directory / ".attestation.lock"):
                if not file.exists():
                    _make_development(directory, file.parent)
    return file


def _make_development(directory: Path, place: Path) -> None:
    """Create the development key in a scratch directory and rename it into place."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    with scratch(directory, ".making-attestation-") as scratched:
        staging = scratched / place.name
        staging.mkdir(mode=0o700)
        with atomic(staging / "secret.pem", 0o600) as stream:
            stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        write_atomic(staging / "public.pem", _public_pem(key))
        write_atomic(staging / "README", _README)
        faults.point("attestation-key.before-rename")
        try:
            staging.rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise HostLacks(
                f"{place.name}: occupied; expected nothing there but the development attestation key",
                where=str(place),
                why="the development attestation key is created in this directory",
                hint=neutral.command(["mv", place, f"{place}.old"]),
            ) from None
