"""Complete the commands that a run prints: errors' hints, notes, heads of logs. Each repeats what this run was given.

What differs from its default and outlives the run is repeated where the verb takes it: line, artifacts, mirrors, kernel
configuration, limits. What a run was to do once is not, such as --force, and nothing with a password in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from pipeline.config import command_line
from pipeline.config.command_line import LINE, VERBS, Call, Verb
from pipeline.config.settings import TABLE, Setting, Settings, default_artifacts
from pipeline.core import neutral
from pipeline.errors import UsageError

LINE_FILE = "line-file"
ONCE = frozenset(
    {
        *("offline", "refresh", "only", "force", "keep-going", "explain", "dry-run", "verify", "check-reproducible"),
        *("snapshot", "scenario", "keep", "capture", "no-smoke", "sign-later", "json", "quiet"),
    }
)
# A word as a shell reads it; the comma or semicolon at its end belongs to the sentence around.
_WORD = r"(?:\$'(?:\\.|[^'\\])*'|'[^']*'|\"[^\"]*\"|\\.|[^\s'\"`,;&\\$]|[,;$](?=[^\s`]))+"
_COMMAND = re.compile(rf"(?<![\w/])\./inv((?: {_WORD})+)")


def options(settings: Settings, line: str) -> tuple[str, ...]:
    """Return the options that commands about the line called `line` repeat, each value behind its option."""
    found = ["--line-file", str(settings.line_file)] if settings.line_file else ["--line", line]
    return (*found, *without_line(settings))


def without_line(settings: Settings) -> tuple[str, ...]:
    """Return the options that commands repeat whichever their lines are, each value behind its option."""
    rows = [row for row in TABLE.values() if row.name not in (LINE, LINE_FILE)]
    return tuple(word for row in rows for word in _given(row, settings))


def command(verb: str, words: Sequence[str], repeated: Sequence[str]) -> str:
    """Format the command `./inv VERB WORDS` with those of the `repeated` options that the verb takes and lacks."""
    return neutral.command(["./inv", *completed_words(verb, words, repeated)])


def completed_words(verb: str, words: Sequence[str], repeated: Sequence[str]) -> tuple[str, ...]:
    """Return VERB and WORDS with those of the `repeated` options that the verb takes and lacks."""
    taken = VERBS[verb].parameters if verb in VERBS else TABLE
    own = {word.partition("=")[0] for word in words if word.startswith("--")}
    left, added = list(repeated), list[str]()
    while left:
        option = left.pop(0)
        name, equals, _ = option.removeprefix("--").partition("=")
        values = [] if equals or name not in TABLE or TABLE[name].kind == "flag" else [left.pop(0)]
        if name in taken and f"--{name}" not in own:
            added += [option, *values]
    return (verb, *words, *added)


def complete(text: str, settings: Settings) -> str:
    """Add to every command in a text what it needs besides in this run. What is no whole command stays as it is."""
    return _COMMAND.sub(lambda found: _completed(found[0], found[1], settings), text) if "./inv " in text else text


def _completed(typed: str, words: str, settings: Settings) -> str:
    tokens = re.findall(_WORD, words)
    try:
        (call,) = command_line.parse(tokens, VERBS)
    except (UsageError, ValueError):  # help and the like, a sentence, several verbs in a row
        return typed
    added = list(_lacking(call, settings))
    return f"{typed} {neutral.command(added)}" if added else typed


def _lacking(call: Call, settings: Settings) -> Iterator[str]:
    """Yield the words and options that a command lacks."""
    verb = call.verb
    if _needs_line(verb) and not {LINE, LINE_FILE} & call.values.keys():
        if settings.line_file:
            yield from ("--line-file", str(settings.line_file))
        elif settings.line != TABLE[LINE].default:
            yield from ("--line", settings.line)
    elif verb.name == "pin" and settings.line_file and LINE_FILE not in call.values:
        yield from ("--line-file", str(settings.line_file))
    for row in TABLE.values():
        if row.name in verb.parameters and row.name not in {LINE, LINE_FILE, *call.values}:
            yield from _given(row, settings)


def _needs_line(verb: Verb) -> bool:
    """Return whether the verb works on the line of the settings; of others a line only limits what is shown."""
    return LINE in verb.parameters and verb.parameters[LINE].setting


def _given(row: Setting, settings: Settings) -> list[str]:
    """Return the option of a setting as typed; nothing for a default, what is done once, or a password."""
    value = getattr(settings, row.attribute)
    if row.name in ONCE or value == row.default:
        return []
    if row.name == "artifacts" and value == default_artifacts(os.environ):  # as `./inv` has them from anywhere
        return []
    if row.kind == "flag":
        return [row.option]
    values = list(value) if row.kind == "list" else [f"{value:g}" if row.kind == "seconds" else str(value)]
    if any(command_line.PASSWORD.search(each) for each in values):
        return []  # from where it came, it comes again
    return [word for each in values for word in ([f"{row.option}={each}"] if each[:1] == "-" else [row.option, each])]
