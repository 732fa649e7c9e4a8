"""Run jobs in containers of a Docker engine, or of an engine with its API on a socket, as Podman.

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
from pipeline.sandbox.images import HOSTNAME
from pipeline.sandbox.runtime import (
    OPEN_FILES,
    SHARED_MEMORY,
    TMPFS_MOUNTS,
    EndReason,
    Image,
    Job,
    JobResult,
    Mount,
    build_group,
    build_user,
)

REPOSITORY = "localhost/lvs-fullnat"  # Podman puts `localhost/` before what has no host, or takes it for docker.io's
IMPORTS_SUFFIX = ".engines"  # of the file beside an image that records the engines' ids of it
_REQUEST_TIMEOUT = 30.0  # seconds for one answer of a busy engine
_IMPORT_TIMEOUT = 600.0  # seconds for it to read a whole image
_REMOVAL_TIMEOUT = 10.0  # seconds for it to remove a container that has ended
_TMPFS = "rw,exec,nosuid,nodev,mode=1777"
_CONFLICT = 409  # HTTP status of what the engine's own state forbids
_MAX_IMPORTS = 8  # of one image that are remembered: several engines may have it
_HELPERS = 3  # processes of the supervisor, on top of the job's own
_PROGRAMS = "/run/pipeline"  # inside
_FIFO = f"{_PROGRAMS}/supervisor"
_ENDED = re.compile(rf"^{supervisor.REPORT} (\d+) (\d+)$", re.MULTILINE)
_HINT = "./inv doctor, which checks every engine; or without an engine: --runtime bubblewrap"


class ContainerEngine:
    """A runtime behind one engine's socket."""

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
        return self._client(_REQUEST_TIMEOUT)

    @functools.cached_property
    def is_rootless(self) -> bool:
        """Whether the engine runs as a plain user."""
        with self.translated_errors("could not be asked"):
            return any("rootless" in option for option in self.api.info().get("SecurityOptions") or ())

    def run(self, job: Job) -> JobResult:
        """Run the job, after checking the image and, once per image, the container's isolation."""
        self._prove(job)
        return self._run(job)

    def shell(self, job: Job) -> int:
        """Run the job's command on the caller's terminal and return its exit status."""
        self._prove(job)
        tty = os.isatty(0)
        argv = [
            "/bin/sh",
            "-c",
            f'exec "$@" {entrypoint.SUPERVISOR}<{_FIFO} 2>&1',
            "sh",
            *supervisor.supervised_argv(job, uuid.uuid4().hex),
        ]
        with (
            self._container(job, argv, person=True, tty=tty) as (container, stream),
            self.translated_errors("lost the shell"),
        ):
            resize = functools.partial(self.api.resize, container) if tty else None
            if not terminal.relay(stream, lambda: self.api.start(container), resize):
                return -signal.SIGHUP
            return supervisor.exit_status(int(self.api.wait(container)["StatusCode"]))

    def reap(self) -> list[str]:
        """Remove the remains of killed runs: containers never started, processes of an engine that was killed too."""
        found = supervisor.kill(supervisor.is_dead)
        with self.translated_errors("could not list its containers"):
            for container in self.api.containers(all=True, filters={"label": supervisor.LABEL}):
                if supervisor.is_dead(container["Labels"][supervisor.LABEL]):
                    self._remove(container["Id"])
                    found.append(f"container {container['Id'][:12]}")
        return found

    def images(self) -> list[tuple[str, int]]:
        """Return our images in the engine: the tag of each, and its size in bytes."""
        with self.translated_errors("could not list its images"):
            found = self.api.images()
        tags = [(tag, int(image["Size"])) for image in found for tag in image.get("RepoTags") or ()]
        return sorted((tag, size) for tag, size in tags if tag.startswith(f"{REPOSITORY}/"))

    def remove_image(self, tag: str) -> None:
        """Remove an image. Raises `Locked` where a container uses it."""
        docker: Any = importlib.import_module("docker")
        with self.translated_errors("did not remove an image"):
            try:
                self.api.remove_image(tag)
            except docker.errors.APIError as error:
                if error.status_code != _CONFLICT:
                    raise
                raise Locked(
                    f"image {tag}: in use by a container; expected none", where=tag, why=str(error.explanation)
                ) from None

    def tag(self, image: Image) -> str:
        """Return the image's tag in the engine."""
        return f"{REPOSITORY}/{image.name}:{image.key}"

    @contextlib.contextmanager
    def translated_errors(self, what: str) -> Iterator[None]:
        """Translate the SDK's errors into `HostLacks`; `what` completes `the container engine ...`."""
        try:
            yield
        except _sdk_errors() as error:
            why = str(getattr(error, "explanation", None) or error)[:500]
            raise HostLacks(f"the container engine {what}", where=self._engine.address, why=why, hint=_HINT) from None

    def _client(self, timeout: float) -> Any:
        with self.translated_errors("does not answer"):
            return engines.client(self._engine, self._environ, timeout)

    def _prove(self, job: Job) -> None:
        if job.image.key in self._proven:
            return
        images.check(job.image)
        if self.is_rootless and self._engine.product != "Podman":
            why = "only its user 0 may write to the directories of a build, and no build runs as user 0"
            raise HostLacks(
                "container engine: rootless Docker; expected Podman, or Docker with root",
                where=self._engine.address,
                why=why,
                hint=_HINT,
            )
        self._import(job.image)
        isolation_check.prove(self._run, job, self.name, _HINT, hides_mounts=False)
        self._proven.add(job.image.key)

    def _import(self, image: Image) -> None:
        """Import the image into the engine, once for all concurrent runs.

        Only an image recorded at its import is used, by its id: other users of the engine may move our tag.
        """
        with locked(image.packages.parent.with_suffix(".lock")), self.translated_errors("did not take the image"):
            record, tag = image.packages.parent.with_suffix(IMPORTS_SUFFIX), self.tag(image)
            known = _imported_ids(record, image)
            there = {
                _without_algorithm(found["Id"]): found.get("RepoTags") or () for found in self.api.images(all=True)
            }
            kept = next((number for number in known if number in there), None)
            others = [number for number, tags in there.items() if list(tags) == [tag] and number != kept]
            if kept is not None:
                if tag not in there[kept]:  # what removes our images goes by their tags
                    self.api.tag(kept, *tag.rsplit(":", 1), force=True)
                    self._remove_unused(others)
                self._ids[image.key] = kept
                return
            with contextlib.closing(self._client(_IMPORT_TIMEOUT)) as api:
                # The tag in the name: Podman does not read the parameter for it.
                api.import_image(src=_tar_stream(image.rootfs), repository=tag, stream_src=True)
            faults.point("engine.image-imported")
            # The answer above is 200 whatever it says.
            self._ids[image.key] = _without_algorithm(self.api.inspect_image(tag)["Id"])
            numbers = [*known[-_MAX_IMPORTS:], self._ids[image.key]]
            write_atomic(record, documents.seal(Imported(image.name, image.key, tuple(numbers))))
            self._remove_unused(others)

    def _remove_unused(self, numbers: list[str]) -> None:
        """Remove images with no tag but ours, such as those a killed run imported; images in use stay."""
        for number in numbers:
            with contextlib.suppress(*_sdk_errors()):
                self.api.remove_image(number)

    def _run(self, job: Job) -> JobResult:
        ticket, known = uuid.uuid4().hex, False
        try:
            ended = self._run_container(job, ticket)
            known = ended.reason is not EndReason.ENGINE_LOST
        finally:
            if not known:  # an engine that was killed leaves its containers running
                supervisor.kill(lambda label: label.endswith(f":{ticket}"))
        return ended

    def _run_container(self, job: Job, ticket: str) -> JobResult:
        with self._container(job, supervisor.supervised_argv(job, ticket, by_input=True)) as (container, stream):
            with self.translated_errors("did not start a container"):
                self.api.start(container)
            faults.point("engine.started")
            reason = watchdog.watch(job, stream.fileno(), stream.read)
            if reason is not EndReason.EXIT:
                stream.close()  # Podman cannot remove what waits for us to read
                self._remove(container)
            ended = self._job_result(container, reason, stream.supervisor_output)
        with contextlib.suppress(OSError), job.log.open("a") as log:
            log.write(_ENDED.sub("", stream.supervisor_output).lstrip("\n"))  # the shell's own messages
        return ended

    def _job_result(self, container: str, reason: EndReason, output: str) -> JobResult:
        """Return the result that the supervisor reported; a job without a report was killed from outside."""
        if reason is not EndReason.EXIT:
            return JobResult(reason, -9)
        found = _ENDED.findall(output)
        if not found:
            return JobResult(EndReason.MEMORY if self._was_oom_killed(container) else EndReason.ENGINE_LOST, -9)
        self._wait_until_gone(container)
        status, killed = supervisor.exit_status(int(found[-1][0])), int(found[-1][1])
        return JobResult(EndReason.MEMORY if killed and status else EndReason.EXIT, status)

    def _was_oom_killed(self, container: str) -> bool:
        """Return whether the engine reported the container as killed for its memory."""
        with contextlib.suppress(*_sdk_errors()):
            now = int(time.time())
            queried = {"container": container, "event": "oom"}
            return any(self.api.events(since=now - 60, until=now + 1, filters=queried, decode=True))
        return False

    @contextlib.contextmanager
    def _container(
        self, job: Job, argv: list[str], *, person: bool = False, tty: bool = False
    ) -> Iterator[tuple[str, terminal.AttachStream]]:
        """Create a container and attach to it, without starting; remove the container in the end.

        With `interactive` the caller is at the connection, and the container stays until its exit status was read.
        """
        missing = [str(mount.source) for mount in job.mounts if not mount.source.exists()]
        if missing:  # Podman would make a directory there
            raise HostLacks(f"mount sources of a job: {len(missing)} missing; expected all", where=", ".join(missing))
        with _mounted_programs(job) as programs, self.translated_errors("did not make a container"):
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
                labels={supervisor.LABEL: supervisor.owner_label()},
                use_config_proxy=False,
                host_config=self._host_config(replace(job, mounts=(*job.mounts, programs)), auto_remove=not person),
            )["Id"]
            faults.point("engine.created")
            try:
                with self.translated_errors("did not connect us to a container"):
                    wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
                    socket = self.api.attach_socket(container, wanted)
                with contextlib.closing(terminal.AttachStream(socket, tty)) as stream:
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
            tmpfs=dict.fromkeys(TMPFS_MOUNTS, f"{_TMPFS},size={limits.temporary}"),
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
        """Remove the container, running or not; errors of an engine that is gone are ignored."""
        with contextlib.suppress(*_sdk_errors()):
            self.api.remove_container(container, force=True, v=True)
        self._wait_until_gone(container)

    def _wait_until_gone(self, container: str) -> None:
        """Wait until the engine has removed the container, which holds mounts of the job until then."""
        end = time.monotonic() + _REMOVAL_TIMEOUT
        with contextlib.suppress(*_sdk_errors()):
            while time.monotonic() < end and self.api.inspect_container(container):
                time.sleep(0.02)


