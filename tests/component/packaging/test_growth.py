"""What a job may write: the watch on its places as a whole, under bubblewrap and over the files it knows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.trees import usage
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.runtime import EndReason, Job, JobResult, Limits, Mount, chown_to_build_user
from tests.fixtures.rootfs import busybox_image

MIB = 1 << 20


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the build user can reach."""
    with tempfile.TemporaryDirectory(prefix="fnat-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run(place: Path, script: str, **limits: int) -> JobResult:
    """The script as a job that may write to `place`/build."""
    (place / "build").mkdir(exist_ok=True)
    chown_to_build_user(place / "build")
    job = Job(
        busybox_image(place / "image"),
        ("/bin/sh", "-c", script),
        place / "log",
        (Mount(place / "build", "/build", writable=True),),
        limits=replace(Limits(free=0, wall=30), **limits),
    )
    return Bubblewrap().run(job)


def test_many_small_files_are_one_big_one(place: Path) -> None:
    many = "n=0; while :; do n=$((n+1)); head -c 1m /dev/zero > f$n; sleep 0.01; done"
    assert run(place, many, size=20 * MIB) == JobResult(EndReason.SIZE, -9)
    assert 20 * MIB < usage(place / "build") < 1000 * MIB


def test_what_was_there_before_does_not_count(place: Path) -> None:
    (place / "build").mkdir()
    (place / "build/before").write_bytes(os.urandom(8 * MIB))
    assert run(place, "head -c 1m /dev/zero > f; sleep 1.2", size=4 * MIB).succeeded


@pytest.mark.parametrize("where", ["/tmp", "/run", "/var/tmp"])
def test_what_is_in_memory_ends_too(place: Path, where: str) -> None:
    assert not run(place, f"head -c 8m /dev/zero > {where}/x", temporary=4 * MIB).succeeded


def test_devices_are_no_place_to_write_to(place: Path) -> None:
    assert not run(place, "echo x > /dev/file").succeeded
    assert "Read-only file system" in (place / "log").read_text()


def test_sizes_are_of_what_lies_on_the_disk(tmp_path: Path) -> None:
    empty = usage(tmp_path)
    (tmp_path / "file").write_bytes(os.urandom(MIB))
    os.link(tmp_path / "file", tmp_path / "other name")
    with (tmp_path / "hole").open("wb") as stream:
        stream.truncate(1 << 40)
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "closed").mkdir(0)
    assert MIB <= usage(tmp_path) - empty < MIB + (64 << 10)
    assert usage(tmp_path / "gone") == 0
