"""Render Buildbot's configuration out of the lines: a builder per step, workers by capability, a night per line.

The files are thin: what is built, where and how is data beside them, and each build is one command of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path

from pipeline.ci import cluster_file, systemd
from pipeline.ci.cluster_file import ClusterFile, WorkerTable
from pipeline.ci.kinds import Request
from pipeline.config import next_command
from pipeline.config.line_model import Line
from pipeline.core import documents, neutral, templates
from pipeline.errors import UsageError
from pipeline.packaging.graph import Step, StepGraph

CLUSTER = "cluster"  # the option that names the operator's file
DATA = "cluster.json"
SECRETS = "secrets"
NIGHT = "night of"  # before a line's name: the builder of its nights
COORDINATOR = cluster_file.COORDINATOR
_FILES = {
    "master.cfg": "master.cfg.j2",
    "fnat_master.py": "fnat_master.py.j2",
    "buildbot.tac": "master.tac.j2",
    "worker/buildbot.tac": "worker.tac.j2",
    "fnat-master.service": "master.service.j2",
    "fnat-worker@.service": "worker.service.j2",
}
_MASTER, _WORKER = "/var/lib/fnat-master", "/var/lib/fnat-worker"  # where their units have them
# A command dies with its worker, also where that is killed: its own children die with it.
_GUARD = ("/usr/bin/setpriv", "--pdeathsig", "KILL", "--")
_GRACE = 60.0  # seconds of silence beside those that a build may have


@dataclass(frozen=True)
class StepData:
    """A step's builder: its workers, its command and how that is shown; `silence` in seconds ends it."""

    name: str
    builder: str
    workers: tuple[str, ...]
    command: tuple[str, ...]
    shown: str
    silence: float


@dataclass(frozen=True)
class LineData:
    """A line: the builder of its nights, its steps, and their builders in the order of a night."""

    name: str
    night: str
    levels: tuple[tuple[str, ...], ...]
    steps: tuple[StepData, ...]


@dataclass(frozen=True)
class WorkerData:
    """A worker: how many builds it runs at a time, and its checkout."""

    name: str
    builds: int
    checkout: str


@dataclass(frozen=True)
class ClusterData:
    """The data that the master's configuration is made of. Ports are Twisted's descriptions, `watch` in seconds."""

    page_port: str
    page_url: str
    workers_port: str
    listen: str
    operator: str
    coordinator: str
    attempts: int
    keep_days: int
    watch_every: float
    watch_answer: float
    hour: int
    minute: int
    workers: tuple[WorkerData, ...]
    lines: tuple[LineData, ...]


def read_data(master: Path) -> ClusterData:
    """Read the data of a rendered master's directory, below its first line. Raises `Refused`."""
    hint = "./inv cluster up"
    text = documents.read_text(master / DATA, hint=hint)
    try:
        return documents.parse(ClusterData, text.partition("\n")[2])
    except ValueError as error:
        raise documents.damaged(master / DATA, "the data of a cluster", str(error), hint) from None


class Buildbot:
    """The kind `buildbot`: the directory of a master, a worker's program, and units of systemd for both."""

    takes = frozenset({CLUSTER})

    def files(self, request: Request) -> Mapping[str, str]:
        """Return the files. Raises `UsageError` for a step that no worker can do, and for a writer of compiler caches.

        Every worker would be one.
        """
        if request.settings.ccache_writer:
            what = "--ccache-writer: every worker would write to ccache-remote; expected it on one host alone"
            raise UsageError(what, why="any of them could put code into every kernel", hint="docs/many-machines.md")
        cluster = _cluster(request)
        made_by = request.made_by("buildbot")
        host, port = cluster_file.endpoint(cluster.listen, "listen", Path())
        first = next(iter(cluster.workers.values())).checkout
        given = {
            "made_by": made_by,
            "upgrade": _program(cluster.checkout or first, "buildbot", "upgrade-master", "--quiet", _MASTER),
            "start_master": _twistd(cluster.checkout or first, _MASTER),
            "start_worker": _twistd(first, _WORKER),
            "shortest": cluster_file.SHORTEST_SECRET,
            "master": f"{'tls' if cluster.tls else 'tcp'}:{_quoted(host)}:{port}",
        }
        made = {name: templates.render(f"ci/buildbot/{template}", **given) for name, template in _FILES.items()}
        for name, worker in cluster.workers.items():
            if worker.checkout != first:
                file, start = f"fnat-worker@{name}.service.d/checkout.conf", _twistd(worker.checkout, _WORKER)
                made[file] = templates.render("ci/buildbot/worker.conf.j2", made_by=made_by, name=file, start=start)
        return {**made, DATA: documents.to_json(_data(cluster, request))}

    def commands(self, request: Request, output: Path) -> Sequence[str]:
        """Return the commands that make the secrets and start the master."""
        cluster = _cluster(request)
        names = " ".join([*cluster.workers, cluster.operator])
        secrets, place = neutral.word(output / SECRETS), neutral.word(output)
        return [
            "./inv cluster install",
            f"mkdir -p -m 700 {secrets}",
            f"for name in {names}; do {_make_secret(f'{secrets}/$name')}; done",
            f".venv-buildbot/bin/buildbot upgrade-master {place}",
            f"TZ=UTC .venv-buildbot/bin/twistd --nodaemon --pidfile= --python {place}/buildbot.tac",
        ]


