"""Measure kernel builds: `python bench/kernels.py ARTIFACTS ROLE [ROLE] [OPTION...]`.

ARTIFACTS is a directory whose sources and builder images are used; what is built goes elsewhere. The
options are those of `build-all` that name the line, such as `--line-file FILE --image debian12
--kernel-config small`. Each figure is a ratio within this one run:

    the whole command, nothing in the compiler cache, against the sandbox with rpmbuild in it alone   aim <= 1.02
    the first role, nothing in the compiler cache, against the same with --no-ccache                  aim <= 1.1
    the first role without anything in the compiler cache, against the same with it                   aim >= 5
    the first role and then the second, if one is named, against the first alone                      aim <= 1.3
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, nothing needs to be installed

from pipeline.core import process

ROOT = Path(__file__).resolve().parents[1]
SHARED = ("store", "images", "trees", "apt")
_INSIDE = re.compile(r"^sandbox ran for ([\d.]+) s$", re.MULTILINE)
# Run in place of the command line's module: it says how long each job was in its sandbox.
_TIMED = """
import sys, time
from pipeline.cli.app import main
from pipeline.sandbox.bubblewrap import Bubblewrap
run = Bubblewrap.run
def timed(self, job):
    began = time.monotonic()
    ended = run(self, job)
    print(f"sandbox ran for {time.monotonic() - began} s", file=sys.stderr)
    return ended
Bubblewrap.run = timed
main()
"""


def build(place: Path, options: list[str], *roles: str) -> tuple[float, float]:
    """Build kernels of these roles; return the command's seconds, and those spent in sandboxes."""
    only = [word for role in roles for word in ("--only", f"kernel:{role}", "--force", f"kernel:{role}")]
    words = ["build-all", *options, *only, "--runtime", "bubblewrap", "--artifacts", str(place)]
    env = {**process.clean_environment(PYTHONPATH=str(ROOT)), **os.environ}
    began = time.monotonic()
    done = process.run([sys.executable, "-c", _TIMED, *words], cwd=ROOT, env=env)
    return time.monotonic() - began, sum(map(float, _INSIDE.findall(done.error_text)))


def row(what: str, ratio: float, aim: float, *, least: bool = False) -> None:
    """Print one figure."""
    reached = ratio >= aim if least else ratio <= aim
    aim_text = f"aim {'>=' if least else '<='} {aim:g}  {'reached' if reached else 'MISSED'}"
    print(f"{what:72} {ratio:6.2f}   {aim_text}", flush=True)


def main(artifacts: str, *words: str) -> None:
    """Build a role without cache, another with the first's cache, and the first once more; print the figures."""
    first, *others = itertools.takewhile(lambda word: not word.startswith("-"), words)
    given = list(words[1 + len(others) :])
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path(artifacts).resolve().parent) as name:
        place = Path(name)
        for shared in SHARED:
            if (Path(artifacts) / shared).exists():
                (place / shared).symlink_to((Path(artifacts) / shared).resolve())
        place.chmod(0o755)
        cold, inside = build(place, given, first)
        row(f"{first}, {cold:.0f} s, against its sandbox", cold / inside, 1.02)
        without, _ = build(place, [*given, "--no-ccache"], first)
        row(f"{first} without a cache, {without:.0f} s: cold against it", cold / without, 1.1)
        if others:
            rest, _ = build(place, given, *others)
            row(f"{' and '.join(others)} after it, {rest:.0f} s: all against one", (cold + rest) / cold, 1.3)
        warm, inside = build(place, given, first)
        what = f"{first} again, {warm:.0f} s, of them {warm - inside:.0f} outside: cold against warm"
        row(what, cold / warm, 5, least=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
