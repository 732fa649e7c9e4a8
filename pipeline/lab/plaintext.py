"""Makes text that came out of a guest harmless to look at.

Nothing in it can move a cursor, turn the direction of a line, or be what XML does not allow.

Says nothing of HTML's own characters: the template escapes those.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import BaseModel

# ECMA-48: control sequences, then strings that end with BEL or ST, then other escapes. What firmware and init say to
# a terminal; without its end a string is left alone, so that it cannot swallow the rest of a console.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[P\]X^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ\\`-~])")
# Controls, what turns the direction of text, halves of surrogate pairs, and what XML 1.0 does not allow.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


M = TypeVar("M", bound=BaseModel)


def plain(text: str) -> str:
    """`text` without escape sequences, other unseen characters shown: `^G`, `‹U+202E›`. Lines stay lines."""
    return _UNSEEN.sub(_shown, _ESCAPES.sub("", text.replace("\r\n", "\n")))


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20 or code == 0x7F:
        return f"^{chr(code ^ 0x40)}"  # as terminals and `cat -v` show it: few fonts have Unicode's control pictures
    return f"‹U+{code:04X}›"


def cleaned(model: M) -> M:
    """The document with every text in it made `plain`, keys of mappings too."""
    return type(model).model_validate(_cleaned(model.model_dump()))


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_cleaned(item) for item in value)
    return value
