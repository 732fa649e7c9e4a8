"""A release key on a token: gpg asks the agent, the agent asks for the PIN, and no secret is in any file of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import Refused
from pipeline.publish import signing
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import WHEN, rpm
from tests.fixtures.tokens import Token


@pytest.fixture
def token(inv: Inv, monkeypatch: pytest.MonkeyPatch) -> Iterator[Token]:
    """A token of somebody whose home this is."""
    made = Token(inv.tmp)
    monkeypatch.setenv("HOME", str(inv.tmp))
    monkeypatch.setenv("GNUPGHOME", str(made.home))
    yield made
    made.forget()


def test_packages_and_files_are_signed_by_a_key_that_never_leaves_its_token(token: Token, tmp_path: Path) -> None:
    (token.place / "asked").unlink()
    sums = tmp_path / "SHA256SUMS"
    sums.write_text("")
    with signing.open_signer(token.fingerprint, tmp_path / "keys") as signer:
        assert token.asked == 1, "asked before anything is signed"
        signer.sign([rpm("one"), rpm("two")], tmp_path / "out")  # proves its signatures itself
        signing.check_detached(sums, signer.sign_detached(sums, WHEN), signer.key.public)
    assert token.asked == 1, "asked once for all"
    (stub,) = (token.home / "private-keys-v1.d").iterdir()
    assert b"shadowed-private-key" in stub.read_bytes()


def test_a_wrong_pin_is_told_before_anything_is_signed(token: Token, tmp_path: Path) -> None:
    (token.place / "pin").write_text("654321\n")
    with pytest.raises(Refused, match="does not sign") as refused, signing.open_signer(token.fingerprint, tmp_path):
        pass
    assert "PIN" in refused.value.why
