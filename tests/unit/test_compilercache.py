"""What a build's log of ccache counts: the same as `ccache --show-log-stats` makes of it."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.build import compilercache, rpmtool, sandboxed
from pipeline.build.compilercache import Counted
from pipeline.build.plan import Step, Work
from pipeline.sandbox.images import Image
from pipeline.sandbox.runtime import End, Ended, Job, Limits
from tests.fixtures.rpms import LEAD

# As ccache 4.7.5 wrote it of a miss, a hit, a failed compilation, a link, a preprocessor's run and a second hit.
LOG = """\
# a.c
cache_miss
direct_cache_miss
local_storage_miss
local_storage_read_miss
local_storage_write
preprocessed_cache_miss
# a.c
direct_cache_hit
local_storage_hit
local_storage_read_hit
# bad.c
direct_cache_miss
preprocessor_error
# a.o
called_for_link
# a.c
called_for_preprocessing
# b.c
direct_cache_miss
local_storage_hit
preprocessed_cache_hit
"""


def test_hits_and_misses_are_counted_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    assert compilercache.counted(tmp_path, "log") == Counted(hits=2, misses=1)


def test_a_build_that_compiled_nothing_has_no_figures(tmp_path: Path) -> None:
    assert compilercache.counted(tmp_path, "no-such-log") is None
    (tmp_path / "log").write_text("# a.o\ncalled_for_link\n")
    assert compilercache.counted(tmp_path, "log") is None


def test_a_link_that_a_build_left_in_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text(LOG)
    (tmp_path / "log").symlink_to("other")
    assert compilercache.counted(tmp_path, "log") is None


def test_the_rate_is_told_in_words_for_one_build_and_for_several() -> None:
    assert str(Counted(3, 1)) == "3 of 4 compilations (75.0 %)"
    assert str(compilercache.together([Counted(3, 1), Counted(0, 4)])) == "3 of 8 compilations (37.5 %)"
    assert str(compilercache.together([])) == "no compilation"


class Builder:
    """A runtime whose build writes one package and, into the log that its environment names, `LOG`."""

    name = "builder"

    def run(self, job: Job) -> Ended:
        top = next(mount.source for mount in job.mounts if mount.target == rpmtool.TOPDIR)
        if log := job.environment.get("CCACHE_STATSLOG"):
            (top / Path(log).relative_to(rpmtool.TOPDIR)).write_text(LOG)
        (top / "RPMS" / "a.rpm").write_bytes(LEAD)
        self.job = job
        return Ended(End.EXIT, 0)

    def shell(self, job: Job) -> int:
        raise AssertionError(job)

    def reap(self) -> list[str]:
        return []


def built(place: Path, ccache: Path | None) -> tuple[Work, Job]:
    """A step's work after its build, and the job that did it."""
    work = Work(Step("kernel:stock", print), place / "out", place / "scratch", place / "log", {}, 1)
    for directory in (work.out, work.scratch):
        directory.mkdir(parents=True)
    image = Image("toy", "0123456789abcdef", place / "rootfs", place / "packages.json")
    runtime = Builder()
    recipe = sandboxed.Recipe("a.spec", 0, lambda *_: None, lambda *_: None, rpmtool.Macros())
    sandboxed.rpmbuild(work, sandboxed.Bench(runtime, image, ccache, Limits()), recipe)
    return work, runtime.job


def test_each_build_has_a_log_of_its_own_and_its_figures_are_facts_of_the_run_not_output(tmp_path: Path) -> None:
    work, _ = built(tmp_path / "one", tmp_path / "ccache")
    assert json.dumps(work.facts) == '{"ccache": {"hits": 2, "misses": 1}}'
    assert [path.name for path in work.out.rglob("*") if path.is_file()] == ["a.rpm"]
    assert list((tmp_path / "ccache").iterdir()) == []


def test_without_a_cache_every_file_is_compiled(tmp_path: Path) -> None:
    work, job = built(tmp_path, None)
    assert job.environment["CCACHE_DISABLE"] == "1"
    assert rpmtool.CCACHE not in [mount.target for mount in job.mounts]
    assert work.facts == {}
