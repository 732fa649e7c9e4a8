"""What a build's log of ccache counts: the same as `ccache --show-log-stats` makes of it."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import line_loader
from pipeline.core import resources
from pipeline.errors import Refused, UsageError
from pipeline.packaging import ccache, rpmbuild
from pipeline.packaging.ccache import CacheStatistics, RemoteCaches
from pipeline.packaging.graph import Step, Work
from pipeline.packaging.job import JOB, BuildEnvironment, SpecBuild, build_packages, load_failed_job
from pipeline.packaging.step_record import Facts
from pipeline.sandbox.runtime import EndReason, Image, Job, JobResult, Limits, build_user
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
    assert ccache.read_statistics(tmp_path, "log") == CacheStatistics(hits=2, misses=1)


def test_a_build_that_compiled_nothing_has_no_figures(tmp_path: Path) -> None:
    assert ccache.read_statistics(tmp_path, "no-such-log") is None
    (tmp_path / "log").write_text("# a.o\ncalled_for_link\n")
    assert ccache.read_statistics(tmp_path, "log") is None


def test_a_link_that_a_build_left_in_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text(LOG)
    (tmp_path / "log").symlink_to("other")
    assert ccache.read_statistics(tmp_path, "log") is None


def test_the_rate_is_told_in_words_for_one_build_and_for_several() -> None:
    assert str(CacheStatistics(3, 1)) == "3 of 4 compilations (75.0 %)"
    assert str(ccache.total([CacheStatistics(3, 1), CacheStatistics(0, 4)])) == "3 of 8 compilations (37.5 %)"
    assert str(ccache.total([])) == "no compilation"


class Builder:
    """A runtime whose build writes one package and, into the log that its environment names, `LOG`."""

    name = "builder"

    def run(self, job: Job) -> JobResult:
        top = next(mount.source for mount in job.mounts if mount.target == rpmbuild.TOPDIR)
        if log := job.environment.get("CCACHE_STATSLOG"):
            (top / Path(log).relative_to(rpmbuild.TOPDIR)).write_text(LOG)
        (top / "RPMS" / "a.rpm").write_bytes(LEAD)
        self.job = job
        return JobResult(EndReason.EXIT, 0)

    def shell(self, job: Job) -> int:
        raise AssertionError(job)

    def reap(self) -> list[str]:
        return []


def built(
    place: Path, caches: Path | None, kind: str = "kernel", remote: RemoteCaches | None = None
) -> tuple[Work, Job]:
    """A step's work after its build, and the job that did it."""
    work = Work(Step("kernel:stock", print), place / "out", place / "scratch", place / "log", {}, 1)
    for directory in (work.out, work.scratch):
        directory.mkdir(parents=True)
    image = Image("toy", "0123456789abcdef", place / "rootfs", place / "packages.json")
    runtime = Builder()
    recipe = SpecBuild("a.spec", 0, lambda *_: None, lambda *_: None, rpmbuild.Macros(), cache=kind)
    build_packages(work, BuildEnvironment(runtime, image, caches, Limits(), remote), recipe)
    return work, runtime.job


def test_each_build_has_a_log_of_its_own_and_its_figures_are_facts_of_the_run_not_output(tmp_path: Path) -> None:
    caches = tmp_path / "ccache" / "el6" / "debian12"
    work, job = built(tmp_path / "one", caches)
    assert work.facts == Facts(ccache=CacheStatistics(hits=2, misses=1))
    assert [path.name for path in work.out.rglob("*") if path.is_file()] == ["a.rpm"]
    assert [mount.source for mount in job.mounts if mount.target == rpmbuild.CCACHE] == [caches / "kernel"]
    assert list((caches / "kernel").iterdir()) == []


@pytest.mark.parametrize(("caches", "kind"), [(None, "kernel"), ("ccache/el6/debian12", "")])
def test_without_a_cache_or_in_a_step_that_has_none_every_file_is_compiled(
    tmp_path: Path, caches: str | None, kind: str
) -> None:
    work, job = built(tmp_path, tmp_path / caches if caches else None, kind)
    assert job.environment["CCACHE_DISABLE"] == "1"
    assert rpmbuild.CCACHE not in [mount.target for mount in job.mounts]
    assert work.facts.ccache is None


# --- Caches that one trusted host fills -------------------------------------------------------------------


