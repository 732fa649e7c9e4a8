"""Measure the start-up against bare invoke: `.venv/bin/python bench/startup.py`, after one `./inv`.

The yardstick is `invoke --list` of one empty task, by the same Python. All take turns in one run; a figure is
the median of its runs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, nothing needs to be installed

from pipeline.core import process

ROOT = Path(__file__).resolve().parents[1]
RATIO, LAUNCHER = 1.25, 30.0  # aims: times bare invoke; milliseconds
ROUNDS = 21
TASKS = "from invoke import task\n\n\n@task\ndef nothing(c):\n    pass\n"


def milliseconds(argv: Sequence[str | Path], cwd: Path) -> float:
    """Return the duration of one run of a program."""
    env = process.clean_environment(PYTHONPATH=str(ROOT))
    began = time.perf_counter()
    process.run(argv, cwd=cwd, env=env)
    return (time.perf_counter() - began) * 1e3


def measure(works: Mapping[str, tuple[Sequence[str | Path], Path]]) -> dict[str, list[float]]:
    """Return times of each work, in turns; the first round, which warms the caches, does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, (argv, cwd) in works.items():
            taken = milliseconds(argv, cwd)
            if number:
                times[name].append(taken)
    return times


def row(figure: str, measured: float, aim: float, unit: str) -> None:
    """Print one figure beside its aim."""
    print(f"{figure:52} {measured:7.2f} {unit:5} aim <= {aim:g}  {'reached' if measured <= aim else 'MISSED'}")


def main() -> None:
    """Measure and print one row per figure."""
    python = ROOT / ".venv/bin/python"
    if not python.exists():
        sys.exit("`./inv lines` makes the environment that is measured")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        bare = Path(directory)
        (bare / "tasks.py").write_text(TASKS)
        times = measure(
            {
                "invoke": ([python, "-m", "invoke", "--list"], bare),
                "pipeline": ([python, "-m", "pipeline", "--list"], ROOT),
                "inv": ([ROOT / "inv", "--list"], ROOT),
            }
        )
    middle = {name: statistics.median(taken) for name, taken in times.items()}
    print(", ".join(f"{name} --list {taken:.0f} ms" for name, taken in middle.items()))
    row("python -m pipeline --list, of invoke --list", middle["pipeline"] / middle["invoke"], RATIO, "times")
    row("./inv --list, of invoke --list", middle["inv"] / middle["invoke"], RATIO, "times")
    row("what the launcher adds", middle["inv"] - middle["pipeline"], LAUNCHER, "ms")


if __name__ == "__main__":
    main()
