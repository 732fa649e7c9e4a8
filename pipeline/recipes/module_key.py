"""Sign kernel modules by a person's key, outside of any sandbox, and verify such signatures by the certificate alone.

A signature is what the kernel's `scripts/sign-file` makes: a detached PKCS#7 message without certificates and signed
attributes, over SHA-256. By an RSA key it is the same bytes each time. Must not know what is built.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core import neutral, process, temporary
from pipeline.core.fs import read_limited
from pipeline.errors import PipelineError, Refused, UsageError
from pipeline.formats import module_signature

PASSPHRASE = "KBUILD_SIGN_PIN"  # the variable from which scripts/sign-file takes it
BITS = (2048, 3072, 4096)  # crypto/rsa.c: rsa_check_key_length; it has shorter ones, which are too weak
_MOST = 1 << 16  # bytes of a key or certificate
# crypto/asymmetric_keys/x509_cert_parser.c: x509_note_sig_algo, without digests that are broken or too short.
_CERTIFIED_BY = re.compile(r"sha(256|384|512)WithRSAEncryption|ecdsa-with-SHA(256|384|512)")
_PEM = r"-----BEGIN {0}-----\n[^-]+-----END {0}-----\n"
_CERTIFICATE, _PUBLIC = re.compile(_PEM.format("CERTIFICATE")), re.compile(_PEM.format("PUBLIC KEY"))


@dataclass(frozen=True)
class Certificate:
    """The X.509 certificate of a module key: the machine's administrator enrols it. `sha256` is of its DER form.

    `valid_until` is for people: the kernel does not look at it.
    """

    subject: str
    serial: str
    sha256: str
    valid_until: str
    pem: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.subject}, serial {self.serial}, SHA-256 {self.sha256}, valid until {self.valid_until}"

    def to_json(self) -> dict[str, object]:
        """Return what keys of steps and evidence hold."""
        return {name: value for name, value in vars(self).items() if name != "pem"}

    def check(self, signed: bytes, name: str) -> None:
        """Raise `Refused` unless a module bears one signature, and that by this certificate's key."""
        module, signature = module_signature.split(signed, name)
        with temporary.scratch("module-") as place:
            content, message, certificate = (place / file for file in ("module", "signature", "certificate"))
            content.write_bytes(module)
            message.write_bytes(signature)
            certificate.write_text(self.pem)
            by = ("-certfile", certificate, "-nointern", "-noverify")  # that key; who certified it is another question
            words = ("-binary", "-inform", "DER", "-in", message, "-content", content, "-out", os.devnull)
            try:
                _openssl("cms", "-verify", *by, *words)
            except process.ProgramFailed as error:
                raise Refused(
                    f"{name}: wrong signature; expected one by {self}",
                    why=f"a kernel that checks modules would not load it: {error.what}",
                ) from None


@dataclass(frozen=True)
class ModuleKey:
    """A private key that signs modules, and its certificate."""

    file: Path
    certificate: Certificate

    def sign(self, module: bytes, name: str) -> bytes:
        """Return the signed module. Raises `Refused` where it is signed already, or the key does not sign any more."""
        with temporary.scratch("module-") as place:
            signer = place / "certificate"
            signer.write_text(self.certificate.pem)
            by = ("-signer", signer, "-inkey", self.file, "-keyform", "PEM", *_passphrase())
            words = ("-binary", "-noattr", "-nocerts", "-nosmimecap", "-md", "sha256", "-outform", "DER")
            try:
                signature = _openssl("cms", "-sign", *by, *words, stdin=module)
            except process.ProgramFailed as error:
                raise Refused(f"{name}: not signed; expected a signature by module-key", why=error.what) from None
        return module_signature.append(module, signature, name)


def open_key(key: Path | None, certificate: Path | None) -> ModuleKey | None:
    """Return the key of the settings `module-key` and `module-certificate`; None where neither is set.

    Raises `UsageError` where one is missing or cannot be read, and `Refused` where they do not belong together or the
    kernel could not use them.
    """
    if key is None and certificate is None:
        return None
    if key is None or certificate is None:
        given, lacking = ("module-key", "module-certificate") if key else ("module-certificate", "module-key")
        raise UsageError(
            f"{lacking}: not set; expected it beside {given}",
            why="a module is signed by a key, and the signature names the certificate",
            hint="./inv build-all --module-key FILE --module-certificate FILE",
        )
    found, public = _certificate(certificate)
    if _public_part(key) != public:
        raise Refused(
            f"module-key: another key than that of the certificate; expected the key of {found}",
            where=str(key),
            why=f"no kernel would accept its signatures by the certificate {certificate}",
            hint=neutral.command(["openssl", "x509", "-in", certificate, "-noout", "-pubkey"]),
        )
    return ModuleKey(key, found)


