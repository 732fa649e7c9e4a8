"""Buildbot's own programs and what is rendered for them: which secrets a master and a worker start with."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

import tasks  # noqa: F401 - its verbs are what commands are made of
from pipeline.ci import buildbot_venv, cluster, own_files
from pipeline.ci.buildbot import Buildbot, read_data
from pipeline.ci.kinds import Request, TimeOfDay
from pipeline.config import line_loader
from pipeline.config.settings import Settings
from pipeline.core import process
from pipeline.packaging.graph import Step, StepGraph
from tests.fixtures.browsers import chromium

pytestmark = pytest.mark.timeout(900)  # Buildbot's packages may have to be installed
NAMES = ("one", "operator")
CLUSTER = '[workers.one]\ncapabilities = ["bubblewrap"]\nmemory = 16384\ncheckout = "/opt/fnat"\n'


@pytest.fixture(scope="module")
def programs() -> Path:
    buildbot_venv.install()
    return buildbot_venv.path() / "bin"


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    listen, page = cluster._free_ports(2)
    (tmp_path / "cluster.toml").write_text(f'listen = "127.0.0.1:{listen}"\npage = "127.0.0.1:{page}"\n{CLUSTER}')
    line = line_loader.load("lts61")
    options = {"cluster": str(tmp_path / "cluster.toml")}
    return Request((line,), Settings(), TimeOfDay(3, 17), options, lambda _: StepGraph([Step("a", lambda _: None)]))


@pytest.fixture
def master(tmp_path: Path, request_: Request) -> Path:
    """A master's directory, as rendered: without secrets."""
    place = tmp_path / "the master"
    own_files.write_all(place, Buildbot().files(request_), overwrite=False, hint="")
    return place


def make_secrets(request: Request, master: Path, environment: Mapping[str, str] | None = None) -> int:
    """Types the printed commands that make the secrets."""
    typed = [each for each in Buildbot().commands(request, master) if "secrets" in each]
    assert len(typed) == 2
    return subprocess.run(["sh", "-ec", "\n".join(typed)], env=environment, check=False).returncode


def checked(programs: Path, master: Path) -> process.Result:
    return process.run([programs / "buildbot", "checkconfig", master / "master.cfg"], accept=range(256))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [None, "", "\n", "secret\n"])
def test_a_master_starts_with_secrets_alone_that_nobody_guesses(
    programs: Path, request_: Request, master: Path, name: str, text: str | None
) -> None:
    make_secrets(request_, master)
    assert checked(programs, master).status == 0
    file = master / "secrets" / name
    file.unlink() if text is None else file.write_text(text)
    ended = checked(programs, master)
    said = ended.text + ended.error_text
    assert ended.status != 0 and f"{file}: " in said and "expected a secret of 32 or more; next: " in said
    assert "Traceback" not in said
    subprocess.run(["sh", "-c", said.partition("next: ")[2].splitlines()[0]], check=True)
    assert checked(programs, master).status == 0


def test_the_printed_commands_leave_whole_secrets_or_none(request_: Request, master: Path, tmp_path: Path) -> None:
    broken = tmp_path / "bin" / "openssl"  # prints the half, as on a full disk
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nprintf 0123\nexit 1\n")
    broken.chmod(0o755)
    make_secrets(request_, master, {**os.environ, "PATH": f"{broken.parent}:{os.environ['PATH']}"})
    assert not [name for name in NAMES if (master / "secrets" / name).exists()]
    assert make_secrets(request_, master) == 0
    files = [master / "secrets" / name for name in NAMES]
    assert {(file.stat().st_mode & 0o777, file.stat().st_size) for file in files} == {(0o600, 49)}
    found = [file.read_text() for file in files]
    make_secrets(request_, master)
    assert [file.read_text() for file in files] == found, "what workers know already stays"


def test_the_printed_commands_start_a_master_with_its_page_that_leaves_nothing_in_the_checkout(
    programs: Path, request_: Request, master: Path, tmp_path: Path
) -> None:
    make_secrets(request_, master)
    upgrade, start = Buildbot().commands(request_, master)[-2:]
    place = tmp_path / "checkout"
    place.mkdir()
    (place / ".venv-buildbot").symlink_to(programs.parent)
    subprocess.run(["sh", "-ec", upgrade], cwd=place, check=True)
    log = master / "twistd.log"
    with subprocess.Popen(["sh", "-c", f"exec env {start}"], cwd=place) as running:
        try:
            until = time.monotonic() + 60
            while not (log.exists() and "BuildMaster is running" in log.read_text()):
                assert running.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            assert [path.name for path in place.iterdir()] == [".venv-buildbot"]
            address = read_data(master).page_url
            with chromium() as browser:
                page = browser.new_page()
                asked = list[str]()
                page.on("request", lambda request: asked.append(request.url))
                page.goto(f"{address}#/builders", timeout=60_000)
                page.get_by_text("lts61 a").first.wait_for(timeout=60_000)
                page.get_by_text("night of lts61").first.wait_for(timeout=60_000)
            foreign = [url for url in asked if not url.startswith((address, address.replace("http", "ws"), "data:"))]
            assert foreign == [], "the page asks nobody but its master"
        finally:
            running.terminate()


def test_a_worker_without_a_whole_secret_says_so_and_ends(programs: Path, master: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("\n")
    own = {"FNAT_WORKER_NAME": "one", "FNAT_WORKER_MASTER": "tcp:127.0.0.1:1"}
    words: list[str | Path] = [
        programs / "twistd",
        "--nodaemon",
        "--pidfile=",
        "--python",
        master / "worker/buildbot.tac",
    ]
    environment = process.clean_environment(FNAT_WORKER_PASSWORD_FILE=str(tmp_path / "password"), **own)
    ended = process.run(words, env=environment, cwd=tmp_path, accept=range(256), timeout=60)
    said = ended.text + ended.error_text
    assert ended.status == 1 and f"{tmp_path}/password: 0 characters; expected the worker's secret" in said
    assert "next: copy secrets/one of the master" in said and "Traceback" not in said
