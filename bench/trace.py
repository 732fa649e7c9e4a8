"""Measure a trace: `python bench/trace.py SNAPSHOT THING...`, each THING of another kind; SNAPSHOT is a directory.

The yardstick beside it is the start of the program. All take turns; a figure is the median of its runs.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, nothing needs to be installed

from pipeline.core import process

ROOT = Path(__file__).resolve().parents[1]
AIM = 1.0  # seconds; a symbol that no patch adds is looked for in every module, and takes longer
ROUNDS = 5


def seconds(words: Sequence[str | Path]) -> float:
    """Return the seconds that a command takes."""
    began = time.perf_counter()
    process.run([sys.executable, "-m", "pipeline", *words], env=process.clean_environment(PYTHONPATH=str(ROOT)))
    return time.perf_counter() - began


def main(snapshot: Path, things: Sequence[str]) -> None:
    """Measure, and print one row per thing."""
    works: dict[str, Sequence[str | Path]] = {"start": ["--list"]}
    works |= {thing: ["trace", snapshot, thing, "--json"] for thing in things}
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, words in works.items():
            taken[name].append(seconds(words))
    start = statistics.median(taken.pop("start"))
    print(f"{'start of the program':52} {start:7.3f} s")
    for thing, found in taken.items():
        figure = statistics.median(found)
        print(f"{thing[:52]:52} {figure:7.3f} s     aim <= {AIM:g}  {'reached' if figure <= AIM else 'MISSED'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
