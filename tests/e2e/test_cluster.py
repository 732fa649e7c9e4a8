"""A cluster on loopback that loses workers and its master in the middle of a night, and what strangers may do to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from pipeline.ci.buildbot import DATA, read_data
from pipeline.ci.cluster import MASTER, Cluster
from pipeline.ci.master_page import RESULTS, Build, MasterPage
from pipeline.errors import HostLacks, Refused
from pipeline.publish.layout import PUBLISH
from tests.fixtures.workshop import ToyShop

pytestmark = pytest.mark.timeout(900, func_only=True)
PATIENCE = 300.0  # seconds on a busy machine
KILLS = "kill -KILL $PPID"  # the worker


@dataclass
class Running:
    """A cluster that runs, and who built nothing yet and shall publish."""

    shop: ToyShop
    cluster: Cluster
    page: MasterPage

    def builds(self, builder: str) -> list[Build]:
        """The builds of a builder; none while the master does not answer."""
        with contextlib.suppress(HostLacks):
            return [build for build in self.page.builds() if build.builder == builder]
        return []

    def worker_at_work(self) -> tuple[str, int]:
        """A worker that builds a kernel just now, and the process of its command."""
        while True:
            for directory in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    command = (directory / "cmdline").read_bytes().replace(b"\0", b" ")
                    if b" build-all " in command and b" --only kernel:" in command:
                        rows = (directory / "environ").read_bytes().decode().split("\0")
                        variables = dict(row.partition("=")[::2] for row in rows)
                        if variables.get("FNAT_CLUSTER") == str(self.cluster.place):
                            return variables["FNAT_WORKER_NAME"], int(directory.name)
            time.sleep(0.05)

    def process(self, name: str) -> int:
        """The process that a keeper keeps."""
        keeper = self.cluster.keeper(name)
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int((directory / "stat").read_text().rpartition(")")[2].split()[1]) == keeper:
                    return int(directory.name)
        raise LookupError(name)


def wait_for(there: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.2)


def is_there(number: int) -> bool:
    return Path(f"/proc/{number}").exists()


@pytest.fixture(scope="module")
def running(images: Path) -> Iterator[Running]:
    with ToyShop.opened(images) as shop:
        cluster = Cluster(shop.inv.artifacts / "cluster", shop.inv.artifacts)
        shop.inv.patience = PATIENCE  # Buildbot's packages may have to be installed
        try:
            up = shop.inv("cluster", "up", *shop.line_words, "--watch", "3", "--json").json
            assert up["connected"] == ["__Janitor", "coordinator", "worker-1", "worker-2"]
            yield Running(shop, cluster, MasterPage(up["page"]))
        finally:
            shop.inv("cluster", "down")
            assert cluster.processes() == []


def test_a_night_is_green_although_a_worker_dies_another_stops_and_the_master_dies(running: Running) -> None:
    running.shop.inv("cluster", "night")  # of its one line
    killed, child = running.worker_at_work()
    os.kill(running.process(killed), signal.SIGKILL)
    wait_for(lambda: not is_there(child))

    stopped, _ = running.worker_at_work()
    process = running.process(stopped)
    os.kill(process, signal.SIGSTOP)
    wait_for(lambda: stopped not in running.page.connected())
    os.kill(process, signal.SIGCONT)
    os.kill(running.process(MASTER), signal.SIGKILL)
    wait_for(lambda: any(build.result not in ("", "retry") for build in running.builds("night of toy")))

    night = running.builds("night of toy")[-1]
    assert night.result == "success", running.page.builds()
    assert any(build.result == "retry" for build in running.page.builds())
    steps = read_data(running.cluster.master).lines[0].steps
    assert all(running.builds(step.builder)[-1].result == "success" for step in steps)
    wait_for(lambda: running.cluster.workers == [w for w in running.page.connected() if w.startswith("worker-")])
    stored = sorted(path.parent.name for path in running.cluster.store.glob("results/toy/*/*"))
    assert stored == sorted(step.name.replace(":", "-") for step in steps), "each key once"
    assert len([path for path in running.cluster.store.glob("packs/*/*") if path.is_file()]) == len(stored)


def test_who_signs_takes_what_the_workers_made_and_refuses_wrong_bytes(running: Running) -> None:
    shop, cluster = running.shop, running.cluster
    pack = max(cluster.store.glob("packs/*/*"), key=lambda path: path.stat().st_size)
    pack.chmod(0o644)
    pack.write_bytes(pack.read_bytes()[:-1] + b"\1")
    ended = shop.all("--json", "--shared-store", cluster.store, "--shared-keys", cluster.keys)
    states = {name: step["state"] for name, step in ended.json["steps"].items()}
    assert states.pop(PUBLISH) == "ran"
    assert sorted(states.values()).count("ran") == 1 and set(states.values()) == {"ran", "taken"}
    assert "its pack has the SHA-256" in ended.err
    audited = shop.inv("audit", "toy", "--json").json
    assert audited["verdict"] != "fail", [row for row in audited["findings"] if row["result"] == "fail"]
    assert len(list(shop.latest().parents[1].glob("attestations/*/keys/*.pem"))) == len(cluster.workers)


def test_no_release_key_is_readable_where_workers_work(running: Running) -> None:
    for path in (running.cluster.place / "workers").rglob("*"):
        if path.is_file() and not path.is_symlink() and b"PRIVATE KEY" in path.read_bytes():
            assert path.parts[-3:] == ("keys", "attestation", "secret.pem"), path
        assert path.name not in ("private-keys-v1.d", "secring.gpg"), path
    for number in running.cluster.processes():
        with contextlib.suppress(OSError):
            assert b"FNAT_GPG_KEY=" not in Path(f"/proc/{number}/environ").read_bytes()


def test_nobody_but_the_operator_starts_anything(running: Running) -> None:
    for user, password in (("", ""), ("operator", "wrong"), ("worker-1", running.cluster.secret("worker-1"))):
        with pytest.raises(Refused, match="HTTP 403"):
            running.page.force("night of toy", user, password)
    address = f"{running.page.address}/api/v2/builders/1"
    assert requests.post(address, json={"jsonrpc": "2.0", "method": "stop", "id": 1}, timeout=20).status_code != 200
    assert len(running.builds("night of toy")) <= 2, "the one of the operator, and its retry"


def reconfigure(running: Running, change: Callable[[Any], None]) -> None:
    """Changes the master's data, and has it read anew."""
    file = running.cluster.master / DATA
    head, _, text = file.read_text().partition("\n")
    data = json.loads(text)
    change(data)
    file.write_text(f"{head}\n{json.dumps(data)}")
    os.kill(running.process(MASTER), signal.SIGHUP)


