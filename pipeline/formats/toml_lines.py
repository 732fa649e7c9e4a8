"""Find the line numbers of TOML keys for error messages. Imported only after a mistake was found."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

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
