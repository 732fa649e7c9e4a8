"""Read and write DSSE envelopes with one ECDSA P-256 signature.

The signature is over the pre-authentication encoding of type and payload of DSSE's protocol v1, so that openssl
verifies it too. Must not know what a payload says.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Annotated

from pipeline.core import decoder, documents
from pipeline.publish import attestation_key
from pipeline.publish.attestation_key import AttestationKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_Base64 = Annotated[str, re.compile(r"[A-Za-z0-9+/]+={0,2}")]


@dataclass(frozen=True)
class Signature:
    """A signature of an envelope; `sig` is in base64."""

    keyid: str
    sig: _Base64


@dataclass(frozen=True)
class Envelope:
    """A DSSE envelope; `payload` is in base64."""

    payloadType: str
    payload: _Base64
    signatures: tuple[Signature, ...]


def encoding(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, key: AttestationKey, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return the envelope of a payload, by default an in-toto statement, signed with `key`."""
    signature = base64.b64encode(key.sign(encoding(payload_type, payload))).decode()
    text = base64.b64encode(payload).decode()
    envelope = Envelope(payload_type, text, (Signature(key.public.id, signature),))
    return json.dumps(decoder.encode(envelope)).encode() + b"\n"


def payload(envelope: bytes) -> bytes:
    """Return the payload of an envelope whose signature is not verified here. Raises `ValueError`."""
    return _decoded(documents.parse(Envelope, envelope).payload)


def key_ids(envelope: bytes) -> list[str]:
    """Return the ids of the keys that an envelope names. Raises `ValueError`."""
    return [signature.keyid for signature in documents.parse(Envelope, envelope).signatures]


def verify(envelope: bytes, pem: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return the payload of an envelope that the public key `pem` has signed.

    Raises `ValueError` for anything but one payload of the type with one good signature.
    """
    found = documents.parse(Envelope, envelope)
    if found.payloadType != payload_type:
        raise ValueError(f"a payload of another type: expected {payload_type}, got {found.payloadType}")
    wanted = attestation_key.key_id(pem)
    if [signature.keyid for signature in found.signatures] != [wanted]:
        got = ", ".join(signature.keyid for signature in found.signatures) or "none"
        raise ValueError(f"signed with another key: expected {wanted}, got {got}")
    payload, signature = _decoded(found.payload), _decoded(found.signatures[0].sig)
    if not attestation_key.verify(pem, signature, encoding(found.payloadType, payload)):
        raise ValueError("its signature is not over this payload")
    return payload


def _decoded(text: str) -> bytes:
    """Return the bytes of a base64 text. Raises `ValueError` for another text than their encoding."""
    data = base64.b64decode(text, validate=True)  # whose `binascii.Error` is a `ValueError`
    if base64.b64encode(data).decode() != text:
        raise ValueError("no base64 as DSSE has it: a bit is set that encodes nothing")
    return data
