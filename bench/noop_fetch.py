"""Measure a fetch with everything in the store: `python bench/noop_fetch.py`.

On a toy line of one source RPM and one archive, pinned and fetched before. The yardstick beside it is
`--version` of the same program: starting alone. Both take turns; a figure is the median of its runs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, nothing needs to be installed

from pipeline.core import process
from tests.fixtures.toy import make_toy

ROOT = Path(__file__).resolve().parents[1]
AIM = 0.3  # seconds
ROUNDS = 15


def inv(place: Path, *words: str | Path) -> float:
    """Return the seconds of one run of the program in `place`, with its own git identity."""
    env = process.clean_environment(PYTHONPATH=str(ROOT), HOME=str(place))
    argv: Sequence[str | Path] = [sys.executable, "-m", "pipeline", *words]
    began = time.perf_counter()
    process.run(argv, cwd=place, env=env)
    return time.perf_counter() - began


def main() -> None:
    """Make the toy sources, measure, and print one row per figure."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        place = Path(directory)
        (place / ".gitconfig").write_text("[user]\n    name = Bench\n    email = bench@example.org\n")
        line = make_toy(place / "toy").line_file
        inv(place, "pin", "toy", "kernel-srpm", "--line-file", line)
        first = inv(place, "fetch", "--line-file", line)
        times: dict[str, list[float]] = {"starting": [], "fetching": []}
        for _ in range(ROUNDS):
            times["starting"].append(inv(place, "--version"))
            times["fetching"].append(inv(place, "fetch", "--line-file", line))
    starting, fetching = (statistics.median(taken) for taken in times.values())
    print(f"the first fetch {first:.3f} s, starting alone {starting:.3f} s")
    verdict = "reached" if fetching <= AIM else "MISSED"
    print(f"{'a fetch when everything is there':52} {fetching:7.3f} s     aim <= {AIM:g}  {verdict}")


if __name__ == "__main__":
    main()
