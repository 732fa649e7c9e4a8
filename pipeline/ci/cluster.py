"""Run Buildbot on this host's loopback to try a cluster: its environment, a master, and workers, all below one place.

place/
  cluster.toml   the description that `ci buildbot` reads
  master/        the rendered files, secrets, the database, the log
  workers/NAME/  a worker's program, its attestation key, and artifacts of its own
  keys/          the workers' public keys: whose results count
  store/         the shared store

Each process is started again when it ends, as systemd would. Must not know what is built.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.ci import buildbot_venv, own_files
from pipeline.ci.cluster_file import SHORTEST_SECRET
from pipeline.core import neutral, process
from pipeline.core.disk_space import writing
from pipeline.core.fs import atomic, read_limited, write_atomic
from pipeline.errors import HostLacks, Refused
from pipeline.publish import attestation_key

MASTER = "master"
_MARK = "FNAT_CLUSTER"  # in the environment of every process of a cluster: its place
_STARTING = 30.0  # seconds until a master answers on a busy machine
_ENDING = 10.0
# Standard output of twistd itself is empty; what a process says before its log is open belongs into a file.
_KEEPER = 'exec >>"$1" 2>&1 </dev/null; echo $$ >"$2"; shift 2; while :; do "$@"; sleep 1; done'
_LONGEST = 1 << 16  # bytes of a file with a process id or a password


@dataclass(frozen=True)
class Cluster:
    """A cluster in a place of its own; its workers share the `artifacts`' sources and images."""

    place: Path
    artifacts: Path

    @property
    def file(self) -> Path:
        """The description of the cluster."""
        return self.place / "cluster.toml"

    @property
    def master(self) -> Path:
        """The master's directory."""
        return self.place / MASTER

    @property
    def store(self) -> Path:
        """The shared store."""
        return self.place / "store"

    @property
    def keys(self) -> Path:
        """The public keys of the workers."""
        return self.place / "keys"

    @property
    def workers(self) -> list[str]:
        """The names of the workers, in order."""
        return sorted(path.name for path in (self.place / "workers").glob("*") if path.is_dir())

    def prepare(self, number: int, memory: int, watch: float) -> None:
        """Write the description, keys and secrets of a cluster with `number` workers; what is there stays."""
        for directory in (self.store, self.keys, self.master / "secrets", self.place / "tmp"):
            directory.mkdir(parents=True, exist_ok=True)
        self.place.chmod(0o700)
        for name in (f"worker-{each + 1}" for each in range(number)):
            self._prepare_worker(name)
            self._make_secret(name)
        self._make_secret("operator")
        listen, page = (f"127.0.0.1:{port}" for port in _free_ports(2))
        rows = [f'listen = "{listen}"', f'page = "{page}"', f"watch = {float(watch)!r}"]
        for name in self.workers[:number]:
            rows += [f"[workers.{name}]", 'capabilities = ["bubblewrap", "docker", "kvm"]', f"memory = {memory}"]
            rows += [f'checkout = "{buildbot_venv.checkout()}"']
        write_atomic(self.file, "\n".join(rows) + "\n")

    def _prepare_worker(self, name: str) -> None:
        place = self.place / "workers" / name
        (place / "artifacts").mkdir(parents=True, exist_ok=True)
        for shared in ("images", "store"):
            target, link = (self.artifacts / shared).absolute(), place / "artifacts" / shared
            target.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(target.resolve())
        pem = attestation_key.open_key("", place / "keys").public.pem
        write_atomic(self.keys / f"{name}.pem", pem)

    def _make_secret(self, name: str) -> None:
        file = self.master / "secrets" / name
        if file.exists():
            self.secret(name)
            return
        with writing(file.parent), atomic(file, 0o600) as stream:
            stream.write(secrets.token_hex(24).encode())

    def secret(self, name: str) -> str:
        """Return the password of a worker or of the operator. Raises `Refused` for one that could be guessed."""
        file = self.master / "secrets" / name
        try:
            found = read_limited(file, _LONGEST).decode(errors="replace").strip()
        except FileNotFoundError:
            raise Refused(f"the secret of {name}: missing", where=str(file), hint="./inv cluster down") from None
        if len(found) < SHORTEST_SECRET:
            what = f"the secret of {name}: {len(found)} characters; expected {SHORTEST_SECRET} or more"
            why = "whoever guesses it is taken for its owner"
            raise Refused(what, where=str(file), why=why, hint=neutral.command(["rm", file]))
        return found

    def write(self, files: Mapping[str, str], hint: str) -> None:
        """Write the rendered files: the master's, and each worker's program."""
        own_files.write_all(self.master, files, overwrite=True, hint=hint)
        for name in self.workers:
            own_files.write_all(
                self.place / "workers" / name,
                {"buildbot.tac": files["worker/buildbot.tac"]},
                overwrite=True,
                hint=hint,
            )

    def start(self, names: Sequence[str], address: str) -> None:
        """Start the master and the workers called `names`, which connect to `address`."""
        programs = buildbot_venv.path() / "bin"
        process.run([programs / "buildbot", "upgrade-master", "--quiet", self.master], env=self._environment(MASTER))
        for name in (MASTER, *names):
            directory = self.master if name == MASTER else self.place / "workers" / name
            argv: list[str | Path] = [
                programs / "twistd",
                "--nodaemon",
                "--pidfile=",
                "--python",
                directory / "buildbot.tac",
            ]
            keeper: list[str | Path] = [
                "/bin/sh",
                "-c",
                _KEEPER,
                "keeper",
                directory / "output",
                directory / "pid",
                *argv,
            ]
            environment = self._environment(name) | ({} if name == MASTER else {"FNAT_WORKER_MASTER": address})
            process.run(["setsid", "--fork", *keeper], env=environment, cwd=directory)

    def _environment(self, name: str) -> dict[str, str]:
        # The directory of temporary files that this run has of its own goes with it.
        own = {_MARK: str(self.place.absolute()), "INV_NO_INSTALL": "1", "TMPDIR": str(self.place.absolute() / "tmp")}
        if name != MASTER:
            place = self.place.absolute()
            own |= {
                "FNAT_WORKER_NAME": name,
                "FNAT_WORKER_PASSWORD_FILE": str(place / MASTER / "secrets" / name),
                "FNAT_ARTIFACTS": str(place / "workers" / name / "artifacts"),
                "FNAT_ATTESTATION_KEY": str(place / "workers" / name / "keys/attestation/secret.pem"),
                "FNAT_SHARED_STORE": str(place / "store"),
                "FNAT_SHARED_KEYS": str(place / "keys"),
            }
        return process.clean_environment(**own)

    def keeper(self, name: str) -> int | None:
        """Return the id of the process that keeps the master or a worker running; None where none does."""
        directory = self.master if name == MASTER else self.place / "workers" / name
        with contextlib.suppress(OSError, ValueError):
            number = int(read_limited(directory / "pid", _LONGEST))
            return number if self._is_ours(number) else None
        return None

    def _is_ours(self, number: int) -> bool:
        mark = f"{_MARK}={self.place.absolute()}".encode()
        with contextlib.suppress(OSError):
            directory = Path("/proc") / str(number)
            is_zombie = (directory / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            return mark in (directory / "environ").read_bytes().split(b"\0") and not is_zombie
        return False

    def processes(self) -> list[int]:
        """List every process of the cluster, the builds of its workers too."""
        numbers = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
        return sorted(number for number in numbers if number != os.getpid() and self._is_ours(number))

    def stop(self) -> list[int]:
        """End every process of the cluster; return those that were killed."""
        for name in (*self.workers, MASTER):
            if keeper := self.keeper(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(keeper, signal.SIGKILL)  # first, or it starts what ends
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # one that was stopped hears nothing
        if not _within(_ENDING, lambda: not self.processes()):
            left = self.processes()
            self._signal(signal.SIGKILL)
            _within(_ENDING, lambda: not self.processes())
            return left
        return []

    def _signal(self, number: signal.Signals) -> None:
        for each in self.processes():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(each, number)


def wait_for(what: str, there: Callable[[], object], where: Path) -> None:
    """Wait until the function `there` returns something true. Raises `HostLacks`, which names a log."""
    if not _within(_STARTING, there):
        raise HostLacks(f"{what}: not there after {_STARTING:g} s", where=str(where), hint="./inv cluster down")


def _within(seconds: float, there: Callable[[], object]) -> bool:
    until = time.monotonic() + seconds
    while not there():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _free_ports(number: int) -> Iterator[int]:
    with contextlib.ExitStack() as held:
        found = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in found]
    yield from ports
