"""Measure the identification of packages: `python -m bench.identify KERNEL.rpm...`, best with one per compression.

Header and /boot are measured beyond the start of the program, modules against `rpm2cpio` of the same package; all take
turns in one run, and a figure is the median of its rounds. Memory is the highest of a process of its own.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.core import process

ROOT = Path(__file__).resolve().parents[1]
BOOT, RATIO, MEMORY = 0.5, 1.3, 300  # aims: seconds beyond the start, times rpm2cpio, MiB
ROUNDS = 5


def seconds(argv: Sequence[str | Path]) -> float:
    """Return the duration of one run of a program, whatever its exit status."""
    env = process.clean_environment(PYTHONPATH=str(ROOT))
    began = time.perf_counter()
    process.run(argv, env=env, accept=range(256))
    return time.perf_counter() - began


def measure(works: Mapping[str, Sequence[str | Path]]) -> dict[str, float]:
    """Return the median of each work, in turns; the first round, which warms the caches, does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, argv in works.items():
            taken = seconds(argv)
            if number:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def main(arguments: Sequence[str]) -> None:
    """Measure and print a table."""
    inv = [sys.executable, "-P", "-m", "pipeline"]
    print(f"{'package':44} {'start':>6} {'/boot':>6} {'modules':>8} {'rpm2cpio':>9}    ratio, beyond the start")
    for name in arguments:
        path = Path(name).resolve()
        found = measure(
            {
                "start": [*inv, "--list"],
                "boot": [*inv, "identify", path, "--depth", "boot", "--json"],
                "modules": [*inv, "identify", path, "--json"],
                "rpm2cpio": ["/bin/sh", "-c", 'exec rpm2cpio "$0" >/dev/null', path],
            }
        )
        start, boot, modules = found["start"], found["boot"] - found["start"], found["modules"] - found["start"]
        ratio = modules / found["rpm2cpio"]
        print(
            f"{path.name[:44]:44} {start:6.2f} {boot:6.2f} {modules:8.2f} {found['rpm2cpio']:9.2f}  {ratio:5.2f}"
            f"  /boot {_reached(boot, BOOT)}, modules {_reached(ratio, RATIO)}"
        )
    highest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(f"memory of the largest process: {highest} MiB, {_reached(highest, MEMORY)}")


def _reached(figure: float, aim: float) -> str:
    return f"{'reached' if figure <= aim else 'MISSED'} (aim {aim:g})"


if __name__ == "__main__":
    main(sys.argv[1:])
