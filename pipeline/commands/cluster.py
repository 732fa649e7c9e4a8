"""Try Buildbot on this host: a master and workers as processes on loopback, by the verb `cluster`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.ci import NIGHTS, REPEATED
from pipeline.commands.task import verb
from pipeline.config import next_command
from pipeline.config.context import RunContext
from pipeline.config.settings import TABLE
from pipeline.errors import PipelineError, UsageError

if TYPE_CHECKING:
    from pipeline.ci.buildbot import ClusterData
    from pipeline.ci.cluster import Cluster
    from pipeline.ci.master_page import ClusterState, MasterPage
    from pipeline.commands.build import BuildCommand

ACTIONS = ("install", "up", "night", "status", "down")
_MOST = 64  # workers
WORKERS, WATCH = 2, 50  # where none are given


@verb(
    *REPEATED,
    "line-file",
    group=NIGHTS,
    example="cluster up --workers 2",
    words=("action",),
    many="line",
    choices={"action": ACTIONS},
    values={"line": "LINE", "workers": "NUMBER", "watch": "SECONDS"},
    help={
        "action": "install (Buildbot's environment), up, night (start one now), status, or down",
        "line": "up, night: a line to build; may be repeated [up: that of the settings, night: those of the cluster]",
        "workers": f"up: how many workers to start [{WORKERS}]",
        "watch": f"up: seconds within which a worker that stopped is noticed [{WATCH}]",
    },
)
def cluster(
    context: RunContext, action: str, line: list[str] | None = None, workers: str = "", watch: str = ""
) -> ClusterState:
    """Try a cluster on this host: a Buildbot master and workers on loopback, below artifacts/cluster."""
    from pipeline.ci import buildbot_venv
    from pipeline.ci.cluster import Cluster

    artifacts = context.settings.artifacts.absolute()
    found = Cluster(artifacts / "cluster", artifacts)
    if action == "install":
        made = buildbot_venv.install()
        context.console.say(f"{buildbot_venv.path()}: {'made' if made else 'unchanged'}")
    elif action == "up":
        numbers = (
            _number(workers or str(WORKERS), "--workers", 1, _MOST),
            _number(watch or str(WATCH), "--watch", 0.5, 3600),
        )
        _up(context, found, line or [], *numbers)
    elif action == "night":
        page = _page(context, found, line or [])
        for night in _nights(found, line or []):
            page.force(night, "operator", found.secret("operator"))
            context.console.say(f"started: {night}; {page.address}")
    elif action == "down":
        killed = found.stop()
        context.console.say(f"ended; {len(killed)} processes were killed" if killed else "ended")
    return _state(context, found)


def _number(text: str, option: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise UsageError(f"{option}: {text}; expected a number of {least:g} to {most:g}", hint="./inv --help cluster")
    return value


def _up(context: RunContext, found: Cluster, lines: list[str], workers: float, watch: float) -> None:
    from pipeline.ci import buildbot_venv
    from pipeline.ci.buildbot import COORDINATOR, Buildbot, read_data
    from pipeline.ci.cluster import MASTER, wait_for
    from pipeline.ci.kinds import Request, TimeOfDay
    from pipeline.commands.build import BuildCommand
    from pipeline.config import line_loader

    settings = context.settings
    if running := found.processes():
        what = f"the cluster: it runs already, {len(running)} processes; expected none"
        raise UsageError(what, where=str(found.place), hint="./inv cluster down")
    chosen = [line_loader.load(name) for name in lines] or [line_loader.load(settings.line or None, settings.line_file)]
    plans = {each.name: BuildCommand(each, context) for each in chosen}
    _look(plans.values(), "" if lines or settings.line_file else settings.line)
    if buildbot_venv.install():
        context.console.note(f"made {buildbot_venv.path()}")
    found.prepare(int(workers), settings.build_memory, watch)
    own = replace(settings, artifacts=Path("artifacts"), shared_store="", shared_keys=None, attestation_key="")
    request = Request(
        *(tuple(chosen), own, TimeOfDay.parse("03:17")),
        {"cluster": str(found.file)},
        lambda line: plans[line.name].plan(),
    )
    found.write(Buildbot().files(request), hint="./inv cluster up")
    data = read_data(found.master)
    names = [each.name for each in data.workers]
    found.start(names, f"tcp:{data.listen}")
    page = _page(context, found, lines)
    wait_for("the master", lambda: _answers(page), found.master / "twistd.log")
    wait_for("its workers", lambda: {*names, COORDINATOR} <= {*page.connected()}, found.place / "workers")
    context.console.say(f"up: {page.address}, {len(names)} workers, {MASTER} in {found.master}")
    context.console.say(f"operator's password: {found.master / 'secrets' / 'operator'}")


def _nights(found: Cluster, lines: list[str]) -> list[str]:
    """Return the builders of the nights of these lines, of all where none is named. Raises `UsageError`."""
    from pipeline.ci.buildbot import read_data

    nights = {each.name: each.night for each in read_data(found.master).lines}
    for name in lines:
        if name not in nights:
            what = f"{name}: the cluster does not build it; expected one of {', '.join(nights)}"
            raise UsageError(what, where=str(found.master), hint=f"./inv cluster night {next(iter(nights))}")
    return [nights[name] for name in lines or nights]


def _look(plans: Iterable[BuildCommand], unnamed: str) -> None:
    """Raise `Refused` or `Unreachable` for sources that cannot be fetched, before anything is installed.

    `unnamed` is the line of the settings where no line was named.
    """
    for plan in plans:
        try:
            plan.look()
        except PipelineError as error:
            if unnamed:
                taken = f"no line was named, and so it is that of the settings, {unnamed}"
                error.why = f"{error.why}; {taken}" if error.why else taken
            raise


def _connected(name: str, connected: list[str]) -> str:
    from pipeline.ci.cluster import MASTER

    return "-" if name == MASTER else "yes" if name in connected else "no"


def _answers(page: MasterPage) -> bool:
    from pipeline.errors import HostLacks

    try:
        page.get("workers")
    except HostLacks:
        return False
    return True


def _page(context: RunContext, found: Cluster, lines: list[str]) -> MasterPage:
    """Return the master's page. Raises `UsageError` where there is no cluster, which `lines` were to be of."""
    from pipeline.ci.buildbot import DATA, read_data
    from pipeline.ci.master_page import MasterPage

    if not (found.master / DATA).exists():
        settings = context.settings
        is_known = lines or settings.line_file or settings.line != TABLE["line"].default
        named = lines or ([] if settings.line_file else [settings.line])
        hint = next_command.command("cluster", ["up", *named], []) if is_known else "./inv lines"
        what = "the cluster: there is none; expected one, which `./inv cluster up` makes of lines"
        raise UsageError(what, where=str(found.place), hint=hint)
    data = read_data(found.master)
    return MasterPage(data.page_url, _start(data))


