"""Where an engine is looked for: variables, Docker's context, and sockets of the system and of this user."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from pipeline.host import engines
from pipeline.host.engine_addresses import Address, addresses
from pipeline.host.facts import Host

RUNNING = "tcp://127.0.0.1:1"


def host(place: Path, **environ: str) -> Host:
    return Host(environ={"HOME": str(place / "home"), **environ}, run=place / "run")


def context(place: Path, name: str, document: object, *, current: bool = True) -> Path:
    """A context as `docker context create` leaves it; the directory of its certificates."""
    identity = hashlib.sha256(name.encode()).hexdigest()
    meta, tls = (place / ".docker/contexts" / kind / identity for kind in ("meta", "tls"))
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps(document))
    if current:
        (place / ".docker/config.json").write_text(json.dumps({"currentContext": name}))
    return tls / "docker"


def endpoint(url: str) -> object:
    return {"Name": "of no interest", "Endpoints": {"docker": {"Host": url, "SkipTLSVerify": False}}}


def test_variables_come_first_and_docker_host_hides_the_context(tmp_path: Path) -> None:
    context(tmp_path / "home", "desk", endpoint("unix:///desk.sock"))
    named = host(tmp_path, CONTAINER_HOST="unix:///podman.sock")
    assert addresses(named) == [
        Address("unix:///podman.sock", "CONTAINER_HOST"),
        Address("unix:///desk.sock", "the docker context desk"),
    ]
    assert addresses(host(tmp_path, DOCKER_HOST=RUNNING)) == [Address(RUNNING, "DOCKER_HOST")]


def test_a_contexts_certificates_come_with_its_address(tmp_path: Path) -> None:
    tls = context(tmp_path / "home", "far", endpoint(RUNNING), current=False)
    tls.mkdir(parents=True)
    assert addresses(host(tmp_path)) == []
    assert addresses(host(tmp_path, DOCKER_CONTEXT="far")) == [Address(RUNNING, "the docker context far", tls)]


@pytest.mark.parametrize("document", [None, [], {"Endpoints": None}, {"Endpoints": {"docker": {"Host": 1}}}])
def test_a_context_that_says_nothing_is_passed_over(tmp_path: Path, document: object) -> None:
    context(tmp_path / "home", "odd", document)
    assert addresses(host(tmp_path)) == []


def test_the_configuration_may_lie_elsewhere(tmp_path: Path) -> None:
    context(tmp_path, "desk", endpoint(RUNNING))
    assert [found.url for found in addresses(host(tmp_path, DOCKER_CONFIG=str(tmp_path / ".docker")))] == [RUNNING]


def test_the_default_context_is_none(tmp_path: Path) -> None:
    (tmp_path / "home/.docker").mkdir(parents=True)
    (tmp_path / "home/.docker/config.json").write_text('{"currentContext": "default"}')
    assert addresses(host(tmp_path)) == []


def test_rootless_sockets_are_found_without_the_runtime_directorys_variable(tmp_path: Path) -> None:
    user = tmp_path / "run/user" / str(os.getuid())
    (user / "podman").mkdir(parents=True)
    for socket in (user / "podman/podman.sock", tmp_path / "run/docker.sock"):
        socket.touch()
    assert [found.url for found in addresses(host(tmp_path))] == [
        f"unix://{tmp_path}/run/docker.sock",
        f"unix://{user}/podman/podman.sock",
    ]


def test_an_engine_over_ssh_is_refused_with_the_reason(tmp_path: Path) -> None:
    finding = engines.check_engines(host(tmp_path, DOCKER_HOST="ssh://root@elsewhere.example"))
    assert finding.state == "warn"
    assert "ssh://root@elsewhere.example (DOCKER_HOST): an engine over SSH is not used" in finding.found
    assert "builds mount directories of this host" in finding.found
