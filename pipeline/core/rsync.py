"""Read and write a directory of another host, or another directory of this one, with rsync.

rsync writes each file and each changed link under a temporary name and renames it, so that a reader of the target sees
the old or the new one. Must not know what lies there.
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
CONNECT = 30  # seconds to wait for a connection to a server of rsync's own protocol; ssh has a setting for that
_INHERITED = ("SSH_AUTH_SOCK", "RSYNC_RSH", "RSYNC_PASSWORD", "RSYNC_PROXY", "USER", "LOGNAME")
_REMOTE = re.compile(r"rsync://|[^/]*:")  # rsync(1): a colon before any slash
# Web servers read what is there, and the next publication writes it, whatever the modes of the source are.
_COPY = ("--recursive", "--links", "--times", "--chmod=D755,F644")
_MISSING = "No such file or directory (2)"
_VANISHED = 24  # rsync(1), exit values: what was listed was removed before it was read
_EXISTS = "File exists (17)"
_FULL = ("No space left on device", "Disk quota exceeded")
_CONNECTION = (5, 10, 12, 30, 35, 255)  # rsync(1), exit values; 255 is ssh's


def is_remote(name: str) -> bool:
    """Return whether rsync takes a name for one on another host."""
    return _REMOTE.match(name) is not None


@dataclass(frozen=True)
class Target:
    """A directory, `HOST:DIRECTORY` for ssh, or `rsync://HOST/MODULE`; `role` is what messages call it."""

    name: str
    role: str = "the target"

    @property
    def directory(self) -> Path | None:
        """The target's path on this host, None where it is on another one."""
        return None if is_remote(self.name) else Path(self.name)

    def names(self, below: str = "") -> list[str] | None:
        """Return the names in a directory of the target; None where it is missing."""
        found = self.entries(below)
        return None if found is None else list(found)

    def entries(self, below: str = "", rules: Sequence[str] = ()) -> dict[str, str] | None:
        """Return the kind of each name in a directory of the target, as `ls -l` shows it; None where it is missing.

        With filter `rules` also of what lies deeper, by its path: they say what. No link is followed.
        """
        filters = [word for rule in rules for word in ("--filter", rule)]
        deeper = ["--recursive", *filters] if rules else []
        done = self._run(["--list-only", "--no-h", *deeper, "--", f"{self._path(below)}/"], accept=(0, 23))
        if done.status and _MISSING in done.error_text:
            return None
        if done.status:
            raise self._failure(ProgramFailed(f"rsync failed with exit status {done.status}", done.argv, done))
        rows = (line.split(maxsplit=4) for line in done.text.splitlines())
        return {row[4].partition(" -> ")[0]: row[0][0] for row in rows if len(row) == 5 and row[4] != "."}

    def read(self, file: str, most: int) -> bytes | None:
        """Return the content of a file of the target, None where it is missing. Raises as `fetch`."""
        with temporary.scratch("rsync-") as place:
            copy = place / "copy"
            return read_limited(copy, most) if self.fetch(file, copy, most) else None

    def fetch(self, file: str, copy: Path, most: int) -> bool:
        """Copy a file of the target to the new file `copy`; return False where it is missing.

        Raises `Refused` for anything but a regular file of at most `most` bytes. More is not written, whatever size
        the other side named before.
        """
        options = [f"--max-size={most}", "--whole-file", "--chmod=F644"]
        done = self._run([*options, "--", self._path(file), str(copy)], accept=(0, 23, _VANISHED), most=most)
        if done.status == _VANISHED or (done.status and _MISSING in done.error_text):
            return False
        if done.status:
            raise self._failure(ProgramFailed(f"rsync failed with exit status {done.status}", done.argv, done))
        if copy.is_symlink() or not copy.is_file():
            raise Refused(f"{file}: expected a regular file of at most {most} bytes", where=self.name)
        return True

    def link(self, file: str = "") -> str | None:
        """Return what a symbolic link of the target, or the target as one, says; None where there is no link."""
        with temporary.scratch("rsync-") as place:
            copy = place / "copy"
            self._run(["--links", "--max-size=0", "--", self._path(file), str(copy)], accept=(0, 23, _VANISHED), most=0)
            return str(copy.readlink()) if copy.is_symlink() else None

    def add(self, base: Path, name: str, *options: str) -> bool:
        """Copy a file or symbolic link of `base` where there is none of its name; return whether it was copied.

        Of two that add a link at a time one does: rsync makes a link that it did not see by one symlink(2). Of two
        that add a file the last one's stays.
        """
        words = [*_COPY, "--relative", "--ignore-existing", "--itemize-changes", *options]
        done = self._run([*words, "--", f"{base}/./{name}", f"{self._path('')}/"], accept=(0, 23))
        if done.status and _EXISTS not in done.error_text:
            raise self._failure(ProgramFailed(f"rsync failed with exit status {done.status}", done.argv, done))
        rows = (row.split(maxsplit=1) for row in done.text.splitlines())
        return any(len(row) == 2 and row[0][1:2] in "fL" and row[1].partition(" -> ")[0] == name for row in rows)

    def is_same(self, base: Path, name: str, *options: str) -> bool:
        """Return whether a file of the target has the bytes of the one in `base`, both read whole."""
        return not self._differing(base, name, "", *options)

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

    def _differing(self, base: Path, name: str, below: str, *options: str) -> list[str]:
        words = [*_COPY, "--relative", "--delete", "--checksum", "--dry-run", "--itemize-changes", *options]
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

    def _run(self, words: Sequence[str], accept: Iterable[int] = (0,), most: int | None = None) -> process.Result:
        """Run rsync, which writes no file of more than `most` bytes here."""
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        env = process.clean_environment(**inherited)
        # Arguments protected from the remote shell: rsync(1), --secluded-args by the name that older versions take too.
        connect = [f"--contimeout={CONNECT}"] if self.name.startswith("rsync://") else []
        limited = [] if most is None else ["prlimit", f"--fsize={most}", "--core=0"]
        argv = [*limited, "rsync", "-s", f"--timeout={STALLED}", *connect, *words]
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
            what = f"{self.role}: no disk space is left; expected enough for what is copied beside what is kept"
            return HostLacks(what, where=self.name, why=why, hint=f"free some space there, then {hint}")
        if error.result is not None and error.result.status in _CONNECTION:
            what = f"{self.role}: not reached, or lost; expected an rsync server or ssh that answers without a question"
            return Unreachable(what, where=self.name, why=why, hint=neutral.command(["rsync", f"{self._path('')}/"]))
        what = f"{self.role}: rsync failed; expected a directory that may be read and written"
        return HostLacks(what, where=self.name, why=why, hint=neutral.command(["rsync", f"{self._path('')}/"]))
