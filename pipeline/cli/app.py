"""Run the command line: verbs, the program's own options, and errors as text and exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from invoke.collection import Collection

from pipeline.cli import completion, help
from pipeline.commands.task import Stopped
from pipeline.config import command_line
from pipeline.config.command_line import Verb
from pipeline.core import artifacts, disk_space, process, rlimits
from pipeline.core.console import Console, make_usable, write
from pipeline.core.suggestion import unknown
from pipeline.errors import ExitCode, HostLacks, PipelineError, UsageError

_SHORT = {"-l": "--list", "-V": "--version"}
# Stop us as Ctrl-C does, with everything cleaned up.
_STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)


class Program:
    """The command line over a collection of tasks. Invoke's own options and settings have no say in it."""

    def __init__(self, namespace: Collection, version: str) -> None:
        self.verbs: Mapping[str, Verb] = {name: task.verb for name, task in namespace.tasks.items()}
        self.version = version

    def run(self, tokens: Sequence[str]) -> int:
        """Run verb after verb, until one fails, and return the exit code."""
        try:
            if (text := self._answer(list(tokens))) is not None:
                write(sys.stdout, text)
                return ExitCode.OK
            calls = command_line.parse(tokens, self.verbs)
        except UsageError as error:
            # Where options could not be told apart, `--json` is looked for as a word.
            Console(json="--json" in tokens).fail(error)
            return error.code
        return next((code for call in calls if (code := call.run())), ExitCode.OK)

    def _answer(self, tokens: list[str]) -> str | None:
        """Return what an option of the program itself prints; None where a verb is to be run."""
        first, *others = tokens or ["--list"]
        name, _, value = first.partition("=")
        if first == "--complete":
            return "\n".join(completion.candidates(others[1:] if others[:1] == ["--"] else others, self.verbs))
        if name == "--print-completion-script":
            return self._script(value or next(iter(others), ""))
        if first == "help" or set(command_line.HELP) & {token.partition("=")[0] for token in tokens}:
            return self._help(tokens)
        answers = {"--list": help.verbs(self.verbs), "--version": f"inv {self.version}"}
        if (answer := answers.get(_SHORT.get(first, first))) is None:
            return None
        if others:
            what = f"option {first}: takes nothing besides; expected ./inv {first}, got {' '.join(others)}"
            raise UsageError(what, hint=f"./inv {first}")
        return answer

    def _help(self, tokens: Sequence[str]) -> str:
        """Return the help of the verb, wherever it stands, even where words are missing; else of the program."""
        words = [token.removeprefix("--help=") for token in tokens]
        if found := next((self.verbs[word] for word in words if word in self.verbs), None):
            return help.verb(found)
        if other := next((at for at, word in enumerate(words) if word != "help" and not word.startswith("-")), None):
            raise command_line.unknown_verb(words[other], self.verbs, words, other)
        return help.program(self.verbs)

    def _script(self, shell: str) -> str:
        if shell not in completion.SCRIPTS:
            raise unknown("shell", shell, completion.SCRIPTS, hint="./inv --print-completion-script bash")
        return completion.SCRIPTS[shell].rstrip()


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
            sys.exit(Program(namespace, __version__).run(sys.argv[1:]))
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
