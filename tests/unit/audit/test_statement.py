"""What is read of a statement: every part that it must have, and none of another shape."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.audit import embedded_files, statement
from pipeline.audit.statement import Kind, Pin, Resource
from pipeline.core.decoder import encode

DIGEST = hashlib.sha256(b"x").hexdigest()
PIN = Pin("a.toml", "Ada", "today", "", ())
RULE = statement.RuleFacts("director", "by content", "a", (200,))
FILE = statement.FileFacts("a.c", "a.c", "modified", "", "", (statement.HunkFacts(1, 4, 0),))
LEFT = statement.LeftOutFacts(".config", "why", {"CONFIG_A": "y"}, DIGEST, DIGEST)
GIT = "0" * 40
LINE = b'name = "a"\n[sources.s]\nsha256 = "%b"\n[tools.t]\npatches = []\n' % DIGEST.encode()
MATERIALS = (
    Resource("r", digest={"gitCommit": GIT}, annotations=encode(statement.RecipeFacts("1", GIT, False, DIGEST))),
    statement.embedded("a.toml", LINE, "t", statement.LineFileFacts("line file", "", "", "", False)),
    statement.embedded("a.lock", b"", "t", statement.LineFileFacts("lock file", "", "", "", False)),
    Resource(
        "s", digest={"sha256": DIGEST}, annotations=encode(statement.SourceFacts("1", 1, "how", PIN, {"a": DIGEST}))
    ),
    Resource("t", digest={"gitTree": GIT}, annotations=encode(statement.TreeFacts("s", "", 0))),
    statement.embedded(
        "p", b"x", "t", statement.PatchFacts("director", 1, "o", "p", "", DIGEST, (LEFT,), RULE, PIN, (FILE,))
    ),
    statement.embedded("i", b"x", "t", statement.ImageFacts("k", 1)),
    Resource("kernel:stock", digest={"sha256": DIGEST}, annotations=encode(statement.StepFacts("k", DIGEST))),
    Resource("a.rpm", digest={"sha256": DIGEST}, annotations=encode(statement.PackageFacts("kernel:stock"))),
)
BYPRODUCTS = (
    Resource("log", digest={"sha256": DIGEST}, annotations=encode(statement.ByproductFacts("log"))),
    statement.embedded("e", b"x", "t", statement.ByproductFacts("evidence")),
    statement.embedded("c", b"x", "t", statement.ByproductFacts("compiled sources")),
    statement.embedded("f", b"x", "t", statement.ConfigurationFacts("a")),
    Resource("d", annotations=encode(statement.DifferenceFacts("a", "b", {"CONFIG_A": ("y", "n")}))),
    Resource("facts", annotations=encode(statement.RunFacts(1.5, 1, 0, 0))),
)
WHOLE: dict[str, Any] = encode(
    statement.Statement(
        (Resource("rpms/a.rpm", digest={"sha256": DIGEST}),),
        statement.Provenance(
            statement.BuildDefinition(
                statement.BUILD_TYPE,
                statement.ExternalParameters(statement.LineParameters("a", "6.1", "", "", ("b",)), "s", ("o",), "c"),
                statement.InternalParameters("k", {"code": DIGEST}, "", 1, False, "why"),
                MATERIALS,
            ),
            statement.RunDetails(
                statement.Builder(statement.BUILDER, {"a": "1"}), statement.Metadata("i", "s", "f"), BYPRODUCTS
            ),
        ),
    )
)
SPOILED: dict[type, Any] = {dict: [], list: {}, str: 5, bool: "yes", int: "1", float: "1"}


def refused(value: object) -> bool:
    """Whether a statement is refused; one that is taken has nothing that fails when it is read."""
    try:
        found = statement.parse(json.dumps(value).encode())
        embedded_files.of(found.predicate)
    except ValueError:
        return True
    definition, details = found.predicate.buildDefinition, found.predicate.runDetails
    for resource in (*definition.resolvedDependencies, *details.byproducts):
        assert resource.facts(statement._FACTS[resource.kind]) and isinstance(resource.data, bytes)
    return False


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for name, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, name)
        yield from places(item, (*path, name))


def edited(path: tuple[Any, ...], edit: Callable[[Any, Any], object]) -> Any:
    changed = copy.deepcopy(WHOLE)
    row: Any = changed
    for name in path[:-1]:
        row = row[name]
    edit(row, path[-1])
    return changed


def test_a_whole_statement_is_read_and_has_every_kind() -> None:
    assert not refused(WHOLE)
    assert [resource.kind for resource in (*MATERIALS, *BYPRODUCTS)] == list(Kind)


def test_a_part_of_a_wrong_type_is_refused_wherever_it_is() -> None:
    def spoil(row: Any, name: Any) -> None:
        row[name] = SPOILED[type(row[name])]

    assert not [path for path in places(WHOLE) if not refused(edited(path, spoil))]


def test_a_part_that_is_left_out_is_refused_or_missed_by_nobody() -> None:
    taken = {path for path in places(WHOLE) if not refused(edited(path, lambda row, name: row.pop(name)))}
    assert not [path for path in taken if path[-1] in ("annotations", "kind", "content") and "subject" not in path]
    assert len([path for path in places(WHOLE) if len(path) > 3 and path not in taken]) > 100


@pytest.mark.parametrize(
    ("kind", "change", "text"),
    [
        (Kind.FACTS, lambda row: None, "byproducts: expected one of the kind facts, got none"),
        (Kind.RECIPE, lambda row: None, "resolvedDependencies: expected one of the kind recipe, got none"),
        (Kind.RECIPE, lambda row: row["annotations"] | {"dirty": "x"}, "annotations.dirty: expected true or false"),
        (Kind.SOURCE, lambda row: {"kind": "source"}, "resolvedDependencies.s.annotations: expected the keys version"),
        (Kind.SOURCE, lambda row: {"kind": "sauce"}, "resolvedDependencies.s.annotations.kind: expected one of recipe"),
        (Kind.LOG, lambda row: {"kind": "recipe"}, "byproducts.log.annotations.kind: expected one of log, evidence"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(kind: Kind, change: Callable[[Any], Any], text: str) -> None:
    value = copy.deepcopy(WHOLE)
    predicate = value["predicate"]
    for rows in (predicate["buildDefinition"]["resolvedDependencies"], predicate["runDetails"]["byproducts"]):
        for row in [row for row in rows if row["annotations"]["kind"] == kind]:
            row["annotations"] = change(row) or row["annotations"]
            if change(row) is None:
                rows.remove(row)
    with pytest.raises(ValueError, match=re.escape(text)):
        statement.parse(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"= = nonsense", "a.toml: expected TOML"),
        (b"\xff", "a.toml: expected TOML"),
        (b"a = " + b"[" * 5000, "a.toml: expected TOML"),
        (b"sources = 1", "a.toml.sources: expected a table"),
        (b"[patches]\na = 1", "a.toml.patches.a: expected a table"),
        (b"[tools.a]\npatches = 1", "patches: expected a list"),
        (b"[tools.a]\npatches = [1]", "a.toml.tools.a.patches: expected a table"),
        (b"[roles]\na = 1", "roles.a: expected a table"),
    ],
)
def test_an_embedded_line_file_that_is_none_is_refused(text: bytes, problem: str) -> None:
    value = copy.deepcopy(WHOLE)
    row = value["predicate"]["buildDefinition"]["resolvedDependencies"][1]
    row |= {"content": base64.b64encode(text).decode(), "digest": {"sha256": hashlib.sha256(text).hexdigest()}}
    found = statement.parse(json.dumps(value).encode())
    with pytest.raises(ValueError, match=re.escape(problem)):
        embedded_files.of(found.predicate)
