"""Read the line files and lock files that a statement embeds: what they pin, and which line they describe.

They were written by whoever built, and are read as a stranger's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.audit.statement import Kind, Provenance, Resource
from pipeline.core.decoder import Mismatch

_Table = Mapping[str, Any]


@dataclass(frozen=True)
class EmbeddedFiles:
    """The embedded files of one statement.

    `pins` has what each pinned digest is of, `names` the names that the line files give their lines. `series` are the
    patches of all roles' series, `described` those that a line file has a whole table of. `unpinned` are the sources
    of upstream packages that neither a digest nor a lock file pins.
    """

    pins: Mapping[str, str]
    names: frozenset[str]
    series: frozenset[str]
    described: frozenset[str]
    unpinned: frozenset[str]


def of(statement: Provenance) -> EmbeddedFiles:
    """Read the embedded files of a statement. Raises `ValueError` for one that is no line file or lock file."""
    pins: dict[str, str] = {}
    lines: list[_Table] = []
    for resource in statement.found(Kind.LINE_FILE):
        document = _parsed(resource)
        lines.append(document)
        pins |= dict(_pins(document, resource.name))
    locked: set[str] = set()
    for resource in statement.found(Kind.LOCK_FILE):
        document = _parsed(resource)
        locked |= document.keys()
        pins |= dict(_pins({"sources": document}, resource.name))
    sources: dict[str, dict[str, Any]] = {}
    for name, table in (item for document in lines for item in _tables(document, "sources")):
        sources.setdefault(name, {}).update(table)
    own = {name for name, table in sources.items() if "sha256" not in table and table.get("kind") == "srpm"}
    patches = [item for document in lines for item in _tables(document, "patches")]
    roles = [role for document in lines for _, role in _tables(document, "roles")]
    return EmbeddedFiles(
        pins={digest: what for digest, what in pins.items() if digest},
        names=frozenset(str(document.get("name", "")) for document in lines),
        series=frozenset(str(name) for role in roles for name in _list(role, "series")),
        described=frozenset(name for name, patch in patches if "role" in patch),
        unpinned=frozenset(own - locked),
    )


def _parsed(resource: Resource) -> _Table:
    try:
        return tomllib.loads(resource.data.decode())
    except (ValueError, RecursionError) as error:
        raise Mismatch("TOML", str(error), (resource.name,)) from None


def _pins(document: _Table, file: str) -> Iterator[tuple[str, str]]:
    """Yield each digest that a file pins, with what it is of."""
    try:
        for kind, key in (("source", "sources"), ("patch", "patches")):
            for name, table in _tables(document, key):
                yield str(table.get("sha256", "")), f"the {kind} {name} by {file}"
        for name, tool in _tables(document, "tools"):
            for patch in _list(tool, "patches"):
                if not isinstance(patch, dict):
                    raise Mismatch("a table", ascii(patch)[:60], ("tools", name, "patches"))
                yield str(patch.get("sha256", "")), f"the patch {patch.get('file')} of {name} by {file}"
    except Mismatch as error:
        raise error.below(file) from None


def _tables(document: _Table, key: str) -> list[tuple[str, _Table]]:
    """Return the tables below `key`, by name. Raises `Mismatch` for anything else there."""
    found = document.get(key, {})
    if not isinstance(found, dict):
        raise Mismatch("a table", ascii(found)[:60], (key,))
    for name, table in found.items():
        if not isinstance(table, dict):
            raise Mismatch("a table", ascii(table)[:60], (key, name))
    return list(found.items())


def _list(table: _Table, key: str) -> list[Any]:
    found = table.get(key, [])
    if not isinstance(found, list):
        raise Mismatch("a list", ascii(found)[:60], (key,))
    return found
