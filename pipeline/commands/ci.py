"""Render files for timers and CI services, and say how they are put to use: the verb `ci`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.task import verb
from pipeline.config.context import RunContext
from pipeline.config.settings import default_artifacts
from pipeline.core import artifacts, temporary
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.ci.kinds import Kind
    from pipeline.ci.own_files import RenderedFiles
    from pipeline.config.line_model import Line
    from pipeline.packaging.graph import StepGraph

NIGHTS = "every night"
KINDS = ("github", "gitlab", "systemd", "buildbot")
# The settings that a night's commands repeat.
REPEATED = (
    *("mirror", "debian-mirror", "jobs", "retries", "stall", "connect"),
    *("runtime", "image", "centos-base", "kernel-config", "build-jobs"),
    *("no-ccache", "ccache-remote", "ccache-writer", "attestation-key"),
    *("build-time", "build-silence", "build-memory", "build-disk", "build-processes"),
    *("shared-store", "shared-keys"),
    *("gpg-key", "module-key", "module-certificate", "baseurl", "valid-days", "no-smoke", "patience"),
    *("keep-nights", "update", "smoke-always", "notify-command", "notify-when"),
)


@verb(
    *REPEATED,
    group=NIGHTS,
    example="ci systemd --at 03:17",
    words=("kind",),
    many="line",
    choices={"kind": KINDS},
    values={
        "line": "LINE",
        "output": "DIR",
        "at": "HH:MM",
        "runner": "LABEL",
        "user": "NAME",
        "checkout": "DIR",
        "cluster": "FILE",
    },
    help={
        "kind": "github: a workflow; gitlab: a job; systemd: a hardened service with its timer; buildbot: a master and"
        " its workers on many machines",
        "line": "a line to build; several are built one after the other [the line of the settings]",
        "output": "directory to write to, laid out as the service reads it [artifacts/ci/KIND]",
        "at": "when a night begins, in UTC [03:17]",
        "runner": "github, gitlab: the label of the hosts that run it [ubuntu-24.04, lvs-fullnat]",
        "user": "systemd: the user that runs the service [you]",
        "checkout": "systemd: the checkout that the service runs [this one]",
        "cluster": "buildbot: the file that describes master and workers",
        "overwrite": "write over files that were edited or are others' too",
    },
    plain=True,
)
def ci(
    context: RunContext,
    kind: str,
    line: list[str] | None = None,
    output: str = "",
    at: str = "",
    runner: str = "",
    user: str = "",
    checkout: str = "",
    cluster: str = "",
    overwrite: bool = False,
) -> RenderedFiles:
    """Render the files by which a timer or CI service runs the lines every night, and say how to install them."""
    from pipeline.ci import own_files
    from pipeline.ci.kinds import Request, TimeOfDay
    from pipeline.ci.registry import KINDS as FOUND
    from pipeline.config import line_loader

    made = FOUND[kind]()
    own = {"runner": runner, "user": user, "checkout": checkout, "cluster": cluster}
    given = {name: value for name, value in own.items() if value}
    _check_options(kind, made, given)
    settings = context.settings
    lines = tuple(line_loader.load(name) for name in dict.fromkeys(line or [settings.line]))
    request = Request(lines, settings, TimeOfDay.parse(at or "03:17"), given, partial(_plan, context))
    # Not below --artifacts: those may be another user's, or another host's.
    place = Path(output) if output else default_artifacts(os.environ) / "ci" / kind
    edited = request.made_by(kind, *(("--output", output) if output else ()), "--overwrite")
    files = own_files.write_all(place, made.files(request), overwrite=overwrite, hint=edited)
    rows = [(file.path, file.state) for file in files]
    context.console.table(("file", "state"), rows, f"{kind}: {', '.join(request.names)}")
    commands = tuple(made.commands(request, place))
    _say_next(context, commands)
    return own_files.RenderedFiles(kind, request.names, files, commands)


def _plan(context: RunContext, line: Line) -> StepGraph:
    """Return the steps of a line. Only that needs the artifacts: what is rendered may be for another host or user."""
    from pipeline.commands.build import BuildCommand

    artifacts.check(context.settings.artifacts)
    with temporary.use_run_directory():
        return BuildCommand(line, context).plan()


def _check_options(kind: str, made: Kind, given: Mapping[str, str]) -> None:
    """Raise `UsageError` for an option of another kind."""
    if foreign := next((name for name in given if name not in made.takes), None):
        what = f"--{foreign}: {kind} has no use for it; expected it with another kind"
        raise UsageError(what, hint="./inv --help ci")


def _say_next(context: RunContext, commands: Sequence[str]) -> None:
    context.console.say("next, in this order:")
    for command in commands:
        context.console.say(f"    {command}")
