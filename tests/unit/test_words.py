"""One term per thing: names and summaries use the field's words, not ones of our own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted([ROOT / "tasks.py", *(ROOT / "pipeline").rglob("*.py"), *(ROOT / "bench").rglob("*.py")])

# A word that no name of ours has a part of, and what the field calls it.
WORDS: Mapping[str, str] = {
    "again": "rebuild, retry, repeat",
    "asked": "requested",
    "carrying": "holding",
    "foretold": "forecast, planned",
    "had": "fetched, found",
    "heard": "received",
    "intake": "writer",
    "ladder": "sequence diagram",
    "laid": "overlay, merged",
    "leash": "supervisor",
    "lied": "wrong answer",
    "mainjob": "build command",
    "mend": "remedy",
    "reach": "preflight, probe",
    "room": "disk space",
    "said": "output, message, answer",
    "seeming": "apparent",
    "showing": "display, shown",
    "stage": "step, ScenarioContext",
    "taking": "acquire, accept",
    "telling": "report",
    "told": "reported, describe",
    "upkeep": "maintenance",
}
ORDINARY = frozenset({"laid", "reach", "stage"})  # no names, but fine in a sentence
# How a function's summary must not begin, beside what ruff's D401 knows: its subject is the function.
OPENINGS = frozenset(
    {"it", "they", "nobody", "what", "who", "whoever", "where", "whether", "which", "how", "why", "as"}
)
NOUNS = frozenset({"it", "nobody", "what", "who", "whoever", "whose", "why"})  # subjects of no summary


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The names that a module gives: of functions, classes, parameters, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def parts(name: str) -> list[str]:
    """The words of a name, lower case: of `snake_case`, `CamelCase` and `CONSTANTS`."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def wrong_names(source: str, words: Mapping[str, str]) -> list[str]:
    return [
        f"{line}: {name}: say {words[part]}, not {part}"
        for line, name in names(ast.parse(source))
        for part in parts(name)
        if part in words
    ]


def summaries(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """The first line of each docstring, and whether it is a function's, which a property is not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            decorators = {ast.unparse(d).rpartition(".")[2] for d in getattr(node, "decorator_list", [])}
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not (
                decorators & {"property", "cached_property"}
            )
            if text:
                yield getattr(node, "lineno", 1), text.splitlines()[0], function


def wrong_summaries(source: str, words: Mapping[str, str]) -> list[str]:
    found, words = [], {word: term for word, term in words.items() if word not in ORDINARY}
    for line, summary, function in summaries(ast.parse(source)):
        spoken = re.findall(r"[A-Za-z']+", re.sub(r"`[^`]*`", "", summary))
        first = spoken[0].lower() if spoken else ""
        if first in (OPENINGS | {"the", "a", "an"} if function else NOUNS):
            found.append(f"{line}: begins with {first}: {summary}")
        if function and re.fullmatch(r"[a-z]+[^s]s", first):  # D401 knows few verbs
            found.append(f"{line}: the imperative of {first}: {summary}")
        found += [
            f"{line}: say {words[word]}, not {word}: {summary}" for word in map(str.lower, spoken) if word in words
        ]
    return found


def test_no_name_has_a_word_of_our_own() -> None:
    wrong = [f"{path.relative_to(ROOT)}:{row}" for path in MODULES for row in wrong_names(path.read_text(), WORDS)]
    assert wrong == []


def test_no_module_or_package_has_one() -> None:
    wrong = [str(path) for path in MODULES for part in parts(path.stem) if part in WORDS]
    assert wrong == []


def test_summaries_say_what_to_do_in_the_fields_words() -> None:
    wrong = []
    for path in MODULES:
        wrong += [f"{path.relative_to(ROOT)}:{row}" for row in wrong_summaries(path.read_text(), WORDS)]
    assert wrong == []


@pytest.mark.parametrize(
    "code",
    ["told = 1", "def ask_again(): ...", "class TheIntake: ...", "x.said = 1", "import a as room", "def f(had): ..."],
)
def test_such_a_name_would_be_seen(code: str) -> None:
    assert wrong_names(code, WORDS)


@pytest.mark.parametrize("code", ["folded = 1", "def rebuild(): ...", "requested = says = 1"])
def test_others_pass(code: str) -> None:
    assert wrong_names(code, WORDS) == []


@pytest.mark.parametrize(
    "summary",
    ["What the host lacks.", "The file.", "Whether it is there.", "Read what was asked for.", "As `x` does.", "Asks."],
)
def test_such_a_summary_would_be_seen(summary: str) -> None:
    assert wrong_summaries(f'def f():\n    """{summary}"""\n', WORDS)
