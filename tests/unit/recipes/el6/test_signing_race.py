"""The race in which two modules of el6 are signed at once: the one failure after which a build is tried again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import BuildFailed
from pipeline.packaging import job, rpmbuild
from pipeline.packaging.graph import Step, Work
from pipeline.recipes.el6 import kernel_step as el6
from pipeline.sandbox.runtime import EndReason, Image, Job, JobResult, Limits
from tests.fixtures.rpms import LEAD

RACE = "ld: drivers/net/tun.ko.sign.o: multiple definition of `no symbol'\nmake: *** [modules] Error 1\n"
MARKS = ("`'", "\u2018\u2019", "''")  # binutils' own, those of its translations, those of newer programs
OTHER = "net/core/dev.c:7: error: multiple definition of `netif_rx'\nmake: *** [net/core] Error 1\n"
GOOD = "Wrote: /build/RPMS/kernel.rpm\n"
PACKAGE = "kernel.rpm"


class Builder:
    """A runtime whose runs end with the logs it is given, one after the other; each leaves what a build leaves."""

    name = "builder"

    def __init__(self, *logs: str) -> None:
        self.logs = list(logs)
        self.jobs: list[str] = []
        self.found: list[list[str]] = []

    def run(self, job: Job) -> JobResult:
        top = next(mount.source for mount in job.mounts if mount.target == rpmbuild.TOPDIR)
        self.found.append(sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()))
        self.jobs += [word for word in job.argv if word.startswith("_smp_mflags")]
        text = self.logs.pop(0)
        with job.log.open("a") as log:
            log.write(text)
        (top / "BUILD" / "tun.ko").write_text(f"left by run {len(self.jobs)}")
        (top / "BUILDROOT" / "tun.ko").write_text("installed")
        (top / "RPMS" / PACKAGE).write_bytes(LEAD + f"made by run {len(self.jobs)}".encode())
        return JobResult(EndReason.EXIT, 0 if text == GOOD else 1)

    def shell(self, job: Job) -> int:
        raise AssertionError(job)

    def reap(self) -> list[str]:
        return []


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """What a step with four jobs works with."""
    made = Work(Step("kernel:stock", print), tmp_path / "out", tmp_path / "scratch", tmp_path / "log", {}, 4)
    made.out.mkdir()
    made.scratch.mkdir()
    return made


@pytest.fixture
def built(work: Work, tmp_path: Path) -> Callable[[Builder], Path]:
    """Builds with a runtime; the directory of the packages."""

    def fill(sources: Path, specs: Path) -> None:
        (sources / "linux.tar").write_text("the tree")
        (specs / "kernel.spec").write_text("Name: kernel")

    image = Image("centos6", "0123456789abcdef", tmp_path / "rootfs", tmp_path / "packages.json")
    image.rootfs.mkdir()
    image.packages.write_text("{}")
    recipe = job.SpecBuild("kernel.spec", 0, fill, lambda *_: None, rpmbuild.Macros())
    return lambda runtime: el6.build_kernel(work, job.BuildEnvironment(runtime, image, None, Limits()), recipe)


@pytest.mark.parametrize("marks", MARKS)
def test_after_the_race_the_build_starts_from_the_sources_with_one_job(
    built: Callable[[Builder], Path], work: Work, marks: str
) -> None:
    race = RACE.replace("`no symbol'", marks[0] + "no symbol" + marks[1])
    builder = Builder(race, GOOD)
    rpms = built(builder)
    assert builder.jobs == ["_smp_mflags -j4", "_smp_mflags -j1"]
    assert builder.found == [["SOURCES/linux.tar", "SPECS/kernel.spec"]] * 2, "nothing of the first try is left"
    assert [path.read_bytes() for path in rpms.iterdir()] == [LEAD + b"made by run 2"]
    assert work.log.read_text().endswith(GOOD) and race not in work.log.read_text()
    assert race in work.log.with_name("log.signing-race").read_text()


def test_links_that_the_first_try_left_in_place_of_directories_are_not_written_through(
    built: Callable[[Builder], Path], work: Work, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()

    class Linking(Builder):
        def run(self, job: Job) -> JobResult:
            ended, top = super().run(job), job.mounts[0].source
            for name in ("SOURCES", "SPECS", "BUILD") if not ended.succeeded else ():
                (top / name).rename(top / f"{name}.before")
                (top / name).symlink_to(outside)
            return ended

    built(Linking(RACE, GOOD))
    assert list(outside.iterdir()) == []


def test_any_other_failure_is_not_tried_again(built: Callable[[Builder], Path], work: Work) -> None:
    builder = Builder(OTHER)
    with pytest.raises(BuildFailed) as failed:
        built(builder)
    assert "netif_rx" in failed.value.what
    assert builder.jobs == ["_smp_mflags -j4"]
    assert (work.scratch / "build" / "BUILD" / "tun.ko").is_file(), "what failed can be looked at"


def test_a_race_with_one_job_is_a_failure(built: Callable[[Builder], Path]) -> None:
    builder = Builder(RACE, RACE)
    with pytest.raises(BuildFailed) as failed:
        built(builder)
    assert "no symbol" in failed.value.what
    assert len(builder.jobs) == 2
