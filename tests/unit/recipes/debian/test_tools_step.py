"""The step of a patched tool: its key has every patch and what the line says of them, and it is proven when it runs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import line_loader
from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.errors import Refused
from pipeline.packaging.graph import Step, StepGraph
from pipeline.packaging.job import BuildEnvironment
from pipeline.packaging.scheduler import Scheduler
from pipeline.patching import tool_series
from pipeline.patching.patched_trees import Trees
from pipeline.patching.tool_series import VerifiedSeries
from pipeline.recipes.base import BuildInputs
from pipeline.recipes.debian import tools_step
from pipeline.recipes.lvs_tools import Tool
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.runtime import Image, Limits
from pipeline.sources.records import Verified
from pipeline.sources.resolver import Sources
from tests.fixtures.quickline import good_files, tarball

LINE = line_loader.load("lts61")


@pytest.fixture
def series() -> VerifiedSeries:
    return tool_series.verify(LINE)["ipvsadm"]


def planned(place: Path, series: VerifiedSeries | None) -> Step:
    packed = tarball("ipvsadm-1.31", good_files())
    (place / "ipvsadm.tar.xz").write_bytes(packed)
    source = Verified(
        "ipvsadm",
        "ipvsadm.tar.xz",
        place / "ipvsadm.tar.xz",
        hashlib.sha256(packed).hexdigest(),
        1,
        "",
        "1:1.31-1",
        "",
        new=False,
    )
    sources = Sources(LINE, load({"artifacts": place / "artifacts"}, {}), Console(quiet=True))
    bench = BuildEnvironment(Bubblewrap(), Image("debian12", "key", place, place), None, Limits())

    def refuse(tool: str) -> None:
        raise Refused(f"the series of {tool} is refused")

    trees = Trees(sources, {}, {})
    inputs = BuildInputs(
        *(LINE, {"ipvsadm": source}, {}, bench, trees.of),
        tools={"ipvsadm": series} if series else {},
        prove_tool=refuse,
    )
    return tools_step.plan(inputs, Tool.IPVSADM)


def key(place: Path, series: VerifiedSeries | None) -> str:
    return StepGraph([planned(place, series)]).keys["ipvsadm"]


def test_each_patch_and_each_rule_is_in_the_key(tmp_path: Path, series: VerifiedSeries) -> None:
    model = series.model
    others = [
        None,
        replace(series, patches=series.patches[:-1]),
        replace(series, patches=series.patches[::-1]),
        replace(series, model=model.model_copy(update={"effect": {}})),
        replace(series, model=model.model_copy(update={"must_contain": ("other",)})),
        replace(series, model=model.model_copy(update={"program_contains": {}})),
        replace(series, model=model.model_copy(update={"release": model.release + 1})),
    ]
    keys = [key(tmp_path, found) for found in (series, *others)]
    assert len(set(keys)) == len(keys)
    assert key(tmp_path, series) == keys[0]


def test_nothing_is_built_of_a_series_that_is_refused(tmp_path: Path, series: VerifiedSeries) -> None:
    runner = Scheduler(tmp_path / "steps", 1, lambda _: None, options=())
    found = runner.run(StepGraph([planned(tmp_path, series)]))["ipvsadm"]
    assert isinstance(found.error, Refused)
    assert found.error.what == "the series of ipvsadm is refused"
