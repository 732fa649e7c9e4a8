"""Measure a night in which nothing changed: `python bench/nightly.py`.

Beside `build-all` with everything built, on the toy line, whose archive answers on this host and whose lab is not
played. The figures are medians; the ratio is what a night adds: asking the archive, records and pages. The seconds of
processors do not depend on what else the host does.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, nothing needs to be installed

from tests.fixtures.nights import Nights
from tests.fixtures.quickline import builder_images

AIM = 5.0  # seconds
ROUNDS = 7


def processors() -> float:
    """Return the seconds of processors that finished programs took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure in turns and print one row per figure."""
    times: dict[str, list[tuple[float, float]]] = {"build-all": [], "nightly": []}
    with Nights.opened(builder_images()) as nights:
        nights.night()
        snapshot = nights.latest
        for _ in range(ROUNDS):
            for verb, taken in times.items():
                begun, used = time.perf_counter(), processors()
                nights.shop.inv(verb, *nights.shop.line_words)
                taken.append((time.perf_counter() - begun, processors() - used))
        same = nights.latest == snapshot
    (base, of_base), (night, of_night) = (map(statistics.median, zip(*taken, strict=True)) for taken in times.values())
    print(f"{'build-all when everything is built':36} {base:6.2f} s, of processors {of_base:6.2f} s")
    print(f"{'a night in which nothing changed':36} {night:6.2f} s, of processors {of_night:6.2f} s")
    ratios = f"{night / base:.1f} times build-all, of processors {of_night / of_base:.1f} times"
    print(f"{ratios}     aim <= {AIM:g} s  {'reached' if night <= AIM else 'MISSED'}")
    print(f"snapshot id: {'the same' if same else 'ANOTHER'}")


if __name__ == "__main__":
    main()
