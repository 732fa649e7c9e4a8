"""Measure the audit of a snapshot: `python bench/audit.py SNAPSHOT`, the directory of one.

The yardstick beside it is `sha256sum` of the same files. Both take turns; a figure is the median of its rounds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, nothing needs to be installed

from pipeline.core import process
from pipeline.publish.snapshot import attestations

ROOT = Path(__file__).resolve().parents[1]
RATIO, START = 2.2, 1.0  # aims: times sha256sum, and seconds beside
ROUNDS = 5


def seconds(argv: Sequence[str | Path]) -> float:
    """Return the seconds that a program takes, whatever its exit status."""
    began = time.perf_counter()
    process.run(argv, env=process.clean_environment(PYTHONPATH=str(ROOT)), accept=range(256))
    return time.perf_counter() - began


def main(snapshot: Path) -> None:
    """Measure, and print one row."""
    files = [path for place in (snapshot, attestations(snapshot)) for path in place.rglob("*") if path.is_file()]
    taken: dict[str, list[float]] = {"sha256sum": [], "audit": []}
    for number in range(ROUNDS + 1):
        summing = seconds(["sha256sum", *files])
        auditing = seconds([sys.executable, "-m", "pipeline", "audit", snapshot, "--json"])
        if number:  # the first round warms the caches
            taken["sha256sum"].append(summing)
            taken["audit"].append(auditing)
    summing, auditing = (statistics.median(each) for each in taken.values())
    size = sum(path.stat().st_size for path in files)
    ratio = (auditing - START) / summing
    verdict = "reached" if ratio <= RATIO else "MISSED"
    print(f"{len(files)} files, {size >> 20} MiB: sha256sum {summing:.2f} s, audit {auditing:.2f} s")
    print(f"audit less {START:g} s / sha256sum  {ratio:.2f}  aim <= {RATIO:g}  {verdict}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
