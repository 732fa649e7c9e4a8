"""Documents are dataclasses, and nothing is read into one that its types do not allow."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from pipeline.core import decoder, documents
from pipeline.core.decoder import Mismatch

Name = Annotated[str, re.compile("[a-z]+")]


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Part:
    size: int
    weight: float | None = None


@dataclass(frozen=True)
class Whole:
    format: Literal[1]
    name: Name
    done: bool
    colour: Colour
    place: Path
    parts: Mapping[Name, Part]
    texts: tuple[str, ...]
    numbers: list[int]
    names: frozenset[str]
    anything: object

    def __post_init__(self) -> None:
        if self.name == "nobody":
            raise ValueError("the name of somebody")


PARTS = {"a": Part(1, 0.5), "b": Part(2)}
WHOLE = Whole(1, "x", True, Colour.RED, Path("/p"), PARTS, ("t",), [3], frozenset("zy"), {"k": [None]})
SAID: dict[str, Any] = {
    "format": 1,
    "name": "x",
    "done": True,
    "colour": "red",
    "place": "/p",
    "parts": {"a": {"size": 1, "weight": 0.5}, "b": {"size": 2, "weight": None}},
    "texts": ["t"],
    "numbers": [3],
    "names": ["y", "z"],
    "anything": {"k": [None]},
}


def test_a_document_reads_back_as_it_was_written() -> None:
    assert decoder.encode(WHOLE) == SAID
    assert decoder.decode(Whole, SAID) == WHOLE
    assert documents.parse(Whole, documents.to_json(WHOLE)) == WHOLE
    assert documents.unseal(Whole, documents.seal(WHOLE)) == WHOLE


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"format": 999}, "format: expected 1, got 999"),
        ({"format": True}, "format: expected 1, got True"),
        ({"format": 1.0}, "format: expected 1, got 1.0"),
        ({"name": "X"}, r"name: expected text such as \[a-z\]\+, got 'X'"),
        ({"name": "x\n"}, r"name: expected text such as \[a-z\]\+, got 'x\\n'"),
        ({"name": 5}, "name: expected text, got 5"),
        ({"name": "nobody"}, "expected the name of somebody, got"),
        ({"done": 1}, "done: expected true or false, got 1"),
        ({"colour": "blue"}, "colour: expected one of red, got 'blue'"),
        ({"place": None}, "place: expected a path, got None"),
        ({"parts": []}, r"parts: expected an object, got \[\]"),
        ({"parts": {"a": {"size": "1", "weight": None}}}, "parts.a.size: expected a whole number, got '1'"),
        ({"parts": {"a": {"size": True, "weight": None}}}, "parts.a.size: expected a whole number, got True"),
        ({"parts": {"a": {"size": 1}}}, "parts.a: expected the keys size, weight, got none of weight"),
        ({"parts": {"a": {"size": 1, "weight": float("nan")}}}, "parts.a.weight: expected a number, got nan"),
        (
            {"parts": {"a": {"size": 1, "weight": None, "x": 0}}},
            "size, weight only, got 'x'",
        ),
        ({"parts": {"A": {"size": 1, "weight": None}}}, r"parts: expected keys such as \[a-z\]\+, got 'A'"),
        ({"texts": "t"}, "texts: expected a list, got 't'"),
        ({"texts": ["t", 1]}, r"texts.1: expected text, got 1"),
        ({"texts": [["x" * 100]]}, r"got \['x{58}…"),
        ({"names": {}}, "names: expected a list, got {}"),
    ],
)
def test_what_the_types_do_not_allow_is_told_with_its_place(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(Mismatch, match=told):
        decoder.decode(Whole, SAID | changed)


@pytest.mark.parametrize("kind", [bytes, tuple[int, str], int | str, dict[int, str], list])
def test_a_type_that_json_does_not_keep_is_a_mistake_of_ours(kind: Any) -> None:
    with pytest.raises(TypeError, match="no document may hold"):
        decoder.decode(kind, None)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5000, b"\xff"])
def test_what_is_no_json_is_refused_whatever_json_says_of_it(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        documents.parse(Whole, text)


def test_a_seal_does_not_make_another_shape_a_document() -> None:
    with pytest.raises(Mismatch, match="'more' too"):
        documents.unseal(Whole, documents.seal({**SAID, "more": 1}))
    with pytest.raises(ValueError, match="seal"):
        documents.unseal(Whole, json.dumps(SAID))
