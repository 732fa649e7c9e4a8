"""The attestation key of a run, while other runs make one."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from pipeline.commands.attesting import RunAttester
from pipeline.commands.preparation import Preparation
from pipeline.config import line_loader


def test_a_development_key_that_another_run_has_made_meanwhile_is_known(tmp_path: Path) -> None:
    line, prepared = line_loader.load("lts612"), cast(Preparation, None)  # of which a key needs nothing
    waiting, working = (RunAttester(line, prepared, tmp_path, lambda: "") for _ in range(2))
    assert waiting.key_id == ""
    made = working.open_key().public.id
    assert (waiting.key_id, working.key_id) == (made, made)
