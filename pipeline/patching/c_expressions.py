"""Evaluate constant integer expressions of C, three-valued: unknown operands give unknown results.

Knows no files: `Macros` has texts alone.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"\d[\w.]*|\w+|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^~!<>=?:(){},;\[\].]|\"(?:\\.|[^\"\\])*\"?|'[^']*'?|\S"
)
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9]\d*)[uUlL]*")
_LEVELS = (
    ("||",),
    ("&&",),
    ("|",),
    ("^",),
    ("&",),
    ("==", "!="),
    ("<", ">", "<=", ">="),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
)
_PLAIN: Mapping[str, Callable[[int, int], int]] = {
    "|": operator.or_,
    "^": operator.xor,
    "&": operator.and_,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "==": lambda one, other: int(one == other),
    "!=": lambda one, other: int(one != other),
    "<": lambda one, other: int(one < other),
    ">": lambda one, other: int(one > other),
    "<=": lambda one, other: int(one <= other),
    ">=": lambda one, other: int(one >= other),
}
_UNSIGNED = {  # the kernel's types and C's own, by their bits
    f"{before}{bits}{after}": bits
    for bits in (8, 16, 32, 64)
    for before, after in (("u", ""), ("__u", ""), ("uint", "_t"), ("u_int", "_t"), ("__be", ""), ("__le", ""))
} | {"u_char": 8, "u_short": 16, "u_int": 32, "u_long": 64, "size_t": 64}
_SIGNED = {name: bits for bits in (8, 16, 32, 64) for name in (f"s{bits}", f"__s{bits}", f"int{bits}_t")}
_WORDS = {"unsigned", "signed", "int", "long", "short", "char", "const", "volatile"}
_LONGEST, _LARGEST = 300, 1 << 64  # characters of an expression, and its values: nothing real comes near
_DEEPEST = 16  # macros that stand for macros


@dataclass
class Macros:
    """The bodies of macros by name, and their values found so far."""

    bodies: Mapping[str, Sequence[str]]
    _known: dict[str, set[int | None]] = field(default_factory=dict)

    def values(self, text: str) -> set[int | None]:
        """Return all values that an expression may have, None for an unknown one."""
        try:
            return self._values(text, 0)
        except RecursionError:
            return {None}

    def _values(self, text: str, depth: int) -> set[int | None]:
        tokens = TOKEN.findall(text[:_LONGEST])
        while len(tokens) > 2 and tokens[0] == "(" and _closing(tokens) == len(tokens) - 1:
            tokens = tokens[1:-1]
        if len(tokens) == 1 and tokens[0] in self.bodies:
            return self.named(tokens[0], depth)
        if not tokens or len(text) > _LONGEST:
            return {None}
        reader = _Reader(tokens, self, depth)
        value = reader.level(0)
        return {value if reader.at == len(tokens) else None}

    def named(self, name: str, depth: int) -> set[int | None]:
        """Return all values that a macro may have; none for one defined by itself."""
        if depth == _DEEPEST:
            return {None}
        if name not in self._known:
            self._known[name] = {None}
            bodies = self.bodies.get(name, ())
            self._known[name] = {v for body in bodies for v in self._values(body, depth + 1)} or {None}
        return self._known[name]


def _closing(tokens: Sequence[str]) -> int:
    """Return the index of the parenthesis that closes the first token's; -1 without one."""
    depth = 0
    for at, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth == 0:
            return at
    return -1


class _Reader:
    def __init__(self, tokens: Sequence[str], macros: Macros, depth: int) -> None:
        self.tokens, self.macros, self.depth, self.at = tokens, macros, depth, 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def level(self, number: int) -> int | None:
        if number == len(_LEVELS):
            return self.unary()
        value = self.level(number + 1)
        while self.peek() in _LEVELS[number]:
            sign = self.peek()
            self.at += 1
            value = _applied(sign, value, self.level(number + 1))
        return value

    def unary(self) -> int | None:
        token = self.peek()
        self.at += 1
        if token in ("-", "+", "~", "!"):
            value = self.unary()
            return None if value is None else {"-": -value, "+": value, "~": ~value, "!": int(not value)}[token]
        if token == "(":
            return self.parenthesis()
        if number := _NUMBER.fullmatch(token):
            octal = re.fullmatch(r"0[0-7]+", number[1])
            return int(number[1], 8 if octal else 0)
        if self.peek() == "(":  # a function-like macro, or defined()
            self.at += max(_closing(self.tokens[self.at :]), 0) + 1
            return None
        if token == "defined":
            self.at += 1
            return None
        found = self.macros.named(token, self.depth)
        return next(iter(found)) if len(found) == 1 else None

    def parenthesis(self) -> int | None:
        """Parse the rest of `(...)`, or of a cast and its operand."""
        length = _closing(self.tokens[self.at - 1 :])
        named = self.tokens[self.at : self.at + length - 1]
        if length > 1 and set(named) <= _UNSIGNED.keys() | _SIGNED.keys() | _WORDS:
            self.at += length
            return _cast(set(named), self.unary())
        value = self.level(0)
        if self.peek() != ")":
            self.at = len(self.tokens) + 1  # no end: nothing is known
            return None
        self.at += 1
        return value


def _cast(words: set[str], value: int | None) -> int | None:
    """Convert a value to a type; None where a signed one cannot hold it: what comes of that is the compiler's."""
    given = [bits for name, bits in (_UNSIGNED | _SIGNED).items() if name in words]
    sizes = {"char": 8, "short": 16, "long": 64}
    bits = given[0] if given else next((size for word, size in sizes.items() if word in words), 32)
    if value is None or "unsigned" in words or words & _UNSIGNED.keys():
        return value if value is None else value & ((1 << bits) - 1)
    return value if -(1 << bits - 1) <= value < 1 << bits - 1 else None


def _applied(sign: str, one: int | None, other: int | None) -> int | None:
    if sign == "&&":
        return 0 if 0 in (one, other) else None if None in (one, other) else 1
    if sign == "||":
        return 1 if (one or other) else None if None in (one, other) else 0
    if one is None or other is None:
        return None
    if sign in ("/", "%"):
        if other == 0:
            return None
        quotient = abs(one) // abs(other) * (1 if (one < 0) == (other < 0) else -1)  # C rounds towards nothing
        return quotient if sign == "/" else one - other * quotient
    if sign in ("<<", ">>"):
        if not 0 <= other < 64:
            return None
        value = one << other if sign == "<<" else one >> other
    else:
        value = _PLAIN[sign](one, other)
    return value if abs(value) < _LARGEST else None