def filled(place: Path) -> Path:
    """A remote cache of kernels that has an object."""
    remote = place / "remote" / "el6" / "debian12"
    (remote / "kernel").mkdir(parents=True)
    (remote / "kernel" / "CACHEDIR.TAG").write_text("")
    return remote


def test_a_remote_cache_is_mounted_read_only_and_has_a_local_one_beside_it(tmp_path: Path) -> None:
    caches, remote = tmp_path / "ccache" / "el6" / "debian12", filled(tmp_path)
    _, job = built(tmp_path / "one", caches, remote=RemoteCaches(remote, writes=False))
    mounts = {mount.target: (mount.source, mount.writable) for mount in job.mounts}
    assert mounts[rpmbuild.CCACHE_REMOTE] == (remote / "kernel", False)
    assert mounts[rpmbuild.CCACHE] == (caches / "kernel.remote", True)
    assert job.environment["CCACHE_REMOTE_STORAGE"] == "file:/build/ccache-remote|read-only"
    _, job = built(tmp_path / "other", caches)
    assert "CCACHE_REMOTE_STORAGE" not in job.environment
    assert [mount.source for mount in job.mounts][1:] == [caches / "kernel"], "nothing of the remote cache is in it"


def test_the_writer_makes_the_remote_cache_and_no_other_user_reaches_it(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir(mode=0o755)
    remote = tmp_path / "remote" / "el6" / "debian12"
    _, job = built(tmp_path / "one", tmp_path / "ccache/el6/debian12", remote=RemoteCaches(remote, writes=True))
    [mount] = [mount for mount in job.mounts if mount.target == rpmbuild.CCACHE_REMOTE]
    assert (mount.source, mount.writable) == (remote / "kernel", True)
    assert (job.environment["CCACHE_REMOTE_STORAGE"], job.environment["CCACHE_RESHARE"]) == (
        "file:/build/ccache-remote",
        "1",
    )
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "remote", remote, remote / "kernel")} == {0}


def test_a_remote_cache_that_nobody_filled_is_none(tmp_path: Path) -> None:
    caches, remote = tmp_path / "ccache" / "el6" / "debian12", tmp_path / "remote" / "el6" / "debian12"
    _, job = built(tmp_path / "one", caches, remote=RemoteCaches(remote, writes=False))
    assert "CCACHE_REMOTE_STORAGE" not in job.environment and not (tmp_path / "remote").exists()
    _, job = built(tmp_path / "other", None, remote=RemoteCaches(filled(tmp_path), writes=False))
    assert job.environment["CCACHE_DISABLE"] == "1" and len(job.mounts) == 1, "--no-ccache is without both"


@pytest.mark.parametrize("change", ["a link", "anybody"])
def test_a_remote_cache_that_anybody_could_have_filled_is_refused(tmp_path: Path, change: str) -> None:
    remote = filled(tmp_path)
    if change == "anybody":
        (tmp_path / "remote").chmod(0o777)
    else:
        (remote / "kernel").rename(tmp_path / "elsewhere")
        (remote / "kernel").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match=r"compiler cache .*: expected a directory, got a"):
        built(tmp_path / "one", tmp_path / "ccache/el6/debian12", remote=RemoteCaches(remote, writes=False))


def test_a_remote_cache_is_a_directory_that_exists(tmp_path: Path) -> None:
    line = line_loader.load("el6")
    assert ccache.opened_remote(None, line, "debian12", writes=False) is None
    found = ccache.opened_remote(tmp_path, line, "debian12", writes=False)
    assert found == RemoteCaches(ccache.directory(tmp_path, line, "debian12"), writes=False)
    with pytest.raises(UsageError, match="expected a directory that exists"):
        ccache.opened_remote(tmp_path / "nothing", line, "debian12", writes=True)
    with pytest.raises(UsageError, match="expected --ccache-remote"):
        ccache.opened_remote(None, line, "debian12", writes=True)


# --- Where a cache lies, and whose it is ------------------------------------------------------------------


