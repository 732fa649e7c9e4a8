"""The signature at the end of a module, byte by byte as the kernel's headers have it."""

from __future__ import annotations

import pytest

from pipeline.errors import Refused
from pipeline.formats import module_signature

MODULE, MESSAGE = b"\x7fELF a module", b"\x30\x03\x02\x01\x01"
# include/linux/module_signature.h: algo, hash, id_type = PKEY_ID_PKCS7, signer_len, key_id_len, __pad[3], sig_len.
BLOCK = bytes([0, 0, 2, 0, 0, 0, 0, 0]) + (5).to_bytes(4, "big")
SIGNED = MODULE + MESSAGE + BLOCK + b"~Module signature appended~\n"
END = SIGNED[len(MODULE + MESSAGE) + len(BLOCK) :]


def test_a_signed_module_is_the_module_the_message_its_length_and_the_marker() -> None:
    assert module_signature.append(MODULE, MESSAGE, "ip_vs.ko") == SIGNED
    assert module_signature.split(SIGNED, "ip_vs.ko") == (MODULE, MESSAGE)


def test_a_signed_module_is_not_signed_once_more() -> None:
    with pytest.raises(Refused, match=r"ip_vs\.ko: signed already; expected a module without a signature"):
        module_signature.append(SIGNED, MESSAGE, "ip_vs.ko")


def test_a_module_with_two_signatures_is_refused() -> None:
    with pytest.raises(Refused, match="signed twice; expected one signature"):
        module_signature.split(SIGNED + MESSAGE + BLOCK + END, "ip_vs.ko")


@pytest.mark.parametrize("unsigned", [b"", MODULE, SIGNED[:-1], SIGNED + b"\n", SIGNED[: -len(END)]])
def test_a_module_without_the_marker_at_its_very_end_is_not_signed(unsigned: bytes) -> None:
    with pytest.raises(Refused, match=r"ip_vs\.ko: not signed; expected a signature at its end"):
        module_signature.split(unsigned, "ip_vs.ko")


@pytest.mark.parametrize(
    "damaged",
    [
        END,
        BLOCK + END,
        MESSAGE + BLOCK + END,  # of no module
        MODULE + MESSAGE + BLOCK[:-1] + END,
        MODULE + MESSAGE + BLOCK[:8] + bytes(4) + END,
        MODULE + MESSAGE + BLOCK[:8] + (len(MODULE) + 5).to_bytes(4, "big") + END,
        MODULE + MESSAGE + BLOCK[:8] + b"\xff\xff\xff\xff" + END,
        *(MODULE + MESSAGE + BLOCK[:at] + b"\1" + BLOCK[at + 1 :] + END for at in range(8)),
    ],
)
def test_a_signature_that_the_kernel_could_not_read_is_refused(damaged: bytes) -> None:
    with pytest.raises(Refused, match="damaged signature; expected a PKCS#7 message and its length"):
        module_signature.split(damaged, "ip_vs.ko")
