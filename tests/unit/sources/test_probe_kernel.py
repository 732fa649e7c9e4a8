"""The kernel that KVM is probed with is looked for once; what was found is believed afterwards."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.sources import download, probe_kernel
from pipeline.sources.records import Resolved


def test_debians_index_is_asked_for_the_kernel_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def resolve(*given: object) -> Resolved:
        asked.append(given)
        return Resolved("linux", "6.1", "linux.deb", "http://localhost/linux.deb", 1, "0" * 64)

    monkeypatch.setattr(probe_kernel, "_resolve", resolve)
    monkeypatch.setattr(download, "fetch_all", lambda *_: [SimpleNamespace(path=tmp_path)])
    settings = load({"artifacts": str(tmp_path / "artifacts")})
    for _ in range(2):
        assert probe_kernel.package(settings, Console(quiet=True)) == tmp_path
    assert len(asked) == 1
