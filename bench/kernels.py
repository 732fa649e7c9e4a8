"""How long kernels take to build: `python bench/kernels.py ARTIFACTS ROLE [ROLE] [OPTION...]`.

ARTIFACTS is a directory whose sources and builder images are used; what is built goes elsewhere. The
options are those of `build-all` that name the line, such as `--line-file FILE --image debian12
--kernel-config small`. Each figure is a ratio within this one run:

    the first role without anything in the compiler cache, against the same with it     aim >= 5
    the whole command, warm, against the sandbox with rpmbuild in it alone              aim <= 1.02
    both roles, if two are named, without anything in the cache, against the first      aim <= 1.3
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, nothing needs to be installed

from pipeline import process

ROOT = Path(__file__).resolve().parents[1]
SHARED = ("store", "images", "trees", "apt")
_INSIDE = re.compile(r"^sandbox ran for ([\d.]+) s$", re.MULTILINE)
# Run in place of the command line's module: it says how long each job was in its sandbox.
_TIMED = """
import sys, time
from pipeline.cli import main
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
    """Seconds that the command takes that builds kernels of these roles, and those spent in sandboxes."""
    only = [word for role in roles for word in ("--only", f"kernel:{role}", "--force", f"kernel:{role}")]
    words = ["build-all", *options, *only, "--runtime", "bubblewrap", "--artifacts", str(place)]
    env = {**process.clean_environment(PYTHONPATH=str(ROOT)), **os.environ}
    began = time.monotonic()
    done = process.run([sys.executable, "-c", _TIMED, *words], cwd=ROOT, env=env)
    return time.monotonic() - began, sum(map(float, _INSIDE.findall(done.error_text)))


def row(what: str, ratio: float, aim: float, *, least: bool = False) -> None:
    """Prints one figure."""
    reached = ratio >= aim if least else ratio <= aim
    print(f"{what:60} {ratio:6.2f}   aim {'>=' if least else '<='} {aim:g}  {'reached' if reached else 'MISSED'}")


def main(artifacts: str, *words: str) -> None:
    """Builds one role twice, cold and warm, and both roles cold, and prints the figures."""
    first, *others = itertools.takewhile(lambda word: not word.startswith("-"), words)
    given = list(words[1 + len(others) :])
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path(artifacts).resolve().parent) as name:
        place = Path(name)
        for shared in SHARED:
            if (Path(artifacts) / shared).exists():
                (place / shared).symlink_to((Path(artifacts) / shared).resolve())
        place.chmod(0o755)
        cold, _ = build(place, given, first)
        warm, inside = build(place, given, first)
        print(f"{first} cold {cold:.0f} s, warm {warm:.0f} s")
        row("cold against warm", cold / warm, 5, least=True)
        row("the command against its sandbox, warm", warm / inside, 1.02)
        if others:
            shutil.rmtree(place / "ccache")
            both, _ = build(place, given, first, *others)
            row(f"both roles against one, cold: {both:.0f} s", both / cold, 1.3)


if __name__ == "__main__":
    main(*sys.argv[1:])
