"""Ask git about a checkout, by GitPython: its commit, whether its files differ from that, and a file's last change.

The only module that asks a repository anything. A checkout may be a stranger's, and git runs programs that a
repository's configuration names: `core.fsmonitor` and filters where it compares files, hooks where it writes, commands
of remotes where a partial clone lacks an object, `gpg.program` where it shows signatures. So only `rev-list`, `ls-tree`
and `cat-file` run here, which read objects alone, without any protocol and with nobody's settings. Files are compared
by blob ids that are computed here (`git_tree`), never by `git status` or GitPython's `is_dirty`. A checkout of another
user is not read at all, as git itself does it.

Elsewhere git is no repository's: `patching` has it read and apply patches outside of any, by `core.process` and with
`GIT_DIR=/dev/null`, and `formats.git_tree` computes ids of trees that never were in a repository.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from pipeline.core import resources
from pipeline.errors import HostLacks, UsageError
from pipeline.formats import git_tree

if TYPE_CHECKING:
    from git import Commit, Repo

T = TypeVar("T")
_SUBMODULE = "160000"
_QUIET = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ALLOW_PROTOCOL": "none",  # a missing object is not fetched, by whatever command a remote names
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}


@dataclass(frozen=True)
class Checkout:
    """A checkout: its commit (40 hex digits), and whether a file in that commit is another in the directory."""

    commit: str
    dirty: bool


@dataclass(frozen=True)
class Version:
    """A file's bytes in one commit, and that commit's author and ISO 8601 time."""

    commit: str
    author: str
    date: str
    data: bytes


@dataclass(frozen=True)
class LastChange:
    """The last commit that changed a file: its author, ISO 8601 time, and whether the file was changed since."""

    commit: str
    author: str
    date: str
    modified: bool


def identity(place: Path) -> str:
    """Return the person's git identity for commits in the directory `place`, not in the current one.

    Raises `UsageError` when git has none, `HostLacks` without git.
    """
    config = _git("a pin names its author").Git(str(place)).config
    name, email = (config("--get", f"user.{each}", with_exceptions=False) for each in ("name", "email"))
    if not (name and email):
        raise UsageError(
            "git has no identity, and a pin names its author",
            hint='git config --global user.name "Your Name" && git config --global user.email you@example.org',
        )
    return f"{name} <{email}>"


def of_project() -> Checkout | None:
    """Return the state of the project's own checkout; None when it is installed, or no checkout of this user's.

    Files that git does not know play no part. Raises `HostLacks` without git.
    """
    return state_of(resources.data_root(), holds="pipeline/errors.py")


def state_of(root: Path, holds: str = "") -> Checkout | None:
    """Return the state of the checkout whose top is `root`; None where there is none, or its commit lacks `holds`.

    None too for a repository that cannot be read. Raises `HostLacks` without git.
    """

    def question(repo: Repo) -> Checkout | None:
        if _top(repo) != root.resolve():
            return None
        commit = repo.head.commit.hexsha
        listing = _listing(repo, commit)
        if holds and holds not in listing:
            return None
        return Checkout(commit, any(not _same(root / path, entry) for path, entry in listing.items()))

    return _ask(root, question)


def last_change(file: Path) -> LastChange | None:
    """Return a file's last change; None where it is in no checkout of this user's, or never was committed.

    None too for a repository that cannot be read. Raises `HostLacks` without git.
    """

    def question(repo: Repo) -> LastChange | None:
        path = file.resolve().relative_to(_top(repo)).as_posix()
        entry = _listing(repo, repo.head.commit.hexsha, path).get(path)
        commit = next(repo.iter_commits("HEAD", paths=path, max_count=1), None)
        if entry is None or commit is None:
            return None
        return LastChange(commit.hexsha, _author(commit), commit.authored_datetime.isoformat(), not _same(file, entry))

    return _ask(file.resolve().parent, question)


def history(file: Path) -> tuple[Version, ...]:
    """Return the versions of a file, the newest first, back to where it got its name; none where `last_change` is None.

    Raises `HostLacks` without git.
    """

    def question(repo: Repo) -> tuple[Version, ...]:
        path = file.resolve().relative_to(_top(repo)).as_posix()
        found = []
        for commit in repo.iter_commits("HEAD", paths=path):
            entry = _listing(repo, commit.hexsha, path).get(path)
            if entry is None:
                break
            data = repo.git.cat_file("blob", entry.blob, stdout_as_string=False, strip_newline_in_stdout=False)
            found.append(Version(commit.hexsha, _author(commit), commit.authored_datetime.isoformat(), data))
        return tuple(found)

    return _ask(file.resolve().parent, question) or ()


def _author(commit: Commit) -> str:
    return f"{commit.author.name} <{commit.author.email}>"


def _git(why: str) -> ModuleType:
    try:
        import git
    except ImportError:  # so GitPython says that there is no git
        raise HostLacks("the program git is not installed", why=why, hint="./inv doctor") from None
    return git


def _ask(directory: Path, question: Callable[[Repo], T | None]) -> T | None:
    """Put a question to the repository of the checkout that `directory` is in; None where no commit can be read."""
    git = _git("the commit of a checkout is recorded")
    try:
        with git.Repo(directory, search_parent_directories=True) as repo:
            owners = {Path(place).stat().st_uid for place in (repo.git_dir, repo.common_dir)}
            repo.git.update_environment(**_QUIET, GIT_DIR=str(repo.git_dir))
            if repo.bare or owners != {os.geteuid()} or not repo.head.is_valid():
                return None
            return question(repo)
    except (git.exc.GitError, git.exc.ODBError, ValueError, OSError):
        return None


def _top(repo: Repo) -> Path:
    return Path(str(repo.working_tree_dir)).resolve()


def _listing(repo: Repo, commit: str, *paths: str) -> dict[str, git_tree.Entry]:
    """Return the files of a commit, or those of `paths` in it."""
    text = repo.git.ls_tree("-r", "-z", "--full-tree", commit, "--", *paths, strip_newline_in_stdout=False)
    rows = (row.partition("\t") for row in text.split("\0") if row)
    entries = {path: git_tree.Entry(*about.split()[::2]) for about, _, path in rows}
    return {path: entry for path, entry in entries.items() if entry.mode != _SUBMODULE}


def _same(file: Path, entry: git_tree.Entry) -> bool:
    """Tell whether a file on disk has the committed bytes and mode. Line ends that git converts count as a change."""
    try:
        if stat.S_IFMT(file.lstat().st_mode) not in (stat.S_IFREG, stat.S_IFLNK):
            return False  # a pipe would never end
        return git_tree.of_directory(file.parent, [file.name]).get(file.name) == entry
    except OSError:
        return False
