"""Refuse encoded patches: a mail's encoding, compression, an archive, a web page, other line ends or character sets.

Reading on would take the form for the content: in quoted-printable `=32` is the digit 2.
"""

from __future__ import annotations

import re

from pipeline.core import neutral
from pipeline.errors import Refused

_PACKED = {
    b"\x1f\x8b": ("gzip", "gzip -dc"),
    b"BZh": ("bzip2", "bzip2 -dc"),
    b"\xfd7zXZ\0": ("xz", "xz -dc"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -dc"),
    b"\x5d\0\0": ("lzma", "xz -dc"),
    b"PK\x03\x04": ("zip", "unzip -p"),
    b"\x1f\x9d": ("compress", "gzip -dc"),
    b"LZIP": ("lzip", "lzip -dc"),
    b"\x04\x22\x4d\x18": ("lz4", "lz4 -dc"),
    b"\x89LZO": ("lzop", "lzop -dc"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x -so"),
}
_ARCHIVES = (  # place of the mark, mark, name
    (257, b"ustar", "a tar archive"),
    (0, b"\xed\xab\xee\xdb", "an RPM package"),
    (0, b"!<arch>\n", "an archive of ar, such as a Debian package"),
    (0, b"070701", "a cpio archive"),
)
_CHARACTER_SETS = (  # what the data begins with: a byte order mark, or the first letter of a header
    (b"\xff\xfe\0\0", "UTF-32", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32", "UTF-32"),
    (b"\xff\xfe", "UTF-16", "UTF-16"),
    (b"\xfe\xff", "UTF-16", "UTF-16"),
)
_WIDE = (  # without a mark: NUL bytes beside ASCII
    (re.compile(rb"(?:[\t\n\r -~]\0\0\0){4}"), "UTF-32LE"),
    (re.compile(rb"(?:\0\0\0[\t\n\r -~]){4}"), "UTF-32BE"),
    (re.compile(rb"(?:[\t\n\r -~]\0){8}"), "UTF-16LE"),
    (re.compile(rb"(?:\0[\t\n\r -~]){8}"), "UTF-16BE"),
)
_PAGE = re.compile(rb"\s*<(?:!doctype|html|\?xml)\b", re.IGNORECASE)
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{20,200}\r?\n)*[A-Za-z0-9+/]{2,200}={0,2}\s*")
_PLAIN = {b"7bit", b"8bit", b"binary"}
# Lines of a hunk begin with a sign: at the beginning of a line these are headers of a mail or of a part of one.
_ENCODING = re.compile(
    rb"^Content-Transfer-Encoding:(?:[ \t]|\r?\n[ \t]|\([^)\n]*\))*([^\s;(]+)", re.MULTILINE | re.IGNORECASE
)
_TYPE = re.compile(rb"^Content-Type:((?:[^\n]|\n[ \t])*)", re.MULTILINE | re.IGNORECASE)
_POSTMARK = re.compile(rb"^From \S+.* \d\d:\d\d:\d\d ", re.MULTILINE)
_SIGN = rb"^[-+ ][^\n]*"
_QUOTED = re.compile(_SIGN + rb"=(?:3D|20$|09$)", re.MULTILINE)
_BARE = re.compile(_SIGN + rb"=(?![0-9A-F]{2}|\r?$)", re.MULTILINE)
_HEADER = re.compile(rb"^(?:diff --git |--- [^\n]*\n\+\+\+ )[^\n]*$", re.MULTILINE)
_SHIFTED = re.compile(rb"^(?:[ \t]+|(?:> ?)+)(?=diff --git |--- [^\n]*\n[ \t>]*\+\+\+ )", re.MULTILINE)
_COLOURED = re.compile(rb"^\x1b\[[0-9;]*m", re.MULTILINE)
_CONTEXT = re.compile(rb"^(?:\*\*\* [^\n]*\n--- [^\n]*\n)?\*{15}", re.MULTILINE)
_COMBINED = re.compile(rb"^(?:diff --(?:cc|combined) |@@@+ -)", re.MULTILINE)
_MIME = "a mail's encoding is no part of the patch: read as it stands, the patch says something else than what was sent"


def check(data: bytes, name: str) -> None:
    """Raise `Refused` with the encoding's name and the command that makes a plain patch."""
    for magic, (packed, command) in _PACKED.items():
        if data.startswith(magic):
            raise _refused(name, f"it is compressed with {packed}", f"{command} {{}} > OUT")
    _check_characters(data, name)
    _check_contents(data, name)
    if data.startswith(b"\xef\xbb\xbf"):
        command = r"tail -c +4 {} > OUT"
        raise _refused(name, "it begins with a byte order mark", command, "git and GNU patch overlook the first header")
    _check_mail(data, name)
    if (header := _HEADER.search(data)) and header[0].endswith(b"\r"):
        why = "GNU patch drops them silently and git does not"
        raise _refused(name, "it has DOS line ends", r"tr -d '\r' < {} > OUT", why)
    _check_format(data, name, header)


def _check_characters(data: bytes, name: str) -> None:
    for mark, shown, charset in _CHARACTER_SETS:
        if data.startswith(mark):
            raise _refused(name, f"it is {shown}", f"iconv -f {charset} -t UTF-8 {{}} > OUT")
    if b"\n" not in data and b"\r+++ " in data:
        why = "git and GNU patch see one line in it"
        raise _refused(name, "it has line ends of old Macs", r"tr '\r' '\n' < {} > OUT", why)
    for wide, charset in _WIDE:
        if wide.match(data):
            raise _refused(name, f"it is {charset}", f"iconv -f {charset} -t UTF-8 {{}} > OUT")


def _check_contents(data: bytes, name: str) -> None:
    for place, mark, kind in _ARCHIVES:
        if data.startswith(mark, place):
            raise _refused(name, f"it is {kind}", "unpack it, and name the patch that is in it", "one patch is read")
    if _PAGE.match(data):
        hint = "fetch the patch itself: its 'raw' or 'plain' link, or the address with .patch behind it"
        raise _refused(name, "it is a web page", hint, "a page shows a patch with other characters, or another thing")
    if len(data) > 40 and _BASE64.fullmatch(data):
        raise _refused(name, "it is base64 of a mail whose header is gone", "base64 -d {} > OUT", _MIME)


def _check_format(data: bytes, name: str, header: re.Match[bytes] | None) -> None:
    """Refuse another format of diff, and a patch whose lines have something before them."""
    if coloured := _COLOURED.search(data):
        command = r"sed 's/\x1b\[[0-9;]*m//g' {} > OUT"
        why = "the colours of a terminal hide the sign at the beginning of a line"
        raise _refused(name, "it has a terminal's colours", command, why, line=_line(data, coloured))
    if combined := _COMBINED.search(data):
        hint = "have it made against one parent: git diff COMMIT^1 COMMIT"
        why = "it shows a merge against several parents at once, which no program applies"
        raise _refused(name, "it is a combined diff", hint, why, line=_line(data, combined))
    if header is not None:
        return
    if context := _CONTEXT.search(data):
        hint = "have it made anew with diff -uprN, or by filterdiff of patchutils"
        raise _refused(name, "it is a context diff", hint, "only unified diffs are read", line=_line(data, context))
    if shifted := _SHIFTED.search(data):
        before = shifted[0].decode()
        what = "its lines are quoted" if ">" in before else "its lines are indented"
        why = "git does not see a patch in it, and GNU patch removes what it takes for an indent"
        command = f"sed 's/^{before}//' {{}} > OUT"
        raise _refused(name, f"{what}: {before!r} is before each", command, why, line=_line(data, shifted))


def mails(data: bytes) -> int:
    """Return how many mails begin in the file, as in a mailbox or a series that git wrote into one file."""
    return len(_POSTMARK.findall(data))


def _check_mail(data: bytes, name: str) -> None:
    for found in _ENCODING.finditer(data):
        encoding = found[1].strip(b"\"'").lower()
        if encoding not in _PLAIN:
            shown = encoding.decode("ascii", "backslashreplace")
            raise _refused(name, f"it is a mail in {shown}", _unwrapping(data), _MIME, line=_line(data, found))
    for found in _TYPE.finditer(data):
        kind = found[1].lower()
        if re.search(rb"format\s*=\s*\"?flowed", kind):
            what = "it is a mail with format=flowed, which breaks lines anew and puts blanks before them"
            hint = "have it sent as an attachment, or by git send-email"
            raise _refused(name, what, hint, _MIME, line=_line(data, found))
        if kind.strip().startswith(b"multipart/"):
            raise _refused(name, "it is a mail in several parts", _unwrapping(data), _MIME, line=_line(data, found))
    quoted = _QUOTED.search(data)
    if quoted and not _BARE.search(data):
        command = "{ printf 'Content-Transfer-Encoding: quoted-printable\\n\\n'; cat {}; } |"
        command = f"{command} git mailinfo /dev/null OUT"
        what = "it is quoted-printable text of a mail whose header is gone: '=3D' stands for '='"
        raise _refused(name, what, command, _MIME, line=_line(data, quoted))


def _line(data: bytes, found: re.Match[bytes]) -> int:
    return data.count(b"\n", 0, found.start()) + 1


def _unwrapping(data: bytes) -> str:
    if mails(data) < 2:
        return "git mailinfo /dev/null OUT < {} > /dev/null"
    each = 'for mail in mails/*; do git mailinfo /dev/null "$mail.patch" < "$mail"; done'
    return f"mkdir mails && git mailsplit -omails {{}} && {each} && cat mails/*.patch > OUT"


def _refused(name: str, what: str, command: str, why: str = "only a plain patch is read", *, line: int = 1) -> Refused:
    hint = command.replace("OUT", neutral.word(f"{name}.plain")).replace("{}", neutral.word(name))
    return Refused(f"patch {name}: {what}", where=f"{name}:{line}", why=why, hint=hint)
