"""Module keys and certificates as openssl makes them: what is signed by one, and which are refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import Refused, UsageError
from pipeline.formats import module_signature
from pipeline.recipes import module_key
from tests.fixtures.modulekeys import PASSPHRASE, Pair, openssl, pair

MODULE = b"\x7fELF\0vermagic=6.1 \0" + bytes(10_000)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("other"), "other")


def test_openssl_verifies_the_signature_by_the_certificate_alone(own: Pair, tmp_path: Path) -> None:
    signed = own.opened().sign(MODULE, "a.ko")
    module, message = tmp_path / "module", tmp_path / "message"
    end = len(b"~Module signature appended~\n")
    size = int.from_bytes(signed[-end - 4 : -end], "big")
    module.write_bytes(signed[: -end - 12 - size])
    message.write_bytes(signed[-end - 12 - size : -end - 12])
    assert module.read_bytes() == MODULE
    by = ("-certfile", own.certificate, "-nointern", "-CAfile", own.certificate, "-purpose", "any")
    given = ("-inform", "DER", "-in", message, "-content", module)
    assert openssl("cms", "-verify", "-binary", *given, *by) == MODULE
    shown = " ".join(openssl("cms", "-cmsout", "-print", *given[:4]).decode().split())
    assert "signedAttrs: <ABSENT>" in shown and "certificates: <ABSENT>" in shown
    assert "algorithm: sha256" in shown and "algorithm: rsaEncryption" in shown


def test_the_same_module_is_signed_with_the_same_bytes_each_time(own: Pair) -> None:
    assert own.opened().sign(MODULE, "a.ko") == own.opened().sign(MODULE, "a.ko")


def test_a_signature_counts_for_this_module_and_this_certificate_alone(own: Pair, other: Pair) -> None:
    signed = own.opened().sign(MODULE, "a.ko")
    own.opened().certificate.check(signed, "a.ko")
    with pytest.raises(Refused, match=r"a\.ko: wrong signature; expected one by CN=Key own, serial \w+, SHA-256"):
        own.opened().certificate.check(signed.replace(b"6.1", b"6.2"), "a.ko")
    with pytest.raises(Refused, match="wrong signature; expected one by CN=Key other"):
        other.opened().certificate.check(signed, "a.ko")
    with pytest.raises(Refused, match="not signed"):
        own.opened().certificate.check(MODULE, "a.ko")
    with pytest.raises(Refused, match="wrong signature"):
        own.opened().certificate.check(module_signature.append(MODULE, b"no message", "a.ko"), "a.ko")


def test_a_certificate_that_a_signature_brings_along_proves_nothing(own: Pair, other: Pair) -> None:
    by = ("-signer", other.certificate, "-inkey", other.key)
    message = openssl("cms", "-sign", "-binary", "-noattr", *by, "-outform", "DER", stdin=MODULE)
    with pytest.raises(Refused, match="wrong signature; expected one by CN=Key own"):
        own.opened().certificate.check(module_signature.append(MODULE, message, "a.ko"), "a.ko")


def test_a_module_that_is_signed_already_is_not_signed(own: Pair) -> None:
    with pytest.raises(Refused, match="signed already"):
        own.opened().sign(own.opened().sign(MODULE, "a.ko"), "a.ko")


def test_a_certificate_in_der_is_the_same_one(own: Pair, tmp_path: Path) -> None:
    der = tmp_path / "own.der"
    openssl("x509", "-in", own.certificate, "-outform", "DER", "-out", der)
    found = Pair(own.key, der).opened().certificate
    assert found == own.opened().certificate
    assert found.sha256 == hashlib.sha256(der.read_bytes()).hexdigest()


def test_an_expired_certificate_is_used_and_says_until_when_it_was_valid(own: Pair, tmp_path: Path) -> None:
    ended = tmp_path / "expired.pem"
    openssl("x509", "-in", own.certificate, "-key", own.key, "-days", "-1", "-out", ended)
    expired = Pair(own.key, ended).opened()
    expired.certificate.check(expired.sign(MODULE, "a.ko"), "a.ko")
    stated = openssl("x509", "-in", ended, "-noout", "-enddate").decode().strip().removeprefix("notAfter=")
    assert str(expired.certificate).endswith(f"valid until {stated}")


def test_without_both_settings_nothing_is_signed_and_one_alone_is_a_mistake(own: Pair) -> None:
    assert module_key.open_key(None, None) is None
    with pytest.raises(UsageError, match="module-certificate: not set; expected it beside module-key"):
        module_key.open_key(own.key, None)
    with pytest.raises(UsageError, match="module-key: not set; expected it beside module-certificate"):
        module_key.open_key(None, own.certificate)


def test_a_key_and_the_certificate_of_another_are_refused(own: Pair, other: Pair) -> None:
    with pytest.raises(Refused, match="another key than that of the certificate; expected the key of CN=Key other"):
        Pair(own.key, other.certificate).opened()


def test_an_encrypted_key_takes_its_passphrase_from_the_variable_and_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = pair(tmp_path, "locked", encrypted=True)
    monkeypatch.delenv("KBUILD_SIGN_PIN", raising=False)
    with pytest.raises(UsageError, match="its passphrase in the variable KBUILD_SIGN_PIN") as refused:
        locked.opened()
    assert refused.value.hint == "read -rs KBUILD_SIGN_PIN && export KBUILD_SIGN_PIN"
    monkeypatch.setenv("KBUILD_SIGN_PIN", "wrong")
    with pytest.raises(UsageError, match="openssl cannot read it"):
        locked.opened()
    monkeypatch.setenv("KBUILD_SIGN_PIN", PASSPHRASE)
    opened = locked.opened()
    opened.certificate.check(opened.sign(MODULE, "a.ko"), "a.ko")


@pytest.mark.parametrize(
    ("kind", "words", "problem"),
    [
        ("rsa:1024", (), "its key is rsaEncryption of 1024 bits"),
        ("rsa:2560", (), "its key is rsaEncryption of 2560 bits"),
        ("rsa:8192", (), "its key is rsaEncryption of 8192 bits"),
        ("ed25519", (), "its key is ED25519, and it is signed by ED25519"),
        ("rsa:2048", ("-sha1",), "it is signed by sha1WithRSAEncryption"),
        ("rsa:2048", ("-sigopt", "rsa_padding_mode:pss"), "it is signed by rsassaPss"),
    ],
)
def test_a_certificate_that_the_kernel_could_not_use_is_refused(
    tmp_path: Path, kind: str, words: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(Refused, match=f"module-certificate: not usable; .* got one of which {problem}"):
        pair(tmp_path, "weak", *words, kind=kind).opened()


def test_a_file_of_several_certificates_is_refused(own: Pair, other: Pair, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(own.certificate.read_bytes() + other.certificate.read_bytes())
    with pytest.raises(Refused, match="the file holds several"):
        Pair(own.key, chain).opened()


def _missing(place: Path) -> None:
    place.unlink()


def _directory(place: Path) -> None:
    place.unlink()
    place.mkdir()


def _garbage(place: Path) -> None:
    place.write_text("-----BEGIN NOTHING-----\n")


def _empty(place: Path) -> None:
    place.write_bytes(b"")


@pytest.mark.parametrize("spoil", [_missing, _directory, _garbage, _empty])
@pytest.mark.parametrize("setting", ["module-key", "module-certificate"])
def test_a_file_that_is_none_is_a_mistake_of_the_settings(
    tmp_path: Path, setting: str, spoil: Callable[[Path], None]
) -> None:
    made = pair(tmp_path)
    spoil(made.key if setting == "module-key" else made.certificate)
    with pytest.raises(UsageError, match=f"^{setting}: .*expected") as refused:
        made.opened()
    assert refused.value.where and refused.value.hint
