"""A build works whatever the umask of who starts it, and what it leaves is not for others to write."""

from __future__ import annotations

import stat
from collections.abc import Iterator

import pytest

from pipeline.sandbox.runtime import BUILD_UID
from tests.fixtures.workshop import Workshop

pytestmark = pytest.mark.timeout(600)


def open_to_others(shop: Workshop) -> Iterator[str]:
    """What others can write below the artifacts, but for links and what the sandbox's user has in its own cache."""
    for path in shop.inv.artifacts.rglob("*"):
        status = path.lstat()
        own = "ccache" in path.relative_to(shop.inv.artifacts).parts and status.st_uid == BUILD_UID
        if not stat.S_ISLNK(status.st_mode) and not own and status.st_mode & 0o022:
            yield f"{stat.S_IMODE(status.st_mode):o} {path}"


@pytest.mark.parametrize("umask", ["000", "077"])
def test_a_package_is_built_and_nothing_is_for_others_to_write(shop: Workshop, umask: str) -> None:
    shop.inv.before = ("sh", "-c", f'umask {umask}; exec "$@"', "sh")
    shop.build("ipvsadm")
    assert list(open_to_others(shop)) == []
    [made] = shop.inv.artifacts.glob("steps/*/ipvsadm/*/out/rpms/*.rpm")
    assert stat.S_IMODE(made.stat().st_mode) == 0o644
    assert shop.left() == {}