def test_each_line_file_has_caches_of_its_own_though_two_bear_one_name(tmp_path: Path) -> None:
    official = line_loader.load("el6")
    found = [ccache.directory(tmp_path, official, image) for image in ("debian12", "centos6")]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "el6.toml"
        file.write_text((resources.lines_dir() / "el6.toml").read_text())
        found.append(ccache.directory(tmp_path, replace(official, files=(file,)), "debian12"))
    (tmp_path / "link.toml").symlink_to("one/el6.toml")
    linked = replace(official, files=(tmp_path / "link.toml",))
    assert ccache.directory(tmp_path, linked, "debian12") == found[2], "one file, however it is named"
    names = [str(path.relative_to(tmp_path)) for path in found]
    assert names[:2] == ["el6/debian12", "el6/centos6"]
    assert all(re.fullmatch(r"el6\+[0-9a-f]{8}/debian12", name) for name in names[2:]) and len(set(names)) == 4


def test_a_cache_is_made_once_for_the_build_user_alone(tmp_path: Path) -> None:
    place = tmp_path / "ccache" / "el6" / "debian12" / "kernel"
    assert ccache.prepare(place) == ccache.prepare(place) == place.resolve()
    assert (place.stat().st_uid, place.stat().st_mode & 0o7777) == (build_user(), 0o700)
    assert [path.name for path in place.parent.iterdir()] == ["kernel"]


def test_no_other_user_reaches_a_cache_and_no_build_can_open_or_close_it(tmp_path: Path) -> None:
    place = tmp_path / "ccache" / "el6" / "debian12" / "kernel"
    ccache.prepare(place)
    ways = [path.stat().st_mode & 0o7777 for path in place.parents[:3]]
    assert ways == [0o700] * 3, "a build can give the cache itself any mode, and a program in it the set-user-id bit"
    for mode in (0o755, 0):
        for path in (*place.parents[:2], place):
            path.chmod(mode | 0o700 if path is not place else mode)
        ccache.prepare(place)
        assert [path.stat().st_mode & 0o7777 for path in (place, *place.parents[:3])] == [0o700] * 4


@pytest.mark.parametrize("part", ["", "el6", "el6/debian12", "el6/debian12/kernel"])
@pytest.mark.parametrize("kind", ["a link", "a link to nothing", "a file", "open to all", "another user's"])
def test_a_cache_that_is_not_ours_is_refused_and_not_followed(tmp_path: Path, part: str, kind: str) -> None:
    place = tmp_path / "ccache" / "el6" / "debian12" / "kernel"
    ccache.prepare(place)
    (place / "object").touch()
    odd = tmp_path / "ccache" / part
    if kind == "open to all":
        odd.chmod(0o777)
    elif kind == "another user's":
        if os.geteuid() != 0:  # a plain user cannot give a directory away
            odd.chmod(0o777)
        else:
            os.chown(odd, 12345, 12345)
    else:
        odd.rename(tmp_path / "elsewhere")
        if kind == "a file":
            odd.touch()
        else:
            odd.symlink_to(tmp_path / ("elsewhere" if kind == "a link" else "nothing"))
    with pytest.raises(Refused, match=r"compiler cache .*: expected a directory of user") as refused:
        ccache.prepare(place)
    assert refused.value.where == str(odd)
    assert "./inv clean ccache" in refused.value.hint and "--no-ccache" in refused.value.hint
    assert not (tmp_path / "nothing").exists()


def test_the_shell_of_a_failed_step_has_the_same_cache_or_none_that_is_somebody_elses(tmp_path: Path) -> None:
    _, job = built(tmp_path, tmp_path / "ccache" / "el6" / "debian12")
    assert load_failed_job(tmp_path).mounts == job.mounts
    cache = next(mount.source for mount in job.mounts if mount.target == rpmbuild.CCACHE)
    cache.rmdir()
    assert load_failed_job(tmp_path).mounts == job.mounts and cache.is_dir(), "cleaned away meanwhile"
    cache.rmdir()
    cache.symlink_to(tmp_path)
    with pytest.raises(Refused, match="a link"):
        load_failed_job(tmp_path)


def test_a_job_that_was_edited_is_not_entered(tmp_path: Path) -> None:
    built(tmp_path, tmp_path / "ccache" / "el6" / "debian12")
    [job] = tmp_path.rglob(JOB)
    job.write_text(job.read_text().replace('"writable": false', '"writable": true').replace("/build", "/etc"))
    with pytest.raises(Refused, match=r"job.json: damaged; expected the job that failed, got its seal does not match"):
        load_failed_job(tmp_path)
