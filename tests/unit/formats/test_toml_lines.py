"""Where a key stands in a TOML file, against documents made here line by line."""

from __future__ import annotations

import json
import random
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.formats.toml_lines import Key, line_of, replace_texts

_NAMES = st.sampled_from(["a", "b", "c", "key-1", "9", "with space", "do.t", "ä", "back\\slash", "", "it's"])
_SCALARS = st.integers(0, 9) | st.booleans() | st.sampled_from(["", "text", "two\nlines", "# no comment", "]", "ü"])
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3), max_leaves=12
)
_DOCUMENTS = st.dictionaries(_NAMES, _VALUES, max_size=5)


class Writer:
    """Writes a document as people do, in a style chosen by chance, and knows the line of every key."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.text, self.lines = chance, "", dict[Key, int]()

    @property
    def here(self) -> int:
        """The number of the line that is being written."""
        return self.text.count("\n") + 1

    def maybe(self) -> bool:
        return self.chance.random() < 0.5

    def name(self, name: str) -> str:
        if name and name.replace("-", "").isalnum() and name.isascii() and self.maybe():
            return name
        return f"'{name}'" if "'" not in name and self.maybe() else json.dumps(name, ensure_ascii=self.maybe())

    def dotted(self, path: Key) -> str:
        dot = self.chance.choice([".", " . "])
        return dot.join(self.name(str(part)) for part in path)

    def table(self, path: Key, names: Key, table: dict[str, Any]) -> None:
        """The content of a table: its own rows first, then the tables in it."""
        below = {name: value for name, value in table.items() if self.apart(value)}
        for name, value in table.items():
            if name not in below:
                self.row(path, (name,), value)
        for name, value in below.items():
            for index, item in enumerate(value if isinstance(value, list) else [value]):
                self.text += "\n" * self.chance.randrange(3) + ("# [no.table]\n" if self.maybe() else "")
                inside = (*path, name, index) if isinstance(value, list) else (*path, name)
                self.lines.setdefault((*path, name), self.here)
                self.lines[inside] = self.here
                opened, closed = ("[[", "]]") if isinstance(value, list) else ("[", "]")
                self.text += f"{opened}{self.dotted((*names, name))}{closed}\n"
                self.table(inside, (*names, name), item)

    def apart(self, value: Any) -> bool:
        """Whether it gets headers of its own instead of a row."""
        tables = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
        return (isinstance(value, dict) or bool(tables)) and self.maybe()

    def row(self, path: Key, names: Key, value: Any) -> None:
        if isinstance(value, dict) and value and self.maybe():  # as dotted keys
            self.lines.setdefault((*path, *names), self.here)
            for name, item in value.items():
                self.row(path, (*names, name), item)
            return
        self.text += " " * self.chance.randrange(3)
        self.lines.setdefault((*path, *names), self.here)
        self.text += f"{self.dotted(names)} = "
        self.value((*path, *names), value)
        self.text += (" # why" if self.maybe() else "") + "\n"

    def value(self, path: Key, value: Any) -> None:
        if isinstance(value, dict):
            self.text += "{ "
            for index, (name, item) in enumerate(value.items()):
                self.text += ", " * bool(index)
                self.lines[(*path, name)] = self.here
                self.text += f"{self.name(name)} = "
                self.value((*path, name), item)
            self.text += " }"
        elif isinstance(value, list):
            apart = "\n" if self.maybe() else " "
            self.text += "[" + apart
            for index, item in enumerate(value):
                self.lines[(*path, index)] = self.here
                self.value((*path, index), item)
                self.text += "," + (" # item\n" if apart == "\n" else " ")
            self.text += "]"
        elif isinstance(value, str) and "\n" in value and self.maybe():
            self.text += f'"""{value}"""'
        else:
            self.text += json.dumps(value)


@settings(max_examples=300, deadline=None)
@given(_DOCUMENTS, st.integers(0, 2**32))
def test_every_key_of_a_document_is_found_in_its_line(document: dict[str, Any], seed: int) -> None:
    writer = Writer(random.Random(seed))
    writer.table((), (), document)
    assert tomllib.loads(writer.text) == document
    found = {path: line_of(writer.text, path) for path in writer.lines}
    assert found == writer.lines


@settings(max_examples=100, deadline=None)
@given(_DOCUMENTS, st.integers(0, 2**32))
def test_what_is_not_there_is_placed_at_its_nearest_parent(document: dict[str, Any], seed: int) -> None:
    writer = Writer(random.Random(seed))
    writer.table((), (), document)
    for path, line in writer.lines.items():
        assert line_of(writer.text, (*path, "missing", 7)) == line
    assert line_of(writer.text, ("missing",)) == 1


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80), st.lists(_NAMES | st.integers(0, 3), max_size=3))
def test_whatever_the_text_the_line_is_one_of_the_text(text: str, path: list[str | int]) -> None:
    assert 1 <= line_of(text, path) <= text.count("\n") + 1


def test_arrays_of_tables_count_anew_in_each_parent() -> None:
    text = "[[a]]\n[[a.b]]\nx = 1\n[[a.b]]\nx = 2\n[[a]]\n[[a.b]]\nx = 3\n[a.c]\ny = 4\n"
    assert line_of(text, ("a", 0, "b", 1, "x")) == 5
    assert line_of(text, ("a", 1, "b", 0, "x")) == 8
    assert line_of(text, ("a", 1, "c", "y")) == 10


def test_a_table_without_a_header_begins_with_the_first_key_in_it() -> None:
    text = "x = 1\n\n[a.b.c]\nd = 1\n[a.b]\ne = 2\n"
    assert line_of(text, ("a",)) == 3
    assert line_of(text, ("a", "missing")) == 3
    assert line_of(text, ("a", "b")) == 5


@pytest.mark.parametrize("key", ["'a\\b'", '"a\\\\b"', '"\\u0061\\\\b"', '"\\U00000061\\u005cb"'])
def test_quoted_names_are_read_as_toml_reads_them(key: str) -> None:
    text = f"\n{key} = 1\n"
    assert list(tomllib.loads(text)) == ["a\\b"]
    assert line_of(text, ("a\\b",)) == 2


def test_a_key_of_very_many_parts_is_no_problem() -> None:
    parts = ["a"] * 5000
    assert line_of(f"\n{'.'.join(parts)} = 1\n", parts) == 2


SERIES = """\
# What this is.
[patches.one]   # the first
sha256 = "aa"   # "bb" before
other = "aa"

