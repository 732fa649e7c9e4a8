"""The programs of the lab's guests, compiled in the sandbox from toy sources: what they are, and who needs them."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.core.process import run
from pipeline.errors import ExitCode
from pipeline.formats import elf
from tests.fixtures.workshop import Workshop


def output(shop: Workshop) -> Path:
    """The step's output."""
    [made] = shop.inv.artifacts.glob("steps/quick/userland/[!.]*/out")
    return made


def test_they_are_static_and_come_out_the_same_twice(shop: Workshop) -> None:
    said = shop.inv("build", "userland", *shop.line.words, "--check-reproducible", "--json").json
    assert sorted(row["file"] for row in said["compared"]) == ["busybox", "fnat-guest", "iptables"]
    assert all(row["same"] for row in said["compared"])
    made = output(shop)
    for name in ("busybox", "fnat-guest", "iptables"):
        program = elf.program((made / "bin" / name).read_bytes(), name)
        assert (program.loader, program.needed, program.dynamic) == ("", (), False)
    assert run([made / "bin/busybox"]).text == "BusyBox v1.35.0\nmodules.dep\nmodules.alias\n"
    assert "/sbin/modprobe" in (made / "busybox.links").read_text().split()
    evidence = json.loads((made / "evidence.json").read_text())
    assert set(evidence["programs"]) == {"busybox", "fnat-guest", "iptables"}
    assert not list(made.rglob("*.rpm"))
    assert shop.left() == {}


def test_no_repository_waits_for_them(shop: Workshop) -> None:
    foretold = shop.inv("build-all", *shop.line.words, "--only", "repository", "--dry-run", "--json").json
    assert "userland" not in foretold["steps"]
    assert "ipvsadm" in foretold["steps"]


def test_a_configuration_that_busybox_drops_stops_the_build(shop: Workshop) -> None:
    forgets = "oldconfig:\n\tsed -i /CONFIG_STATIC/d .config\nbusybox: busybox.c\n\ttrue\n"
    shop.line.userland(Makefile="defconfig:\n\ttouch .config\n" + forgets)
    ended = shop.build("userland", expect=ExitCode.BUILD)
    assert "error: kconfig: CONFIG_STATIC: asked for y, has n" in ended.err
