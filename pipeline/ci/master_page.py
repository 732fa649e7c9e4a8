"""Ask a master's page for its state, and start a night, by the address and password of its operator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import HostLacks, Refused

_TIMEOUT = 20.0  # seconds
RESULTS = ("success", "warnings", "failure", "skipped", "exception", "retry", "cancelled")  # as Buildbot numbers them


@dataclass(frozen=True)
class Build:
    """A build: its builder, number and worker; `result` is empty while it runs."""

    builder: str
    number: int
    worker: str
    result: str
    state: str


@dataclass(frozen=True)
class ClusterState:
    """A cluster on this host: its page, empty for none; process ids of master and workers; all builds."""

    page: str
    running: dict[str, int | None]
    connected: tuple[str, ...] = ()
    builds: tuple[Build, ...] = ()


class MasterPage:
    """The page at an address, such as http://127.0.0.1:8010/."""

    def __init__(self, address: str, start: str = "./inv cluster up") -> None:
        """Take the address, and the command that starts the master."""
        self.address = address.rstrip("/")
        self.start = start

    def get(self, path: str, **query: str) -> list[dict[str, Any]]:
        """Return a collection of the REST interface. Raises `HostLacks` where nothing answers."""
        import requests

        try:
            answer = requests.get(f"{self.address}/api/v2/{path}", params=query, timeout=_TIMEOUT)
            answer.raise_for_status()
            found = answer.json()
        except (requests.RequestException, ValueError) as error:
            what = f"the master at {self.address}: no answer"
            raise HostLacks(what, why=str(error), hint=self.start) from None
        rows: list[dict[str, Any]] = found[path.rpartition("/")[2]]
        return rows

    def connected(self) -> list[str]:
        """Return the names of the workers that are connected, also of those in the master itself."""
        return sorted(row["name"] for row in self.get("workers") if row["connected_to"])

    def builds(self) -> list[Build]:
        """Return all builds, the oldest first."""
        builders = {row["builderid"]: row["name"] for row in self.get("builders")}
        workers = {row["workerid"]: row["name"] for row in self.get("workers")}
        return [
            Build(
                builders.get(row["builderid"], "?"),
                row["number"],
                workers.get(row["workerid"], "?"),
                "" if row["results"] is None else RESULTS[row["results"]],
                row["state_string"],
            )
            for row in self.get("builds", order="buildid")
        ]

    def force(self, builder: str, user: str, password: str) -> None:
        """Start a build. Raises `Refused` where the master does not allow it."""
        import requests

        ids = {row["name"]: row["builderid"] for row in self.get("builders")}
        if builder not in ids:
            known = ", ".join(sorted(ids))
            raise Refused(f"the master has no builder {builder!r}; it has {known}", hint="./inv cluster status")
        with requests.Session() as session:
            if user:
                session.get(f"{self.address}/auth/login", auth=(user, password), timeout=_TIMEOUT)
            answer = session.post(
                f"{self.address}/api/v2/forceschedulers/force",
                data=json.dumps(_call(ids[builder])),
                headers={"Content-Type": "application/json"},
                timeout=_TIMEOUT,
            )
        if answer.status_code != 200:
            what = f"the master at {self.address}: refused to start {builder}: HTTP {answer.status_code}"
            raise Refused(what, why=answer.text[:200], hint="./inv cluster status")


def _call(builder: int) -> Mapping[str, object]:
    parameters = {"builderid": str(builder), "reason": "started by the operator"}
    return {"jsonrpc": "2.0", "method": "force", "id": 1, "params": parameters}
