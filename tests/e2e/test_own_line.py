"""A line outside the project: a line file and spec files in a directory, a known recipe, no Python."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import line_loader
from pipeline.core import resources
from pipeline.core.process import run
from pipeline.errors import ExitCode
from pipeline.publish import signers
from pipeline.publish.verify import verify_snapshot
from tests.fixtures.workshop import ToyShop

pytestmark = pytest.mark.timeout(900)

OWN_WORD = "CONFIG_LOG_BUF_SHIFT=15\n"
UNAME = "2.6.32-220.23.1.el6.mine.small.x86_64"


def toml(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(str(key))} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return value.isoformat() if isinstance(value, date) else json.dumps(value)


def write_line(toy_file: Path, directory: Path) -> Path:
    """A line file that says everything itself: the toy's pins, the role stock, and a `[build]` table of its own."""
    data = line_loader.load(line_file=toy_file).data.model_dump(by_alias=True, exclude_none=True)
    data |= {"name": "own", "title": "A line of my own", "roles": {"stock": {"buildid": ".mine"}}}
    data["build"]["specs"] = "mine"
    data["sources"] = {name: source for name, source in data["sources"].items() if name not in ("busybox", "iptables")}
    for name in ("patches", "rules", "lab"):
        del data[name]
    file = directory / "own.toml"
    file.write_text("".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in data.items()))
    return file


@pytest.fixture
def shop(images: Path) -> Iterator[ToyShop]:
    """A shop for the line: its words are the line file's, and spec files lie beside."""
    with ToyShop.opened(images) as made:
        directory = made.toy.line_file.parent
        config = directory / "specs" / "mine" / "config"
        config.mkdir(parents=True)
        small = (resources.specs_dir() / "el6" / "config" / "small.config").read_text()
        own = re.sub(r"CONFIG_LOG_BUF_SHIFT=.*\n", OWN_WORD, small)
        assert own != small
        (config / "small.config").write_text(own)
        file = write_line(made.toy.line_file, directory)
        made.inv("pin", "own", "kernel-srpm", "--line-file", file)
        made.line_words = ("--line-file", str(file), "--image", "debian12", "--kernel-config", "small", "--no-smoke")
        yield made


def test_a_line_of_ones_own_is_planned_built_and_published(shop: ToyShop) -> None:
    planned = shop.all("--dry-run", "--json").json
    assert planned["line"] == "own" and planned["override"] is None
    assert set(planned["steps"]) == {"kernel:stock", "role-packages", "repository"}

    steps = shop.steps()
    assert {step["state"] for step in steps.values()} == {"ran"}
    latest = shop.inv.artifacts / "repo" / "own-small" / "latest"
    document = verify_snapshot(latest.resolve(), signers.recorded_fingerprint(shop.inv.artifacts, "own-small"))
    assert (document.line, document.small) == ("own", True)
    [kernel] = latest.rglob("kernel-2.6.32-*.rpm")
    assert kernel.name == f"kernel-{UNAME}.rpm"
    unpacked = run(["rpm2cpio", kernel]).out
    config = run(["cpio", "-i", "--quiet", "--to-stdout", f"./boot/config-{UNAME}"], stdin=unpacked)
    assert OWN_WORD in config.text  # of the spec files beside the line file
    assert list(shop.toy.line_file.parent.rglob("*.py")) == []


def test_what_the_spec_files_lack_is_told_before_anything_is_fetched(shop: ToyShop) -> None:
    file = Path(shop.line_words[1])
    file.write_text(file.read_text().replace('"redhat-srpm"', '"debian-tarball"'))
    refused = shop.all("--json", expect=ExitCode.USAGE).json
    told = [problem["what"] for problem in refused["problems"]]
    assert "the specs mine lack config/base.config" in told
    assert all(Path(problem["file"]) == file and problem["line"] > 1 for problem in refused["problems"])
