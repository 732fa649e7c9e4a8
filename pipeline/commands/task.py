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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task as make_task

from pipeline.config import next_command
from pipeline.config.command_line import VERBS, Kind, Parameter, Verb
from pipeline.config.context import RunContext
from pipeline.config.settings import TABLE, Setting, load
from pipeline.core import artifacts, disk_space, rlimits, temporary
from pipeline.core.console import Console, write
from pipeline.core.suggestion import unknown
from pipeline.errors import ExitCode, Mistake, PipelineError, UsageError

EVERYWHERE = ("artifacts", "json", "quiet")
_OF_INVOKE = {"dry": "dry", "echo": "echo", "pty": "pty", "hide": "hide", "warn": "warn-only"}  # its settings' options
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
    group: str = "",
    example: str = "",
    words: Sequence[str] = (),
    pairs: Sequence[str] = (),
    many: str = "",
    help: Mapping[str, str] | None = None,
    values: Mapping[str, str] | None = None,
    choices: Mapping[str, Sequence[str]] | None = None,
    plain: bool = False,
) -> Callable[..., Any]:
    """Make a task of a function `f(session, ...)`.

    `options` name rows of the settings table. `words` are parameters that `./inv` also takes without their names, in
    this order, those without a default first where they are left out; `many` is the one that every further word
    belongs to, `pairs` those that take two words. `help` describes the function's own parameters, `values` how help
    names their values, `choices` the only values allowed. `group` and `example` are for the help. What the function
    returns is printed with `--json`. A `plain` one is for every host: it needs no artifacts and no temporary files.
    """
    described = _Described(help or {}, values or {}, choices or {}, tuple(pairs))

    def decorate(function: Callable[..., Any]) -> Any:
        rows = [TABLE[name] for name in dict.fromkeys((*options, *EVERYWHERE))]
        own = list(inspect.signature(function).parameters.values())[1:]
        found = (*map(described.parameter, own), *map(_of_setting, rows))
        parameters = {parameter.name: parameter for parameter in found}

        def checked(context: RunContext, **given: Any) -> Any:
            _check_choices(made, given)
            return function(context, **given)

        def run(given: Mapping[str, object]) -> int:
            values = {p.name: given.get(_dashed(p), parameters[_dashed(p)].empty()) for p in own}
            options = {
                name.replace("-", "_"): value for name, value in given.items() if name.replace("-", "_") not in values
            }
            return _run(checked, values, options, plain=plain)

        name = function.__name__.replace("_", "-")
        summary = " ".join((function.__doc__ or "").split())
        required = [_dashed(p) for p in own if parameters[_dashed(p)].required and p.name not in words]
        ordered = (*required, *words, *filter(None, (many,)))
        made = VERBS[name] = Verb(name, summary, parameters, ordered, many, group, example, run)
        return _task(function, made, [*own, *map(_signature, rows)])

    return decorate


def _task(function: Callable[..., Any], made: Verb, signature: Sequence[inspect.Parameter]) -> Any:
    """Return invoke's task of a verb, for `invoke VERB`; `./inv` takes the verb from it."""

    @functools.wraps(function)
    def body(context: Context, **given: Any) -> None:
        if code := _refusal(context, given) or made.run({name.replace("_", "-"): v for name, v in given.items()}):
            raise Exit(code=code)

    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    body.__signature__ = inspect.Signature([first, *signature])  # type: ignore[attr-defined]
    parameters = made.parameters.values()
    task = make_task(
        help={parameter.name: parameter.help for parameter in parameters},
        iterable=[p.name.replace("-", "_") for p in parameters if p.kind in (Kind.LIST, Kind.PAIR)],
        auto_shortflags=False,
        positional=[parameter.name for parameter in parameters if parameter.required],
    )(body)
    task.verb = made
    return task


@dataclass(frozen=True)
class _Described:
    """The words a verb has for its own parameters: help, names of values, choices; `pairs` take two values."""

    help: Mapping[str, str]
    values: Mapping[str, str]
    choices: Mapping[str, Sequence[str]]
    pairs: Sequence[str]

    def parameter(self, own: inspect.Parameter) -> Parameter:
        """Describe a parameter of the function."""
        name, kinds = _dashed(own), {"bool": Kind.FLAG, "list[str] | None": Kind.LIST}
        kind = Kind.PAIR if name in self.pairs else kinds.get(str(own.annotation), Kind.TEXT)
        value, choices = self.values.get(name, name.upper()), tuple(self.choices.get(name, ()))
        required = own.default is inspect.Parameter.empty
        return Parameter(name, self.help.get(name, ""), kind, value, choices=choices, required=required)


def _check_choices(made: Verb, given: Mapping[str, object]) -> None:
    """Raise `UsageError` for words that the verb does not know, and for a required one that is empty."""
    for name, value in given.items():
        parameter = made.parameters[name.replace("_", "-")]
        if parameter.required and value == "":  # of `invoke VERB`; `./inv` has refused it
            raise made.empty(parameter.name)
        words = [str(word) for word in (value if isinstance(value, list | tuple) else (value,))]
        if parameter.choices and value and (wrong := [word for word in words if word not in parameter.choices]):
            raise unknown(f"{parameter.value} of {made.name}", wrong, parameter.choices, hint=made.help_command)


def _dashed(own: inspect.Parameter) -> str:
    """Return the option of a function's parameter, without its dashes."""
    return own.name.replace("_", "-")


def _of_setting(row: Setting) -> Parameter:
    """Describe the option of a setting."""
    kind = {"flag": Kind.FLAG, "list": Kind.LIST}.get(row.kind, Kind.TEXT)
    return Parameter(row.name, row.help, kind, row.value_shown, row.default_shown, row.choices, setting=True)


def _signature(row: Setting) -> inspect.Parameter:
    default = False if row.kind == "flag" else None
    return inspect.Parameter(row.attribute, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)


def _refusal(context: Context, given: Mapping[str, object]) -> int:
    """Refuse options of invoke itself, which have no effect here: verbs run no program through it."""
    for option in _OF_INVOKE:
        if context.config.run[option]:
            what = f"option --{_OF_INVOKE[option]} of invoke: it has no effect here; expected none"
            error = UsageError(what, why="a verb does its work all the same", hint="./inv --help")
            Console(json=bool(given.get("json"))).fail(error)
            return int(error.code)
    return 0


def _run(function: Callable[..., Any], own: Mapping[str, object], options: Mapping[str, object], *, plain: bool) -> int:
    console = Console(json=bool(options.get("json")), quiet=bool(options.get("quiet")))
    try:
        with disk_space.host_errors(Path(str(options.get("artifacts") or "artifacts"))):
            settings = load(options)
        line = own.get("line")
        named = replace(settings, line=line) if isinstance(line, str) and line else settings
        complete = functools.partial(next_command.complete, settings=named)
        console = Console(json=settings.json, quiet=settings.quiet, commands=complete)
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
