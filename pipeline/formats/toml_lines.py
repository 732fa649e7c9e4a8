"""Find the lines of TOML keys: for error messages, and to replace values without touching anything else.

Imported only after a mistake was found, or to edit.
"""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tree_sitter_toml
from tree_sitter import Language, Node, Parser

Key = tuple[str | int, ...]


def line_of(text: str, path: Sequence[str | int]) -> int:
    """Return the 1-based line of `path` in the TOML `text`, or that of its nearest parent."""
    known = dict(_positions(Parser(Language(tree_sitter_toml.language())).parse(text.encode()).root_node))
    wanted = tuple(path)
    while wanted and wanted not in known:
        # A table that has no line of its own begins where the first key in it does.
        inside = [line for key, line in known.items() if key[: len(wanted)] == wanted]
        if inside:
            return min(inside)
        wanted = wanted[:-1]
    return known.get(wanted, 1)


def replace_texts(text: str, changes: Mapping[Key, str]) -> str:
    """Return the TOML `text` with other strings at the given keys; comments, order and blanks stay.

    Each value must be a string, and the only one of its text in its key's line. Raises `ValueError` for another one,
    or a key that is not there.
    """
    known = dict(_positions(Parser(Language(tree_sitter_toml.language())).parse(text.encode()).root_node))
    wanted = tomllib.loads(text)
    rows = text.split("\n")
    for key, new in changes.items():
        old = _replaced(wanted, key, new)
        number = known.get(key, 0) - 1
        quoted = json.dumps(old)
        if not isinstance(old, str) or number < 0 or rows[number].count(quoted) != 1:
            raise ValueError(f"{'.'.join(map(str, key))} is not written as one string in one line")
        rows[number] = rows[number].replace(quoted, json.dumps(new))
    edited = "\n".join(rows)
    if tomllib.loads(edited) != wanted:
        raise ValueError("its values are not written as strings in lines of their own")
    return edited


def _replaced(document: dict[str, Any], key: Key, new: str) -> object:
    """Set the value at `key` in a parsed document and return the one before; None where the key is not there."""
    at: Any = document
    try:
        for part in key[:-1]:
            at = at[part]
        old, at[key[-1]] = at[key[-1]], new
    except (KeyError, IndexError, TypeError):
        return None
    return old


def _positions(root: Node) -> Iterator[tuple[Key, int]]:
    counts: dict[Key, int] = {}
    for node in root.named_children:
        if node.type == "pair":
            yield from _pair(node, ())
        elif node.type in ("table", "table_array_element"):
            key = _indexed(_key(node.named_children[0]), counts)
            if node.type == "table_array_element":
                if key not in counts:  # the array begins with its first element
                    yield key, node.start_point[0] + 1
                counts[key] = counts.get(key, -1) + 1
                key = (*key, counts[key])
            yield key, node.start_point[0] + 1
            for pair in node.named_children[1:]:
                if pair.type == "pair":
                    yield from _pair(pair, key)


def _pair(pair: Node, prefix: Key) -> Iterator[tuple[Key, int]]:
    keys, value = (child for child in pair.named_children if child.type != "comment")
    path = (*prefix, *_key(keys))
    yield path, pair.start_point[0] + 1
    yield from _value(value, path)


def _value(value: Node, path: Key) -> Iterator[tuple[Key, int]]:
    inner = [child for child in value.named_children if child.type != "comment"]
    if value.type == "inline_table":
        for pair in inner:
            yield from _pair(pair, path)
    elif value.type == "array":
        for index, item in enumerate(inner):
            yield (*path, index), item.start_point[0] + 1
            yield from _value(item, (*path, index))


def _key(node: Node) -> Key:
    parts: list[str] = []
    todo = [node]  # not by recursion: the parts of a dotted key are nested in each other
    while todo:
        here = todo.pop()
        if here.type == "dotted_key":
            todo += reversed(here.named_children)
        else:
            parts.append(_plain((here.text or b"").decode()))
    return tuple(parts)


def _plain(text: str) -> str:
    """Return a key without its quotes; basic strings have no escapes unknown to Python."""
    if text.startswith('"'):
        return str(ast.literal_eval(text))
    return text[1:-1] if text.startswith("'") else text


def _indexed(key: Key, counts: dict[Key, int]) -> Key:
    """Return `key` with the index of the last element after every parent that is an array of tables."""
    whole: Key = ()
    for depth, part in enumerate(key):
        whole = (*whole, part)
        if depth < len(key) - 1 and whole in counts:
            whole = (*whole, counts[whole])
    return whole
