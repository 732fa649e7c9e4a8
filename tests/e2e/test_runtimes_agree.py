"""The real ipvsadm of lts61, built by a Docker engine and by bubblewrap: the same package, byte for byte."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import process
from pipeline.core.locks import locked
from tests.fixtures.commandline import ROOT, Inv
from tests.fixtures.dockerd import Dockerd

FETCHED = ROOT / "artifacts" / "test-cache" / "lts61"  # shared with the tests of the real fetch
RPM = "ipvsadm-1.31-fnat.2.lts61.x86_64.rpm"
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def fetched() -> dict[str, str]:
    """What a run needs in its environment to fetch by the host's own network; the sources are there."""
    names = [spelt for name in PROXIES for spelt in (name, name.upper())]
    return {"APT_CONFIG": os.environ.get("APT_CONFIG", ""), **{n: os.environ[n] for n in names if n in os.environ}}


def build(place: Path, images: Path, environment: dict[str, str], runtime: str, *words: str) -> Any:
    """The steps of `build-all --only ipvsadm`, on artifacts of its own but for what was fetched."""
    inv = Inv(place, **environment)
    inv.patience = 1500.0
    inv.artifacts.mkdir()
    with locked(FETCHED.with_name("lts61.lock")):
        inv("fetch", "--line", "lts61", "--artifacts", FETCHED)
    for name, shared in (("store", FETCHED / "store"), ("images", images)):
        (inv.artifacts / name).symlink_to(shared)
    return inv("build-all", "--line", "lts61", "--only", "ipvsadm", "--runtime", runtime, "--json", *words)


@pytest.fixture(scope="module")
def packages(
    images: Path, engine: Dockerd, fetched: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The package by the runtime that built it."""
    found = {}
    for runtime in ("docker", "bubblewrap"):
        place = tmp_path_factory.mktemp(runtime)
        ended = build(place, images, {**fetched, "DOCKER_HOST": engine.address}, runtime)
        word = {"docker": "builds run under Docker 2", "bubblewrap": "builds run under bubblewrap 0."}[runtime]
        assert word in ended.err
        found[runtime] = place / "cwd" / ended.json["steps"]["ipvsadm"]["out"] / "rpms" / RPM
    return found


def test_both_runtimes_make_the_same_bytes(packages: dict[str, Path]) -> None:
    docker, bubblewrap = packages["docker"], packages["bubblewrap"]
    told = [process.run(["rpm", "-qp", "--nosignature", "--dump", path]).text for path in (docker, bubblewrap)]
    assert told[0] == told[1], "the files, their digests, modes and times"
    assert docker.read_bytes() == bubblewrap.read_bytes()


def test_it_says_nothing_of_where_it_was_built(packages: dict[str, Path]) -> None:
    asked = "%{BUILDHOST} %{BUILDTIME} [%{FILEUSERNAME}:%{FILEGROUPNAME} ]"
    said = process.run(["rpm", "-qp", "--nosignature", "--qf", asked, packages["docker"]]).text.split()
    host, time, *owners = said
    assert host == "reproducible" and set(owners) == {"root:root"}
    assert int(time) < packages["docker"].stat().st_mtime - 1_000_000, "the sources' time, not ours"


def test_both_have_the_same_key(packages: dict[str, Path]) -> None:
    """So that a host with the one may go on with what a host with the other has built."""
    assert len({path.parents[2].name for path in packages.values()}) == 1
