"""Generate docs/commands.md, docs/exit-codes.md and the manual page docs/lvs-fullnat.1 from the code.

`python -m pipeline.cli.docs [commands|exit-codes|man]` prints one; a test compares it with the file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from invoke.collection import Collection

from pipeline.cli import man
from pipeline.config.command_line import Parameter, Verb
from pipeline.config.settings import ROWS, TABLE, Setting
from pipeline.errors import ExitCode

_COMMANDS = """\
# Commands

Made by `python -m pipeline.cli.docs commands`; do not edit.

`./inv VERB [LINE] [WORDS] [OPTIONS]` runs one verb, `./inv --list` lists them, `./inv --help VERB` explains one.
Several verbs in a row run one after the other, until one fails: `./inv fetch LINE patches LINE`.

An option's value follows behind a blank or `=`. LINE is the name of a line, and may be typed as an option too:
`--line LINE`. Behind `--` everything is a word. What no verb takes is refused, with the name that was probably meant.

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
_LAUNCHER = """\
## The launcher

`./inv` makes `.venv` in the checkout on first use, and makes it anew, with a note, when the checkout was moved, its
Python is gone or replaced, or a run was killed while it was made. The environment variables that it reads:

| variable | meaning |
| --- | --- |
| `INV_PYTHON` | the Python to make `.venv` with; when it is not one of 3.11 or newer with venv, that is an error |
| `INV_NO_INSTALL` | `1`: install no package on this host; what is missing is an error with the command to type |
"""
_COMPLETION = """\
## Completion

Verbs, options, lines, scenarios, steps and other names are completed by the shell, wherever the checkout lies:

    eval "$(./inv --print-completion-script bash)"                             # in ~/.bashrc, with the whole path
    ./inv --print-completion-script zsh > ~/.zfunc/_inv                        # a directory of $fpath
    ./inv --print-completion-script fish > ~/.config/fish/completions/inv.fish

## Manual page

    man -l docs/lvs-fullnat.1

is this page for terminals; `sudo install -m 644 docs/lvs-fullnat.1 /usr/local/share/man/man1/` installs it.
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
    ExitCode.USAGE: ("./inv lines el7", "", f"line 'el7': not found; did you mean {TABLE['line'].default}?"),
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
    return "\n".join([_COMMANDS, *map(_verb, _verbs()), _LAUNCHER, _COMPLETION, _SETTINGS + "\n" + _settings_table()])


def _verbs() -> list[Verb]:
    """Return the verbs by their names."""
    import tasks

    return [task.verb for _, task in sorted(Collection.from_module(tasks).tasks.items())]


def exit_codes() -> str:
    """Return the page of exit codes."""
    rows = [(str(code.value), code.name, code.meaning, *_example(code)) for code in ExitCode]
    table = _table(("code", "name", "meaning", "example", "message"), rows)
    return "\n".join([_EXIT_CODES, table, _INTERRUPTED])


def _example(code: ExitCode) -> tuple[str, str]:
    command, when, message = _EXAMPLES[code]
    return ", ".join(part for part in (f"`{command}`" if command else "", when) if part), message


def _verb(verb: Verb) -> str:
    """Return the section of a verb: usage, purpose, its own words and options, and its settings."""
    own = [each for each in verb.parameters.values() if each.name in verb.words or not each.setting]
    settings = [row for row in ROWS if (found := verb.parameters.get(row.name)) and found.setting]
    parts = [
        f"## {verb.name}\n",
        f"    ./inv {verb.usage}\n",
        f"{verb.summary}\n",
        f"Example: `./inv {verb.example}`\n",
    ]
    if own:
        parts.append(_table(("option", "meaning"), [(_typed(verb, each), _cell(each.help)) for each in own]))
    parts.append(f"Settings: {', '.join(f'`{row.option}`' for row in settings)}.\n")
    return "\n".join(parts)


def _typed(verb: Verb, parameter: Parameter) -> str:
    """Return an option or word as typed on the command line."""
    option = _cell(f"`{parameter.typed}`")
    return f"`{parameter.value}` or {option}" if parameter.name in verb.words else option


def _settings_table() -> str:
    rows = [(_option(r), f"`{r.name}`", f"`{r.variable}`", r.kind, _default(r), _cell(r.help)) for r in ROWS]
    return _table(("option", "TOML key", "environment", "kind", "default", "meaning"), rows)


def _option(row: Setting) -> str:
    return f"`{row.option}`" if row.kind == "flag" else _cell(f"`{row.option}={row.value_shown}`")


def _default(row: Setting) -> str:
    if row.kind == "flag":
        return "`false`"
    if row.shown:
        return row.shown
    return f"`{row.default_shown}`" if row.default_shown else "none"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


def manual() -> str:
    """Return the manual page."""
    return man.page(_verbs())


# Each page by its name, and its file in docs/.
PAGES: dict[str, Callable[[], str]] = {"commands": commands, "exit-codes": exit_codes, "man": manual}
FILES = {"commands": "commands.md", "exit-codes": "exit-codes.md", "man": f"{man.NAME}.1"}


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