def _cluster(request: Request) -> ClusterFile:
    if CLUSTER not in request.options:
        what = "--cluster: not given; expected the file that describes master and workers"
        raise UsageError(what, hint="docs/many-machines.md has an example")
    return cluster_file.load(Path(request.options[CLUSTER]))


def _make_secret(file: str) -> str:
    """Return the commands that make a secret where there is none; what a full disk cut off is never called `file`."""
    return f"test -s {file} || (umask 077; openssl rand -hex 24 > {file}.new && mv {file}.new {file})"


def _twistd(checkout: str, directory: str) -> str:
    """Return the line of a unit that runs the program of a master or a worker."""
    return _program(checkout, "twistd", "--nodaemon", "--pidfile=", "--python", f"{directory}/buildbot.tac")


def _program(checkout: str, name: str, *words: str) -> str:
    """Return the line of a unit that runs one of Buildbot's programs, of the environment in a host's checkout."""
    return systemd.command_line([Path(checkout, ".venv-buildbot/bin", name), *words])


def _quoted(host: str) -> str:
    return host.replace(":", r"\:")  # as Twisted's descriptions of endpoints have it


def _data(cluster: ClusterFile, request: Request) -> ClusterData:
    """Return what master.cfg reads."""
    page, page_port = cluster_file.endpoint(cluster.page, "page", Path())
    scheme = "https" if cluster.tls else "http"
    return ClusterData(
        page_port=_port(cluster.page, cluster),
        page_url=cluster.page_url or f"{scheme}://{page}:{page_port}/",
        workers_port=_port(cluster.listen, cluster),
        listen=cluster.listen,
        operator=cluster.operator,
        coordinator=COORDINATOR,
        attempts=cluster.attempts,
        keep_days=cluster.keep_days,
        watch_every=cluster.watch * 0.4,
        watch_answer=cluster.watch * 0.6,
        hour=request.at.hour,
        minute=request.at.minute,
        workers=tuple(WorkerData(name, row.builds, row.checkout) for name, row in cluster.workers.items()),
        lines=tuple(_line(cluster, request, line) for line in request.lines),
    )


def _port(value: str, cluster: ClusterFile) -> str:
    """Return Twisted's description of a port."""
    host, port = cluster_file.endpoint(value, "listen", Path())
    interface = _quoted("127.0.0.1" if host == "localhost" else host)
    if cluster.tls is None:
        return f"tcp:{port}:interface={interface}"
    return f"ssl:{port}:interface={interface}:privateKey={cluster.tls.key}:certKey={cluster.tls.certificate}"


def _line(cluster: ClusterFile, request: Request, line: Line) -> LineData:
    graph = request.plan(line)
    if not any("sign" in worker.capabilities for worker in cluster.workers.values()):
        # The host with the release key takes the results from the shared store, and publishes by itself.
        graph = graph.only([step.name for step in graph.steps.values() if not step.local])
    builders = {name: f"{line.name} {name}" for name in graph.steps}
    levels = tuple(tuple(builders[name] for name in names) for names in _levels(graph))
    steps = tuple(_step(cluster, request, line, step) for step in graph.steps.values())
    return LineData(line.name, f"{NIGHT} {line.name}", levels, steps)


def _levels(graph: StepGraph) -> Iterator[list[str]]:
    """Yield the steps whose needs are in the levels before, the widest way to run them beside each other."""
    order = TopologicalSorter({step.name: step.needs for step in graph.steps.values()})
    order.prepare()
    while order.is_active():
        ready = sorted(order.get_ready())
        yield ready
        order.done(*ready)


def _step(cluster: ClusterFile, request: Request, line: Line, step: Step) -> StepData:
    words = [] if step.local else ["--only", step.name]
    # Who only builds is not even to know where the release key is.
    settings = request.settings if step.local else replace(request.settings, gpg_key="")
    repeated = next_command.options(settings, line.name)
    command = next_command.completed_words("build-all", words, repeated)
    return StepData(
        name=step.name,
        builder=f"{line.name} {step.name}",
        workers=tuple(_workers_for(cluster, request, step)),
        command=(*_GUARD, "./inv", *command),
        shown=neutral.command(["./inv", *command]),
        silence=request.settings.build_silence + _GRACE,
    )


def _workers_for(cluster: ClusterFile, request: Request, step: Step) -> list[str]:
    """Return the workers that can do a step. Raises `UsageError` where none can."""
    settings = request.settings
    found = [
        name
        for name, worker in cluster.workers.items()
        if not _lacks(worker, step, settings.runtime, settings.build_memory)
    ]
    if not found:
        lacking = "; ".join(
            f"{name}: {_lacks(worker, step, settings.runtime, settings.build_memory)}"
            for name, worker in cluster.workers.items()
        )
        raise UsageError(
            f"{step.name}: no worker can do it; expected one or more", why=lacking, hint="docs/many-machines.md"
        )
    return found


def _lacks(worker: WorkerTable, step: Step, runtime: str, memory: int) -> str:
    """Return what a worker lacks for a step; empty for nothing."""
    if step.local:
        needed = {"sign", "kvm"} - set(worker.capabilities)
        return f"no capability {', '.join(sorted(needed))}" if needed else ""
    if "sign" in worker.capabilities:
        return "it signs, and where the release key is nothing is built"
    if runtime == "auto" and not {"bubblewrap", "docker"} & set(worker.capabilities):
        return "no capability bubblewrap or docker"
    if runtime != "auto" and runtime not in worker.capabilities:
        return f"no capability {runtime}"
    return f"{worker.memory} MiB of memory, less than --build-memory {memory}" if worker.memory < memory else ""
