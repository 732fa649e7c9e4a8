"""Check file names in a patch, and the targets of its symbolic links.

A name is judged before any program sees it, and more strictly than git or GNU patch judge it:
where the two would read a name differently, it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pipeline.errors import Refused

DEV_NULL = "/dev/null"
BLANKS = "git and GNU patch read it differently"
_ESCAPE = re.compile(rb'\\([abtnvfr"\\]|[0-7]{3})')
_SIMPLE = dict(zip(b'abtnvfr"\\', b'\a\b\t\n\v\f\r"\\', strict=True))

Refuse = Callable[..., Refused]
"""Makes the error for a reason, with the place already filled in."""


def unquoted(raw: bytes) -> bytes:
    """Decode a name in git's notation: in double quotes with C escapes when unusual."""
    if len(raw) < 2 or not (raw.startswith(b'"') and raw.endswith(b'"')):
        return raw
    return _ESCAPE.sub(
        lambda m: bytes([_SIMPLE[m[1][0]] if len(m[1]) == 1 else int(m[1], 8) & 255]),
        raw[1:-1],
    )


def checked(raw: bytes, refuse: Refuse, strip: int = 1) -> str:
    """Return the path of `raw` after `-p<strip>`; return `/dev/null` unchanged.

    Raises what `refuse` makes for a name that leaves the tree, or that could be read in two ways.
    """
    if raw.endswith(b"\r"):
        raise refuse("the header has DOS line ends", why="GNU patch drops them silently and git does not")
    try:
        name = unquoted(raw).decode()
    except UnicodeDecodeError:
        raise refuse(f"the file name {ascii(raw)[1:]} is not UTF-8") from None
    if name == DEV_NULL:
        return name
    if not name.isprintable():
        raise refuse(f"the file name {name!a} holds control characters")
    if name.startswith("/"):
        raise refuse(f"the file name {name!r} is an absolute path", why="a patch may only touch the kernel tree")
    if " " in name or not name:
        raise refuse(f"the file name {name!r} is empty or holds blanks", why=BLANKS)
    parts = name.split("/")
    if ".." in parts:
        raise refuse(
            f"the file name {name!r} leaves the tree through '..'", why="a patch may only touch the kernel tree"
        )
    if len(parts) <= strip:
        raise refuse(f"the file name {name!r} has no directory that -p1 could remove")
    if "" in parts or "." in parts:
        raise refuse(f"the file name {name!r} has an empty or '.' component", why="programs strip it differently")
    if any(part.casefold() == ".git" for part in parts):
        raise refuse(f"the file name {name!r} is inside a .git directory")
    return "/".join(parts[strip:])


def check_link(path: str, target: bytes, refuse: Refuse) -> None:
    """Refuse a symbolic link at `path` that is absolute, leaves the tree, or could be made to.

    `..` is allowed at the beginning only: after a directory that is itself a link, `..` may lead
    anywhere, whatever the text looks like.
    """
    try:
        text = target.decode()
    except UnicodeDecodeError:
        raise refuse(f"the symbolic link {path} has a target that is not UTF-8") from None
    parts = text.split("/")
    ups = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    if not text or not text.isprintable():
        raise refuse(f"the symbolic link {path} has a target that is empty or holds control characters")
    if text.startswith("/"):
        raise refuse(f"the symbolic link {path} points to an absolute path: {text!r}")
    if ".." in parts[ups:]:
        raise refuse(f"the symbolic link {path} has '..' after a directory in its target: {text!r}")
    if ups > path.count("/"):
        raise refuse(f"the symbolic link {path} leaves the tree: {text!r}")
    if any(part.casefold() == ".git" for part in parts):
        raise refuse(f"the symbolic link {path} points into a .git directory: {text!r}")
