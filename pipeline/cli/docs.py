"""Generate docs/commands.md and docs/exit-codes.md from the code.

`python -m pipeline.cli.docs [commands|exit-codes]` prints one; a test compares it with the file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from invoke.collection import Collection

from pipeline.cli import app
from pipeline.config.settings import ROWS, TABLE, Setting
from pipeline.errors import ExitCode

_COMMANDS = """\
# Commands

Made by `python -m pipeline.cli.docs commands`; do not edit.

`./inv VERB [WORDS] [OPTIONS]` runs one verb, `./inv --list` lists them, `./inv --help VERB` explains one.
Results go to standard output, notes and errors to standard error. The exit codes are in
[exit-codes.md](exit-codes.md).
"""
_SETTINGS = """\
## Settings

Most options are settings: each has a key in the settings file and an environment variable of the same
meaning. The option counts first, then the variable, then the file, then the default. The settings file is
`inv.toml` in the working directory, or the file named by `FNAT_SETTINGS`. A flag is `true` or `false` in
the file, and `1` or `0` in the environment; a list is an array in the file, and words separated by blanks
in the environment.

`line` and `line-file` choose one line: of the two counts what is set in the first of these places. A line file names
its own line; where both are set in the same place, they must agree.
"""
_EXIT_CODES = """\
# Exit codes

Made by `python -m pipeline.cli.docs exit-codes`; do not edit.

The code says who must act. With `--json` the error is also one JSON document on standard output, with
the keys `error`, `exit_code`, `what`, `where`, `why` and `next`.
"""
_INTERRUPTED = """\
A run stopped by a signal ends with 128 and the signal's number, as shells report it: 130 for Ctrl-C, 143 for SIGTERM,
129 when the terminal is closed. Nothing is left running, and the next run continues.
"""

# For each code: a command that ends with it, under which condition, and the first line of its output.
_EXAMPLES = {
    ExitCode.OK: ("./inv lines", "", "the table of lines"),
    ExitCode.BUG: ("", "none is known", "a Python traceback, and to report it"),
    ExitCode.USAGE: ("./inv lines --show el7", "", "line 'el7': not found"),
    ExitCode.UNREACHABLE: (
        "./inv fetch LINE --offline",
        "as the first fetch of a line with Debian's sources",
        "Debian's index has not been read yet and --offline forbids that",
    ),
    ExitCode.REFUSED: (
        "./inv fetch",
        "before the first `./inv pin`",
        f"kernel-srpm of the line {TABLE['line'].default} is not pinned yet",
    ),
    ExitCode.BUILD: (
        "./inv build-all --check-reproducible",
        "where a second build gives other bytes",
        "1 of 5 packages differ between two builds; expected the same bytes",
    ),
    ExitCode.TEST: (
        "./inv test --match NAME",
        "where no test has that name",
        "the tests failed (pytest exit status 5)",
    ),
    ExitCode.HOST: (
        "./inv lines",
        "as the first command, on a host without Python",
        "Python 3.11 or newer with venv is needed",
    ),
    ExitCode.LOCKED: ("./inv store gc", "while another run fetches", "another run holds the lock"),
}


def commands() -> str:
    """Return the page of verbs, options and settings."""
    import tasks

    found = Collection.from_module(tasks).tasks
    parts = [_COMMANDS, *(_verb(found[name]) for name in sorted(found)), _SETTINGS + "\n" + _settings_table()]
    return "\n".join(parts)


def exit_codes() -> str:
    """Return the page of exit codes."""
    rows = [(str(code.value), code.name, code.meaning, *_example(code)) for code in ExitCode]
    table = _table(("code", "name", "meaning", "example", "message"), rows)
    return "\n".join([_EXIT_CODES, table, _INTERRUPTED])


def _example(code: ExitCode) -> tuple[str, str]:
    command, when, message = _EXAMPLES[code]
    return ", ".join(part for part in (f"`{command}`" if command else "", when) if part), message


def _verb(task: Any) -> str:
    """Return the section of a verb: usage, purpose, its own options, and its settings."""
    arguments = {argument.name.replace("_", "-"): argument for argument in app.arguments(task)}
    rows = [TABLE[name] for name in arguments if name in task.settings]
    own = [argument for name, argument in arguments.items() if name not in task.settings]
    verb = task.name.replace("_", "-")
    usage = " ".join(["./inv", verb, *_usage(task, own)])
    parts = [f"## {verb}\n", f"    {usage}\n", f"{' '.join((task.__doc__ or '').split())}\n"]
    if own:
        parts.append(_table(("option", "meaning"), [(_typed(task, a), _cell(a.help or "")) for a in own]))
    parts.append(f"Settings: {', '.join(f'`{row.option}`' for row in sorted(rows, key=ROWS.index))}.\n")
    return "\n".join(parts)


def _usage(task: Any, own: Sequence[Any]) -> Iterator[str]:
    for argument in own:
        if argument.positional:
            yield argument.name.upper()
    for word in task.words:
        yield f"[{word.upper()}]"
    if task.many:
        yield f"[{task.many.upper()}]..."
    yield "[OPTIONS]"


def _typed(task: Any, argument: Any) -> str:
    """Return an option or word as typed on the command line."""
    name = argument.name.replace("_", "-")
    if argument.positional or name in (*task.words, task.many):
        return f"`{argument.name.upper()}` or `--{name} {argument.name.upper()}`"
    value = " A B" if name in task.pairs else f" {argument.name.upper()}" if argument.takes_value else ""
    return f"`--{name}{value}`"


def _settings_table() -> str:
    rows = [(f"`{r.option}`", f"`{r.name}`", f"`{r.variable}`", r.kind, _default(r), _cell(r.help)) for r in ROWS]
    return _table(("option", "TOML key", "environment", "kind", "default", "meaning"), rows)


def _default(row: Setting) -> str:
    if row.kind == "flag":
        return "`false`"
    return "none" if row.default in (None, "", ()) else f"`{row.default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


PAGES: dict[str, Callable[[], str]] = {"commands": commands, "exit-codes": exit_codes}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page of that name; the commands without one."""
    named = list(sys.argv[1:] if arguments is None else arguments) or ["commands"]
    if len(named) > 1 or named[0] not in PAGES:
        print(f"usage: python -m pipeline.cli.docs {{{','.join(PAGES)}}}", file=sys.stderr)
        return ExitCode.USAGE
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tasks.py lies beside the package
    print(PAGES[named[0]](), end="")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
