"""Patches in another form than a plain patch's: refused, with the form's name and a command that makes a plain one."""

from __future__ import annotations

import bz2
import gzip
import lzma
import quopri
import subprocess
from base64 import encodebytes
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import Refused
from pipeline.patching.patch_file import parse
from tests.fixtures.patches import plain

PATCH = plain("net/toa/toa.c", "", "#define TCPOPT_TOA 200\nint x = 1;\nint equal = x == 1;\n")
HEAD = b"From: A <a@example.org>\nSubject: [PATCH] toa\nMIME-Version: 1.0\n"
POSTMARK = b"From 1111111111111111111111111111111111111111 Mon Sep 17 00:00:00 2001\n"


def mail(body: bytes, *headers: bytes) -> bytes:
    return HEAD + b"".join(header + b"\n" for header in headers) + b"\n" + body


def quoted(data: bytes) -> bytes:
    return quopri.encodestring(data)


def shifted(by: bytes) -> bytes:
    return b"".join(by + line for line in PATCH.splitlines(keepends=True))


QP, B64 = b"Content-Transfer-Encoding: quoted-printable", b"Content-Transfer-Encoding: base64"
PARTS = (
    b'Content-Type: multipart/mixed;\n boundary="x"',
    b"--x\nContent-Type: text/x-patch\nContent-Transfer-Encoding: base64\n\n" + encodebytes(PATCH) + b"--x--\n",
)
FORMS = {
    "mail in quoted-printable": mail(quoted(PATCH), QP),
    "mail in quoted-printable ": mail(quoted(PATCH), b"Content-transfer-encoding:\n\tQuoted-Printable"),
    "mail in quoted-printable  ": mail(quoted(PATCH), QP).replace(b"\n", b"\r\n"),
    "mail in base64": mail(encodebytes(PATCH), B64),
    "mail in base64 ": POSTMARK + mail(encodebytes(PATCH), B64) + POSTMARK + mail(encodebytes(PATCH), B64),
    "mail in x-uuencode": mail(PATCH, b"Content-Transfer-Encoding: (some) x-uuencode"),
    "mail in base64  ": mail(PARTS[1], PARTS[0]),
    "header is gone": quoted(PATCH),
    "compressed with gzip": gzip.compress(PATCH),
    "compressed with bzip2": bz2.compress(PATCH),
    "compressed with xz": lzma.compress(PATCH),
    "UTF-16": PATCH.decode().encode("utf-16"),
    "UTF-16LE": PATCH.decode().encode("utf-16-le"),
    "UTF-16BE": PATCH.decode().encode("utf-16-be"),
    "UTF-32": PATCH.decode().encode("utf-32"),
    "UTF-32BE": PATCH.decode().encode("utf-32-be"),
    "header is gone ": encodebytes(PATCH),
    "line ends of old Macs": PATCH.replace(b"\n", b"\r"),
    "a terminal's colours": PATCH.replace(b"\n+", b"\x1b[m\n\x1b[32m+\x1b[m\x1b[32m").replace(b"\n@@", b"\n\x1b[36m@@"),
    "lines are indented": shifted(b"    "),
    "lines are indented ": shifted(b"\t"),
    "lines are quoted": shifted(b"> "),
    "lines are quoted ": shifted(b">> "),
    "byte order mark": b"\xef\xbb\xbf" + PATCH,
    "DOS line ends": PATCH.replace(b"\n", b"\r\n"),
}


def refused(data: bytes, name: str) -> Refused:
    with pytest.raises(Refused) as caught:
        parse(data, name)
    assert caught.value.where.startswith(name) and caught.value.why and caught.value.hint
    return caught.value


@pytest.mark.parametrize("form", FORMS)
def test_another_form_is_refused_and_the_command_that_is_named_makes_a_plain_patch(form: str, tmp_path: Path) -> None:
    file = tmp_path / "a toa.patch"
    file.write_bytes(FORMS[form])
    error = refused(FORMS[form], str(file))
    assert form.strip() in error.what
    while file.read_bytes()[: len(PATCH)] != PATCH:  # a mail may have two forms at once
        subprocess.run(["sh", "-ec", refused(file.read_bytes(), str(file)).hint], cwd=tmp_path, check=True)
        file = file.with_name(f"{file.name}.plain")


