"""Measure what a cluster costs: `python bench/cluster.py [SECONDS]`.

A real master on loopback, with one worker and then with two, runs a night of eight steps that only sleep, 30 seconds
each unless SECONDS says otherwise. Then one of two workers is stopped.

    two workers against one                       aim >= 1.85 times as fast
    overhead of a step                            aim <= 1.5 s
    until a worker that was stopped is noticed    aim <= 60 s, with the default setting
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, nothing needs to be installed

import tasks  # noqa: F401 - its verbs are what commands are made of
from pipeline.ci import buildbot_venv
from pipeline.ci.buildbot import DATA, Buildbot
from pipeline.ci.cluster import Cluster, wait_for
from pipeline.ci.cluster_file import ClusterFile
from pipeline.ci.kinds import Request, TimeOfDay
from pipeline.ci.master_page import MasterPage
from pipeline.config import line_loader
from pipeline.config.settings import Settings
from pipeline.errors import PipelineError
from pipeline.packaging.graph import Step, StepGraph, Work

STEPS, SECONDS = 8, 30.0
NIGHT = "night of lts61"
WATCH = ClusterFile.model_fields["watch"].default


def nothing(_: Work) -> None:
    """Do nothing: the cluster's data has another command."""


@contextmanager
def cluster(place: Path, workers: int, seconds: float) -> Iterator[tuple[Cluster, MasterPage]]:
    """Yield a cluster that runs, and its page."""
    found = Cluster(place / "cluster", place)
    found.prepare(workers, 16384, WATCH)
    plan = StepGraph([Step(f"step-{number}", nothing) for number in range(STEPS)])
    line = line_loader.load("lts61")
    request = Request((line,), Settings(), TimeOfDay(3, 17), {"cluster": str(found.file)}, lambda _: plan)
    found.write(Buildbot().files(request), hint="")
    head, _, text = (found.master / DATA).read_text().partition("\n")
    data = json.loads(text)
    for step in data["lines"][0]["steps"]:
        step["command"] = [*step["command"][:4], "sleep", f"{seconds:g}"]
    (found.master / DATA).write_text(f"{head}\n{json.dumps(data)}")
    names = [each["name"] for each in data["workers"]]
    page = MasterPage(data["page_url"])
    try:
        found.start(names, f"tcp:{data['listen']}")
        wait_for("its workers", lambda: {*names} <= set(connected(page)), found.place)
        yield found, page
    finally:
        found.stop()


def connected(page: MasterPage) -> list[str]:
    """Return the workers that are connected; none while the master does not answer."""
    try:
        return page.connected()
    except PipelineError:
        return []


def night(found: Cluster, page: MasterPage) -> float:
    """Return the seconds of a night by the master's own clock."""
    page.force(NIGHT, "operator", found.secret("operator"))
    while not any(build.builder == NIGHT and build.result for build in page.builds()):
        time.sleep(0.5)
    (row,) = (row for row in page.get("builds") if row["builderid"] == builder(page))
    if row["results"] != 0:
        raise SystemExit(f"the night ended with {row['results']}")
    return float(row["complete_at"] - row["started_at"])


def builder(page: MasterPage) -> int:
    """Return the id of the night's builder."""
    return next(int(row["builderid"]) for row in page.get("builders") if row["name"] == NIGHT)


def noticed(found: Cluster, page: MasterPage) -> float:
    """Return the seconds until a stopped worker is given up."""
    keeper = found.keeper("worker-1")
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGSTOP)
    begun = time.monotonic()
    while "worker-1" in connected(page):
        time.sleep(0.2)
    return time.monotonic() - begun


def main(seconds: float) -> None:
    """Print the figures."""
    buildbot_venv.install()
    took = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as place, cluster(Path(place), workers, seconds) as (found, page):
            took[workers] = night(found, page)
            if workers == 2:
                stopped = noticed(found, page)
    overhead = (took[1] - STEPS * seconds) / STEPS
    print(f"night of {STEPS} steps of {seconds:g} s: one worker {took[1]:.0f} s, two {took[2]:.0f} s")
    print(f"two workers against one        {took[1] / took[2]:5.2f}    (aim >= 1.85)")
    print(f"overhead of a step             {overhead:5.2f} s  (aim <= 1.5 s)")
    print(f"a stopped worker is noticed in {stopped:5.1f} s  (aim <= 60 s)")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
