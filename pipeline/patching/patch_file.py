"""Read a patch file with three readers that must agree: its files, hunks and digests.

`scan` reads strictly and names the line of every mistake; unidiff and git are the witnesses: both
must see the same files and counts, so that no other program finds in the patch what we did not.
Knows nothing of roles and changes no file.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from pipeline.core import neutral, process
from pipeline.errors import Refused
from pipeline.patching import encodings, file_names
from pipeline.patching.parser import FileChange, Hunk, Kind, Scan, scan

__all__ = ["FileChange", "Hunk", "Kind", "PatchFile", "between", "git_environment", "parse"]

_WHOLE = 10_000_000  # lines of context: more than any file has


@dataclass(frozen=True)
class PatchFile:
    """A whole patch: its content and its digests.

    `patch_id` is `git patch-id --stable` (line numbers and blanks play no part); None where git has
    none, as without `diff` lines, or several. `restored` counts the blank context lines missing at
    the very end, which GNU patch puts back by itself. `whole_files`: each hunk shows its whole file.
    """

    name: str
    data: bytes = field(repr=False)
    sha256: str
    patch_id: str | None
    files: tuple[FileChange, ...]
    restored: int
    whole_files: bool = False

    @property
    def complete(self) -> bytes:
        """The patch with the missing blank lines at its end restored, as git and unidiff require."""
        return _complete(self.data, self.restored)

    @property
    def hunks(self) -> int:
        """Hunks in all files."""
        return sum(len(change.hunks) for change in self.files)

    @property
    def added(self) -> int:
        """Lines added in all files."""
        return sum(change.added for change in self.files)

    @property
    def removed(self) -> int:
        """Lines removed in all files."""
        return sum(change.removed for change in self.files)

    def added_lines(self) -> Iterator[tuple[FileChange, bytes]]:
        """Every added line with its file."""
        return ((change, line) for change in self.files for line in change.added_lines())


def parse(data: bytes, name: str) -> PatchFile:
    """Parse a patch in unified format, plain or git's; paths are after `-p1`.

    Raises `Refused`, naming patch, file and line, for paths or links that leave the tree, cut or
    overlong hunks, binary changes, other kinds of diff, and whatever the readers disagree on.
    """
    encodings.check(data, name)
    found = scan(data, name)
    _check_overlaps(found.files, name, encodings.mails(data))
    complete = _complete(data, found.restored)
    _ask_unidiff(complete, name, found)
    _ask_git(complete, name, found)
    return PatchFile(name, data, hashlib.sha256(data).hexdigest(), _patch_id(data), found.files, found.restored)


def between(root: Path, before: str, after: str, name: str) -> PatchFile:
    """Return what changes between two directories below `root`, as one patch that shows whole files.

    A rename is a deleted and an added file. Raises `Refused` for a file that is no text.
    """
    argv = ["git", "diff", "--no-index", "--no-prefix", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames"]
    argv += ["--text", f"--unified={_WHOLE}", before, after]
    data = process.run(argv, cwd=root, env=git_environment(), accept=(0, 1)).out
    files = scan(data, name).files if data else ()
    return PatchFile(name, data, hashlib.sha256(data).hexdigest(), None, files, 0, whole_files=True)


def _patch_id(data: bytes) -> str | None:
    rows = process.run(["git", "patch-id", "--stable"], env=git_environment(), stdin=data).text.splitlines()
    return rows[0].split()[0] if len(rows) == 1 else None


def git_environment() -> dict[str, str]:
    """Return the environment of git programs, without repositories and personal settings.

    Inside a checkout `git apply` would silently skip every file outside the directory it is in.
    """
    nowhere = {"GIT_DIR": "/dev/null", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    return process.clean_environment(**nowhere, GIT_ATTR_NOSYSTEM="1")


def _complete(data: bytes, restored: int) -> bytes:
    return data + b" \n" * restored


def _check_overlaps(files: Iterable[FileChange], name: str, mails: int) -> None:
    """Refuse a path that is there twice or below another: a file cannot be a directory too."""
    seen: dict[str, FileChange] = {}
    for change in files:
        for path in change.paths:
            if path in seen and mails > 1:
                raise Refused(
                    f"patch {name}, file {path}: {mails} mails in one file change it one after another; expected one",
                    where=f"{name}:{change.line}",
                    why="each is a patch of its own, with its own place in the series",
                    hint=f"mkdir mails && git mailsplit -omails {neutral.word(name)}",
                )
            if path in seen:
                raise _refused(name, change, f"{path} is named by an earlier section too, at line {seen[path].line}")
            seen[path] = change
    for path, change in seen.items():
        parts = path.split("/")
        for above in ("/".join(parts[:count]) for count in range(1, len(parts))):
            if above in seen:
                what = "a symbolic link that the patch makes" if seen[above].link else "a file of the patch"
                raise _refused(name, change, f"{path} is placed below {above}, {what} at line {seen[above].line}")


def _refused(name: str, change: FileChange, what: str) -> Refused:
    return Refused(
        f"patch {name}, file {change.path}: {what}",
        where=f"{name}:{change.line}",
        why="which file is written would depend on the program that applies it",
        hint=f"look at {name}:{change.line}; a patch is taken whole from its source, never edited",
    )


def _ask_unidiff(complete: bytes, name: str, found: Scan) -> None:
    from unidiff.errors import UnidiffParseError
    from unidiff.patch import PatchSet

    def path(source: str, target: str) -> str:
        raw = source if target == file_names.DEV_NULL else target
        return file_names.unquoted(raw.encode("latin-1")).decode(errors="replace").partition("/")[2]

    try:
        seen = PatchSet(io.StringIO(complete.decode("latin-1")), metadata_only=True)
    except UnidiffParseError as error:
        raise _disagree(name, "unidiff", str(error).strip()) from None
    theirs = [(path(f.source_file, f.target_file), len(f), f.added, f.removed) for f in seen]
    ours = [(change.path, len(change.hunks), change.added, change.removed) for change in found.files]
    _same(name, "unidiff", ours, theirs)


def _ask_git(complete: bytes, name: str, found: Scan) -> None:
    argv = ["git", "apply", "--numstat", "-z", "-p1"]
    result = process.run(argv, env=git_environment(), stdin=complete, accept=(0, 1, 128))
    if result.status:
        output = result.error_text.strip().splitlines() or ["no reason given"]
        line = re.search(r"line (\d+)", output[0])
        raise _disagree(name, "git apply", output[0], f":{line[1]}" if line else "")
    rows = (row.split("\t", 2) for row in result.out.decode(errors="replace").split("\0") if row)
    theirs = [(path, added, removed) for added, removed, path in rows]
    _same(name, "git apply", [(c.path, str(c.added), str(c.removed)) for c in found.files], theirs)


def _same(name: str, reader: str, ours: Sequence[object], theirs: Sequence[object]) -> None:
    for mine, other in zip_longest(ours, theirs):
        if mine != other:
            raise _disagree(name, reader, f"it sees {other or 'nothing'} where this reader sees {mine or 'nothing'}")


def _disagree(name: str, reader: str, what: str, line: str = "") -> Refused:
    return Refused(
        f"patch {name}: {reader} reads the patch differently: {what}",
        where=f"{name}{line}",
        why="two programs that read a patch differently would build two kernels",
        hint=f"git apply --numstat -p1 {neutral.word(name)}",
    )
