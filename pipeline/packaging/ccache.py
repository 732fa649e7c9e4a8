"""Locate the compiler cache of a build, and read its statistics.

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
from typing import TYPE_CHECKING

from pipeline.core import neutral, resources
from pipeline.errors import Refused, UsageError
from pipeline.packaging import outputs
from pipeline.sandbox.runtime import build_user, chown_to_build_user

if TYPE_CHECKING:
    from pipeline.config.line_model import Line

FILE_DIGEST_MARK = "+"  # in a directory's name: between a line's name, which cannot have it, and its file's digest
REMOTE_MARK = ".remote"  # behind the kind of a local cache: of builds that had a remote one too
_DIGITS = 8
_OWN_LEVELS = 3  # directories above a cache that are ours: of the image, of the line file, of all caches

# One counter a line and call, `#` before the name of the compiled file. `ccache --show-log-stats` counts the same.
_HITS = frozenset({b"direct_cache_hit", b"preprocessed_cache_hit"})
_MISS = b"cache_miss"
RESULTS = _HITS | {_MISS}
_MAX_LOG = 64 << 20  # bytes; a whole kernel's has 3 MiB


def directory(caches: Path, line: Line, image: str) -> Path:
    """Return the directory below `caches` for a line file's builds in an image, with one cache per kind of step.

    Two files that give their lines the same name have caches of their own.
    """
    own = line.files[0].resolve()
    mark = (
        ""
        if own.parent == resources.lines_dir()
        else f"{FILE_DIGEST_MARK}{hashlib.sha256(os.fsencode(own)).hexdigest()[:_DIGITS]}"
    )
    return caches / f"{line.name}{mark}" / image


@dataclass(frozen=True)
class RemoteCaches:
    """Caches beside a host's own, laid out as these: read, or by the one host that fills them written too.

    Builds that have one keep what they take of it in local caches of their own: without it nothing of it is used.
    """

    place: Path
    writes: bool

    def storage(self, inside: str) -> str:
        """Return the value of ccache's `remote_storage`: a directory, as a sandbox has no network."""
        return f"file:{inside}" if self.writes else f"file:{inside}|read-only"

    def mounted(self, kind: str) -> Path | None:
        """Return the cache of a kind of step as a mount takes it; None for one that nobody has filled.

        Raises `Refused` as `prepare`, and where one that is only read could be written by anybody.
        """
        place = self.place / kind
        if self.writes:
            return prepare(place)
        if not place.exists():
            return None
        for above in (*reversed(place.parents[:_OWN_LEVELS]), place):
            _check(above, None)
        return place.resolve()


def opened_remote(root: Path | None, line: Line, image: str, *, writes: bool) -> RemoteCaches | None:
    """Return the caches of a line file and image below the directory `root`; None without one. Raises `UsageError`."""
    if root is None:
        if writes:
            what = "--ccache-writer: expected --ccache-remote, the directory to fill, beside it"
            raise UsageError(what, hint="./inv build-all --ccache-remote DIR --ccache-writer")
        return None
    if not root.is_dir():
        why = "a directory made now, where a file system is not mounted, would be another one"
        what = f"ccache-remote: {root}; expected a directory that exists"
        raise UsageError(what, why=why, hint=f"mkdir {neutral.word(root)}, or mount it")
    return RemoteCaches(directory(root, line, image), writes)


def prepare(place: Path) -> Path:
    """Create the cache `place` where there is none, for the build user alone; return its path as a mount takes it.

    No other user can reach the cache, whatever mode a build sets: a program in the cache could have the
    set-user-id bit. `place` is as `directory` says, and below it the kind of step. Raises `Refused` where a link or
    another user's directory is on the way.
    """
    for above in reversed(place.parents[:_OWN_LEVELS]):
        with contextlib.suppress(FileExistsError):
            above.mkdir(0o700, parents=True)
        _check(above, os.geteuid())
        above.chmod(0o700)
    if not place.is_symlink() and not place.exists():
        _create(place)
    _check(place, build_user())
    place.chmod(0o700)  # a build may have closed it to the next one
    return place.resolve()


def _create(place: Path) -> None:
    """Create the directory and rename it into place, as another run may do the same."""
    made = Path(tempfile.mkdtemp(dir=place.parent, prefix=".new-"))  # mode 0700
    chown_to_build_user(made)
    try:
        made.rename(place)
    except OSError:  # the other run was faster, and has put something into its own
        made.rmdir()


def _check(place: Path, user: int | None) -> None:
    """Raise `Refused` for what is no directory of `user`, None for any user, or may be written by anybody."""
    status = place.lstat()
    if stat.S_ISLNK(status.st_mode):
        got = "a link"
    elif not stat.S_ISDIR(status.st_mode):
        got = "a file of another kind"
    elif user is not None and status.st_uid != user:
        got = f"a directory of user {status.st_uid}"
    elif status.st_mode & stat.S_IWOTH:
        got = "a directory that anybody may write"
    else:
        return
    of = "" if user is None else f" of user {user}"
    raise Refused(
        f"compiler cache {place}: expected a directory{of}, got {got}",
        where=str(place),
        why="its content is used as the compiler's output",
        hint="./inv clean ccache, or build without it: --no-ccache",
    )


@dataclass(frozen=True)
class CacheStatistics:
    """Numbers of compilations taken from the cache, and of those that were executed."""

    hits: int
    misses: int

    def __str__(self) -> str:
        total = self.hits + self.misses
        return f"{self.hits} of {total} compilations ({100 * self.hits / total:.1f} %)" if total else "no compilation"


def read_statistics(top: Path, log: str) -> CacheStatistics | None:
    """Count the entries of a build's log, a path below its top directory; None without any compilation.

    The build wrote the log, and could have written other figures: they decide nothing.
    """
    hits = misses = 0
    for line in outputs.lines(top, log, _MAX_LOG):
        hits += line.rstrip(b"\n") in _HITS
        misses += line.rstrip(b"\n") == _MISS
    return CacheStatistics(hits, misses) if hits + misses else None


def total(counts: Iterable[CacheStatistics]) -> CacheStatistics:
    """Return the sum over several builds."""
    counts = list(counts)
    return CacheStatistics(sum(count.hits for count in counts), sum(count.misses for count in counts))
