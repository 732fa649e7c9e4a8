"""Check that no other user of the host can change the artifacts directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pipeline.core import neutral
from pipeline.errors import HostLacks

UMASK = 0o022  # others read what a build makes, as the build's user must; what is secret is made so by its own mode


def check(root: Path) -> None:
    """Raise `HostLacks` for another user's directory or link, and for a directory that everybody may write.

    A link of this user's to such a directory is fine: a disk may lie elsewhere. So is what is not there yet.
    """
    try:
        own = root.lstat()
        status = root.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    name = neutral.word(root)
    if stat.S_ISLNK(own.st_mode) and not _is_trusted(own):
        hint = f"name the directory itself: --artifacts {neutral.word(root.resolve())}"
        raise _refused(root, f"a link of user {own.st_uid}, who can let it lead elsewhere at any time", hint)
    if not _is_trusted(status):
        hint = f"chown -R {os.geteuid()} {name}, where all of it may be trusted; or another one: --artifacts DIR"
        raise _refused(root, f"one of user {status.st_uid}, who can change what is in it at any time", hint)
    if status.st_mode & stat.S_IWOTH:
        # The sticky bit would not help: names in it are fixed, and others could take them first.
        hint = f"chmod o-w {name}, where all of it may be trusted; or another one: --artifacts DIR"
        raise _refused(root, f"mode {stat.S_IMODE(status.st_mode):o}, with which everybody can", hint)


def _is_trusted(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _refused(root: Path, got: str, hint: str) -> HostLacks:
    user = os.geteuid()
    return HostLacks(
        f"the artifacts directory {root}: not safe; expected one that only user {user} can write, got {got}",
        where=str(root.absolute()),
        why="what others can change there would be built, signed and booted",
        hint=hint,
    )
