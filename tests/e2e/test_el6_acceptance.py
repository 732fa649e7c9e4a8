"""What must hold of the line el6, on real material where a person supplies it and on the toy elsewhere.

`./inv test --real --mirror DIR --line-file FILE` names the real material; what it builds stays in the artifacts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.test import REAL_EL6
from pipeline.publish import signers
from pipeline.publish.verify import verify_snapshot
from tests.fixtures.commandline import Inv
from tests.fixtures.workshop import ToyShop

PATIENCE = 4 * 3600.0  # seconds; three kernels with every driver on a slow machine
BUILDIDS = {"director": ".fnat", "realserver": ".toa", "stock": ".stock"}
# domain facts, sections 1 and 3: files, hunks and lines of the original patches, and their `git patch-id --stable`.
ORIGINAL = {
    "lvs": ("director", 33, 575, 7005, 2897, "798afb12452c23c614957e1f5986f8e56d2f11b7"),
    "toa": ("realserver", 14, 20, 537, 9, "0d3b826cd3d591cbfa94148f7c6037e1f71d42da"),
}

pytestmark = pytest.mark.timeout(PATIENCE)


class BuildInputs:
    """A line to accept: options that name it, options of a build, and whether it is the real one."""

    def __init__(self, run: Inv, named: list[str], building: list[str], artifacts: Path, *, real: bool) -> None:
        self.run, self.named, self.building, self.artifacts, self.real = run, named, building, artifacts, real
        self._built: dict[str, Any] | None = None

    def __call__(self, verb: str, *more: str) -> Any:
        return self.run(verb, *self.named, *more, "--json").json

    @property
    def small(self) -> bool:
        """Whether kernels have the small configuration."""
        return "small" in self.building

    @property
    def built(self) -> dict[str, Any]:
        """What `build-all` said; it runs once."""
        if self._built is None:
            self._built = self("build-all", *self.building)
        return self._built

    def evidence(self, step: str) -> dict[str, Any]:
        """What was found out about a step's packages."""
        found: dict[str, Any] = json.loads((Path(self.built["steps"][step]["out"]) / "evidence.json").read_text())
        return found


@pytest.fixture(scope="module")
def material(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuildInputs]:
    if given := os.environ.get(REAL_EL6):
        named, building = json.loads(given)
        inv = Inv(tmp_path_factory.mktemp("real"), APT_CONFIG=os.environ.get("APT_CONFIG", ""))
        inv.patience = PATIENCE
        yield BuildInputs(inv, named, building, Path(named[named.index("--artifacts") + 1]), real=True)
        return
    with ToyShop.opened(request.getfixturevalue("images")) as shop:
        named = ["--line-file", str(shop.toy.line_file), "--artifacts", str(shop.inv.artifacts)]
        building = ["--runtime", "bubblewrap", "--image", "debian12"]
        yield BuildInputs(shop.inv, named, building, shop.inv.artifacts, real=False)


def test_every_source_is_proven(material: BuildInputs) -> None:
    sources = {item["name"]: item for item in material("fetch")["sources"]}
    assert {"kernel-srpm", "lvs-tarball"} <= sources.keys()


def test_each_roles_patch_is_proven_by_content_and_leaves_the_recorded_tree(material: BuildInputs) -> None:
    said = material("patches")
    for item in said["patches"]:
        assert item["role_found"] == item["role"] and item["option_number"] == [200]
        if material.real:
            size = tuple(item[name] for name in ("role", "files", "hunks", "added", "removed", "patch_id"))
            assert size == ORIGINAL[item["patch"]]
            assert len(said["roles"][item["role"]]["files"]) == ORIGINAL[item["patch"]][1] - (item["patch"] == "lvs")


def test_every_package_is_built_and_the_repository_is_good(material: BuildInputs) -> None:
    steps = material.built["steps"]
    wanted = {f"kernel:{role}" for role in BUILDIDS} | {"ipvsadm", "keepalived", "role-packages", "repository"}
    assert wanted <= steps.keys()
    assert {steps[name]["state"] for name in wanted} <= {"ran", "reused"}
    directory = f"{material.built['line']}{'-small' if material.small else ''}"
    document = verify_snapshot(
        (material.artifacts / "repo" / directory / "latest").resolve(),
        signers.recorded_fingerprint(material.artifacts, directory),
    )
    assert set(document.sets) == set(BUILDIDS)


@pytest.mark.parametrize("role", BUILDIDS)
def test_a_kernel_is_its_roles_by_content_and_compiled_from_the_proven_tree(material: BuildInputs, role: str) -> None:
    found, proven = material.evidence(f"kernel:{role}"), material("patches")["roles"][role]
    uname = found["parameters"]["uname"]
    assert found["role"]["role"] == role
    assert uname.startswith(f"2.6.32-220.23.1.el6{BUILDIDS[role]}") and found["banner"].startswith(f"{uname} ")
    assert found["tree"] == proven.get("tree", found["tree"])
    assert found["paths_changed"] == len(proven.get("files", ()))
    if not material.small:
        assert found["symbols"]["kabi"] > (1000 if material.real else 0)
        assert found["symbols"]["crcs"]["inet_stream_ops"] == ("0x51888a5d" if role == "realserver" else "0x758e2721")


def test_the_tools_are_the_ones_with_fullnat(material: BuildInputs) -> None:
    assert "ipvsadm-1:1.2.1-fnat.0" in material.evidence("ipvsadm")["package"]["nevra"]
    assert "keepalived-1:1.2.2-fnat.0" in material.evidence("keepalived")["package"]["nevra"]
