"""What tests of signatures share: a place of a test's own, and who signs there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.publish import signing
from pipeline.publish.signing import Signer
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import place_of_its_own, shared_keys


@pytest.fixture
def inv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inv]:
    """A home and a directory for temporary files of this test's own."""
    with place_of_its_own(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def signer(inv: Inv) -> Iterator[Signer]:
    """A development key, made once per test process, in that place."""
    with signing.open_signer("", shared_keys()) as made:
        yield made
