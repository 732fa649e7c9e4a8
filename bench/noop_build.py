"""Measure `build-all` with everything built: `python bench/noop_build.py ARTIFACTS [LINE OPTION...]`.

ARTIFACTS is the directory of a finished `build-all` with the same options. It runs offline, with no
container engine in reach, and prints the median beside that of `--version`.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, nothing needs to be installed

from pipeline.core import process

ROOT = Path(__file__).resolve().parents[1]
AIM = 0.5  # seconds
ROUNDS = 9


def timed(*words: str) -> float:
    """Return the seconds of one run, which must find everything built."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///nowhere"}
    argv: Sequence[str] = [sys.executable, "-m", "pipeline", *words]
    began = time.perf_counter()
    process.run(argv, cwd=ROOT, env=env)
    return time.perf_counter() - began


def main(artifacts: str, *options: str) -> None:
    """Measure in turns and print one row per figure."""
    words = ("build-all", "--artifacts", artifacts, "--offline", *(options or ("--line", "lts61")))
    times: dict[str, list[float]] = {"starting": [], "building": []}
    for _ in range(ROUNDS):
        times["starting"].append(timed("--version"))
        times["building"].append(timed(*words))
    starting, building = (statistics.median(taken) for taken in times.values())
    verdict = "reached" if building <= AIM else "MISSED"
    print(f"starting alone {starting:.3f} s")
    print(f"{'build-all when everything is built':44} {building:7.3f} s     aim <= {AIM:g}  {verdict}")


if __name__ == "__main__":
    main(*sys.argv[1:])
