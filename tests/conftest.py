"""The order of the files, so that a run on several workers is as long as its longest file and not a tail behind it.

By itself pytest-xdist starts the file with most tests first. The kernel of lts61 is compiled by a fixture of five
tests, about fourteen minutes of two processors, so it began when all but a few files were done. Here the files that
take longest begin, the kernel before all others, and `--no-loadscope-reorder` in pyproject.toml keeps the order. Then
whole runs come before components and units, which fill what gaps are left at the end. The order depends on names
only: every worker must find the same.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

# Measured on two processors by when each worker came to each file; the rest take less than two minutes.
LONGEST_FIRST = (
    "e2e/test_build_all.py",  # 14 minutes where nothing is cached
    "e2e/test_lab.py",
    "e2e/test_installing.py",
    "e2e/test_el6_killed.py",  # 13
    "e2e/test_hostile_builds.py",  # 10
    "e2e/test_hostile_outputs.py",  # 5
    "e2e/test_fetch_killed.py",  # 4
    "e2e/test_el6_toy.py",
    "e2e/test_patches.py",
    "e2e/test_cluster.py",
    "component/audit/test_integrity.py",
    "component/sources/test_store_maintenance.py",
    "unit/test_conventions.py",  # mypy
)
# Files that wait for another's build: run by the same worker, behind it, or a second worker would stand still.
FOLLOWS = {
    "e2e/test_lab.py": "e2e/test_build_all.py",
    "e2e/test_installing.py": "e2e/test_build_all.py",
    "e2e/test_forged_statements.py": "e2e/test_audit.py",
}
KINDS = ("e2e", "component", "unit")


def rank(nodeid: str) -> tuple[int, int]:
    """Return the place of a test's file in the order; files of one rank keep theirs."""
    file = nodeid.split("::", 1)[0].removeprefix("tests/")
    kind = file.split("/", 1)[0]
    listed = LONGEST_FIRST.index(file) if file in LONGEST_FIRST else len(LONGEST_FIRST)
    return listed, KINDS.index(kind) if kind in KINDS else len(KINDS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    items.sort(key=lambda item: rank(item.nodeid))


class OneWorkerPerBuild(LoadFileScheduling):  # type: ignore[misc]
    """Files on workers as `--dist loadfile` has it, with those together that wait for the same build."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        start = "tests/" if file.startswith("tests/") else ""
        return start + FOLLOWS.get(file.removeprefix("tests/"), file.removeprefix("tests/"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneWorkerPerBuild | None:
    """Return the scheduler of `--dist loadfile`; None for every other one, which xdist then makes itself."""
    return OneWorkerPerBuild(config, log) if config.getvalue("dist") == "loadfile" else None
