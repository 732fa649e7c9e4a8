"""Read the file in which an operator describes a cluster: its addresses, its limits and its workers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core.fs import read_limited
from pipeline.errors import FileProblems, Problem, UsageError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
Capability = Literal["bubblewrap", "docker", "kvm", "sign"]
SHORTEST_SECRET = 32  # characters: 128 bits in hexadecimal
_LARGEST = 1 << 20  # bytes
COORDINATOR = "coordinator"  # a worker in the master that runs no command: its builds only trigger others, in order
_PLACE = re.compile(r"/[^\x00-\x1f\x7f]*")
_HINT = "docs/many-machines.md has an example"


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=_kebab, populate_by_name=True, strict=True)


class Tls(_Table):
    """The files of the master's key and certificate, PEM."""

    key: str
    certificate: str


class WorkerTable(_Table):
    """A worker: what it can do, its MiB of memory, how many builds it runs at a time, and its checkout."""

    capabilities: list[Capability]
    memory: Annotated[int, Field(ge=1)]
    checkout: str
    builds: Annotated[int, Field(ge=1, le=64)] = 1


class ClusterFile(_Table):
    """A cluster. `watch`: seconds within which a worker that does not answer is given up. `keep_days`: of logs.

    `checkout`: the master's; empty for that of the first worker.
    """

    listen: str = "127.0.0.1:9989"
    page: str = "127.0.0.1:8010"
    page_url: str = ""
    checkout: str = ""
    operator: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")] = "operator"
    watch: Annotated[float, Field(ge=0.5)] = 50.0
    attempts: Annotated[int, Field(ge=1)] = 3
    keep_days: Annotated[int, Field(ge=1)] = 30
    tls: Tls | None = None
    workers: Annotated[dict[str, WorkerTable], Field(min_length=1)]


def load(path: Path) -> ClusterFile:
    """Read the file. Raises `FileProblems` with every mistake in it, and `UsageError`."""
    try:
        found = ClusterFile.model_validate(tomllib.loads(read_limited(path, _LARGEST).decode()))
    except OSError as error:
        what = f"--cluster: {error.strerror}; expected the file that describes the cluster"
        raise UsageError(what, where=str(path), hint=_HINT) from None
    except ValidationError as error:
        rows = [Problem(str(path), 1, f"{'.'.join(map(str, each['loc']))}: {each['msg']}") for each in error.errors()]
        raise FileProblems(f"{len(rows)} mistake(s) in {path}", rows, hint=_HINT) from None
    except ValueError as error:
        raise UsageError(f"{path}: no TOML: {error}", where=str(path), hint=_HINT) from None
    _check(found, path)
    return found


def _check(found: ClusterFile, path: Path) -> None:
    """Raise `UsageError` for names that are no file names, places that are none, and an open port without TLS."""
    for name in found.workers:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name) or name == found.operator:
            what = f"workers.{name}: expected small letters, digits and hyphens, and not the operator's name"
            raise UsageError(what, where=str(path), hint=_HINT)
        if name == COORDINATOR:
            what = f"workers.{name}: expected another name, got that of the master's own worker"
            raise UsageError(what, where=str(path), why="the master would not start", hint=_HINT)
    places = {f"workers.{name}.checkout": worker.checkout for name, worker in found.workers.items()}
    for key, value in {**places, **({"checkout": found.checkout} if found.checkout else {})}.items():
        if not _PLACE.fullmatch(value):
            raise UsageError(f"{key}: {value!r}; expected a whole path", where=str(path), hint=_HINT)
    for key, value in (("listen", found.listen), ("page", found.page)):
        host, _ = endpoint(value, key, path)
        if host not in LOOPBACK and found.tls is None:
            raise UsageError(
                f"{key}: {value}; expected an address of loopback, or the table [tls]",
                where=str(path),
                why="passwords and logs would cross the network readable and changeable",
                hint=_HINT,
            )


def endpoint(value: str, key: str, path: Path) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`. Raises `UsageError`."""
    host, _, port = value.rpartition(":")
    host = host.strip("[]")
    if not re.fullmatch(r"[A-Za-z0-9.:-]+", host) or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise UsageError(f"{key}: {value!r}; expected HOST:PORT", where=str(path), hint=_HINT)
    return host, int(port)
