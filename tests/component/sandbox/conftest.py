"""What tests of runtimes share: an image, an engine and a small disk for each file, and a bench for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.sandbox.runtime import Image, Runtime
from tests.fixtures.dockerd import Dockerd
from tests.fixtures.rootfs import busybox_image
from tests.fixtures.runtimes import BOTH, Bench, bench_of, reachable_place


@pytest.fixture(scope="module")
def toy() -> Iterator[Image]:
    with reachable_place() as place:
        yield busybox_image(place / "toy")


@pytest.fixture(scope="module")
def small_disk() -> Iterator[Path]:
    """A file system of 4 MiB."""
    with reachable_place() as disk:
        process.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=1777", "none", disk])
        try:
            yield disk
        finally:
            process.run(["umount", "--lazy", disk])


@pytest.fixture(scope="module")
def dockerd(small_disk: Path) -> Iterator[Dockerd]:  # in whose mount namespace the disk must be, too
    with Dockerd.running() as engine:
        yield engine


@pytest.fixture(scope="module")
def runtimes() -> dict[str, tuple[Runtime, str]]:
    return {}


@pytest.fixture(params=BOTH)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with reachable_place() as place:
        yield bench_of(request.param, request, place)


@pytest.fixture
def docker_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with reachable_place() as place:
        yield bench_of("docker", request, place)
