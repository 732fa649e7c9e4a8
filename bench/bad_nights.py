"""Run nights of the toy line with a random fault in each: `python bench/bad_nights.py [NIGHTS [SEED]]`.

Kills at traced points, a full disk, a dead mirror, a corrupt store, a clock that jumps, a broken source. After each
night nothing may be lost, `latest` may not be red, and the disk must hold no more than is kept; the first violation
ends the run. Needs the right to mount, and the builder image that the tests make.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, nothing needs to be installed

from tests.fixtures.badnights import BadNights, on_small_disk
from tests.fixtures.nights import Nights
from tests.fixtures.quickline import builder_images


def main(count: int = 50, seed: int = 1) -> None:
    """Run the nights and print a row for each."""
    with Nights.opened(builder_images()) as nights:
        nights.night()
        begun = time.monotonic()
        with on_small_disk(nights) as on_disk:
            BadNights(on_disk, seed, lambda text: print(text, flush=True)).run(count)
        print(f"{count} nights of seed {seed} in {time.monotonic() - begun:.0f} s: nothing lost, no red latest")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
