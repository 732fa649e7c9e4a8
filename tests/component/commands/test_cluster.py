"""What is looked at before a cluster on this host is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.ci import buildbot, buildbot_venv
from pipeline.ci.cluster import Cluster
from pipeline.ci.kinds import Request, TimeOfDay
from pipeline.commands import cluster
from pipeline.config import line_loader
from pipeline.config.context import RunContext
from pipeline.config.settings import Settings
from pipeline.core.console import Console
from pipeline.errors import HostLacks, PipelineError, Refused, Unreachable, UsageError
from pipeline.packaging.graph import Step, StepGraph


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


def stopped(place: Path, *lines: str, number: int = 2, watch: float = 50, **settings: Any) -> RunContext:
    """A cluster whose master does not run, and what the next command is typed with."""
    found = Cluster(place / "cluster", place)
    found.prepare(number, 16384, watch)
    options = {"cluster": str(found.file)}
    loaded = tuple(map(line_loader.load, lines))
    made = Request(loaded, Settings(**settings), TimeOfDay(3, 17), options, lambda _: StepGraph([Step("a", print)]))
    found.write(buildbot.Buildbot().files(made), "")
    return RunContext(Settings(artifacts=place), Console(quiet=True))


@pytest.mark.parametrize(
    ("lines", "given", "command"),
    [
        (("lts61",), {}, "./inv cluster up lts61"),
        (("lts61", "lts612"), {"number": 3}, "./inv cluster up lts61 lts612 --workers 3"),
        (
            ("lts61",),
            {"watch": 2.5, "kernel_config": "small"},
            "./inv cluster up lts61 --watch 2.5 --kernel-config small",
        ),
        (("lts61",), {"line_file": Path("/srv/own.toml")}, "./inv cluster up --line-file /srv/own.toml"),
    ],
)
def test_a_cluster_that_is_down_is_started_as_it_was(
    tmp_path: Path, lines: tuple[str, ...], given: dict[str, Any], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    context, found = stopped(tmp_path, *lines, **given), Cluster(tmp_path / "cluster", tmp_path)
    with pytest.raises(HostLacks, match="no answer") as lacking:
        cluster._page(context, found, []).force("night of lts61", "operator", found.secret("operator"))
    assert lacking.value.hint == command
    cluster._state(replace(context, console=Console()), found)
    assert f"next: {command}" in capsys.readouterr().out


def test_where_no_cluster_is_the_named_lines_are_those_to_start(tmp_path: Path) -> None:
    context = RunContext(Settings(artifacts=tmp_path), Console(quiet=True))
    for words, hint in ((["lts61"], "./inv cluster up lts61"), ([], "./inv lines")):
        with pytest.raises(UsageError, match="there is none") as wrong:
            cluster._page(context, Cluster(tmp_path / "cluster", tmp_path), words)
        assert wrong.value.hint == hint


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
