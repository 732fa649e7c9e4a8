"""One run resolves, proves and plans once, however often it builds: its comparison and its lab take what there is."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.build import BuildCommand
from pipeline.commands.lab import LabCommand
from pipeline.config import line_loader
from pipeline.config.context import RunContext
from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.core.decoder import encode
from pipeline.lab.report import page, results
from pipeline.packaging import job
from pipeline.packaging.graph import StepGraph
from pipeline.packaging.scheduler import Outcome, Scheduler, State
from pipeline.packaging.step_record import Facts, Phase, Published, Record
from pipeline.patching import series
from pipeline.recipes import builder_images
from pipeline.sandbox.runtime import Image
from pipeline.sources.resolver import Sources
from tests.fixtures.workshop import ToyShop

SNAPSHOT = Published("a", Path("repo/a"), Path("repo/latest"), "F", development=True, baseurl="http://r.example")
Counts = Callable[..., Counter[str]]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[ToyShop]:
    """A toy of el6, pinned; nothing is built."""
    with ToyShop.opened(tmp_path / "images") as shop:
        yield shop


def counting(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, count: Callable[..., None]) -> None:
    """Has each call of `place.name` counted before it is made."""
    whole = getattr(place, name)

    def counted(*words: Any, **named: Any) -> Any:
        count(*words, **named)
        return whole(*words, **named)

    monkeypatch.setattr(place, name, counted)


@pytest.fixture
def counts(shop: ToyShop, monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Does `build-all`, whose builds and scenarios cost nothing: how often each thing was established."""
    found: Counter[str] = Counter()

    def run(self: Scheduler, plan: StepGraph) -> dict[str, Outcome]:
        found[f"run below {self.root.name}"] += 1
        self.root.mkdir(parents=True, exist_ok=True)
        facts = Facts(snapshot=SNAPSHOT)
        return {
            name: Outcome(
                name, key, State.RAN, "", 0.0, shop.place / name,
                record=Record("toy", name, key, Phase.DONE, 0.0, 1, facts=facts) if name == "repository" else None,
            )
            for name, key in plan.keys.items()
        }  # fmt: skip

    def play(self: LabCommand, names: object, *, snapshot: Path) -> tuple[results.Report, Path]:
        found["lab"] += 1
        self._userland()
        work = self.reports / "run"
        work.mkdir(parents=True)
        scenario = results.Scenario(name="boot", title="Boot", state=results.State.PASSED)
        known = {"line": "l", "snapshot": "a", "fingerprint": "F", "accelerator": "tcg", "accelerator_why": ""}
        report = results.Report(state=results.RunState.PASSED, scenarios=(scenario,), **known)  # type: ignore[arg-type]
        page.write(report, work)
        return report, work

    def build_all(**settings: Any) -> Counter[str]:
        found.clear()
        given = {"artifacts": str(shop.inv.artifacts), "debian_mirror": shop.archive.url, **settings}
        console = Console(quiet=True, out=io.StringIO())
        lab = LabCommand(line_loader.load(line_file=shop.toy.line_file), RunContext(load(given, {}), console))
        assert encode(lab.build_all())["lab"]["reused"] is False
        return found

    monkeypatch.setattr(Scheduler, "run", run)
    monkeypatch.setattr(LabCommand, "_play", play)
    monkeypatch.setattr(BuildCommand, "make_latest", lambda *_: None)  # of a snapshot that is not there
    monkeypatch.setattr("pipeline.lab.run_record.record", lambda *_: None)
    monkeypatch.setattr(builder_images, "_image", lambda _, name, __: Image(name, "0", Path(), Path()))
    counting(monkeypatch, Sources, "_verify", lambda _, item, __: found.update([f"source {item.name}"]))
    counting(monkeypatch, series, "verify_patches", lambda *_: found.update(["patches"]))
    counting(monkeypatch, series, "verify_roles", lambda *_: found.update(["roles"]))
    counting(monkeypatch, job, "BuildEnvironment", lambda _, image, *__: found.update([f"plan in {image.name}"]))
    return build_all


@pytest.mark.parametrize("image", ["debian12", "centos6"])
def test_a_build_its_comparison_and_its_lab_resolve_prove_and_plan_once(counts: Counts, image: str) -> None:
    found = counts(image=image, check_reproducible=True)
    assert found["lab"] == found["patches"] == found["roles"] == found["run below toy+rebuild"] == 1
    assert found["run below toy"] == 3, "for the packages, for the repository, and for the lab"
    sources = {name: count for name, count in found.items() if name.startswith("source ")}
    assert {"source kernel-srpm", "source busybox"} <= set(sources)
    assert set(sources.values()) == {1}
    plans = {name: count for name, count in found.items() if name.startswith("plan ")}
    assert plans == dict.fromkeys({f"plan in {image}", "plan in debian12"}, 1), "guests are not built in centos6"
