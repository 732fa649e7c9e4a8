"""Where the compiler cache of a build lies, and how much that cache helped.

What one build leaves in a cache is compiled into the next one that has the cache. So builds share one only where they
have the same author: a line file, in one image, for one kind of step. How much a cache helped is in the log that ccache
keeps of a build (CCACHE_STATSLOG), so that builds side by side are not mixed, as they are in the statistics of the
cache's directory. ccache before 4.0 writes none. Must not know what is built.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.line_model import Line
from pipeline.core import resources
from pipeline.errors import Refused
from pipeline.packaging import outputs
from pipeline.sandbox.runtime import build_user, give

MARK = "+"  # in the name of a directory, between a line's name, which cannot have it, and the digest of its file's path
_DIGITS = 8
_ABOVE = 3  # directories above a cache that are ours: of the image, of the line file, of all caches

# One counter a line and call, `#` before the name of the compiled file. `ccache --show-log-stats` counts the same.
_HITS = frozenset({b"direct_cache_hit", b"preprocessed_cache_hit"})
_MISS = b"cache_miss"
_LOG_MOST = 64 << 20  # bytes; a whole kernel's has 3 MiB


def directory(caches: Path, line: Line, image: str) -> Path:
    """Return the directory below `caches` of the caches that a line file's builds in an image have, one for each kind.

    Two files that give their lines the same name have caches of their own.
    """
    own = line.files[0].resolve()
    mark = (
        "" if own.parent == resources.lines_dir() else f"{MARK}{hashlib.sha256(os.fsencode(own)).hexdigest()[:_DIGITS]}"
    )
    return caches / f"{line.name}{mark}" / image


def prepared(place: Path) -> Path:
    """Make the cache `place` where there is none, the build user's and nobody else's; its path as a mount takes it.

    No other user may go the way to it, whatever mode a build gives the cache: a program in it could bear the
    set-user-id bit. `place` is as `directory` says, and below it the kind of step. Raises `Refused` where a link or
    another user's directory is on the way.
    """
    for above in reversed(place.parents[:_ABOVE]):
        with contextlib.suppress(FileExistsError):
            above.mkdir(0o700, parents=True)
        _check(above, os.geteuid())
        above.chmod(0o700)
    if not place.is_symlink() and not place.exists():
        _make(place)
    _check(place, build_user())
    place.chmod(0o700)  # a build may have closed it to the next one
    return place.resolve()


def _make(place: Path) -> None:
    """Makes it whole at once: another run may be at the same."""
    made = Path(tempfile.mkdtemp(dir=place.parent, prefix=".new-"))  # mode 0700
    give(made)
    try:
        made.rename(place)
    except OSError:  # the other run was faster, and has put something into its own
        made.rmdir()


def _check(place: Path, user: int) -> None:
    status = place.lstat()
    if stat.S_ISLNK(status.st_mode):
        got = "a link"
    elif not stat.S_ISDIR(status.st_mode):
        got = "no directory"
    elif status.st_uid != user:
        got = f"a directory of user {status.st_uid}"
    elif status.st_mode & stat.S_IWOTH:
        got = "a directory that anybody may write"
    else:
        return
    raise Refused(
        f"the compiler cache {place}: {got}; expected a directory of user {user}",
        where=str(place),
        why="what lies in it is taken for what a compiler made",
        hint="./inv clean ccache, or build without it: --no-ccache",
    )


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
