"""Refuse encoded patches: a mail's encoding, compression, other line ends or character sets.

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
}
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
_MIME = "a mail's encoding is no part of the patch: read as it stands, the patch says something else than what was sent"


def check(data: bytes, name: str) -> None:
    """Raise `Refused` with the encoding's name and the command that makes a plain patch."""
    for magic, (packed, command) in _PACKED.items():
        if data.startswith(magic):
            raise _refused(name, f"it is compressed with {packed}", f"{command} {{}} > OUT")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _refused(name, "it is UTF-16", "iconv -f UTF-16 -t UTF-8 {} > OUT")
    if data.startswith(b"\xef\xbb\xbf"):
        command = r"tail -c +4 {} > OUT"
        raise _refused(name, "it begins with a byte order mark", command, "git and GNU patch overlook the first header")
    _check_mail(data, name)
    if (header := _HEADER.search(data)) and header[0].endswith(b"\r"):
        why = "GNU patch drops them silently and git does not"
        raise _refused(name, "it has DOS line ends", r"tr -d '\r' < {} > OUT", why)


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
    if len(_POSTMARK.findall(data)) < 2:
        return "git mailinfo /dev/null OUT < {} > /dev/null"
    each = 'for mail in mails/*; do git mailinfo /dev/null "$mail.patch" < "$mail"; done'
    return f"mkdir mails && git mailsplit -omails {{}} && {each} && cat mails/*.patch > OUT"


def _refused(name: str, what: str, command: str, why: str = "only a plain patch is read", *, line: int = 1) -> Refused:
    hint = command.replace("OUT", neutral.word(f"{name}.plain")).replace("{}", neutral.word(name))
    return Refused(f"patch {name}: {what}", where=f"{name}:{line}", why=why, hint=hint)
