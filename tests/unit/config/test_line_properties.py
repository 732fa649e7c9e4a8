"""Line files with anything in them: a line, or an error for the person who wrote it."""

from __future__ import annotations

import json
import random
import re
import tomllib
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.config import line_loader, line_model
from pipeline.errors import FileProblems, UsageError
from tests.fixtures.linefiles import BASE, BLOB, DIGEST, SERIES

_WORDS = st.sampled_from([*re.findall(r"[\w.-]+", BASE + SERIES), "extends", "base", "debian", "[", "]", "{", "=", '"'])
_SCALARS = (
    st.sampled_from([1, -1, 0, True, "base", "file", "srpm", "debian", "director", DIGEST, BLOB, "../x", "http://["])
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
)
_KEYS = st.sampled_from(sorted(set(re.findall(r"[a-z][a-z0-9-]+", BASE + SERIES)))) | st.text(max_size=8)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=15
)


def toml(value: Any) -> str:
    """A value in TOML's inline form."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool | int | float):
        return repr(value).lower()
    return str(value)


def judged(root: Path, text: str) -> None:
    """Loads `text` as an override, and as a line of its own, and sees that only people's errors come."""
    for name in ("own.toml", "house.toml"):
        file = root.parent / name
        with file.open("w", encoding="utf-8", errors="replace", newline="") as stream:
            stream.write(text if name == "own.toml" else f'extends = "base"\nname = "house"\n{text}')
        try:
            assert isinstance(line_loader.load(None, file), line_model.Line)
        except FileProblems as error:
            assert error.problems
            for problem in error.problems:
                length = Path(problem.file).read_bytes().count(b"\n") + 1
                assert 1 <= problem.line <= length, problem
        except UsageError:
            pass


CAREFULLY = hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@CAREFULLY
@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
@example({"keys": {"a" * 3: [[[[]]]]}})
@example({"sources": {"file": {"kind": "file", "sha256": 1}}})
@example({"sources": {"x": {"kind": "file", "urls": ["{value}", "http://h:p/x"]}}})
@example({"": {"": 1}})
@example({"[key]": 1, "keys": {"[key]": 1}})
def test_no_structure_gives_anything_but_a_line_or_a_persons_error(project: Path, structure: dict[str, Any]) -> None:
    judged(project, "".join(f"{toml(key)} = {toml(value)}\n" for key, value in structure.items()))


@CAREFULLY
@given(st.integers(0, 2**32), st.lists(st.tuples(_WORDS, _WORDS | st.text(max_size=6)), min_size=1, max_size=4))
@example(0, [("size", "9" * 5000)])
@example(0, [("title", ".".join("a" * 3000))])
@example(0, [("10", "[" * 5000)])
def test_no_mutation_of_a_line_gives_anything_but_a_line_or_a_persons_error(
    project: Path, seed: int, edits: list[tuple[str, str]]
) -> None:
    text, chance = BASE + SERIES, random.Random(seed)
    for old, new in edits:
        places = [found.start() for found in re.finditer(re.escape(old), text)]
        if places:
            place = chance.choice(places)
            text = text[:place] + new + text[place + len(old) :]
    judged(project, text)


@CAREFULLY
@given(st.text(max_size=60) | st.lists(_WORDS | st.just("\n"), max_size=40).map(" ".join))
@example(f"x.{'.'.join('a' * 3000)} = 1\n")
@example("'a\\b' = 1\n")
@example("title = 1\r\nname = 2\r\n")
@example("a = 1\rb = 2\r")
def test_no_text_gives_anything_but_a_line_or_a_persons_error(project: Path, text: str) -> None:
    judged(project, text)


def test_the_generated_structures_are_toml_so_that_the_property_means_something() -> None:
    value = {"a": [1, {"b\n": 'c"\x7f', "d": [1.5, True]}]}
    assert tomllib.loads(f"x = {toml(value)}")["x"] == value
