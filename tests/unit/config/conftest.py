"""What tests of line files share: a project with one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core import resources
from tests.fixtures.linefiles import BASE, SERIES


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose only line is `base`."""
    root = tmp_path / "project"
    (root / "lines").mkdir(parents=True)
    (root / "patches" / "base").mkdir(parents=True)
    (root / "lines" / "base.toml").write_text(BASE)
    (root / "patches" / "base" / "series.toml").write_text(SERIES)
    monkeypatch.setattr(resources, "data_root", lambda: root)
    return root
