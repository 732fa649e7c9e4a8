"""Count the compilations of a running build, and name the file that was compiled last.

What a build has written decides nothing here: it is read for a person who waits. Must not know what is built.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.formats import kbuild
from pipeline.packaging import ccache, outputs
from pipeline.packaging.rpmbuild import CCACHE_LOG

_MOST = 1 << 20  # bytes of a log that one look reads
_MAX_MAKEFILE = 1 << 20  # bytes
_COPIES = 8  # of a tree that share files: Red Hat's spec builds in a linked copy of the pristine tree
# ccache's log of this build: the name of a file, and what came of it. It runs the preprocessor alone too.
_NAMED = re.compile(rb"# (\S+\.(?:c|S|cc|cpp))?")
_PRINTED = re.compile(rb"  (?:CC|AS)(?: \[M\])? +(\S+\.o)|.*\b(?:gcc|cc|clang) .* -c .*?([\w./-]+\.(?:c|S|cc|cpp))\b")
_CONFIGURED = re.compile(r"CONFIG_(\w+)=(.*)")


@dataclass
class CompilationCounter:
    """The compilations of the build in `work`, the directory of a step's run, counted on at each `update`.

    ccache's log has every compilation, whatever the build prints; without ccache the build's own log is read.
    """

    work: Path
    done: int = 0
    last: str = ""
    _position: int = 0
    _cached: bool = False
    _named: str = ""
    _configured: str = ""
    _planned: int = 0

    @property
    def _top(self) -> Path:
        return self.work / "scratch" / "build"

    def update(self) -> None:
        """Read what was written since the last call, at most 1 MiB."""
        data = outputs.piece(self._top, CCACHE_LOG, self._position if self._cached else 0, _MOST)
        if data and not self._cached:
            self._cached, self._position, self.done = True, 0, 0
        elif not self._cached:
            data = outputs.piece(self.work, "log", self._position, _MOST)
        whole = data[: data.rfind(b"\n") + 1] or data[:_MOST] * (len(data) == _MOST)
        self._position += len(whole)
        for line in whole.split(b"\n"):
            if name := self._compiled(line[: outputs.LINE]):
                self.done, self.last = self.done + 1, name

    def _compiled(self, line: bytes) -> str:
        """Return the name of a file that a line says was compiled; empty for every other line."""
        if not self._cached:
            found = _PRINTED.match(line)
            return _first(found) if found else ""
        if found := _NAMED.match(line):
            self._named = _first(found)
        return self._named if line in ccache.RESULTS else ""

    def finish(self) -> int:
        """Read the rest, and return the number of compilations."""
        before = -1
        while before != self._position:
            before = self._position
            self.update()
        return self.done

    def planned(self) -> int:
        """Count what the kernel tree of this build lists for compilation; 0 before it is configured, or without one.

        Counted anew when the configuration is another one: a spec of Red Hat's configures its tree several times.
        """
        tree = next(iter(_kernel_trees(self._top)), None)
        if tree is None:
            return 0

        def read(path: str) -> str:
            data = outputs.piece(self._top, f"{tree}/{path}", 0, _MAX_MAKEFILE, links=_COPIES)
            return data.decode(errors="replace")

        configured = read(".config")
        if configured != self._configured:
            found = (_CONFIGURED.fullmatch(line) for line in configured.splitlines())
            self._planned = kbuild.count_objects(read, {row[1]: row[2] for row in found if row})
            self._configured = configured
        return self._planned


def _first(found: re.Match[bytes]) -> str:
    return next((name for name in found.groups() if name), b"").decode(errors="replace")


def _kernel_trees(top: Path) -> Iterator[str]:
    """Yield the configured kernel trees below BUILD: there, or one directory below as a spec of Red Hat's has them."""
    outer = [f"BUILD/{name}" for name in outputs.names(top, "BUILD")]
    inner = (f"{place}/{name}" for place in outer for name in outputs.names(top, place) if name.startswith("linux-"))
    for place in itertools.chain(outer, inner):
        if {".config", "Makefile"} <= set(outputs.names(top, place)):
            yield place
