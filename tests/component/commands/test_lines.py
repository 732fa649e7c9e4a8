"""`lines --show`: who pinned a source, and which commit says so."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pipeline.commands.lines import show_line
from pipeline.config import line_loader, lock_file
from pipeline.config.git_checkout import LastChange
from pipeline.config.lock_file import Pin
from pipeline.core import process
from pipeline.core.console import Console

PIN = Pin("0" * 64, 1, "centos-6", "0" * 40, "then", "kernel-1-1", "0" * 64, "0" * 40, "file:/x", "today", "Ada <a@b>")
NAMED = ("-c", "user.name=Ada Example", "-c", "user.email=ada@example.org")


@pytest.fixture
def line_file(tmp_path: Path) -> Path:
    """A line in a git checkout, with a pin that no commit has yet."""
    file = tmp_path / "house.toml"
    file.write_text('schema = 1\nextends = "el6"\nname = "house"\n')
    process.run(["git", "-C", str(tmp_path), "init", "-q"])
    lock_file.write(line_loader.load(line_file=file), "kernel-srpm", PIN)
    return file


def shown(file: Path) -> tuple[str, LastChange | None]:
    out = io.StringIO()
    found = show_line(line_loader.load(line_file=file), Console(out=out))
    return out.getvalue(), found.pins_committed


def test_a_pins_commit_is_said_with_its_author(line_file: Path) -> None:
    assert shown(line_file)[1] is None and "house.lock.toml, in no commit\n" in shown(line_file)[0]
    process.run(["git", "-C", str(line_file.parent), "add", "--all"])
    process.run(["git", "-C", str(line_file.parent), *NAMED, "commit", "-q", "-m", "pin"])
    said, committed = shown(line_file)
    commit = process.run(["git", "-C", str(line_file.parent), "rev-parse", "HEAD"]).text.strip()
    assert (
        "house.lock.toml, last changed by Ada Example <ada@example.org> on " in said and f"in commit {commit}\n" in said
    )
    assert committed and (committed.commit, committed.modified) == (commit, False)
    lock_file.write(line_loader.load(line_file=line_file), "other", PIN)
    assert f"in commit {commit}; changed since\n" in shown(line_file)[0]
