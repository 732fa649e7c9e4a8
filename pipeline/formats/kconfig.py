"""Merge kernel configurations, and compare the finished `.config` with the requested one.

A fragment is a file of `CONFIG_X=value` lines with comments. Kconfig drops in silence what lacks a
dependency and changes what something else selects, so every symbol asked for is compared with the
configuration that came of it. Knows no kernel line and no role.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BuildFailed, FileProblems, Problem

LISTED = 40  # symbols in one message
_HINTED = 10  # symbols whose dependencies are looked up
_WIDEST = 200  # characters shown of a dependency
# Kconfig's values: y, m or n, a quoted string, a decimal or a hexadecimal number (kconfig-language.rst).
_VALUE = r'[ymn]|"(?:[^"\\\n]|\\.)*"|-?\d+|0x[0-9A-Fa-f]+'
_SET = re.compile(rf"(CONFIG_\w+)=({_VALUE})")
_UNSET = re.compile(r"# (CONFIG_\w+) is not set")
_ALLOWED = 'CONFIG_X=y, m, a number or "text"; `# CONFIG_X is not set`; comments; empty lines'
_LOG_ROW = re.compile(r"error: kconfig: (CONFIG_\w+): asked for .*, has (.*)")


@dataclass(frozen=True)
class RequestedSymbol:
    """A symbol with the requested value (`n`: off or absent), and the file:line of the request."""

    symbol: str
    value: str
    where: str


@dataclass(frozen=True)
class Difference:
    """A symbol with another value than requested."""

    requested: RequestedSymbol
    has: str

    def __str__(self) -> str:
        what = "was dropped" if self.has == "n" else f"became {self.has}"
        return f"{self.requested.where}: {self.requested.symbol}={self.requested.value} {what}"


Configuration = Mapping[str, RequestedSymbol]


def fragment(path: Path) -> dict[str, RequestedSymbol]:
    """Read the symbols of a fragment file. Raises `FileProblems` with every mistake in it."""
    return parse(path.read_text(), str(path))


def parse(text: str, name: str) -> dict[str, RequestedSymbol]:
    """Parse a fragment's text; `name` is the file named in messages."""
    found: dict[str, RequestedSymbol] = {}
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), 1):
        if pair := _assignment(line):
            requested = RequestedSymbol(*pair, f"{name}:{number}")
            known = found.setdefault(requested.symbol, requested)
            if known is not requested:
                problems.append(Problem(name, number, f"{requested.symbol} is already set at {known.where}"))
        elif line and not line.startswith("#"):
            problems.append(Problem(name, number, f"{line!r} sets no symbol", _ALLOWED))
    if problems:
        raise FileProblems(f"{len(problems)} mistake(s) in the kernel configuration {name}", problems)
    return found


def options(values: Mapping[str, str], where: str) -> dict[str, RequestedSymbol]:
    """Return symbols given outside a fragment file, such as a role's table in a line file."""
    problems = [
        Problem(where, 1, f"{symbol}={value} is no kernel option and value", _ALLOWED)
        for symbol, value in values.items()
        if not _SET.fullmatch(f"{symbol}={value}")
    ]
    if problems:
        raise FileProblems(f"{len(problems)} mistake(s) in the kernel options of {where}", problems)
    return {symbol: RequestedSymbol(symbol, value, where) for symbol, value in values.items()}


def merged(*parts: Configuration) -> dict[str, RequestedSymbol]:
    """Merge configurations: a later one overrides an earlier one, symbol by symbol."""
    whole: dict[str, RequestedSymbol] = {}
    for part in parts:
        whole |= part
    return whole


def text(configuration: Configuration) -> str:
    """Format the configuration for the kernel's tools, sorted: the same symbols give the same bytes."""
    rows = (
        f"# {requested.symbol} is not set" if requested.value == "n" else f"{requested.symbol}={requested.value}"
        for requested in sorted(configuration.values(), key=lambda requested: requested.symbol)
    )
    return "".join(f"{row}\n" for row in rows)


def values(config: str) -> dict[str, str]:
    """Return every symbol of a finished `.config` with its value."""
    return dict(pair for line in config.splitlines() if (pair := _assignment(line)))


def compare(requested: Configuration, config: str) -> list[Difference]:
    """Return the requested symbols with another value in the finished `.config`, in the requested order."""
    has = values(config)
    return [
        Difference(wanted, has.get(symbol, "n"))
        for symbol, wanted in requested.items()
        if has.get(symbol, "n") != wanted.value
    ]


def check(requested: Configuration, config: str, name: str) -> None:
    """Raise `BuildFailed` where the finished configuration `name` differs from the requested one."""
    if found := compare(requested, config):
        raise failure(found, name)


def from_log(lines: Iterable[str], requested: Configuration) -> list[Difference]:
    """Return the differences that the spec file's own check printed into a build log."""
    rows = (match for line in lines if (match := _LOG_ROW.match(line)))
    found = {row[1]: row[2][:_WIDEST] for row in rows if row[1] in requested}
    return [Difference(wanted, found[symbol]) for symbol, wanted in requested.items() if symbol in found]


def failure(found: Sequence[Difference], name: str, texts: Sequence[str] = ()) -> BuildFailed:
    """Return the error that lists `found`; Kconfig `texts` add the dependencies of dropped symbols."""
    rows = [f"  {difference}" for difference in found[:LISTED]]
    if len(found) > LISTED:
        rows.append(f"  and {len(found) - LISTED} more")
    dropped = [difference.requested.symbol for difference in found if difference.has == "n"][:_HINTED]
    if texts:
        needed = dependencies(texts, dropped)
        rows += [f"  {symbol} {_needs(needed.get(symbol))}" for symbol in dropped]
    return BuildFailed(
        "\n".join([f"the kernel's configuration: {len(found)} symbol(s) differ from the requested ones", *rows]),
        where=name,
        why="a kernel without them would not do what its packages promise",
        hint="request their dependencies too, or drop them from the line file",
    )


def dependencies(texts: Iterable[str], symbols: Iterable[str]) -> dict[str, list[str]]:
    """Return the `depends on` expressions of the symbols that these Kconfig files define.

    Only what stands at the symbol itself is seen, not the conditions of the menus around it.
    """
    wanted = {symbol.removeprefix("CONFIG_"): symbol for symbol in symbols}
    found: dict[str, list[str]] = {}
    for text in texts if wanted else ():
        current = ""
        for line in text.splitlines():
            words = line.split(None, 2)
            if words[:1] in (["config"], ["menuconfig"]) and len(words) > 1:
                current = wanted.get(words[1], "")
                if current:
                    found.setdefault(current, [])
            elif current and words[:2] == ["depends", "on"] and len(words) > 2:
                found[current].append(words[2][:_WIDEST])
            elif line and not line[0].isspace():
                current = ""
    return found


def _needs(words: Sequence[str] | None) -> str:
    if words is None:
        return "is no option of this tree: a patch that brings it is missing, or its name is misspelt"
    return f"depends on {' and '.join(words)}" if words else "depends on the menus around it"


def _assignment(line: str) -> tuple[str, str] | None:
    if line.startswith("#"):
        return (match[1], "n") if (match := _UNSET.fullmatch(line)) else None
    return (match[1], match[2]) if (match := _SET.fullmatch(line)) else None