def _certificate(file: Path) -> tuple[Certificate, str]:
    """Read a certificate; return it and its public key. Raises `UsageError` and `Refused`."""
    data = _read("module-certificate", file)
    form = "PEM" if b"-----BEGIN" in data else "DER"
    hint = neutral.command(["openssl", "x509", "-in", file, "-noout", "-text"])
    words = ("-inform", form, "-subject", "-serial", "-enddate", "-fingerprint", "-sha256", "-pubkey", "-text")
    try:
        text = _openssl("x509", *words, "-nameopt", "RFC2253", stdin=data).decode(errors="replace")
    except process.ProgramFailed as error:
        raise _unreadable("module-certificate", file, "an X.509 certificate, PEM or DER", error, hint) from None
    stated = dict(re.findall(r"(?m)^(subject|serial|notAfter|sha256 Fingerprint) ?= ?(.*)$", text, re.IGNORECASE)[:4])
    by_name = {name.lower(): value for name, value in stated.items()}
    algorithm, kind, bits = (
        found[1] if (found := re.search(rf"(?m)^ +{label}: \(?(\S+)", text)) else ""
        for label in ("Signature Algorithm", "Public Key Algorithm", "(?:RSA )?Public-Key")
    )
    wrong = []
    if data.count(b"-----BEGIN CERTIFICATE") > 1:
        wrong.append("the file holds several")
    if kind != "rsaEncryption" or bits not in map(str, BITS):
        wrong.append(f"its key is {kind}" + (f" of {bits} bits" if bits else ""))
    if not _CERTIFIED_BY.fullmatch(algorithm):
        wrong.append(f"it is signed by {algorithm}")
    if wrong:
        allowed = " or ".join(map(str, BITS))
        raise Refused(
            f"module-certificate: not usable; expected one certificate of an RSA key of {allowed} bits, signed over "
            f"SHA-256, SHA-384 or SHA-512 by RSA or ECDSA, got one of which {', and '.join(wrong)}",
            where=str(file),
            why="the kernel could not use it, or its signatures would not be the same each time",
            hint=hint,
        )
    pem, public = (found[0] if (found := each.search(text)) else "" for each in (_CERTIFICATE, _PUBLIC))
    digest = by_name["sha256 fingerprint"].replace(":", "").lower()
    return Certificate(by_name["subject"], by_name["serial"], digest, by_name["notafter"], pem), public


def _public_part(file: Path) -> str:
    """Return the public part of a private key. Raises `UsageError` where it cannot be read."""
    data = _read("module-key", file)
    try:
        return _openssl("pkey", "-inform", "PEM", *_passphrase(), "-pubout", stdin=data).decode()
    except process.ProgramFailed as error:
        expected, hint = "a private key, PEM", neutral.command(["openssl", "pkey", "-in", file, "-noout"])
        if b"ENCRYPTED" in data:
            expected += f", and its passphrase in the variable {PASSPHRASE}"
            hint = f"read -rs {PASSPHRASE} && export {PASSPHRASE}"
        raise _unreadable("module-key", file, expected, error, hint) from None


def _read(setting: str, file: Path) -> bytes:
    try:
        return read_limited(file, _MOST)
    except OSError as error:
        raise UsageError(
            f"{setting}: cannot be read: {error.strerror}; expected a file",
            where=str(file),
            why="kernel modules are to be signed by it",
            hint="docs/installing.md says how a module key is made",
        ) from None


def _unreadable(setting: str, file: Path, expected: str, error: PipelineError, hint: str) -> UsageError:
    return UsageError(
        f"{setting}: openssl cannot read it; expected {expected}", where=str(file), why=error.what, hint=hint
    )


def _passphrase() -> tuple[str, str]:
    """Return openssl's option for the passphrase; without it openssl would ask a terminal."""
    return "-passin", f"env:{PASSPHRASE}"


def _openssl(*words: str | Path, stdin: bytes = b"") -> bytes:
    """Run openssl without the host's configuration of it, and return its output."""
    own = {"OPENSSL_CONF": os.devnull, PASSPHRASE: os.environ.get(PASSPHRASE, "")}
    return process.run(["openssl", *words], env=process.clean_environment(**own), stdin=stdin).out
