"""Run the command line with invoke: words in place of options, exit code 2 for mistakes, no invoke settings."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invoke.collection import Collection
from invoke.config import Config
from invoke.exceptions import Exit, ParseError
from invoke.program import Program as InvokeProgram

from pipeline.commands.task import Stopped
from pipeline.core import artifacts, disk_space, process, rlimits
from pipeline.core.console import Console, make_usable, output_errors
from pipeline.errors import HostLacks, PipelineError, UsageError

# Stop us as Ctrl-C does, with everything cleaned up.
_STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)


class _Defaults(Config):
    """Invoke's settings without its files and variables: invoke would run `~/.invoke.py`."""

    def load_base_conf_files(self) -> None:
        """Load nothing."""

    def load_shell_env(self) -> None:
        """Load nothing; merge, as invoke expects here."""
        self.merge()


class Program(InvokeProgram):
    """Invoke's program with words for options, exit code 2 for mistakes, and no settings of invoke's."""

    def __init__(self, **named: Any) -> None:
        super().__init__(config_class=_Defaults, **named)

    def parse_tasks(self) -> None:
        """Put each word's option before it, for invoke; exit with 2 on a mistake."""
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
    """Convert `patches LINE` to `patches --line LINE`, and `--diff A B` to `--diff A --diff B`.

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
    """Return the task's arguments, and keep the help texts, which invoke removes on first use."""
    texts = dict(task.help)
    found: list[Any] = task.get_arguments()
    task.help = texts
    return found


def _due(task: Any, option: str) -> list[str]:
    """Return the words that follow this option, each as the option to put before it."""
    for argument in arguments(task) if task else ():
        if option.lstrip("-") in argument.names and argument.takes_value:
            return ["", option] if option.lstrip("-") in task.pairs else [""]
    return []


def main() -> None:
    """Run the command line of `./inv` and of the installed program."""
    import tasks
    from pipeline import __version__

    make_usable()
    os.umask(artifacts.UMASK)
    rlimits.leave_time()
    for number in _STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup(1)
            signal.signal(number, _stop)
    try:
        with disk_space.host_errors(Path("artifacts")):
            _require_directory()
            os.environ["PATH"] = process.absolute(os.environ.get("PATH", ""))
            namespace = Collection.from_module(tasks)
            with output_errors(sys.stdout):  # help, that is: verbs say what they say through a console
                try:
                    Program(name="inv", binary="inv", version=__version__, namespace=namespace).run()
                finally:
                    sys.stdout.flush()
    except PipelineError as error:
        Console(json="--json" in sys.argv).fail(error)
        sys.exit(int(error.code))


def _stop(number: int, _: object) -> None:
    if number == signal.SIGXCPU:
        signal.signal(number, signal.SIG_IGN)  # it comes every second from now on
    raise Stopped(number)


def _require_directory() -> None:
    """Raise `HostLacks` where the working directory was removed."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        what = f"the working directory: not there; expected one that exists, got {error.strerror}"
        raise HostLacks(what, hint="cd /, or wherever the artifacts are") from None
