"""Find container engines and bubblewrap, and check which of them work.

An installed client says nothing: an engine counts when it answers, bubblewrap when it has made a
sandbox. Knows nothing of images or builds.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core import process
from pipeline.errors import PipelineError
from pipeline.host import programs
from pipeline.host.facts import Finding, Host, is_there

ANSWER = 1.0  # seconds an engine has for one answer; a local one needs 10 ms
SANDBOX = 5.0  # seconds for a sandbox that runs `true`; 60 ms where it works
_BUILDS = "only builds in containers"

# What keeps unprivileged user namespaces away: file below /proc/sys, its bad value, the remedy.
_NAMESPACE_SWITCHES = (
    ("kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    ("user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=10000"),
)


@dataclass(frozen=True)
class Engine:
    """An engine's address. `version` and `api` are empty without an answer; then `problem` has the reason."""

    address: str
    product: str = ""
    version: str = ""
    api: str = ""
    problem: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.address}: {self.problem}"
        return f"{self.product} {self.version} (API {self.api}) at {self.address}"


def addresses(host: Host) -> list[str]:
    """Return the possible addresses of an engine: DOCKER_HOST, then existing standard sockets, each once."""
    user = host.environ.get("XDG_RUNTIME_DIR")
    places = [host.run / "docker.sock", host.run / "podman/podman.sock"]
    if user:
        places += [Path(user) / "docker.sock", Path(user) / "podman/podman.sock"]
    named = [host.environ["DOCKER_HOST"]] if host.environ.get("DOCKER_HOST") else []
    return list(dict.fromkeys([*named, *(f"unix://{path}" for path in places if is_there(path))]))


def ask(address: str, host: Host) -> Engine:
    """Query the version of the engine at `address`, a DOCKER_HOST value."""
    if address.startswith("unix://") and (refusal := _refusal(address)):
        return refusal
    docker: Any = importlib.import_module("docker")  # 0.1 s, so only where something listens

    client: dict[str, object] = {"base_url": address}
    try:
        if address == host.environ.get("DOCKER_HOST"):
            client = docker.utils.kwargs_from_env(environment=dict(host.environ))  # its TLS settings too
        with contextlib.closing(docker.APIClient(**client, version="auto", timeout=ANSWER)) as api:
            answer = api.version(api_version=False)
    except (docker.errors.DockerException, OSError, ValueError) as error:
        return Engine(
            address, problem=f"no answer: {str(error)[:200]}", remedy="see that the engine at this address runs"
        )
    parts = [part.get("Name", "") for part in answer.get("Components") or ()]
    product = "Podman" if any("Podman" in part for part in parts) else "Docker"
    return Engine(address, product, answer.get("Version", "?"), answer.get("ApiVersion", "?"))


def _refusal(address: str) -> Engine | None:
    """Return the reason that a unix socket cannot be connected to; None when something listens."""
    path = address.removeprefix("unix://")
    service = "podman.socket" if "podman" in path else "docker"
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ANSWER)
        try:
            probe.connect(path)
        except PermissionError:
            remedy = f'sudo usermod -aG docker "$USER", then log in again; or let this user write {path}'
            return Engine(address, problem="this user may not use it", remedy=remedy)
        except FileNotFoundError:
            return Engine(address, problem="no such socket", remedy=f"sudo systemctl start {service}")
        except OSError as error:
            problem = f"the socket is there, but no engine answers ({error.strerror or error})"
            return Engine(address, problem=problem, remedy=f"sudo systemctl start {service}")
    return None


def check_engines(host: Host) -> Finding:
    """Check which container engines answer."""
    engines = [ask(address, host) for address in addresses(host)]
    if answering := [engine for engine in engines if not engine.problem]:
        return Finding("container engine", "ok", "; ".join(str(engine) for engine in answering))
    clients = [name for name in ("docker", "podman") if shutil.which(name, path=host.path)]
    found = "; ".join(str(engine) for engine in engines) or "no engine's socket is there and DOCKER_HOST is not set"
    if clients:
        found = f"the client {' and '.join(clients)} is installed, but no engine answers ({found})"
    remedies = [engine.remedy for engine in engines] or ["start or install Docker or Podman"]
    remedy = f"{remedies[0]}; or use bubblewrap, which needs no daemon"
    return Finding("container engine", "warn", found, _BUILDS, remedy)


def check_bubblewrap(host: Host) -> Finding:
    """Check whether bubblewrap can create a sandbox with every namespace."""
    bwrap, true = shutil.which("bwrap", path=host.path), shutil.which("true")
    affects = "builds without a container engine"
    if bwrap is None:
        lacking = [program for program in programs.TABLE if program.command == "bwrap"]
        return Finding("bubblewrap", "warn", "not installed", affects, programs.advice(lacking, host.path))
    argv = [bwrap, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    try:
        process.run([*argv, true or "true"], timeout=SANDBOX)
    except PipelineError as error:
        found = "it is installed but makes no sandbox: " + " ".join(error.what.split())
        return Finding("bubblewrap", "warn", found, affects, namespace_remedy(host))
    return Finding("bubblewrap", "ok", "makes sandboxes with their own namespaces and no network")


def namespace_remedy(host: Host) -> str:
    """Return the remedy for the kernel setting that forbids namespaces, or a general one."""
    for name, bad, remedy in _NAMESPACE_SWITCHES:
        with contextlib.suppress(OSError):
            if (host.proc / "sys" / name).read_text().strip() == bad:
                return remedy
    return "inside a container, allow it new namespaces (seccomp and capabilities); else use a container engine"
