"""Turns a function into a task: options out of the settings table, errors into text and exit codes.

Every verb of tasks.py is made here, so that all of them treat `--json`, `--quiet`, mistakes on
the command line and typed errors alike. Only light modules are imported at start-up.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invoke.collection import Collection
from invoke.config import Config
from invoke.context import Context
from invoke.exceptions import Exit, ParseError
from invoke.program import Program as InvokeProgram
from invoke.tasks import task as make_task

from pipeline import artifacts, process, rlimits, room, temporary
from pipeline import settings as table
from pipeline.console import Console, make_usable, taking, write
from pipeline.errors import ExitCode, HostLacks, Mistake, PipelineError, UsageError
from pipeline.session import Session

EVERYWHERE = ("artifacts", "json", "quiet")
_SHELLS = 128  # plus the number of the signal that ended a program is what shells report of it
# Stop us as Ctrl-C does, with everything cleaned up.
_STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)


class _Stopped(KeyboardInterrupt):
    """A signal of `_STOPPING` came."""

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
    """Makes a task of a function `f(session, ...)`.

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
        return task

    return decorate


def _parameter(row: table.Setting) -> inspect.Parameter:
    default = False if row.kind == "flag" else None
    return inspect.Parameter(row.attribute, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)


def _help(row: table.Setting) -> str:
    shown = row.default if row.kind not in ("flag", "list") else None
    return row.help + (f" [{shown}]" if shown not in (None, "") else "")


def _run(function: Callable[..., Any], own: Mapping[str, Any], options: Mapping[str, Any], *, plain: bool) -> int:
    console = Console(json=bool(options.get("json")), quiet=bool(options.get("quiet")))
    try:
        with room.below(Path(options.get("artifacts") or "artifacts")):
            settings = table.load(options)
        console = Console(json=settings.json, quiet=settings.quiet)
        with room.below(settings.artifacts), contextlib.nullcontext() if plain else _place(settings.artifacts):
            result = function(Session(settings, console), **own)
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
        number = stop.number if isinstance(stop, _Stopped) else signal.SIGINT
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
    """Where the run works: artifacts that are ours, and a directory for temporary files."""
    artifacts.check(root)
    with temporary.of_this_run():
        yield


def _stop(number: int, _: object) -> None:
    if number == signal.SIGXCPU:
        signal.signal(number, signal.SIG_IGN)  # it comes every second from now on
    raise _Stopped(number)


@dataclass(frozen=True)
class Outcome:
    """A result that is no exception and yet ends with another exit code than 0."""

    data: Any
    code: ExitCode


class _Defaults(Config):
    """Invoke's settings without its files and variables: `~/.invoke.py` would be run, and none of them is ours."""

    def load_base_conf_files(self) -> None:
        """Load nothing."""

    def load_shell_env(self) -> None:
        """Load nothing, but merge, as is due here."""
        self.merge()


class Program(InvokeProgram):
    """Invoke's program with three differences: words without option names, exit code 2 for mistakes, no settings."""

    def __init__(self, **named: Any) -> None:
        super().__init__(config_class=_Defaults, **named)

    def parse_tasks(self) -> None:
        """Gives each word its option's name before invoke reads it; ends with 2 where it cannot."""
        verb = next((word for word in self.core.unparsed if word in self.collection.task_names), None)
        if verb and {"--help", "-h"} & set(self.core.unparsed):
            self.args.help.value, self.core.unparsed = verb, []  # wherever it stands, even where words are missing
        try:
            self.core.unparsed = named_words(self.core.unparsed, self.collection)
            super().parse_tasks()
        except ParseError as error:
            # Where options could not be told apart, `--json` is looked for as a word.
            what = re.sub(r"Flag <Argument: ([\w-]+).*?> needed value", r"--\1 needed a value", str(error))
            mistake = UsageError(what, hint="./inv --list, or ./inv --help VERB")
            Console(json="--json" in self.argv).fail(mistake)
            raise Exit(code=int(mistake.code)) from None


def named_words(tokens: Sequence[str], collection: Collection) -> list[str]:
    """`patches el6` as `patches --line el6`, `--diff A B` as `--diff A --diff B`.

    What has its name already is left alone; so is a word that no verb takes, for invoke to refuse.
    Raises `ParseError` for an unknown option where a word is due: invoke would take it for that word.
    """
    result: list[str] = []
    task: Any = None
    words: list[str] = []
    due: list[str] = []  # what the next words are, positional arguments and option values first
    for token in tokens:
        if token.startswith("-"):
            if due and not any(token.lstrip("-").partition("=")[0] in a.names for a in arguments(task)):
                raise ParseError(f"No idea what {token!r} is!")
            words = [word for word in words if word != token.lstrip("-").partition("=")[0]]
            due = _due(task, token) or due
        elif due:
            result += [due[0]] if due[0] else []
            due = due[1:]
        elif words:
            result.append(f"--{words.pop(0)}")
        elif many := getattr(task, "many", ""):
            result.append(f"--{many}")
        else:
            task = collection[token] if token in collection.task_names else None
            words, due = list(getattr(task, "words", ())), [""] * len(task.positional if task else ())
        result.append(token)
    return result


def arguments(task: Any) -> list[Any]:
    """The task's arguments. Invoke takes the help texts away at the first look: they are put back."""
    texts = dict(task.help)
    found: list[Any] = task.get_arguments()
    task.help = texts
    return found


def _due(task: Any, option: str) -> list[str]:
    """The words that belong to this option, each as what must be put before it."""
    for argument in arguments(task) if task else ():
        if option.lstrip("-") in argument.names and argument.takes_value:
            return ["", option] if option.lstrip("-") in task.pairs else [""]
    return []


def main() -> None:
    """The command line behind `./inv` and the installed program."""
    import tasks
    from pipeline import __version__

    make_usable()
    os.umask(artifacts.UMASK)
    rlimits.leave_time()
    for number in _STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup(1)
            signal.signal(number, _stop)
    try:
        with room.below(Path("artifacts")):
            _require_directory()
            os.environ["PATH"] = process.absolute(os.environ.get("PATH", ""))
            namespace = Collection.from_module(tasks)
            with taking(sys.stdout):  # help, that is: verbs say what they say through a console
                try:
                    Program(name="inv", binary="inv", version=__version__, namespace=namespace).run()
                finally:
                    sys.stdout.flush()
    except PipelineError as error:
        Console(json="--json" in sys.argv).fail(error)
        sys.exit(int(error.code))


def _require_directory() -> None:
    """Raises `HostLacks` where the directory that we are in was removed."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        what = f"the working directory: not there; expected one that exists, got {error.strerror}"
        raise HostLacks(what, hint="cd /, or wherever the artifacts are") from None
