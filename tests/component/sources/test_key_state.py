"""A signature is as good as its key was when it was made, and as what is known of the key now."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.line_model import Key
from pipeline.errors import Refused
from pipeline.sources import openpgp
from pipeline.sources.openpgp import PublicKey
from tests.fixtures.agedkeys import AgedKey, without_cross_certification
from tests.fixtures.sessiondir import session_directory

TEXT = b"what is signed"


def fresh(*, subkey: bool = False) -> AgedKey:
    """A key of 2020 that signs, or whose subkey does."""
    key = AgedKey.made(Path(tempfile.mkdtemp(dir=session_directory("k-"))) / "h", 2020, "cert" if subkey else "sign")
    if subkey:
        key.add_subkey(2020)
    return key


def known(key: AgedKey, *material: bytes, **accepted: object) -> PublicKey:
    """The key as a line would know it, out of what is public of it now."""
    pinned = Key(title="A", fingerprint=key.fingerprint, **accepted)  # type: ignore[arg-type]
    return openpgp.public_key("house", pinned, *(material or (key.public,)))


def why_not(key: PublicKey, signature: bytes) -> str:
    """Why a signature of the text is refused, empty when it is not."""
    try:
        openpgp.check_detached(signature, TEXT, key, Path("text"))
    except Refused as refused:
        assert refused.what == "the signature is not good"
        return refused.why
    return ""


# What becomes of a key in 2023, or is found out then; the signature was there before.
CHANGES: dict[str, Callable[[AgedKey], None]] = {
    "nothing": lambda key: None,
    "expired": lambda key: key.expire(2021, 2023),
    "superseded": lambda key: key.revoke("superseded", 2023),
    "retired": lambda key: key.revoke("retired", 2023),
    "compromised": lambda key: key.revoke("compromised", 2023),
    "revoked": lambda key: key.revoke("none", 2023),
    "not for signing": lambda key: key.forbid_signing(2023),
    "subkey expired": lambda key: key.expire_subkey(2021, 2023),
    "subkey retired": lambda key: key.revoke_subkey("retired", 2023),
    "subkey compromised": lambda key: key.revoke_subkey("compromised", 2023),
}
AFTER = "it was made on 2024-01-01, after"
CASES = [
    # subkey, what becomes of it, the signature's year, why it is refused
    (False, "nothing", 2024, ""),
    (False, "nothing", 2019, "it was made on 2019-01-01, before the key was, on 2020-01-01"),
    (False, "expired", 2022, ""),
    (False, "expired", 2024, f"{AFTER} the key expired on 2022-12-31"),
    (False, "superseded", 2022, ""),
    (False, "superseded", 2024, f"{AFTER} the key was revoked on 2023-01-01: superseded"),
    (False, "retired", 2022, ""),
    (False, "retired", 2024, f"{AFTER} the key was revoked on 2023-01-01: retired"),
    (False, "compromised", 2022, "the key was revoked on 2023-01-01: compromised"),
    (False, "revoked", 2022, "the key was revoked on 2023-01-01: no reason given"),
    (False, "not for signing", 2022, "the key is not one for signing"),
    (True, "nothing", 2024, ""),
    (True, "expired", 2022, ""),
    (True, "expired", 2024, f"{AFTER} the key expired on 2022-12-31"),
    (True, "compromised", 2022, "the key was revoked on 2023-01-01: compromised"),
    (True, "subkey expired", 2022, ""),
    (True, "subkey expired", 2024, f"{AFTER} the subkey SUBKEY expired on 2022-12-31"),
    (True, "subkey retired", 2022, ""),
    (True, "subkey retired", 2024, f"{AFTER} the subkey SUBKEY was revoked on 2023-01-01: retired"),
    (True, "subkey compromised", 2022, "the subkey SUBKEY was revoked on 2023-01-01: compromised"),
]


@pytest.mark.parametrize(("subkey", "change", "year", "why"), CASES)
def test_a_signature_is_judged_by_its_keys_state_at_its_time(subkey: bool, change: str, year: int, why: str) -> None:
    key = fresh(subkey=subkey)
    signature = key.sign(TEXT, year)
    CHANGES[change](key)
    assert why_not(known(key), signature) == why.replace("SUBKEY", key.subkey)


def test_a_subkey_that_does_not_certify_that_it_belongs_to_the_key_signs_nothing() -> None:
    key = fresh(subkey=True)
    signature = key.sign(TEXT, 2022)
    assert why_not(known(key), signature) == ""
    assert f"the subkey {key.subkey} does not certify that it belongs to the key" in why_not(
        known(key, without_cross_certification(key.public)), signature
    )


def test_what_one_copy_of_a_key_knows_of_its_revocation_counts_whatever_the_others_do_not() -> None:
    key = fresh()
    before, signature = key.public, key.sign(TEXT, 2022)
    key.revoke("compromised", 2023)
    assert why_not(known(key, before), signature) == ""
    for copies in ((before, key.public), (key.public, before)):
        assert why_not(known(key, *copies), signature) == "the key was revoked on 2023-01-01: compromised"


def test_a_signature_that_was_good_for_a_time_only_is_bad_afterwards() -> None:
    key = fresh()
    signature = key.sign(TEXT, 2022, "--default-sig-expire", "1y")
    assert why_not(known(key), signature) == "it was only good until 2023-01-01"


@pytest.mark.parametrize("digest", ["md5", "ripemd160", "sha1", "sha256"])
def test_weak_digests_are_refused_and_sha1_where_the_line_does_not_say_so(digest: str) -> None:
    key = fresh()
    signature = key.sign(TEXT, 2022, "--allow-weak-digest-algos", "--digest-algo", digest)
    name = {"md5": "MD5", "ripemd160": "RIPEMD160", "sha1": "SHA-1"}.get(digest, "")
    for sha1 in (False, True):
        good = digest == "sha256" or (digest == "sha1" and sha1)
        why = why_not(known(key, sha1=sha1), signature)
        assert why == "" if good else why.startswith(f"its digest is {name}, which can be forged")


def test_another_content_another_key_two_signatures_and_none_are_refused() -> None:
    key, other = fresh(), fresh()
    good = key.sign(TEXT, 2022)
    assert why_not(known(key), key.sign(b"else", 2022)) == "it is not over this content"
    assert why_not(known(other), good).startswith("it is by the key id ")
    assert why_not(known(key), good + good) == "expected one signature, got 2"
    assert why_not(known(key), b"") == why_not(known(key), b"no signature") == "expected one signature, got 0"


# --- Packages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subkey", "change", "year", "why"),
    [
        (False, "nothing", 2024, ""),
        (False, "compromised", 2022, "the key was revoked on 2023-01-01: compromised"),
        (False, "superseded", 2022, ""),
        (False, "superseded", 2024, f"{AFTER} the key was revoked on 2023-01-01: superseded"),
        (False, "expired", 2022, ""),
        (False, "expired", 2024, f"{AFTER} the key expired on 2022-12-31"),
        (True, "nothing", 2022, ""),
        (True, "subkey expired", 2022, ""),
        (True, "subkey expired", 2024, f"{AFTER} the subkey SUBKEY expired on 2022-12-31"),
        (True, "subkey retired", 2022, ""),
        (True, "subkey retired", 2024, f"{AFTER} the subkey SUBKEY was revoked on 2023-01-01: retired"),
        (True, "subkey compromised", 2022, "the subkey SUBKEY was revoked on 2023-01-01: compromised"),
    ],
)
def test_a_package_that_rpm_calls_good_is_judged_as_well(
    tmp_path: Path, subkey: bool, change: str, year: int, why: str
) -> None:
    key = fresh(subkey=subkey)
    package = key.sign_rpm(tmp_path, year)
    CHANGES[change](key)
    if why:
        with pytest.raises(Refused) as refused:
            openpgp.check_rpm(package, [known(key)])
        assert refused.value.why == why.replace("SUBKEY", key.subkey)
    else:
        found = openpgp.check_rpm(package, [known(key)])
        assert (found.fingerprint, found.when.year) == (key.fingerprint, year)
        since = {
            "nothing": "",
            "expired": "the key expired on 2022-12-31",
            "superseded": "the key was revoked on 2023-01-01: superseded",
            "subkey expired": f"the subkey {key.subkey} expired on 2022-12-31",
            "subkey retired": f"the subkey {key.subkey} was revoked on 2023-01-01: retired",
        }[change]
        later = f" of 2022-01-01, and {since}" if since else ""
        assert found.sentence == f"good signature by house ({key.fingerprint}){later}"


def test_a_package_signed_with_sha1_needs_a_line_that_says_so(tmp_path: Path) -> None:
    key = fresh()
    package = key.sign_rpm(tmp_path, 2022, "sha1")
    assert openpgp.check_rpm(package, [known(key, sha1=True)]).made.startswith("RSA/SHA1")
    with pytest.raises(Refused) as refused:
        openpgp.check_rpm(package, [known(key)])
    assert "`sha1 = true` under [keys.house]" in refused.value.why
