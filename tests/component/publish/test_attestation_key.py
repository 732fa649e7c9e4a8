"""The attestation key: made once, of the one kind that others verify, its secret half for its owner alone."""

from __future__ import annotations

import signal
import stat
import sys
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.core.fs import sha256_of
from pipeline.errors import HostLacks, PipelineError, Refused, UsageError
from pipeline.publish import attestation_key
from tests.fixtures.commandline import ROOT, Inv
from tests.fixtures.statements import made_key


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "artifacts" / "keys"


def test_the_development_key_is_made_once_for_its_owner_alone_and_named_so(keys: Path) -> None:
    assert attestation_key.known("", keys) is None, "nothing is made only because somebody looks"
    assert not keys.exists()
    first, again = attestation_key.open_key("", keys), attestation_key.open_key("", keys)
    assert first == again and first.public == attestation_key.known("", keys)
    assert first.public.development and first.public.name == "lvs-fullnat-development"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (keys, keys / "attestation", first.secret)}
    assert modes == {"keys": 0o700, "attestation": 0o700, "secret.pem": 0o600}
    assert "NOT for production" in (keys / "attestation" / "README").read_text()


def test_a_person_s_key_is_named_by_its_id_which_openssl_computes_alike(keys: Path, tmp_path: Path) -> None:
    secret = made_key(tmp_path / "own.pem")
    opened = attestation_key.open_key(str(secret), keys)
    process.run(["openssl", "pkey", "-in", secret, "-pubout", "-outform", "DER", "-out", tmp_path / "own.der"])
    assert opened.public.id == sha256_of(tmp_path / "own.der")
    assert not opened.public.development and opened.public.name == f"lvs-fullnat-{opened.public.id[:8]}"


def test_the_id_of_a_known_key_needs_no_cryptography_and_a_changed_file_is_another_key(
    keys: Path, tmp_path: Path, inv: Inv
) -> None:
    secret = made_key(tmp_path / "own.pem")
    first = attestation_key.known(str(secret), keys)
    code = (
        "import sys, pathlib; from pipeline.publish import attestation_key as a;"
        "print(a.known(sys.argv[1], pathlib.Path(sys.argv[2])).id, 'cryptography' in sys.modules)"
    )
    said = process.run([sys.executable, "-c", code, secret, keys], cwd=ROOT, env=inv.environment()).text
    assert first is not None and said.split() == [first.id, "False"]
    made_key(secret)
    second = attestation_key.known(str(secret), keys)
    assert second is not None and second.id != first.id


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-algorithm", "ED25519"), "another kind, Ed25519PrivateKey"),
        (("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"), "another kind, secp384r1"),
        (("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"), "another kind, RSAPrivateKey"),
        (("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes256", "-pass", "pass:x"), "has a passphrase"),
    ],
)
def test_a_key_of_another_kind_is_refused(keys: Path, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    secret = made_key(tmp_path / "own.pem", *words)
    for look in (attestation_key.known, attestation_key.open_key):
        with pytest.raises(Refused, match=says) as refused:
            look(str(secret), keys)
        assert "openssl genpkey" in refused.value.hint


@pytest.mark.parametrize("text", [None, "", "no key", "-----BEGIN PUBLIC KEY-----\nMFk=\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_secret_key_is_refused(keys: Path, tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "own.pem"
    if text is not None:
        file.write_text(text)
    with pytest.raises((UsageError, Refused), match="the attestation key: "):
        attestation_key.known(str(file), keys)


def test_a_kill_while_the_key_is_made_leaves_none_and_the_next_run_makes_it(keys: Path, inv: Inv) -> None:
    code = (
        "import sys, pathlib; from pipeline.publish import attestation_key as a;"
        "print(a.open_key('', pathlib.Path(sys.argv[1])).public.id)"
    )
    argv = [sys.executable, "-c", code, str(keys)]
    env = inv.environment(FNAT_TRACE_KILL="attestation-key.before-rename")
    with process.start(argv, env=env) as child:
        assert child.wait(60) == -signal.SIGKILL
    assert not (keys / "attestation").exists()
    made = process.run(argv, env=inv.environment()).text.strip()
    known = attestation_key.known("", keys)
    assert known is not None and known.id == made
    assert {path.name for path in keys.iterdir()} == {"attestation", ".attestation.lock"}


def test_something_else_in_the_key_s_place_is_said(keys: Path) -> None:
    (keys / "attestation").mkdir(parents=True)
    (keys / "attestation" / "mine").touch()
    with pytest.raises(HostLacks, match="occupied"):
        attestation_key.open_key("", keys)


def test_only_a_public_key_in_pem_has_an_id() -> None:
    for text in (b"", b"x", b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"):
        with pytest.raises((ValueError, PipelineError)):
            attestation_key.key_id(text)
