"""What tests of snapshots share: a place to publish in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.snapshots import BESIDE


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """<artifacts>/repo. Nothing half-made may be in it when a test is over."""
    directory = tmp_path / "artifacts" / "repo"
    yield directory
    for line in directory.glob("*"):
        found = {entry.name for entry in line.iterdir() if not entry.name.startswith("mirrorlist-")}
        assert found <= {*BESIDE, ".upload.lock"}
