"""Measure the lab: `python bench/lab.py ARTIFACTS [OPTION...]`, such as `lts61`.

ARTIFACTS has a published snapshot of the line. Each scenario's seconds, and the whole set's, with guests' images
made before; aim: whole set <= 60 s on 2 cores
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, nothing needs to be installed

from pipeline.core import process

ROOT = Path(__file__).resolve().parents[1]


def smoke(artifacts: str, *options: str) -> tuple[float, dict[str, float]]:
    """Return the seconds of a whole run, and of each scenario by name."""
    argv = [sys.executable, "-m", "pipeline", "smoke", "--artifacts", artifacts, "--json", *options]
    begun = time.monotonic()
    ended = process.run(argv, cwd=ROOT, env={**os.environ}, timeout=3600)
    played = json.loads(ended.text)["scenarios"]
    return time.monotonic() - begun, {row["name"]: row["seconds"] for row in played if row["state"] == "passed"}


def main() -> None:
    """Play every scenario twice and print the second time."""
    artifacts, options = sys.argv[1], sys.argv[2:]
    smoke(artifacts, *options)
    whole, each = smoke(artifacts, *options)
    for name, seconds in each.items():
        print(f"{name:12} {seconds:6.1f} s")
    print(f"{'whole set':12} {whole:6.1f} s  (aim 60)")


if __name__ == "__main__":
    main()
