"""Describe the kind of an unexpected file for messages; never as a proof."""

from __future__ import annotations

import html
import re
from pathlib import Path

from pipeline.errors import Refused
from pipeline.formats import rpm_header

_READ = 4096  # bytes; a page's title is near its beginning
_BEFORE = rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--[^>]*>\s*)*"
_PAGE = re.compile(rb"(?i)" + _BEFORE + rb"<(?:!doctype\s+html|html|head|title|body|script)\b")
_TITLE = re.compile(rb"(?is)<title[^>]*>([^<]{1,200})")
_RPM = b"\xed\xab\xee\xdb"
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def of(path: Path) -> str:
    """Return a description such as "a web page with the title 'Sign in'"; empty for an unknown kind."""
    with path.open("rb") as stream:
        head = stream.read(_READ)
    if not head:
        return "nothing at all: no byte came"
    if _PAGE.match(head):
        title = _TITLE.search(head)
        if title is None:
            return "a web page"
        text = " ".join(html.unescape(title[1].decode(errors="replace")).split())
        return f"a web page with the title {''.join(c if c.isprintable() else '?' for c in text[:60])!r}"
    return _cut_rpm(path) if head.startswith(_RPM) else ""


def no_rpm(path: Path) -> str:
    """Return a description of a file without an RPM lead; empty for one that has it."""
    with path.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(_RPM):
        return ""
    packed = next((f"compressed with {name}" for magic, name in _PACKED.items() if head.startswith(magic)), "")
    return of(path) or packed or "no RPM: it does not begin as one"


def _cut_rpm(path: Path) -> str:
    size = path.stat().st_size
    try:
        announced = rpm_header.read(path).whole_size
    except Refused as error:
        return f"an RPM of {size} bytes whose headers are not whole: {error.what}"
    if announced is None or announced == size:
        return ""
    return f"an RPM of {size} bytes whose own headers announce {announced}"
