"""Run the project's own tests, as `./inv test` and CI do."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pipeline.config.context import RunContext
from pipeline.config.settings import HOME
from pipeline.core import process, resources
from pipeline.core.console import Console
from pipeline.errors import HostLacks, TestsFailed, UsageError

ACCEPTANCE = "e2e/test_el6_acceptance.py"
REAL_EL6 = "FNAT_TEST_REAL_EL6"  # JSON of two lists: options that name the line, and those of a build


def run(console: Console, only: str, match: str) -> None:
    """Run the tests of one kind, or all. Raises `TestsFailed`, or `HostLacks` where none can run."""
    _run(console, only, match, {})


def accept_real(context: RunContext, match: str) -> None:
    """Run the acceptance checks of a line on the real material in the settings.

    They run elsewhere, so every place is given absolutely. What is built stays in the artifacts.
    Raises `UsageError` without a mirror, and as `run` does.
    """
    settings = context.settings
    if not settings.mirror:
        raise UsageError(
            "real material is wanted, and no place that has it is named",
            hint="./inv test --real --mirror DIR, and --line-file FILE where it is not the pinned source package",
        )
    places = [place if "://" in place else str(Path(place).resolve()) for place in settings.mirror]
    named = [word for place in places for word in ("--mirror", place)]
    named += ["--line-file", str(settings.line_file.resolve())] if settings.line_file else ["--line", settings.line]
    named += ["--artifacts", str(settings.artifacts.resolve())]
    building = ["--runtime", settings.runtime, "--image", settings.image, "--kernel-config", settings.kernel_config]
    context.console.note(
        f"{ACCEPTANCE}: each check is named when it begins; the first that needs packages builds them all"
    )
    # In one process, and by name: workers say nothing before a check has ended, and a build of all takes hours.
    _run(context.console, ACCEPTANCE, match, {REAL_EL6: json.dumps([named, building])}, "-n", "0", "-vv")


def _run(console: Console, only: str, match: str, more: Mapping[str, str], *options: str) -> None:
    root = resources.data_root()
    if not (root / "tests").is_dir():
        raise UsageError("the tests come with a checkout of the project, not with an installed package")
    if importlib.util.find_spec("pytest") is None:
        raise HostLacks(
            "the test dependencies are not installed", hint="`./inv test` installs them, `invoke test` does not"
        )
    from pipeline.host import programs

    programs.ensure({"fetch", "test"}, console)
    argv = [sys.executable, "-m", "pytest", str(root / "tests" / only), *options, *(["-k", match] if match else [])]
    environment = {**process.clean_environment(), **os.environ, **more}
    environment.pop(HOME, None)  # tests have artifacts of their own, below their working directory
    if status := process.run_attached(argv, env=environment, cwd=root):
        raise TestsFailed(f"the tests failed (pytest exit status {status})", hint="`./inv test --match NAME` runs one")
