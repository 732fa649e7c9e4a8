"""Read and write a published repository on another host, or in another directory, with rsync.

rsync writes each file and each link under a temporary name and renames it, so that a reader of the target sees the old
or the new one. Knows nothing of snapshots.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import neutral, process, temporary
from pipeline.core.fs import read_limited
from pipeline.core.process import ProgramFailed
from pipeline.errors import HostLacks, PipelineError, Refused, Unreachable

STALLED = 120  # seconds without a byte before rsync gives up
_INHERITED = ("SSH_AUTH_SOCK", "RSYNC_RSH", "RSYNC_PASSWORD", "RSYNC_PROXY", "USER", "LOGNAME")
_REMOTE = re.compile(r"rsync://|[^/]*:")  # rsync(1): a colon before any slash
# Web servers read what is there, and the next publication writes it, whatever the modes of the source are.
_COPY = ("--recursive", "--links", "--times", "--chmod=D755,F644")
_MISSING = "No such file or directory (2)"
_FULL = ("No space left on device", "Disk quota exceeded")
_CONNECTION = (5, 10, 12, 30, 35, 255)  # rsync(1), exit values; 255 is ssh's


@dataclass(frozen=True)
class Target:
    """A directory, `HOST:DIRECTORY` for ssh, or `rsync://HOST/MODULE`."""

    name: str

    @property
    def directory(self) -> Path | None:
        """The target's path on this host, None where it is on another one."""
        return None if _REMOTE.match(self.name) else Path(self.name)

    def names(self, below: str = "") -> list[str] | None:
        """Return the names in a directory of the target; None where it is missing."""
        done = self._run(["--list-only", "--no-h", "--", f"{self._path(below)}/"], accept=(0, 23))
        if done.status and _MISSING in done.error_text:
            return None
        if done.status:
            raise self._failure(ProgramFailed(f"rsync failed with exit status {done.status}", done.argv, done))
        rows = (line.split(maxsplit=4) for line in done.text.splitlines())
        return [row[4].partition(" -> ")[0] for row in rows if len(row) == 5 and row[4] != "."]

    def read(self, file: str, most: int) -> bytes | None:
        """Return the content of a file of the target, None where it is missing."""
        with temporary.scratch("rsync-") as place:
            done = self._run(["--links", "--", self._path(file), f"{place}/copy"], accept=(0, 23))
            if done.status and _MISSING in done.error_text:
                return None
            return read_limited(place / "copy", most)

    def copy(self, base: Path, names: Iterable[str], below: str, *options: str) -> None:
        """Copy files and directories of `base`, with the directories above them, into a directory of the target."""
        sources = [f"{base}/./{name}" for name in names]
        self._run([*_COPY, "--relative", *options, "--", *sources, f"{self._path(below)}/"])

    def copy_exactly(self, base: Path, name: str, below: str) -> None:
        """Copy a directory so that the target has the same files with the same digests and no others.

        What a comparison that reads both sides whole finds different is copied once more. Raises `Refused` where that
        does not help.
        """
        self.copy(base, [name], below, "--delete")
        if self._differing(base, name, below):
            self.copy(base, [name], below, "--delete", "--checksum")
            if differing := self._differing(base, name, below):
                raise Refused(
                    f"{name}: not the same on the target after it was copied; expected the same digests",
                    where=f"{self.name}: {differing[0]}",
                    why="the files are changed there or on the way",
                    hint=neutral.command(["rsync", f"{self._path(below)}/{name}/"]),
                )

    def _differing(self, base: Path, name: str, below: str) -> list[str]:
        words = [*_COPY, "--relative", "--delete", "--checksum", "--dry-run", "--itemize-changes"]
        done = self._run([*words, "--", f"{base}/./{name}", f"{self._path(below)}/"])
        # The first column of an attribute that alone differs, such as a directory's time, is a dot.
        return [row for row in done.text.splitlines() if not row.startswith(".")]

    def mirror(self, base: Path, below: str, rules: Sequence[str]) -> None:
        """Make the part of a directory of the target that the filter `rules` name what `base` is; `-` lines protect.

        All files change at the end, one rename each.
        """
        filters = [word for rule in rules for word in ("--filter", rule)]
        words = [*_COPY, "--checksum", "--delete", "--delay-updates", *filters]
        self._run([*words, "--", f"{base}/", f"{self._path(below)}/"])

    def _path(self, below: str) -> str:
        start = self.name if self.directory is None else str(self.directory.absolute())
        return f"{start.rstrip('/')}/{below}".rstrip("/") if below else start.rstrip("/") or "/"

    def _run(self, words: Sequence[str], accept: Iterable[int] = (0,)) -> process.Result:
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        env = process.clean_environment(**inherited)
        # Arguments protected from the remote shell: rsync(1), --secluded-args by the name that older versions take too.
        argv = ["rsync", "-s", f"--timeout={STALLED}", *words]
        try:
            return process.run(argv, env=env, accept=accept)
        except ProgramFailed as error:
            raise self._failure(error) from error

    def _failure(self, error: ProgramFailed) -> PipelineError:
        """Return the error behind a failure of rsync."""
        text = error.result.error_text if error.result else ""
        why = "; ".join(line.strip() for line in text.strip().splitlines()[:3]) or error.what
        hint = "run the same command again: it goes on where this one ended"
        if any(word in text for word in _FULL):
            what = "the target: no disk space is left; expected enough for a snapshot beside those that are kept"
            return HostLacks(what, where=self.name, why=why, hint=f"free some space there, then {hint}")
        if error.result is not None and error.result.status in _CONNECTION:
            what = "the target: not reached, or lost; expected an rsync server or ssh that answers without a question"
            return Unreachable(what, where=self.name, why=why, hint=neutral.command(["rsync", f"{self._path('')}/"]))
        what = "the target: rsync failed; expected a directory that may be read and written"
        return HostLacks(what, where=self.name, why=why, hint=neutral.command(["rsync", f"{self._path('')}/"]))
