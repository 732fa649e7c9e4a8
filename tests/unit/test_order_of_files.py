"""The order in which files of tests are given to workers, by a run of pytest on a tree of small ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.process import clean_environment, run
from tests.conftest import FOLLOWS, KINDS, LONGEST_FIRST

TESTS = Path(__file__).parents[1]
PROJECT = TESTS.parent / "pyproject.toml"

# The build goes on until every other worker's file was begun, so that an order in which it is not first never ends.
NOTE = """\
import os, pathlib, time
import pytest

def note(name):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{os.environ['PYTEST_XDIST_WORKER']} {name}\\n")

@pytest.mark.parametrize("number", range(COUNT))
def test(number):
    note(f"FILE {number}")
"""
BUILD = (
    NOTE
    + """
    until = time.monotonic() + 30
    while "test_units" not in pathlib.Path(os.environ["NOTES"]).read_text():
        assert time.monotonic() < until, "nothing else is run meanwhile"
        time.sleep(0.01)
"""
)
FILES = {  # with most tests where the order of xdist would begin
    "unit/test_units.py": 30,
    "component/test_components.py": 20,
    "e2e/test_another.py": 10,
    "e2e/test_el6_killed.py": 8,
    "e2e/test_lab.py": 12,
    "e2e/test_build_all.py": 5,
}


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[str, str]]]:
    """Worker and file of each test, in the order in which they were run by two workers."""
    root = tmp_path_factory.mktemp("order")
    (root / "pyproject.toml").write_bytes(PROJECT.read_bytes())
    for name, count in FILES.items():
        file = root / "tests" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        text = BUILD if name == "e2e/test_build_all.py" else NOTE
        file.write_text(text.replace("COUNT", str(count)).replace("FILE", file.stem))
    (root / "tests/conftest.py").write_bytes((TESTS / "conftest.py").read_bytes())
    written = root / "notes"
    written.touch()
    argv = [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider"]
    done = run(argv, cwd=root, env=clean_environment(NOTES=str(written)), accept=range(256), timeout=120)
    assert done.status == 0, done.text + done.error_text
    yield [(worker, file) for worker, file, _ in (row.split() for row in written.read_text().splitlines())]


def test_every_test_is_run_once(notes: list[tuple[str, str]]) -> None:
    assert len(notes) == sum(FILES.values())


def test_the_build_begins_at_once_and_its_worker_does_nothing_else_until_it_is_over(
    notes: list[tuple[str, str]],
) -> None:
    [builder] = {worker for worker, file in notes if file == "test_build_all"}
    own = [file for worker, file in notes if worker == builder]
    assert own[:17] == ["test_build_all"] * 5 + ["test_lab"] * 12
    others = [file for worker, file in notes if worker != builder]
    assert others[:8] == ["test_el6_killed"] * 8


def test_whole_runs_come_before_components_and_units(notes: list[tuple[str, str]]) -> None:
    [builder] = {worker for worker, file in notes if file == "test_build_all"}
    begun = list(dict.fromkeys(file for worker, file in notes if worker != builder))
    assert begun[:3] == ["test_el6_killed", "test_another", "test_components"]


@pytest.mark.parametrize("name", [*LONGEST_FIRST, *FOLLOWS, *FOLLOWS.values()])
def test_each_file_of_the_order_is_there(name: str) -> None:
    assert (TESTS / name).is_file()


def test_the_kinds_are_the_directories_of_tests() -> None:
    there = {path.name for path in TESTS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert there == {*KINDS, "fixtures"}
