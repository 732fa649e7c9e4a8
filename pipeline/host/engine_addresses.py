"""Find the addresses at which a container engine may answer, as the clients of Docker and Podman find them.

Connects to nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.host.facts import Host, is_there

_MOST = 1 << 20  # bytes of a configuration file
_DEFAULT_CONTEXT = "default"  # stands for DOCKER_HOST and the standard sockets


@dataclass(frozen=True)
class Address:
    """An engine's address, and what names it: a variable, a context, or nothing for a standard socket.

    `tls` is the directory of a context's certificates; None for an address without.
    """

    url: str
    named_by: str = ""
    tls: Path | None = None


def addresses(host: Host) -> list[Address]:
    """Return the possible addresses, each once: those that the person names first, then existing standard sockets."""
    found: dict[str, Address] = {}
    for address in (*_named(host), *_sockets(host)):
        found.setdefault(address.url, address)
    return list(found.values())


def _named(host: Host) -> Iterator[Address]:
    """Yield the addresses of variables, and of Docker's context, which counts only where DOCKER_HOST is not set."""
    docker = host.environ.get("DOCKER_HOST")
    if docker:
        yield Address(docker, "DOCKER_HOST")
    if podman := host.environ.get("CONTAINER_HOST"):
        yield Address(podman, "CONTAINER_HOST")
    if not docker and (context := _context(host)):
        yield context


def _context(host: Host) -> Address | None:
    """Return the address of the current context; None for the default one, or one that cannot be read.

    A context lies below the configuration's directory at `contexts/meta/ID/meta.json`, its certificates at
    `contexts/tls/ID/docker`; the ID is the name's SHA-256 (docker/cli, cli/context/store).
    """
    place = _configuration(host)
    if place is None:
        return None
    name = host.environ.get("DOCKER_CONTEXT") or _text(_read(place / "config.json"), "currentContext")
    if name in ("", _DEFAULT_CONTEXT):
        return None
    identity = hashlib.sha256(name.encode()).hexdigest()
    url = _text(_read(place / "contexts/meta" / identity / "meta.json"), "Endpoints", "docker", "Host")
    tls = place / "contexts/tls" / identity / "docker"
    return Address(url, f"the docker context {name}", tls if is_there(tls) else None) if url else None


def _configuration(host: Host) -> Path | None:
    if named := host.environ.get("DOCKER_CONFIG"):
        return Path(named)
    home = host.environ.get("HOME")
    return Path(home, ".docker") if home else None


def _read(file: Path) -> object:
    try:
        with file.open("rb") as stream:
            return json.loads(stream.read(_MOST))
    except (OSError, ValueError):
        return None


def _text(document: object, *keys: str) -> str:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document if isinstance(document, str) else ""


def _sockets(host: Host) -> Iterator[Address]:
    """Yield the existing sockets: of the system, of this user's rootless engines, and of Docker Desktop."""
    user = Path(host.environ.get("XDG_RUNTIME_DIR") or host.run / "user" / str(os.getuid()))
    places = [host.run, user]
    sockets = [place / name for place in places for name in ("docker.sock", "podman/podman.sock")]
    if home := host.environ.get("HOME"):
        sockets += [Path(home, ".docker", name) for name in ("run/docker.sock", "desktop/docker.sock")]
    yield from (Address(f"unix://{path}") for path in sockets if is_there(path))
