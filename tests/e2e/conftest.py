"""What whole runs share: the real builder image, kept in the clone, and one real Docker engine per test process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.dockerd import Dockerd
from tests.fixtures.forged import Forged
from tests.fixtures.published import Published
from tests.fixtures.quickline import builder_images
from tests.fixtures.workshop import Workshop


@pytest.fixture(scope="session")
def images() -> Path:
    """A directory of images with the builder image in it."""
    return builder_images()


@pytest.fixture(scope="session")
def published(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """A published toy: the files of tests that take it run on one worker, by `tests.conftest.FOLLOWS`."""
    with Published.opened(images, tmp_path_factory.mktemp("audit")) as found:
        yield found


@pytest.fixture
def forged(published: Published, tmp_path: Path) -> Forged:
    """A copy of the published toy to forge."""
    return Forged(published.repo, published.keys, tmp_path)


@pytest.fixture(scope="session")
def engine() -> Iterator[Dockerd]:
    """A Docker engine of Debian's docker.io."""
    with Dockerd.running() as running:
        yield running


@pytest.fixture
def shop(images: Path) -> Iterator[Workshop]:
    """A workshop without an engine."""
    with Workshop.opened(images) as workshop:
        yield workshop


@pytest.fixture(params=["bubblewrap", "docker"])
def runtime(request: pytest.FixtureRequest) -> str:
    """The name of a runtime; a test that takes it and `either` is run under both."""
    return str(request.param)


@pytest.fixture
def either(runtime: str, images: Path, request: pytest.FixtureRequest) -> Iterator[Workshop]:
    """A workshop for the runtime: with the engine where it is Docker."""
    engine = request.getfixturevalue("engine") if runtime == "docker" else None
    with Workshop.opened(images, engine) as workshop:
        workshop.inv.variables = {**workshop.inv.variables, "FNAT_RUNTIME": runtime}
        yield workshop