[patches.one.effect]
"net/a.c" = "cc"
'net/b.c' = "dd"

[[tools.x.patches]]
sha256 = "aa"

[[tools.x.patches]]
sha256 = "ee"
"""


def test_texts_are_replaced_and_all_else_stays() -> None:
    values: dict[Key, str] = {
        ("patches", "one", "sha256"): "11",
        ("patches", "one", "effect", "net/b.c"): "22",
        ("tools", "x", "patches", 1, "sha256"): "33",
    }
    edited = replace_texts(SERIES, values)
    pairs = zip(SERIES.splitlines(), edited.splitlines(), strict=True)
    assert [(old, new) for old, new in pairs if old != new] == [
        ('sha256 = "aa"   # "bb" before', 'sha256 = "11"   # "bb" before'),
        ("'net/b.c' = \"dd\"", "'net/b.c' = \"22\""),
        ('sha256 = "ee"', 'sha256 = "33"'),
    ]
    assert replace_texts(SERIES, {}) == SERIES


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('a = "x"\n', ("b",)),
        ('a = "x"\n', ("a", "b")),
        ('a = ["x"]\n', ("a", 1)),
        ("a = 'x'\n", ("a",)),
        ("a = 1\n", ("a",)),
        ('a = """\nx"""\n', ("a",)),
        ('a = "x" # "x"\n', ("a",)),
        ('a = [{ b = "x" }, { b = "x" }]\n', ("a", 0, "b")),
        ('"x" = "x"\n', ("x",)),
    ],
)
def test_what_is_not_one_text_in_one_line_is_not_replaced(text: str, key: Key) -> None:
    with pytest.raises(ValueError, match="is not written as one string in one line"):
        replace_texts(text, {key: "new"})
