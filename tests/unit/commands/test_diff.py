"""How `inv diff` prints a value that differs."""

from __future__ import annotations

import io

from pipeline.audit.snapshot_diff import PRESENT, Change
from pipeline.commands.diff import _say_changes
from pipeline.core.console import Console


def test_an_empty_value_is_named() -> None:
    out = io.StringIO()
    rows = [Change("notice", "not the line el6", ""), Change("tag", "", ".x"), Change("set stock", None, PRESENT)]
    _say_changes(Console(out=out), "snapshot", rows)
    assert out.getvalue().splitlines() == [
        "snapshot:", "  ~ notice: not the line el6 -> (empty)", "  ~ tag: (empty) -> .x", "  + set stock",
    ]  # fmt: skip
