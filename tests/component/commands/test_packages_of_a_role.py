"""A role without a kernel of its own: the stock kernel, compiled once, and the role's packages in its set."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from pipeline.config import line_loader
from pipeline.config.context import RunContext
from pipeline.config.line_model import Line, RoleName
from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.core.fs import sha256_of
from pipeline.errors import UsageError
from pipeline.packaging.graph import Step, StepGraph, Work
from tests.component.commands.test_build import MADE, ToyJob
from tests.fixtures.rpms import rpm

LINE = """\
schema = 1
extends = "lts612"
name = "own"

[roles.director]
kernel = "stock"
packages = ["fullnat"]

[packages.fullnat]
kind = "module-set"
source = "ipvsadm"
summary = "A stand-in"
version = "1.0"
modules = ["ip_vs"]
"""


class PackagesJob(ToyJob):
    """The toy's job with one more step, of the role's package."""

    def plan(self) -> StepGraph:
        def action(work: Work) -> None:
            (work.out / "rpms").mkdir()
            shutil.copy(rpm("fullnat"), work.out / "rpms")

        steps = [*(self._toy(name) for name in MADE), Step("package:fullnat", action, needs=("kernel:stock",))]
        whole = StepGraph([*steps, self.publishing.step([step.name for step in steps])])
        return whole.only(self.context.settings.only) if self.context.settings.only else whole


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """A line whose directors are stock kernels with a package."""
    file = tmp_path / "own.toml"
    file.write_text(LINE)
    return line_loader.load(line_file=file)


def job(line: Line, place: Path) -> PackagesJob:
    given = load({"artifacts": str(place / "artifacts"), "line_file": str(line.files[0])}, {})
    return PackagesJob(line, RunContext(given, Console(quiet=True, out=io.StringIO())))


def test_the_set_of_the_role_is_the_stock_kernel_with_its_packages(line: Line, tmp_path: Path) -> None:
    job(line, tmp_path).build_all()
    latest = tmp_path / "artifacts" / "repo" / "own" / "latest"
    sets = {
        role: {path.name.rpartition("-1.2.1-")[0]: path for path in (latest / role).rglob("*.rpm")}
        for role in ("stock", "director")
    }
    assert set(sets["director"]) == {"kernel", "fullnat", "ipvsadm", "keepalived", "lvs-fnat-director"}
    assert set(sets["stock"]) == {"kernel", "ipvsadm", "keepalived", "lvs-fnat-realserver"}, "all can be installed"
    assert sha256_of(sets["director"]["kernel"]) == sha256_of(sets["stock"]["kernel"])


def test_the_step_of_the_package_can_be_built_alone_and_the_role_has_no_kernels_step(
    line: Line, tmp_path: Path
) -> None:
    made = job(line, tmp_path)
    made.build(["kernel"], "director")
    assert (tmp_path / "artifacts" / "steps" / "own" / "kernel-stock").is_dir()
    with pytest.raises(UsageError) as caught:
        job(line, tmp_path).build(["fullnat"])
    assert "package 'fullnat': not found" in caught.value.what
    given = load({"artifacts": str(tmp_path / "artifacts"), "force": ["kernel:director"]}, {})
    with pytest.raises(UsageError) as caught:
        PackagesJob(line, RunContext(given, Console(quiet=True))).build_all()
    assert "package:fullnat" in caught.value.why and "kernel:director" not in caught.value.why


def test_the_line_says_which_roles_have_kernels(line: Line) -> None:
    assert line.data.kernels == (RoleName.STOCK,)
    assert line.data.kernel_of(RoleName.DIRECTOR) is RoleName.STOCK
