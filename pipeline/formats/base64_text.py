"""Decode a file that stands in base64 between two lines of a text, such as a shell script with its data inside.

Knows neither where the text comes from nor what the file is for.
"""

from __future__ import annotations

import base64
import binascii
import re

from pipeline.errors import Refused

_FOREIGN = re.compile(rb"[^A-Za-z0-9+/=]")


def decoded(text: bytes, after: str, before: str, size: int) -> bytes:
    """Return the `size` bytes between the line `after`, which `text` has once, and the next line `before`.

    A line may end with LF or with CRLF, whatever the others end with. Raises `Refused` for anything that is not
    padded base64 of exactly that size, before it is decoded.
    """
    lines = [line.removesuffix(b"\r") for line in text.split(b"\n")]
    first = _following(lines, after)
    try:
        end = lines.index(before.encode(), first)
    except ValueError:
        raise Refused(f"line {before!r}: not found; expected one after line {first}") from None
    for number, line in enumerate(lines[first:end], first + 1):
        if foreign := _FOREIGN.search(line):
            raise Refused(f"line {number}: {foreign[0]!r} at column {foreign.start() + 1}; expected base64")
    encoded = b"".join(lines[first:end])
    if len(encoded) != (characters := -(-size // 3) * 4):
        what = f"{len(encoded)} characters of base64; expected {characters}, for {size} bytes"
        raise Refused(f"lines {first + 1} to {end}: {what}")
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise Refused(f"lines {first + 1} to {end}: {error}; expected base64") from None
    if len(data) != size:
        raise Refused(f"lines {first + 1} to {end}: {len(data)} bytes; expected {size}")
    return data


def _following(lines: list[bytes], marker: str) -> int:
    """Return the index of the line after the marker's."""
    count = lines.count(marker.encode())
    if count != 1:
        raise Refused(f"line {marker!r}: {count} in the text; expected 1")
    return lines.index(marker.encode()) + 1
