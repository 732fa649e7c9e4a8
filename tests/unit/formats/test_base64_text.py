"""A file in base64 between two lines of a text: what comes out, and each text that is refused with its line."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Refused
from pipeline.formats import base64_text

AFTER, BEFORE = "DATA=$(cat << EOF", "EOF"
FILE = bytes(range(256)) * 3 + b"\xff"
ENCODED = base64.b64encode(FILE)
PIECES = [ENCODED[start : start + 76] for start in range(0, len(ENCODED), 76)]


def text(*lines: bytes) -> bytes:
    """A script with these lines between its markers, the first of which is line 3."""
    return b"\n".join([b"#!/bin/sh", AFTER.encode(), *lines, BEFORE.encode(), b")", b"echo done", b""])


def decoded(script: bytes, size: int = len(FILE)) -> bytes:
    return base64_text.decoded(script, AFTER, BEFORE, size)


def test_a_file_on_one_line_comes_out() -> None:
    assert decoded(text(ENCODED)) == FILE


def test_a_file_on_many_lines_comes_out_whatever_ends_them() -> None:
    assert decoded(text(*PIECES)) == FILE
    assert decoded(text(*PIECES).replace(b"\n", b"\r\n")) == FILE
    mixed = [line + b"\r" * (number % 2) for number, line in enumerate(PIECES)]
    assert decoded(text(*mixed, b"", b"\r")) == FILE
    assert decoded(text(ENCODED).replace(AFTER.encode(), AFTER.encode() + b"\r")) == FILE


@given(st.binary(max_size=200), st.integers(1, 80), st.sampled_from([b"\n", b"\r\n"]))
def test_any_file_comes_out_of_lines_of_any_length(data: bytes, width: int, end: bytes) -> None:
    encoded = base64.b64encode(data)
    pieces = [encoded[start : start + width] for start in range(0, len(encoded), width)]
    script = end.join([b"# first", b"after this", *pieces, b"# end", b"more"])
    assert base64_text.decoded(script, "after this", "# end", len(data)) == data


def test_the_file_ends_at_the_next_line_that_ends_it_and_not_at_a_later_one() -> None:
    assert decoded(text(ENCODED) + b"OTHER=$(cat << EOF\nbm8=\nEOF\n") == FILE


REFUSED = {
    "no marker": (b"#!/bin/sh\n" + ENCODED + b"\nEOF\n", "line 'DATA=$(cat << EOF': 0 in the text; expected 1"),
    "two markers": (text(ENCODED) + text(ENCODED), "line 'DATA=$(cat << EOF': 2 in the text; expected 1"),
    "a blank before the marker": (text(ENCODED).replace(b"DATA", b" DATA"), "0 in the text; expected 1"),
    "no end": (text(ENCODED).replace(b"\nEOF", b"\nEND"), "line 'EOF': not found; expected one after line 2"),
    "end before the marker": (b"EOF\n" + text(ENCODED).replace(b"\nEOF", b""), "not found; expected one after line 3"),
    "a foreign character": (text(*PIECES[:2], b"abc$x", *PIECES[3:]), "line 5: b'$' at column 4; expected base64"),
    "a carriage return inside": (text(ENCODED[:4] + b"\r" + ENCODED[4:]), r"line 3: b'\r' at column 5; expected"),
    "a blank": (text(PIECES[0] + b" ", *PIECES[1:]), "line 3: b' ' at column 77; expected base64"),
    "the alphabet of URLs": (text(ENCODED.replace(b"/", b"_")), "b'_' at column"),
    "one piece too few": (text(*PIECES[:-1]), "lines 3 to 15: 988 characters of base64; expected 1028, for 769 bytes"),
    "too large": (text(ENCODED, b"A" * 4000), "lines 3 to 4: 5028 characters of base64; expected 1028, for 769 bytes"),
    "nothing": (text(), "0 characters of base64; expected 1028"),
    "no padding": (text(ENCODED.rstrip(b"=")), "1026 characters of base64; expected 1028"),
    "padding in the middle": (text(ENCODED[:400] + b"=" + ENCODED[401:]), "lines 3 to 3: "),
    "less padding, two bytes more": (text(ENCODED[:-2] + b"AA"), "lines 3 to 3: 771 bytes; expected 769"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_text_is_refused_with_its_line_and_what_was_expected(case: str) -> None:
    script, said = REFUSED[case]
    with pytest.raises(Refused) as refused:
        decoded(script)
    assert said in refused.value.what
