"""What is looked at before a cluster on this host is made."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.ci import buildbot, buildbot_venv
from pipeline.ci.cluster import Cluster
from pipeline.commands import cluster
from pipeline.config.context import RunContext
from pipeline.config.settings import Settings
from pipeline.core.console import Console
from pipeline.errors import PipelineError, Refused, Unreachable, UsageError


def refusal(place: Path, *lines: str, line: str = "lts61") -> PipelineError:
    """The error of a cluster of lines without any source on this host, which may ask nobody."""
    settings = Settings(artifacts=place / "artifacts", offline=True, line=line)
    found = Cluster(place / "cluster", settings.artifacts)
    with pytest.raises((Refused, Unreachable)) as refused:
        cluster._up(RunContext(settings, Console(quiet=True)), found, list(lines), 2, 50)
    assert not found.place.exists()
    return refused.value


def test_sources_are_looked_at_before_anything_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = list[str]()
    monkeypatch.setattr(buildbot_venv, "install", lambda: installed.append("buildbot"))
    assert "the settings, el6" in refusal(tmp_path, line="el6").why
    assert "no line was named" not in refusal(tmp_path, "el6").why
    assert installed == []


def test_nights_are_of_the_named_lines_or_of_all_that_the_cluster_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [SimpleNamespace(name=name, night=f"night of {name}") for name in ("lts61", "lts612")]
    monkeypatch.setattr(buildbot, "read_data", lambda master: SimpleNamespace(lines=lines))
    found = Cluster(tmp_path / "cluster", tmp_path / "artifacts")
    assert cluster._nights(found, []) == ["night of lts61", "night of lts612"]
    assert cluster._nights(found, ["lts612"]) == ["night of lts612"]
    with pytest.raises(UsageError, match="el6: the cluster does not build it; expected one of lts61, lts612") as wrong:
        cluster._nights(found, ["el6"])
    assert wrong.value.hint == "./inv cluster night lts61"
