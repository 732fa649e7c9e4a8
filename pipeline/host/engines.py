"""Find container engines and bubblewrap, and check which of them work.

An installed client says nothing: an engine counts when it answers, bubblewrap when it has made a
sandbox. Knows nothing of images or builds.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.core import process
from pipeline.errors import PipelineError
from pipeline.host import engine_addresses, programs
from pipeline.host.facts import Finding, Host

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
    """An engine's address. `version` and `api` are empty without an answer; then `problem` has the reason.

    `named_by` is the variable or context that names it, `tls` the directory of that context's certificates.
    """

    address: str
    product: str = ""
    version: str = ""
    api: str = ""
    problem: str = ""
    remedy: str = ""
    named_by: str = ""
    tls: Path | None = None

    def __str__(self) -> str:
        place = self.address + (f" ({self.named_by})" if self.named_by else "")
        if self.problem:
            return f"{place}: {self.problem}"
        return f"{self.product} {self.version} (API {self.api}) at {place}"


def available(host: Host) -> list[Engine]:
    """Return the engines that answer, in the order of their addresses."""
    return [engine for engine in _all(host) if not engine.problem]


def _all(host: Host) -> Iterator[Engine]:
    for address in engine_addresses.addresses(host):
        engine = ask(address.url, host, address.tls)
        yield replace(engine, named_by=address.named_by)


def ask(url: str, host: Host, tls: Path | None = None) -> Engine:
    """Query the version of the engine at `url`, a DOCKER_HOST value. `tls` is as `client` takes it."""
    if url.startswith("ssh:"):
        problem = "an engine over SSH is not used: builds mount directories of this host"
        return Engine(url, problem=problem, remedy="start the build on that host")
    if url.startswith("unix://") and (refusal := _refusal(url)):
        return refusal
    docker: Any = importlib.import_module("docker")  # 0.1 s, so only where something listens
    try:
        with contextlib.closing(client(Engine(url, tls=tls), host.environ, ANSWER)) as api:
            answer = api.version(api_version=False)
    except (docker.errors.DockerException, OSError, ValueError) as error:
        return Engine(url, problem=f"no answer: {str(error)[:200]}", remedy="see that the engine at this address runs")
    parts = [part.get("Name", "") for part in answer.get("Components") or ()]
    product = "Podman" if any("Podman" in part for part in parts) else "Docker"
    return Engine(url, product, answer.get("Version", "?"), answer.get("ApiVersion", "?"), tls=tls)


def client(engine: Engine, environ: Mapping[str, str], timeout: float) -> Any:
    """Return the SDK's client of an engine, with the certificates of DOCKER_HOST's variables or of its context.

    Raises what the SDK raises.
    """
    docker: Any = importlib.import_module("docker")
    options: dict[str, object] = {"base_url": engine.address}
    if engine.address == environ.get("DOCKER_HOST"):
        options = docker.utils.kwargs_from_env(environment=dict(environ))
    elif engine.tls:
        own = (str(engine.tls / "cert.pem"), str(engine.tls / "key.pem"))
        options["tls"] = docker.tls.TLSConfig(client_cert=own, ca_cert=str(engine.tls / "ca.pem"), verify=True)
    return docker.APIClient(**options, version="auto", timeout=timeout)


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
    engines = list(_all(host))
    if answering := [engine for engine in engines if not engine.problem]:
        return Finding("container engine", "ok", "; ".join(str(engine) for engine in answering))
    clients = [name for name in ("docker", "podman") if shutil.which(name, path=host.path)]
    found = (
        "; ".join(str(engine) for engine in engines)
        or "no engine's socket is there, and neither DOCKER_HOST, CONTAINER_HOST nor a docker context names one"
    )
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
