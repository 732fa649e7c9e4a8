"""Turn a function into a task: options out of the settings table, errors into text and exit codes.

Every verb of tasks.py is made here, so that all of them treat `--json`, `--quiet` and typed errors alike. Only light
modules are imported at start-up.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task as make_task

from pipeline.config import settings as table
from pipeline.config.context import RunContext
from pipeline.core import artifacts, disk_space, rlimits, temporary
from pipeline.core.console import Console, write
from pipeline.errors import ExitCode, Mistake, PipelineError

EVERYWHERE = ("artifacts", "json", "quiet")
_SHELLS = 128  # plus the number of the signal that ended a program is what shells report of it


@dataclass(frozen=True)
class Outcome:
    """A result that is no exception and yet ends with another exit code than 0."""

    data: object
    code: ExitCode


class Stopped(KeyboardInterrupt):
    """A signal that stops the run."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def verb(
    *options: str,
    words: Sequence[str] = (),
    pairs: Sequence[str] = (),
    many: str = "",
    help: Mapping[str, str] | None = None,
    plain: bool = False,
) -> Callable[..., Any]:
    """Make a task of a function `f(session, ...)`.

    `options` name rows of the settings table; `words` are own options that `./inv` also takes
    without their names, `many` the one that every further word belongs to, `pairs` those that take
    two words; `help` describes the function's own parameters. What the function returns is printed
    with `--json`. A `plain` one is for every host: it needs no artifacts and no temporary files.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        rows = [table.TABLE[name] for name in dict.fromkeys((*options, *EVERYWHERE))]
        own = list(inspect.signature(function).parameters.values())[1:]

        @functools.wraps(function)
        def body(context: Context, **given: Any) -> None:
            if code := _run(function, {p.name: given.pop(p.name) for p in own}, given, plain=plain):
                raise Exit(code=code)

        first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        shared = [_parameter(row) for row in rows]
        body.__signature__ = inspect.Signature([first, *own, *shared])  # type: ignore[attr-defined]
        lists = [p.name for p in own if "list[" in str(p.annotation)] + [r.attribute for r in rows if r.kind == "list"]
        described = {**(help or {}), **{row.attribute: _help(row) for row in rows}}
        task = make_task(
            help={name.replace("_", "-"): text for name, text in described.items()},
            iterable=lists,
            auto_shortflags=False,
            positional=[p.name for p in own if p.default is inspect.Parameter.empty],
        )(body)
        task.words, task.pairs, task.many = tuple(words), tuple(pairs), many
        task.settings = tuple(row.name for row in rows)
        return task

    return decorate


def _parameter(row: table.Setting) -> inspect.Parameter:
    default = False if row.kind == "flag" else None
    return inspect.Parameter(row.attribute, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)


def _help(row: table.Setting) -> str:
    shown = row.default if row.kind not in ("flag", "list") else None
    return row.help + (f" [{shown}]" if shown not in (None, "") else "")


def _run(function: Callable[..., Any], own: Mapping[str, object], options: Mapping[str, object], *, plain: bool) -> int:
    console = Console(json=bool(options.get("json")), quiet=bool(options.get("quiet")))
    try:
        with disk_space.host_errors(Path(str(options.get("artifacts") or "artifacts"))):
            settings = table.load(options)
        console = Console(json=settings.json, quiet=settings.quiet)
        with (
            disk_space.host_errors(settings.artifacts),
            contextlib.nullcontext() if plain else _place(settings.artifacts),
        ):
            result = function(RunContext(settings, console), **own)
        code = ExitCode.OK
        if isinstance(result, Outcome):
            code, result = result.code, result.data
        if result is not None:
            console.result(result)
        return int(code)
    except PipelineError as error:
        console.fail(error)
        return int(error.code)
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        if number == signal.SIGXCPU:
            console.fail(limit := rlimits.CPU.used_up("the kernel ends what goes on for longer"))
            return int(limit.code)
        console.warn("stopped; what was begun goes on with the next run: type the same command again")
        return _SHELLS + number
    except Exception as error:  # noqa: BLE001 - whatever else it is, it is a mistake of ours
        write(console.err, traceback.format_exc().rstrip())
        what = f"a mistake in this program: {type(error).__name__}: {error}"
        console.fail(mistake := Mistake(what, hint="report it with all of the above and the log it may name"))
        return int(mistake.code)


@contextlib.contextmanager
def _place(root: Path) -> Iterator[None]:
    """Prepare the run's directories: private artifacts, and one for temporary files."""
    artifacts.check(root)
    with temporary.use_run_directory():
        yield
