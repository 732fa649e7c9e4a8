"""`build-all` on a disk that is full, or becomes so: told with the directory and the bytes, and nothing is lost."""

from __future__ import annotations

import os

import pytest

from pipeline.errors import ExitCode
from tests.fixtures.disks import fill, small_disk
from tests.fixtures.quickline import PACKAGE
from tests.fixtures.workshop import Workshop

ROOM = 512 << 20  # bytes that must stay free: pipeline.sandbox.runtime.Limits


def test_a_build_that_fills_the_disk_is_ended_and_what_it_wrote_is_given_back(shop: Workshop) -> None:
    with small_disk(shop, 700) as disk:
        shop.line.makefile("for n in $$(seq 20); do head -c 20m /dev/zero > big$$n; sleep 0.1; done; sleep 60")
        ended = shop.build("ipvsadm", "--runtime", "bubblewrap", expect=ExitCode.HOST)
        assert "; ipvsadm was killed" in ended.err
        assert f"where: {shop.inv.artifacts}/steps/quick/ipvsadm" in ended.err
        assert "disk space: expected 512.0 MiB free, got " in ended.err
        assert "run the same command again" in ended.err
        left = os.statvfs(disk)
        assert left.f_bavail * left.f_frsize > 650 << 20
        assert (disk / "steps/quick/ipvsadm/.failed/log").is_file()
        shop.line.makefile()
        shop.build("ipvsadm", "--runtime", "bubblewrap")
    assert shop.left() == {}


def test_a_build_for_which_there_is_no_room_is_not_begun(shop: Workshop) -> None:
    with small_disk(shop, 700) as disk:
        ballast = fill(disk, leaving=ROOM + (30 << 20))
        ended = shop.build("ipvsadm", expect=ExitCode.HOST)
        assert "building ipvsadm needs 576.0 MiB, 5" in ended.err, ended.err
        assert f"where: {shop.inv.artifacts}/steps/quick/ipvsadm" in ended.err
        assert "builds run under" not in ended.err
        ballast.unlink()
        assert PACKAGE in shop.build("ipvsadm").out


@pytest.mark.parametrize("leaving", [0, 64 << 10])
def test_a_disk_that_is_full_from_the_beginning_is_named(leaving: int, shop: Workshop) -> None:
    with small_disk(shop, 700) as disk:
        ballast = fill(disk, leaving)
        ended = shop.build("ipvsadm", expect=ExitCode.HOST)
        assert "disk space" in ended.err and str(shop.inv.artifacts.name) in ended.err
        assert " free" in ended.err, ended.err
        ballast.unlink()
        shop.build("ipvsadm")


def test_a_disk_that_is_full_when_the_work_is_done_loses_only_that_step(shop: Workshop) -> None:
    """The packages fit no more: another program of the host took the room while the build ran."""
    with small_disk(shop, 700) as disk:
        shop.line.makefile("echo begun; while [ ! -e /build/tmp/go ]; do sleep 0.02; done; touch /build/tmp/gone")
        with shop.building("ipvsadm", "--only", "role-packages", "--runtime", "bubblewrap") as child:
            shop.wait_for(lambda: list(disk.glob("steps/quick/role-packages/[!.]*/meta.json")))
            shop.wait_for(lambda: list(disk.glob("steps/quick/ipvsadm/.work-*/scratch/build/tmp")))
            ballast = fill(disk, leaving=0)
            said, _ = child.communicate(timeout=60)
        assert child.returncode == ExitCode.HOST, said
        assert "; ipvsadm was killed" in said
        ballast.unlink()
        shop.line.makefile()
        steps = shop.build("ipvsadm", "--only", "role-packages", "--json").json["steps"]
        assert {name: step["state"] for name, step in steps.items()} == {"ipvsadm": "ran", "role-packages": "reused"}