def is_forced(running: Running, builder: str) -> bool:
    """Whether a build could be started: a master that is being reconfigured knows nobody for a moment."""
    with contextlib.suppress(Refused):
        running.page.force(builder, "operator", running.cluster.secret("operator"))
        return True
    return False


def step_of(data: Any, name: str) -> Any:
    return next(step for step in data["lines"][0]["steps"] if step["name"] == name)


def test_a_step_that_always_kills_its_worker_ends_red(running: Running) -> None:
    def kill(data: Any) -> None:
        step = step_of(data, "userland")
        step["command"][4:], step["shown"] = ["/bin/sh", "-c", KILLS], KILLS

    reconfigure(running, kill)
    wait_for(lambda: KILLS in str(running.page.get("builders")))
    before = len(running.builds("toy userland"))
    wait_for(lambda: is_forced(running, "toy userland"))
    wait_for(lambda: [b.result for b in running.builds("toy userland")[before:]] == ["retry"] * 3 + ["failure"])


def test_what_waits_for_a_builder_that_is_gone_is_cancelled(running: Running) -> None:
    def have_absent(data: Any) -> None:
        data["workers"].append({**data["workers"][0], "name": "absent"})
        step_of(data, "ipvsadm").update(builder="gone", workers=["absent"], shown="nothing")
        data["lines"][0]["levels"] = []

    (running.cluster.master / "secrets" / "absent").write_text("nobody knows" * 3)
    reconfigure(running, have_absent)
    wait_for(lambda: "gone" in str(running.page.get("builders")))
    wait_for(lambda: is_forced(running, "gone"))
    wait_for(lambda: [row for row in running.page.get("buildrequests") if not row["complete"]])
    reconfigure(running, lambda data: step_of(data, "ipvsadm").update(builder="another", workers=["worker-1"]))
    wait_for(lambda: all(row["complete"] for row in running.page.get("buildrequests")))
    assert running.page.get("buildrequests", order="buildrequestid")[-1]["results"] == RESULTS.index("cancelled")