OTHER = {
    "compressed with compress": b"\x1f\x9d\x90" + bytes(50),
    "compressed with lzip": b"LZIP\x01" + bytes(50),
    "compressed with lz4": b"\x04\x22\x4d\x18" + bytes(50),
    "compressed with lzop": b"\x89LZO\0\r\n\x1a\n" + bytes(50),
    "compressed with 7-Zip": b"7z\xbc\xaf\x27\x1c" + bytes(50),
    "a tar archive": b"toa.patch".ljust(257, b"\0") + b"ustar\00000".ljust(255, b"\0") + PATCH,
    "an RPM package": b"\xed\xab\xee\xdb\x03\0" + bytes(90),
    "an archive of ar": b"!<arch>\ndebian-binary   ",
    "a cpio archive": b"070701" + b"0" * 104,
    "a web page": b"<!DOCTYPE html>\n<pre>" + PATCH.replace(b"<", b"&lt;") + b"</pre>",
    "a web page ": b"\n <html><title>404</title></html>\n",
    "a combined diff": b"diff --cc a.c\nindex 1,2..3\n--- a/a.c\n+++ b/a.c\n@@@ -1,1 -1,1 +1,2 @@@\n  a\n++b\n",
    "a context diff": b"*** a/a.c\n--- b/a.c\n***************\n*** 1,2 ****\n  a\n--- 1,3 ----\n  a\n+ b\n",
}


@pytest.mark.parametrize("form", OTHER)
def test_what_no_command_of_ours_can_make_plain_is_refused_by_its_name(form: str) -> None:
    assert f"it is {form.strip()}" in refused(OTHER[form], "a").what


def test_mails_that_change_a_file_one_after_another_are_patches_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "two mails.patch"
    file.write_bytes(
        POSTMARK + mail(PATCH) + b"-- \n2.30.2\n\n" + POSTMARK + mail(plain("net/toa/toa.c", "a\n", "b\n"))
    )
    error = refused(file.read_bytes(), str(file))
    assert "2 mails in one file change it one after another" in error.what
    subprocess.run(["sh", "-ec", error.hint], cwd=tmp_path, check=True)
    parts = sorted((tmp_path / "mails").iterdir())
    assert [len(parse(part.read_bytes(), part.name).files) for part in parts] == [1, 1]


def test_flowed_text_cannot_be_made_whole() -> None:
    error = refused(mail(PATCH, b"Content-Type: text/plain; charset=utf-8;\n Format=Flowed; delsp=yes"), "a")
    assert "format=flowed" in error.what and "have it sent" in error.hint


PLAIN: dict[str, Callable[[], bytes]] = {
    "a mail as it is": lambda: POSTMARK + mail(PATCH, b"Content-Transfer-Encoding: 8bit", b"Content-Type: text/plain"),
    "7bit and a signature": lambda: mail(PATCH, b"Content-Transfer-Encoding: 7BIT") + b"-- \n2.30.2\n\n",
    "words about an encoding": lambda: b"This was Content-Transfer-Encoding: base64 once.\n" + PATCH,
    "the words in a file": lambda: plain("a.txt", "", "Content-Transfer-Encoding: base64\nformat=flowed x = 1\n"),
    "signs in a file": lambda: plain("a.c", "", 'char *a = "=3D=20";\nurl?a=3D\n'),
    "words about colours and quotes": lambda: b"x \x1b[1m\n> some words\n    more words\n" + PATCH,
    "a quoted patch above the patch": lambda: b"> --- a/b\n> was wrong\n" + PATCH,
    "a page in a file": lambda: plain("a.html", "", "<!DOCTYPE html>\n\x1b[1m\n***************\n"),
    "a file with DOS line ends": lambda: plain("a.txt", "", "one\r\ntwo\r\n"),
}


@pytest.mark.parametrize("form", PLAIN)
def test_a_plain_patch_with_what_looks_alike_is_read(form: str) -> None:
    assert len(parse(PLAIN[form](), "a").files) == 1