def available_engines(host: Host | None = None) -> list[ContainerEngine]:
    """Return all engines of this host that answer, one per address."""
    host = host or Host()
    return [ContainerEngine(engine, host.environ) for engine in engines.available(host)]


@dataclass(frozen=True)
class Imported:
    """The document of an image that engines have: the image's name and key, and the ids that they gave it."""

    image: str
    key: str
    ids: tuple[str, ...]


def _imported_ids(record: Path, image: Image) -> list[str]:
    """Return the ids that engines gave the image when it was imported; none where the record is missing or damaged."""
    try:
        known = documents.unseal(Imported, manifest.text_at(record))
    except (OSError, ValueError):
        return []
    return list(known.ids) if (known.image, known.key) == (image.name, image.key) else []


def _without_algorithm(number: str) -> str:
    """Return an image's id without the prefix `sha256:`, which only some engines write."""
    return number.removeprefix("sha256:")


@contextlib.contextmanager
def _mounted_programs(job: Job) -> Iterator[Mount]:
    """Mount the first program of the container, and the FIFO that a supervisor without an input of its own watches.

    Beside the log, since /tmp may be mounted noexec. Readers of the FIFO get the end of file when this process ends;
    no process in the container may write to the FIFO, also where its user is ours.
    """
    with fs.fresh(job.log.parent.resolve(), ".programs-") as private, contextlib.ExitStack() as held:
        place = private / "programs"  # searchable for the container's user; the parent is not for others
        place.mkdir()
        program, fifo = place / "entrypoint", place / "supervisor"
        program.write_bytes(entrypoint.for_engine())
        os.mkfifo(fifo)
        held.callback(os.close, os.open(fifo, os.O_RDWR | os.O_CLOEXEC))
        for path, mode in ((program, 0o555), (fifo, 0o444), (place, 0o755)):
            path.chmod(mode)
        yield Mount(place, _PROGRAMS)


@functools.cache
def _sdk_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of the SDK: its own, and those of the connection, which are OSErrors."""
    docker: Any = importlib.import_module("docker")
    return (docker.errors.DockerException, OSError)


def _tar_stream(rootfs: Path) -> Iterator[bytes]:
    """Yield the image's tree as a tar file owned by root; raise when tar fails, so that nothing is imported."""
    words = ["tar", "--create", "--numeric-owner", "--owner=0", "--group=0", f"--directory={rootfs}", "."]
    with process.start(words, stderr=None) as tar:
        output = process.pipe(tar.stdout)
        while data := output.read(1 << 18):
            yield data
        if tar.wait():
            raise HostLacks(
                "builder image: tar failed; expected a tar file of it",
                where=str(rootfs),
                hint=process.reproducer(words),
            )
