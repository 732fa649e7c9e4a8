"""What tests of the roles' scripts share: a server and a director under each shell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.line_model import RoleName
from tests.fixtures.machine import SHELLS, Machine, machine
from tests.fixtures.rolescripts import TABLE


@pytest.fixture(params=SHELLS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path, RoleName.REALSERVER, request.param) as made:
        yield made


@pytest.fixture(params=SHELLS)
def director(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path, RoleName.DIRECTOR, request.param) as made:
        made.has_module("ip_vs", f"echo '{TABLE.strip()}' >{tmp_path}/proc/net/ip_vs")
        yield made


@pytest.fixture(params=SHELLS)
def packaged_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """A server of a line whose real servers read TOA by lvs-toa."""
    with machine(tmp_path, RoleName.REALSERVER, request.param, ["lvs-toa"]) as made:
        yield made


@pytest.fixture(params=SHELLS)
def packaged_director(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """A director of a line whose FULLNAT is modules beside the stock kernel."""
    with machine(tmp_path, RoleName.DIRECTOR, request.param, ["kmod-lvs-fullnat"]) as made:
        made.has_module("ip_vs", f"echo '{TABLE.strip()}' >{tmp_path}/proc/net/ip_vs")
        yield made
