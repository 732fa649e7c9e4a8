"""What tests of downloads share: a bench of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.sources.store import Store
from pipeline.sources.wanted import Options
from tests.fixtures.badserver import BadServer
from tests.fixtures.downloads import Bench, Notes
from tests.fixtures.stores import assert_intact


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    store, waits = Store(tmp_path / "store"), list[float]()
    options = Options((), False, jobs=4, retries=3, stall=2.0, connect=2.0, wait=waits.append, jitter=lambda: 0.5)
    with BadServer() as server:
        yield Bench(store, server, options, Notes(), waits)
    assert_intact(store)
