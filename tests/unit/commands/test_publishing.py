"""The key of the publishing step covers the code that sorts packages into sets, and the code that makes a snapshot."""

from __future__ import annotations

from pipeline.commands.publishing import Publishing
from pipeline.config import line_loader, settings
from pipeline.core import fingerprint


def test_the_key_covers_what_chooses_and_what_publishes() -> None:
    step = Publishing(line_loader.load("lts61"), settings.load({}, {}), (), old_readers=False).step(["kernel:stock"])
    assert step.action.__module__ in step.code
    assert {"pipeline.publish.snapshot", "pipeline.publish.signing"} <= fingerprint.closure(*step.code)
