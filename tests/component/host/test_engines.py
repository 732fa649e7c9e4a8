"""A real engine behind each way to name it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipeline.host import engines
from pipeline.host.facts import Host
from pipeline.sandbox.choice import first_engine
from tests.fixtures.dockerd import Dockerd


@pytest.mark.parametrize("way", ["DOCKER_HOST", "CONTAINER_HOST", "the docker context desk"])
def test_an_engine_answers_however_it_is_named(tmp_path: Path, way: str) -> None:
    with Dockerd.running() as dockerd:
        environ = {"HOME": str(tmp_path)}
        if way.isupper():
            environ[way] = dockerd.address
        else:
            meta = tmp_path / ".docker/contexts/meta" / hashlib.sha256(b"desk").hexdigest()
            meta.mkdir(parents=True)
            (meta / "meta.json").write_text(json.dumps({"Endpoints": {"docker": {"Host": dockerd.address}}}))
            environ["DOCKER_CONTEXT"] = "desk"
        host = Host(environ=environ, run=tmp_path / "run")
        [engine] = engines.available(host)
        assert (engine.address, engine.named_by, engine.product) == (dockerd.address, way, "Docker")
        assert first_engine(host).name.startswith("Docker")
