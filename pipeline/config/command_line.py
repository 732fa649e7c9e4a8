"""Read command lines: the words and options of each verb, and whatever no verb takes, refused with what was meant.

Knows neither what a verb does nor invoke.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pipeline.core import neutral, resources
from pipeline.core.suggestion import did_you_mean, nearest, unknown
from pipeline.errors import UsageError

LINE = "line"
PASSWORD = re.compile(r"(?<=://)[^/\s@]*:[^/\s@]*@")  # with the user's name before it, in a URL
HELP = ("--help", "-h")


class Kind(Enum):
    """The number of values an option takes."""

    FLAG = "none"
    TEXT = "one"
    LIST = "one each time"
    PAIR = "two"


@dataclass(frozen=True)
class Parameter:
    """A word or an option of a verb. `value` is how help names its value, `default` how help shows the default."""

    name: str
    help: str
    kind: Kind = Kind.TEXT
    value: str = "VALUE"
    default: str = ""
    choices: tuple[str, ...] = ()
    required: bool = False
    setting: bool = False

    @property
    def option(self) -> str:
        """The option on the command line."""
        return f"--{self.name}"

    @property
    def typed(self) -> str:
        """The option with its value, as help shows it."""
        return self.option + {Kind.FLAG: "", Kind.PAIR: f" {self.value}"}.get(self.kind, f"={self.value}")

    @property
    def expected(self) -> str:
        """The value that an error expects."""
        return f"one of {', '.join(self.choices)}" if self.choices else self.value

    def is_empty(self, given: object) -> bool:
        """Return whether a value that was given says nothing, where it must: an empty path is the current directory.

        An empty setting, and an empty line, which is one too, is the default in the place of what a file says.
        """
        return not self.setting and self.name != LINE and "" in (given if isinstance(given, list) else [given])

    def empty(self) -> Any:
        """Return the value of an option that is not given."""
        return {Kind.FLAG: False, Kind.TEXT: ""}.get(self.kind, [])


@dataclass(frozen=True)
class Verb:
    """A verb with its parameters by name. `words` are those that need no option, in order; `many` repeats at the end.

    `run` takes the values by the parameters' names, and returns the exit code.
    """

    name: str
    summary: str
    parameters: Mapping[str, Parameter]
    words: tuple[str, ...]
    many: str
    group: str
    example: str
    run: Callable[[Mapping[str, object]], int] = field(repr=False)

    @property
    def usage(self) -> str:
        """The words and options that follow `./inv`."""
        shown = []
        for name in self.words:
            word = self.parameters[name].value
            word += "..." if name == self.many else ""
            required = self.parameters[name].required or name == self.many
            shown.append(word if required else f"[{word}]")
        return " ".join([self.name, *shown, "[OPTIONS]"])

    @property
    def help_command(self) -> str:
        """The command that explains the verb."""
        return f"./inv --help {self.name}"

    def empty(self, name: str) -> UsageError:
        """Return the refusal of an empty value."""
        parameter = self.parameters[name]
        what = f"option {parameter.option} of {self.name}: empty; expected {parameter.expected}"
        return UsageError(what, why="it may be a variable of a shell that is not set", hint=self.help_command)


@dataclass
class Call:
    """A verb as typed, with the values of the words and options that were given."""

    verb: Verb
    values: dict[str, object] = field(default_factory=dict)

    def run(self) -> int:
        """Run the verb and return its exit code."""
        return self.verb.run(self.values)


# Filled by `pipeline.commands.task.verb`: what commands in a text are held against.
VERBS: dict[str, Verb] = {}


def parse(tokens: Sequence[str], verbs: Mapping[str, Verb]) -> list[Call]:
    """Read one verb after the other. Raises `UsageError` for whatever none of them takes."""
    left, calls = deque(enumerate(tokens)), list[Call]()
    while left:
        calls.append(_Reader(tokens, verbs, left).call())
    return calls


def unknown_verb(name: str, verbs: Iterable[str], tokens: Sequence[str], at: int) -> UsageError:
    """Return the refusal of a verb; the next command is the one that was meant."""
    known = sorted(verbs)
    meant = nearest(name, known)
    return unknown("verb", name, known, hint=_retyped(tokens, at, meant) if meant else "./inv --list")


def _retyped(tokens: Sequence[str], at: int, *instead: str) -> str:
    """Return the command line with other words in the place of one."""
    return as_typed([*tokens[:at], *instead, *tokens[at + 1 :]])


def as_typed(tokens: Sequence[str]) -> str:
    """Return the command line of these words, without passwords."""
    return neutral.command(["./inv", *(PASSWORD.sub("", token) for token in tokens)])


class _Reader:
    """Reads one verb of a command line; `left` are the tokens not read yet, each with its place."""

    def __init__(self, tokens: Sequence[str], verbs: Mapping[str, Verb], left: deque[tuple[int, str]]) -> None:
        self.tokens, self.verbs, self.left = tokens, verbs, left
        self.words: list[tuple[int, str]] = []

    def call(self) -> Call:
        """Read the verb's name, its words and its options."""
        at, name = self.left.popleft()
        if name.startswith("-"):
            raise self._misplaced(at, name)
        if name not in self.verbs:
            raise unknown_verb(name, self.verbs, self.tokens, at)
        call = Call(self.verbs[name])
        literal = False
        while self.left:
            at, token = self.left[0]
            if not literal and token == "--":
                literal = True
            elif not literal and token.startswith("-") and token != "-":
                self._option(call)
                continue
            elif not literal and token in self.verbs and self._is_complete(call):
                break
            else:
                self.words.append((at, token))
            self.left.popleft()
        self._assign(call)
        for name, value in call.values.items():
            if call.verb.parameters[name].is_empty(value):
                raise call.verb.empty(name)
        return call

    def _is_complete(self, call: Call) -> bool:
        """Return whether the next word may begin another verb."""
        needed = [name for name in call.verb.words if call.verb.parameters[name].required and name not in call.values]
        return not call.verb.many and len(self.words) >= len(needed)

    def _option(self, call: Call) -> None:
        at, token = self.left.popleft()
        name, equals, value = token.partition("=")
        parameter = call.verb.parameters.get(name.removeprefix("--")) if name.startswith("--") else None
        if parameter is None:
            raise self._unknown_option(call.verb, at, name)
        if parameter.kind is Kind.FLAG:
            if equals:
                what = f"option {name} of {call.verb.name}: takes no value; expected {name}, got {token}"
                raise UsageError(what, hint=_retyped(self.tokens, at, name))
            call.values[parameter.name] = True
            return
        values = [value] if equals else []
        while len(values) < (2 if parameter.kind is Kind.PAIR else 1):
            values.append(self._value(call.verb, parameter))
        self._set(call, parameter, values)

    def _value(self, verb: Verb, parameter: Parameter) -> str:
        if self.left and (not self.left[0][1].startswith("-") or self.left[0][1] == "-"):
            return self.left.popleft()[1]
        got = self.left[0][1] if self.left else "nothing"
        expected = f"{parameter.option} {parameter.expected}" if parameter.kind is Kind.PAIR else parameter.expected
        what = f"option {parameter.option} of {verb.name}: its value is missing; expected {expected}, got {got}"
        why = f"{parameter.option}={got} gives a value that begins with a dash" if self.left else parameter.help
        raise UsageError(what, why=why, hint=verb.help_command)

    def _set(self, call: Call, parameter: Parameter, values: Sequence[str]) -> None:
        known = call.values.get(parameter.name)
        if parameter.kind is not Kind.TEXT:
            call.values[parameter.name] = [*(known if isinstance(known, list) else ()), *values]
        elif known not in (None, values[0]):
            what = (
                f"option {parameter.option} of {call.verb.name}: two values; expected one, got {known} and {values[0]}"
            )
            raise UsageError(what, hint=call.verb.help_command)
        else:
            call.values[parameter.name] = values[0]

    def _assign(self, call: Call) -> None:
        """Give each word to the parameter whose turn it is."""
        verb, words = call.verb, deque(self.words)
        slots = [name for name in verb.words if name == verb.many or name not in call.values]
        for number, name in enumerate(slots):
            parameter = verb.parameters[name]
            if name == verb.many:
                self._set(call, parameter, [word for _, word in words])
                words.clear()
            elif words and (parameter.required or self._is_due(verb, words, slots[number + 1 :])):
                call.values[name] = words.popleft()[1]
            elif parameter.required:
                what = f"{verb.name}: {parameter.value} is missing; expected ./inv {verb.usage}"
                raise UsageError(what, why=parameter.help, hint=verb.help_command)
        if words:
            raise self._surplus(verb, words)

    def _is_due(self, verb: Verb, words: deque[tuple[int, str]], following: Sequence[str]) -> bool:
        """Return whether the next word is for an optional parameter: a line's name, or a word more than others take."""
        if words[0][1] in resources.line_names():
            return True
        return verb.many not in following and len(words) > len(following)

    def _surplus(self, verb: Verb, words: Sequence[tuple[int, str]]) -> UsageError:
        got = ", ".join(repr(word) for _, word in words)
        meant = did_you_mean(words[0][1], self.verbs)
        what = f"{verb.name}: too many words; expected ./inv {verb.usage}, got {got} besides{meant}"
        places = {at for at, _ in words}
        kept = [token for at, token in enumerate(self.tokens) if at not in places]
        return UsageError(what, hint=as_typed(kept))

    def _unknown_option(self, verb: Verb, at: int, name: str) -> UsageError:
        meant = nearest(name.lstrip("-"), verb.parameters)
        meant = verb.parameters[meant].option if meant else ""
        others = [each.name for each in self.verbs.values() if name.removeprefix("--") in each.parameters]
        why = f"it belongs to {', '.join(others)}" if others and name.startswith("--") else ""
        what = f"option {name} of {verb.name}: not found" + (f"; did you mean {meant}?" if meant else "")
        token, value = self.tokens[at], self.tokens[at].partition("=")[2]
        instead = f"{meant}={value}" if "=" in token else meant
        return UsageError(what, why=why, hint=_retyped(self.tokens, at, instead) if meant else verb.help_command)

    def _misplaced(self, at: int, token: str) -> UsageError:
        name = token.partition("=")[0].removeprefix("--")
        takers = [verb for verb in self.verbs.values() if name in verb.parameters and token.startswith("--")]
        if not takers:
            known = {each: "" for verb in self.verbs.values() for each in verb.parameters}
            meant = nearest(name.lstrip("-"), known)
            suggested = f"; did you mean --{meant}?" if meant else ""
            return UsageError(f"option {token.partition('=')[0]}: not found{suggested}", hint="./inv --help")
        what = f"option --{name}: stands before the verb; expected ./inv VERB --{name}"
        typed = next((verb for _, each in self.left for verb in takers if verb.name == each), None)
        if typed is None:
            return UsageError(
                what, why=f"verbs with it: {', '.join(verb.name for verb in takers)}", hint="./inv --list"
            )
        rest = list(self.tokens)
        rest.remove(typed.name)
        return UsageError(what, hint=as_typed([typed.name, *rest]))
