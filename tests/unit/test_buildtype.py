"""The page of the build type describes every field that a statement can have, and every kind."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

from pipeline.audit import statement
from pipeline.audit.statement import Kind

PAGE = (Path(__file__).parents[2] / "docs" / "buildtype.md").read_text()
THEIRS = {"Resource", "_Whole", "Statement", "Provenance", "BuildDefinition", "RunDetails", "Builder", "Metadata"}


def test_every_field_is_described() -> None:
    classes = [each for each in vars(statement).values() if isinstance(each, type) and is_dataclass(each)]
    ours = [each for each in classes if each.__module__ == statement.__name__ and each.__name__ not in THEIRS]
    assert len(ours) > 15
    names = {field.name for each in ours for field in fields(each)} - {"kind"}
    assert sorted(name for name in names if f"`{name}`" not in PAGE and f".{name}`" not in PAGE) == []


def test_every_kind_and_both_identifiers_are_described() -> None:
    assert [kind for kind in Kind if f"`{kind}`" not in PAGE] == []
    assert statement.BUILD_TYPE in PAGE and statement.BUILDER in PAGE and statement.PREDICATE_TYPE in PAGE
