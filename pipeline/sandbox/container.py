"""Jobs in containers of a Docker engine, or of anything that speaks its API on a socket, as Podman does.

Every job is a container of its own that the engine removes when it ends. Its first process ends it
when our connection to it closes (`pipeline.sandbox.supervisor`), so that neither our death nor the
engine's leaves one running.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.core import documents, faults, fs, manifest, process
from pipeline.core.fs import write_atomic
from pipeline.core.locks import locked
from pipeline.errors import HostLacks, Locked
from pipeline.host import engines
from pipeline.host.facts import Host
from pipeline.sandbox import entrypoint, images, isolation_check, supervisor, terminal, watchdog
from pipeline.sandbox.images import HOSTNAME, Image
from pipeline.sandbox.runtime import (
    OPEN_FILES,
    SHARED_MEMORY,
    TEMPORARY,
    End,
    Ended,
    Job,
    Mount,
    build_group,
    build_user,
)

REPOSITORY = "localhost/lvs-fullnat"  # Podman puts `localhost/` before what has no host, or takes it for docker.io's
IMPORTS = ".engines"  # of the file beside an image that says as what engines have it
_ANSWER = 30.0  # seconds for one answer of a busy engine
_IMPORT = 600.0  # seconds for it to read a whole image
_REMOVAL = 10.0  # seconds for it to remove a container that has ended
_TMPFS = "rw,exec,nosuid,nodev,mode=1777"
_CONFLICT = 409  # HTTP status of what the engine's own state forbids
_IMPORTS = 8  # of one image that are remembered: several engines may have it
_HELPERS = 3  # processes of the supervisor, on top of the job's own
_PROGRAMS = "/run/pipeline"  # inside
_FIFO = f"{_PROGRAMS}/supervisor"
_ENDED = re.compile(rf"^{supervisor.REPORT} (\d+) (\d+)$", re.MULTILINE)
_HINT = "./inv doctor asks every engine; or use bubblewrap, which needs none: --runtime bubblewrap"


class ContainerEngine:
    """The runtime behind one engine's socket."""

    def __init__(self, engine: engines.Engine, environ: Mapping[str, str] = os.environ) -> None:
        self._engine, self._environ = engine, environ
        self._proven: set[str] = set()
        self._ids: dict[str, str] = {}  # of the engine's images, by ours

    @property
    def name(self) -> str:
        """The product and its version."""
        return f"{self._engine.product} {self._engine.version}"

    @functools.cached_property
    def api(self) -> Any:
        """The SDK's client."""
        return self._client(_ANSWER)

    @functools.cached_property
    def is_rootless(self) -> bool:
        """Whether the engine runs as a plain user."""
        with self.asking("could not be asked"):
            return any("rootless" in option for option in self.api.info().get("SecurityOptions") or ())

    def run(self, job: Job) -> Ended:
        """Runs the job after a container has shown, once per image, that it is isolated."""
        self._prove(job)
        return self._run(job)

    def shell(self, job: Job) -> int:
        """The job's command on the person's terminal."""
        self._prove(job)
        tty = os.isatty(0)
        argv = [
            "/bin/sh",
            "-c",
            f'exec "$@" {entrypoint.SUPERVISOR}<{_FIFO} 2>&1',
            "sh",
            *supervisor.supervised(job, uuid.uuid4().hex),
        ]
        with self._container(job, argv, person=True, tty=tty) as (container, stream), self.asking("lost the shell"):
            resize = functools.partial(self.api.resize, container) if tty else None
            if not terminal.converse(stream, lambda: self.api.start(container), resize):
                return -signal.SIGHUP
            return supervisor.status_of(int(self.api.wait(container)["StatusCode"]))

    def reap(self) -> list[str]:
        """Removes what is left of dead runs: containers never started, processes of an engine that was killed too."""
        found = supervisor.kill(supervisor.is_dead)
        with self.asking("could not list its containers"):
            for container in self.api.containers(all=True, filters={"label": supervisor.LABEL}):
                if supervisor.is_dead(container["Labels"][supervisor.LABEL]):
                    self._remove(container["Id"])
                    found.append(f"container {container['Id'][:12]}")
        return found

    def kept(self) -> list[tuple[str, int]]:
        """Our images that the engine has: the name of each, and its size in bytes."""
        with self.asking("could not list its images"):
            found = self.api.images()
        tags = [(tag, int(image["Size"])) for image in found for tag in image.get("RepoTags") or ()]
        return sorted((tag, size) for tag, size in tags if tag.startswith(f"{REPOSITORY}/"))

    def forget(self, tag: str) -> None:
        """Removes an image. Raises `Locked` where a container uses it."""
        docker: Any = importlib.import_module("docker")
        with self.asking("did not remove an image"):
            try:
                self.api.remove_image(tag)
            except docker.errors.APIError as error:
                if error.status_code != _CONFLICT:
                    raise
                raise Locked("a container uses the image", where=tag, why=str(error.explanation)) from None

    def tag(self, image: Image) -> str:
        """The image's name in the engine."""
        return f"{REPOSITORY}/{image.name}:{image.key}"

    @contextlib.contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Turns the SDK's errors into `HostLacks`."""
        try:
            yield
        except _errors() as error:
            why = str(getattr(error, "explanation", None) or error)[:500]
            raise HostLacks(f"the container engine {what}", where=self._engine.address, why=why, hint=_HINT) from None

    def _client(self, timeout: float) -> Any:
        docker: Any = importlib.import_module("docker")  # 0.1 s, so only where it is used
        options: dict[str, Any] = {"base_url": self._engine.address}
        if self._engine.address == self._environ.get("DOCKER_HOST"):
            options = docker.utils.kwargs_from_env(environment=dict(self._environ))  # its TLS settings too
        with self.asking("does not answer"):
            return docker.APIClient(**options, version="auto", timeout=timeout)

    def _prove(self, job: Job) -> None:
        if job.image.key in self._proven:
            return
        images.check(job.image)
        if self.is_rootless and self._engine.product != "Podman":
            why = "only its user 0 may write to the directories of a build, and no build runs as user 0"
            raise HostLacks("rootless Docker cannot run builds", where=self._engine.address, why=why, hint=_HINT)
        self._import(job.image)
        isolation_check.prove(self._run, job, self.name, _HINT, hides_mounts=False)
        self._proven.add(job.image.key)

    def _import(self, image: Image) -> None:
        """Gives the engine the image, once, however many runs want it at a time.

        Only an image that was recorded when it was imported is used, by its id: anybody may give our tag to another.
        """
        with locked(image.packages.parent.with_suffix(".lock")), self.asking("did not take the image"):
            record, tag = image.packages.parent.with_suffix(IMPORTS), self.tag(image)
            known = _imported(record, image)
            there = {_bare(found["Id"]): found.get("RepoTags") or () for found in self.api.images(all=True)}
            kept = next((number for number in known if number in there), None)
            others = [number for number, tags in there.items() if list(tags) == [tag] and number != kept]
            if kept is not None:
                if tag not in there[kept]:  # what removes our images goes by their tags
                    self.api.tag(kept, *tag.rsplit(":", 1), force=True)
                    self._drop(others)
                self._ids[image.key] = kept
                return
            with contextlib.closing(self._client(_IMPORT)) as api:
                # The tag in the name: Podman does not read the parameter for it.
                api.import_image(src=_packed(image.rootfs), repository=tag, stream_src=True)
            faults.point("engine.image-imported")
            # The answer above is 200 whatever it says.
            self._ids[image.key] = _bare(self.api.inspect_image(tag)["Id"])
            numbers = [*known[-_IMPORTS:], self._ids[image.key]]
            write_atomic(record, documents.sealed(Imported(image.name, image.key, tuple(numbers))))
            self._drop(others)

    def _drop(self, numbers: list[str]) -> None:
        """Removes images that had nothing but our tag, such as what a killed run imported; those in use stay."""
        for number in numbers:
            with contextlib.suppress(*_errors()):
                self.api.remove_image(number)

    def _run(self, job: Job) -> Ended:
        ticket, known = uuid.uuid4().hex, False
        try:
            ended = self._watched(job, ticket)
            known = ended.reason is not End.GONE
        finally:
            if not known:  # an engine that was killed leaves its containers running
                supervisor.kill(lambda label: label.endswith(f":{ticket}"))
        return ended

    def _watched(self, job: Job, ticket: str) -> Ended:
        with self._container(job, supervisor.supervised(job, ticket, by_input=True)) as (container, stream):
            with self.asking("did not start a container"):
                self.api.start(container)
            faults.point("engine.started")
            reason = watchdog.follow(job, stream.fileno(), stream.read)
            if reason is not End.EXIT:
                stream.close()  # Podman cannot remove what waits for us to read
                self._remove(container)
            ended = self._ended(container, reason, stream.told)
        with contextlib.suppress(OSError), job.log.open("a") as log:
            log.write(_ENDED.sub("", stream.told).lstrip("\n"))  # what the shell itself had to say
        return ended

    def _ended(self, container: str, reason: End, told: str) -> Ended:
        """How it ended, as its supervisor reported; without a report somebody else ended it."""
        if reason is not End.EXIT:
            return Ended(reason, -9)
        found = _ENDED.findall(told)
        if not found:
            return Ended(End.MEMORY if self._was_too_big(container) else End.GONE, -9)
        self._wait_until_gone(container)
        status, killed = supervisor.status_of(int(found[-1][0])), int(found[-1][1])
        return Ended(End.MEMORY if killed and status else End.EXIT, status)

    def _was_too_big(self, container: str) -> bool:
        """Whether the engine saw the whole container killed for its memory."""
        with contextlib.suppress(*_errors()):
            now = int(time.time())
            asked = {"container": container, "event": "oom"}
            return any(self.api.events(since=now - 60, until=now + 1, filters=asked, decode=True))
        return False

    @contextlib.contextmanager
    def _container(
        self, job: Job, argv: list[str], *, person: bool = False, tty: bool = False
    ) -> Iterator[tuple[str, terminal.Stream]]:
        """A container that has not been started, and the connection it hangs on; it is gone afterwards.

        `person` is at the connection: nothing reports the exit status, so it stays until it was asked for.
        """
        missing = [str(mount.source) for mount in job.mounts if not mount.source.exists()]
        if missing:  # Podman would make a directory there
            raise HostLacks("what a job needs is not there", where=", ".join(missing))
        with _programs(job) as programs, self.asking("did not make a container"):
            container = self.api.create_container(
                self._ids[job.image.key],
                [f"{_PROGRAMS}/entrypoint", *argv],
                entrypoint=[],
                hostname=HOSTNAME,
                user=f"{build_user()}:{build_group()}",
                working_dir=job.cwd,
                stdin_open=True,  # closed when our connection is: StdinOnce
                tty=tty,
                stop_signal="SIGKILL",  # the first process of a container hears no other
                labels={supervisor.LABEL: supervisor.owner()},
                use_config_proxy=False,
                host_config=self._host_config(replace(job, mounts=(*job.mounts, programs)), auto_remove=not person),
            )["Id"]
            faults.point("engine.created")
            try:
                with self.asking("did not connect us to a container"):
                    wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
                    socket = self.api.attach_socket(container, wanted)
                with contextlib.closing(terminal.Stream(socket, tty)) as stream:
                    yield container, stream
            finally:
                self._remove(container)

    def _host_config(self, job: Job, *, auto_remove: bool) -> Any:
        types: Any = importlib.import_module("docker.types")
        limits = job.limits
        ulimits = {"core": 0, "fsize": limits.file, "nofile": OPEN_FILES, "nproc": limits.processes + _HELPERS}
        extra = {"userns_mode": "keep-id"} if self.is_rootless else {}
        return self.api.create_host_config(
            auto_remove=auto_remove,
            network_mode="none",
            cap_drop=["ALL"],
            # SELinux keeps containers from what it has not labelled for them, and the host's files stay as they are.
            security_opt=["no-new-privileges", "label=disable"],
            read_only=True,
            tmpfs=dict.fromkeys(TEMPORARY, f"{_TMPFS},size={limits.temporary}"),
            shm_size=SHARED_MEMORY,
            mounts=[types.Mount(m.target, str(m.source), "bind", read_only=not m.writable) for m in job.mounts],
            mem_limit=limits.memory,
            memswap_limit=limits.memory,
            pids_limit=limits.processes + _HELPERS,
            ulimits=[types.Ulimit(name=name, soft=value, hard=value) for name, value in ulimits.items()],
            log_config=types.LogConfig(type="none"),  # the engine would keep a second copy of the log
            **extra,
        )

    def _remove(self, container: str) -> None:
        """Removes the container whatever it does; an engine that is gone has nothing to remove."""
        with contextlib.suppress(*_errors()):
            self.api.remove_container(container, force=True, v=True)
        self._wait_until_gone(container)

    def _wait_until_gone(self, container: str) -> None:
        """The engine removes it behind our back; until then it holds mounts of the job."""
        end = time.monotonic() + _REMOVAL
        with contextlib.suppress(*_errors()):
            while time.monotonic() < end and self.api.inspect_container(container):
                time.sleep(0.02)


