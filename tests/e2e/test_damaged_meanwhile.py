"""Runs whose files somebody removes, and disks without inodes: told as what they are, and the next run goes on."""

from __future__ import annotations

import shutil

import pytest

from pipeline.errors import ExitCode
from tests.fixtures.quickline import PACKAGE
from tests.fixtures.workshop import Workshop

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("what", ["steps", "steps/quick", "steps/quick/ipvsadm"])
def test_what_is_removed_under_a_run_is_named_and_the_next_run_goes_on(shop: Workshop, what: str) -> None:
    artifacts = shop.inv.artifacts
    shop.line.makefile("echo begun; sleep 3; touch /build/x")
    with shop.building("ipvsadm") as child:
        shop.wait_for_the_log("begun")
        shutil.rmtree(artifacts / what)
        said, _ = child.communicate(timeout=120)
    assert child.returncode == ExitCode.HOST, said
    assert "Traceback" not in said and ": missing; " in said and str(what) in said
    shop.line.makefile()
    assert PACKAGE in shop.build("ipvsadm").out


@pytest.mark.parametrize("inodes", [0, 60])
def test_a_disk_without_inodes_is_told_as_that(shop: Workshop, inodes: int) -> None:
    """A tmpfs of its own in a mount namespace of its own: plenty of bytes, no more names."""
    artifacts, images = shop.inv.artifacts, (shop.inv.artifacts / "images").resolve()
    script = (
        f'mount -t tmpfs -o size=100m,nr_inodes={inodes + 5},mode=755 none "{artifacts}" && '
        f'ln -s "{images}" "{artifacts}/images" && '
        f'i=0; while mkdir "{artifacts}/x$i" 2>/dev/null; do i=$((i+1)); done; '
        f'j=0; while [ $j -lt {inodes} ]; do rmdir "{artifacts}/x$j"; j=$((j+1)); done; exec "$@"'
    )
    shop.inv.before = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
    ended = shop.build("ipvsadm", "--json", expect=ExitCode.HOST)
    assert "no inodes" in ended.json["what"], ended.err
    assert "df -i " in ended.err
