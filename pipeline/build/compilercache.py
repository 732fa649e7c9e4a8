"""How much the compiler cache helped one build, out of the log that ccache keeps of it.

The log is the build's own (CCACHE_STATSLOG), so that builds side by side are not mixed, as they are in the
statistics of the cache's directory. ccache before 4.0 writes none. Must not know what is built.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.build import outputs

# One counter a line and call, `#` before the name of the compiled file. `ccache --show-log-stats` counts the same.
_HITS = frozenset({b"direct_cache_hit", b"preprocessed_cache_hit"})
_MISS = b"cache_miss"
_LOG_MOST = 64 << 20  # bytes; a whole kernel's has 3 MiB


@dataclass(frozen=True)
class Counted:
    """Compilations that the cache had the result of, and those that were really done."""

    hits: int
    misses: int

    def as_dict(self) -> dict[str, int]:
        """As metadata and evidence have it."""
        return {"hits": self.hits, "misses": self.misses}

    def __str__(self) -> str:
        total = self.hits + self.misses
        return f"{self.hits} of {total} compilations ({100 * self.hits / total:.1f} %)" if total else "no compilation"


def counted(top: Path, log: str) -> Counted | None:
    """Count what the log of a build says, a path below its top directory; None when nothing was compiled through it.

    The build wrote the log, and could have written other figures: they decide nothing.
    """
    hits = misses = 0
    for line in outputs.lines(top, log, _LOG_MOST):
        hits += line.rstrip(b"\n") in _HITS
        misses += line.rstrip(b"\n") == _MISS
    return Counted(hits, misses) if hits + misses else None


def together(counts: Iterable[Counted]) -> Counted:
    """The sum of several builds."""
    counts = list(counts)
    return Counted(sum(count.hits for count in counts), sum(count.misses for count in counts))
