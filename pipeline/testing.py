"""Runs the project's own tests as `./inv test` and CI do."""

from __future__ import annotations

import importlib.util
import os
import sys

from pipeline import paths, process
from pipeline.console import Console
from pipeline.errors import HostLacks, TestsFailed, UsageError

KINDS = ("unit", "component", "e2e")


def run(console: Console, only: str, match: str) -> None:
    """Runs the tests of one kind, or all. Raises `TestsFailed`, or `HostLacks` where none can run."""
    root = paths.data_root()
    if only and only not in KINDS:
        raise UsageError(f"there are no {only} tests", why=f"kinds: {', '.join(KINDS)}")
    if not (root / "tests").is_dir():
        raise UsageError("the tests come with a checkout of the project, not with an installed package")
    if importlib.util.find_spec("pytest") is None:
        raise HostLacks(
            "the test dependencies are not installed", hint="./inv test installs them, `invoke test` does not"
        )
    from pipeline.host import programs

    programs.ensure({"fetch", "test"}, console)
    argv = [sys.executable, "-m", "pytest", str(root / "tests" / only), *(["-k", match] if match else [])]
    environment = {**process.clean_environment(), **os.environ}
    if status := process.show(argv, env=environment, cwd=root):
        raise TestsFailed(f"the tests failed (pytest exit status {status})", hint="./inv test --match NAME runs one")