def answering(host: Host | None = None) -> list[ContainerEngine]:
    """Every engine of this host that answers, each of its addresses once."""
    host = host or Host()
    asked = [engines.ask(address, host) for address in engines.addresses(host)]
    return [ContainerEngine(engine, host.environ) for engine in asked if not engine.problem]


@dataclass(frozen=True)
class Imported:
    """The document of an image that engines have: the image's name and key, and the ids that they gave it."""

    image: str
    key: str
    ids: tuple[str, ...]


def _imported(record: Path, image: Image) -> list[str]:
    """The ids that engines gave the image when it was imported; none where that is not recorded."""
    try:
        known = documents.unsealed(Imported, manifest.text_at(record))
    except (OSError, ValueError):
        return []
    return list(known.ids) if (known.image, known.key) == (image.name, image.key) else []


def _bare(number: str) -> str:
    """An image's id without the name of its digest, which engines put before it or do not."""
    return number.removeprefix("sha256:")


@contextlib.contextmanager
def _programs(job: Job) -> Iterator[Mount]:
    """What a container needs of ours: its first program, and what a supervisor watches that has no input of its own.

    Beside the log: in /tmp a host may forbid to execute what lies there. The FIFO is at its end for whoever reads it
    when this process ends; nothing in the container may write to it, also where its user is ours.
    """
    with fs.fresh(job.log.parent.resolve(), ".programs-") as private, contextlib.ExitStack() as held:
        place = private / "programs"  # which the container's user may open; the way to it no other user may go
        place.mkdir()
        program, fifo = place / "entrypoint", place / "supervisor"
        program.write_bytes(entrypoint.for_engine())
        os.mkfifo(fifo)
        held.callback(os.close, os.open(fifo, os.O_RDWR | os.O_CLOEXEC))
        for path, mode in ((program, 0o555), (fifo, 0o444), (place, 0o755)):
            path.chmod(mode)
        yield Mount(place, _PROGRAMS)


@functools.cache
def _errors() -> tuple[type[Exception], ...]:
    """What the SDK raises: its own errors, and those of the connection, which are OSErrors."""
    docker: Any = importlib.import_module("docker")
    return (docker.errors.DockerException, OSError)


def _packed(rootfs: Path) -> Iterator[bytes]:
    """The image's tree as a tar file, everything root's; breaks off, so that nothing is imported, when tar fails."""
    words = ["tar", "--create", "--numeric-owner", "--owner=0", "--group=0", f"--directory={rootfs}", "."]
    with process.start(words, stderr=None) as tar:
        output = process.pipe(tar.stdout)
        while data := output.read(1 << 18):
            yield data
        if tar.wait():
            raise HostLacks("the image could not be read", where=str(rootfs), hint=process.reproducer(words))
