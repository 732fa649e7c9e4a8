"""QEMU's command line, where no running guest shows the difference."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.lab.vm.qemu import EMULATED_OPTIONS, Boot, GuestFiles, command_line


@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_a_counted_clock_is_emulated_on_every_host(accel: str, tmp_path: Path) -> None:
    boot = Boot(Path("kernel"), Path("initramfs"), 128, True)
    files = GuestFiles(tmp_path, tmp_path, "guest")
    usual, counted = (command_line(accel, each, [], files) for each in (boot, dataclasses.replace(boot, counted=True)))
    assert usual[usual.index("-accel") + 1] == accel and "-icount" not in usual
    assert counted[counted.index("-accel") + 1] == "tcg"
    assert counted[counted.index("-icount") + 1] == "shift=1,sleep=off"
    assert all(option in counted[counted.index("-append") + 1].split() for option in EMULATED_OPTIONS)
