"""No reader takes a document that is not as its types say, whatever Python is told to leave out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipeline.core.process import clean_environment, run
from tests.fixtures import damaged

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("options", [[], ["-O"]], ids=["python", "python -O"])
def test_every_reader_takes_its_whole_document_and_no_damaged_one(tmp_path: Path, options: list[str]) -> None:
    """An unknown format number, a key less or more, a value of a wrong type: at every place where one can be."""
    argv: list[str | Path] = [sys.executable, *options, "-m", "tests.fixtures.damaged", tmp_path]
    found = json.loads(run(argv, cwd=ROOT, env=clean_environment(PYTHONPATH=str(ROOT))).text)
    assert {name: ways for name, ways in found.items() if ways != ["whole"]} == {}
    assert len(found) == 15 + len(damaged.STORED)


def test_a_document_is_damaged_in_every_place() -> None:
    ways = [way for way, _ in damaged.damages(damaged.SNAPSHOT)]
    assert "format 999" in ways
    assert "('packages', 'a.rpm'): without sha256" in ways
    assert "('key',): name of a wrong type" in ways
    assert "('made_by',): one key more" in ways