def _start(data: ClusterData) -> str:
    """Return the command that starts a cluster as it was: its lines, the settings of its builds, its workers."""
    first = data.lines[0].steps[0].command
    repeated = list(first[first.index("build-all") + 1 :])
    if "--line" in repeated:
        at = repeated.index("--line")
        del repeated[at : at + 2]
    names = [] if "--line-file" in repeated else [line.name for line in data.lines]
    watch = f"{data.watch_every + data.watch_answer:g}"
    own = ["--workers", str(len(data.workers))] if len(data.workers) != WORKERS else []
    own += ["--watch", watch] if watch != str(WATCH) else []
    return next_command.command("cluster", ["up", *names, *own], repeated)


def _state(context: RunContext, found: Cluster) -> ClusterState:
    from pipeline.ci.cluster import MASTER
    from pipeline.ci.master_page import ClusterState

    running = {name: found.keeper(name) for name in (MASTER, *found.workers)}
    if running[MASTER] is None:
        context.console.say("the master does not run")
        with contextlib.suppress(PipelineError):  # there is no cluster, or what it was is not known any more
            context.console.say(f"next: {_page(context, found, []).start}")
        return ClusterState("", running)
    page = _page(context, found, [])
    if not _answers(page):
        context.console.say(f"the master does not answer (yet): {page.address}")
        return ClusterState(page.address, running)
    builds, connected = page.builds(), page.connected()
    rows = [(name, str(number or "-"), _connected(name, connected)) for name, number in running.items()]
    context.console.table(("process", "kept by", "connected"), rows, page.address)
    if builds:
        shown = [(each.builder, str(each.number), each.worker, each.result or "running", each.state) for each in builds]
        context.console.table(("builder", "build", "worker", "result", "state"), shown[-40:])
    return ClusterState(page.address, running, tuple(connected), tuple(builds))
