"""Write the help: the list of verbs in groups, and each verb's words and options with their defaults."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pipeline.config.command_line import Kind, Parameter, Verb
from pipeline.config.settings import TABLE

WIDEST = 120  # columns; longer lines are hard to read
COLUMN = 32  # where explanations begin, at most
FIRST = "build-all"  # the verb that does everything
OPTIONS = (
    ("--help [VERB]", "explain a verb, or all of this"),
    ("--list", "list the verbs"),
    ("--version", "print the version"),
    ("--print-completion-script=SHELL", "print what completes verbs, options and names in bash, zsh or fish"),
)


def verbs(known: Mapping[str, Verb]) -> str:
    """Return the list of verbs in groups."""
    parts = ["Usage: ./inv VERB [LINE] [WORDS] [OPTIONS]"]
    for group, members in _grouped(known.values()):
        parts.append("\n".join([f"{group.capitalize()}:", *_rows((verb.name, verb.summary) for verb in members)]))
    example = next((each.example for each in known.values() if each.name == FIRST), "")
    parts.append("`./inv --help VERB` explains one." + (f" Example: ./inv {example}" if example else ""))
    return "\n\n".join(parts)


def program(known: Mapping[str, Verb]) -> str:
    """Return the help of the program: its own options and the verbs."""
    return "\n".join([verbs(known), "", "Options without a verb:", *_rows(OPTIONS)])


def verb(of: Verb) -> str:
    """Return the help of a verb."""
    words = [of.parameters[name] for name in of.words]
    options = sorted((each for each in of.parameters.values() if each not in words), key=_place)
    parts = [f"Usage: ./inv {of.usage}", _wrapped(of.summary), f"Example: ./inv {of.example or of.name}"]
    if words:
        rows = [(_word(of, each), _explained(each)) for each in words]
        parts.append("\n".join(["Words, each also as an option:", *_rows(rows)]))
    for group in dict.fromkeys(map(_group_of, options)):
        rows = [(each.typed, _explained(each)) for each in options if _group_of(each) == group]
        parts.append("\n".join([f"{group.capitalize()}:", *_rows(rows)]))
    return "\n\n".join(parts)


def _group_of(parameter: Parameter) -> str:
    """Return the group of an option in the help."""
    return TABLE[parameter.name].group if parameter.setting else "of this verb"


def _place(parameter: Parameter) -> int:
    """Return the place of an option in the help: the verb's own first, and settings as their table has them."""
    return list(TABLE).index(parameter.name) if parameter.setting else -1


def _word(of: Verb, parameter: Parameter) -> str:
    return parameter.value + ("..." if parameter.name == of.many else "") + f", {parameter.typed}"


def _explained(parameter: Parameter) -> str:
    return parameter.help + (f" [{parameter.default}]" if parameter.default and parameter.kind is not Kind.FLAG else "")


def _grouped(known: Iterable[Verb]) -> Iterator[tuple[str, Sequence[Verb]]]:
    """Yield the groups in the order of their first verbs, the one that does everything first."""
    found: dict[str, list[Verb]] = {}
    for each in sorted(known, key=lambda each: each.name != FIRST):
        found.setdefault(each.group or "verbs", []).append(each)
    yield from found.items()


def _columns() -> int:
    return max(40, min(WIDEST, shutil.get_terminal_size().columns))


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _columns(), break_on_hyphens=False))


def _rows(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Return terms and explanations in two columns; a long term has a line of its own."""
    listed = list(rows)
    column = min(COLUMN, _columns() * 2 // 5, max(len(term) for term, _ in listed) + 4)
    found = []
    for term, text in listed:
        lines = textwrap.wrap(text, _columns() - column, break_on_hyphens=False) or [""]
        if len(term) + 4 > column:
            found.append(f"  {term}")
        else:
            found.append(f"  {term}".ljust(column) + lines.pop(0))
        found += [" " * column + line for line in lines]
    return [line.rstrip() for line in found]
