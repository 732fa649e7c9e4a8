"""Check the lead of an RPM file before one of rpm's programs opens it.

rpm takes a file that does not begin so for a manifest: a list of other files and of URLs, which it then fetches.
Format: lib/rpmlead.c and RPM's docs/manual/format_lead.md.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pipeline.errors import Refused

MAGIC = b"\xed\xab\xee\xdb"
SIZE = 96
_LEAD = struct.Struct(">4sBB72xH")  # magic, version, and at 78 the type of the signature: 5, a header


def is_lead(data: bytes) -> bool:
    """Return whether `data` begins with a lead that rpm accepts."""
    if len(data) < SIZE:
        return False
    magic, major, _, signature = _LEAD.unpack_from(data)
    return magic == MAGIC and major in (3, 4) and signature == 5


@contextlib.contextmanager
def opened(rpm: Path) -> Iterator[IO[bytes]]:
    """Open a package as standard input for a program, so that rpm cannot interpret its name.

    rpm's programs expand macros and wildcards in what they are given, and take a URL for one. Raises `Refused` for
    what is no regular file, or does not begin as a package does.
    """
    try:
        handle = os.open(rpm, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"a package that cannot be opened: {error.strerror}", where=str(rpm)) from None
    with os.fdopen(handle, "rb", buffering=0) as stream:
        regular = stat.S_ISREG(os.fstat(handle).st_mode)
        if not regular or not is_lead(os.pread(handle, SIZE, 0)):
            got = "other first bytes" if regular else "no regular file"
            why = "rpm would take it for a list of other packages, and of URLs to fetch"
            raise Refused(f"{rpm.name}: not an RPM package; expected one, got {got}", where=str(rpm), why=why)
        yield stream
