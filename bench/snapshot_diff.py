"""Measure the comparison of two published snapshots: `python bench/snapshot_diff.py BEFORE AFTER [ARTIFACTS]`.

BEFORE and AFTER are snapshots' directories with their statements beside them; of one without any, records of steps are
looked for below ARTIFACTS. The yardstick beside it is `rpm -qpl` over the same packages, which reads each header once.
Both take turns; a figure is the median of its runs.
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
AIM = 1.0  # seconds, of two snapshots of lts61
ROUNDS = 7


def seconds(argv: Sequence[str | Path]) -> float:
    """Return the seconds that a program takes."""
    began = time.perf_counter()
    process.run(argv, env=process.clean_environment(PYTHONPATH=str(ROOT)))
    return time.perf_counter() - began


def main(before: Path, after: Path, artifacts: Path) -> None:
    """Measure, and print one row per figure."""
    by_name = {path.name: path for place in (before, after) for path in sorted(place.glob("*/*.rpm"))}
    words = ("diff", before, after, "--json", "--artifacts", artifacts)
    diff: list[str | Path] = [sys.executable, "-m", "pipeline", *words]
    taken: dict[str, list[float]] = {"rpm": [], "diff": []}
    for _ in range(ROUNDS):
        taken["rpm"].append(seconds(["rpm", "-qpl", "--nosignature", *by_name.values()]))
        taken["diff"].append(seconds(diff))
    listing, comparing = (statistics.median(each) for each in taken.values())
    verdict = "reached" if comparing <= AIM else "MISSED"
    print(f"{len(by_name)} packages: rpm -qpl {listing:.3f} s")
    print(f"{'comparing two snapshots':52} {comparing:7.3f} s     aim <= {AIM:g}  {verdict}")
    print(f"{'of what rpm -qpl takes':52} {comparing / listing:7.2f}")


if __name__ == "__main__":
    main(*map(Path, (*sys.argv[1:3], sys.argv[3] if len(sys.argv) > 3 else "artifacts")))
