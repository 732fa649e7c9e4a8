"""Envelopes: openssl and sigstore's verifier take them as we do, and nobody takes one in which a byte changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import dsse
from pipeline.publish import attestation_key
from pipeline.publish.attestation_key import AttestationKey
from tests.fixtures.statements import flip, made_key, openssl_takes, sigstore_takes

PAYLOAD = json.dumps({"_type": "x", "predicateType": "https://slsa.dev/provenance/v1", "text": "ä"}).encode()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> AttestationKey:
    place = tmp_path_factory.mktemp("key")
    return attestation_key.open_key(str(made_key(place / "secret.pem")), place / "keys")


@pytest.fixture
def public(key: AttestationKey, tmp_path: Path) -> Path:
    (tmp_path / "public.pem").write_bytes(key.public.pem)
    return tmp_path / "public.pem"


def test_three_verifiers_take_an_envelope(key: AttestationKey, public: Path, tmp_path: Path) -> None:
    envelope = tmp_path / "envelope.json"
    envelope.write_bytes(dsse.sign(PAYLOAD, key))
    assert dsse.verify(envelope.read_bytes(), key.public.pem) == PAYLOAD
    assert openssl_takes(envelope, public, tmp_path)
    assert sigstore_takes(envelope, public)


@pytest.mark.parametrize("part", ["payload", "signature"])
def test_no_verifier_takes_an_envelope_in_which_one_byte_changed(
    key: AttestationKey, public: Path, tmp_path: Path, part: str
) -> None:
    document = json.loads(dsse.sign(PAYLOAD, key))
    flip(document, part)
    envelope = tmp_path / "envelope.json"
    envelope.write_text(json.dumps(document))
    assert not openssl_takes(envelope, public, tmp_path)
    assert not sigstore_takes(envelope, public)
    with pytest.raises(ValueError, match="its signature is not over this payload"):
        dsse.verify(envelope.read_bytes(), key.public.pem)


def test_every_byte_of_an_envelope_counts(key: AttestationKey) -> None:
    whole = dsse.sign(b"{}", key)
    for at in range(len(whole) - 1):  # the line's end is nobody's
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        with pytest.raises(ValueError):
            dsse.verify(changed, key.public.pem)


def test_another_key_is_refused_and_named(key: AttestationKey, tmp_path: Path) -> None:
    other = attestation_key.open_key(str(made_key(tmp_path / "other.pem")), tmp_path / "keys")
    with pytest.raises(ValueError, match=f"expected {other.public.id}, got {key.public.id}"):
        dsse.verify(dsse.sign(PAYLOAD, key), other.public.pem)
    forged = json.loads(dsse.sign(PAYLOAD, key))
    forged["signatures"][0]["keyid"] = other.public.id
    with pytest.raises(ValueError, match="its signature is not over this payload"):
        dsse.verify(json.dumps(forged).encode(), other.public.pem)


@pytest.mark.parametrize(
    "change",
    [
        {"payloadType": "application/json"},
        {"signatures": []},
        {"payload": "e"},
        {"payload": "e30=\n"},
        {"more": 1},
        {"signatures": [{"sig": "e30="}]},
    ],
)
def test_what_is_no_envelope_with_one_signature_is_refused(key: AttestationKey, change: dict[str, Any]) -> None:
    document = json.loads(dsse.sign(b"{}", key)) | change
    with pytest.raises(ValueError):
        dsse.verify(json.dumps(document).encode(), key.public.pem)


def test_two_signatures_are_one_too_many(key: AttestationKey) -> None:
    document = json.loads(dsse.sign(b"{}", key))
    document["signatures"] *= 2
    with pytest.raises(ValueError, match="signed with another key"):
        dsse.verify(json.dumps(document).encode(), key.public.pem)
