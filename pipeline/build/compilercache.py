"""How much the compiler cache helped one build, out of the log that ccache keeps of it.

The log is the build's own (CCACHE_STATSLOG), so that builds side by side are not mixed, as they are in the
statistics of the cache's directory. ccache before 4.0 writes none. Must not know what is built.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# One counter a line and call, `#` before the name of the compiled file. `ccache --show-log-stats` counts the same.
_HITS = frozenset({"direct_cache_hit", "preprocessed_cache_hit"})
_MISS = "cache_miss"


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


def counted(log: Path) -> Counted | None:
    """What a build's log counts; None when nothing was compiled through the cache.

    The build wrote the log: a link in its place is not followed.
    """
    if log.is_symlink() or not log.is_file():
        return None
    hits = misses = 0
    with log.open(errors="replace") as lines:
        for line in lines:
            hits += line.rstrip("\n") in _HITS
            misses += line.rstrip("\n") == _MISS
    return Counted(hits, misses) if hits + misses else None


def together(counts: Iterable[Counted]) -> Counted:
    """The sum of several builds."""
    counts = list(counts)
    return Counted(sum(count.hits for count in counts), sum(count.misses for count in counts))
