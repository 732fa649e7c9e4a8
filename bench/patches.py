"""Measure the whole verification of patches: parser, cross-checks, and the role by content.

    python -m bench.patches [PATCH...]

Prints milliseconds (best of several runs, in one process) and the ratio to one `git apply
--numstat` of the same patches. Without arguments it makes a patch of the original's size: 33 files,
575 hunks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.config import line_loader
from pipeline.core import process
from pipeline.patching.parser import scan
from pipeline.patching.patch_file import PatchFile, git_environment, parse
from pipeline.patching.role_rules import classify

ROUNDS = 7
AIM = 60.0  # milliseconds for both original patches


def synthetic(files: int = 33, hunks: int = 575) -> bytes:
    """Return a patch of that many files and hunks, each hunk with 12 lines added and 5 removed."""
    out = []
    for file in range(files):
        out.append(f"--- a/net/made/file{file}.c\n+++ b/net/made/file{file}.c\n")
        for number in range(hunks // files + (file < hunks % files)):
            start = 1 + number * 40
            out.append(f"@@ -{start},11 +{start + 7 * number},18 @@ static int made(void)\n")
            out.append(" \tunchanged line of the file;\n" * 3)
            out.append("-\tremoved = line(of, the, file);\n" * 5 + "+\tadded = line(of, the, file);\n" * 12)
            out.append(" \tunchanged line of the file;\n" * 3)
    return "".join(out).encode()


def best(action: Callable[[], object]) -> float:
    """Return the milliseconds of the quickest run."""
    return min(_once(action) for _ in range(ROUNDS))


def _once(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e3


def main(arguments: list[str]) -> None:
    """Measure and print a table."""
    inputs = {Path(name).name: Path(name).read_bytes() for name in arguments} or {"made": synthetic()}
    rules = line_loader.load("el6").data.rules
    total = reference = 0.0
    print(f"{'patch':40} {'hunks':>5} {'scan':>7} {'parse':>7} {'role':>7} {'total':>7} {'git':>7}  ms")
    for name, data in inputs.items():
        parsed: PatchFile = parse(data, name)
        reading, whole = best(lambda: scan(data, name)), best(lambda: parse(data, name))  # noqa: B023
        role = best(lambda: classify(parsed, rules))  # noqa: B023
        argv = ["git", "apply", "--numstat", "-z", "-p1"]
        git = best(lambda: process.run(argv, env=git_environment(), stdin=parsed.complete))  # noqa: B023
        print(f"{name:40} {parsed.hunks:5} {reading:7.1f} {whole:7.1f} {role:7.1f} {whole + role:7.1f} {git:7.1f}")
        total, reference = total + whole + role, reference + git
    print(
        f"all: {total:.1f} ms (aim {AIM:.0f}), {total / reference:.1f} times git apply --numstat ({reference:.1f} ms)"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
