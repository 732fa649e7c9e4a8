"""Unpacking: what is allowed comes out as it was, what is not is refused, nothing is written outside."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError, Refused
from pipeline.formats import archive, git_tree

Spec = tuple[str, bytes, str | bytes]  # path, tar type, link target or content


def tar(*members: Spec, end: bool = True) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as writer:
        for name, kind, rest in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(rest, bytes):
                info.size = len(rest)
                writer.addfile(info, io.BytesIO(rest))
            else:
                info.linkname = rest
                writer.addfile(info)
        size = writer.offset
    return out.getvalue() if end else out.getvalue()[:size]


def unpack(data: bytes, into: Path, limits: archive.Limits | None = None) -> Path:
    destination = into / "out"
    archive.unpack(io.BytesIO(data), destination, "test.tar", limits or archive.Limits())
    return destination


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


FILE, LINK, HARD, DIR = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


BOMBS: dict[str, tuple[bytes, str]] = {
    "members": (tar(*((f"top/{n}", FILE, b"") for n in range(30))), "more than 20 members"),
    "directories": (tar(*((f"{n}/a/b/c", FILE, b"") for n in range(9))), "more than 20 members"),
    "bytes": (tar(("a", FILE, b""), ("b", FILE, bytes(600)), ("c", FILE, bytes(600))), "more than 1000 bytes unpacked"),
    "depth": (tar(("top/a", FILE, b""), ("a/" * 70 + "b", FILE, b"")), "a path of more than 64 parts"),
    "name": (tar(("top/a", FILE, b""), ("b" * 256, FILE, b"")), "a name of more than 255 bytes"),
    "link": (tar(("top/a", FILE, b""), ("b", LINK, "c" * 2000)), "a link to a path of more than 1024 bytes"),
    "pax": (tar(("a", FILE, b""), ("x", tarfile.XHDTYPE, bytes(300_000))), "a header of more than 100000 bytes"),
    "name's header": (tar(("a", FILE, b""), ("x", tarfile.GNUTYPE_LONGNAME, bytes(300_000))), "a header of more than"),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_bomb_is_refused_before_anything_of_it_is_written(
    tmp_path: Path, bomb: str, compress: Callable[[bytes], bytes]
) -> None:
    (data, said), limits = BOMBS[bomb], archive.Limits(members=20, total=1000, padding=100_000)
    file = tmp_path / "bomb.tar"
    file.write_bytes(compress(data))
    for source in (file, io.BytesIO(compress(data))):
        with pytest.raises(Refused, match=said):
            archive.unpack(source, tmp_path / "out", "bomb.tar", limits)
        assert everything(tmp_path / "out") == set()


def test_a_content_longer_than_any_header_is_no_header(tmp_path: Path) -> None:
    data = tar(("a", FILE, bytes(300_000)), ("b", FILE, b"two"))
    limits = archive.Limits(padding=100_000)
    assert (unpack(data, tmp_path, limits) / "b").read_bytes() == b"two"
    (tmp_path / "a.tar").write_bytes(data)
    assert archive.read(tmp_path / "a.tar", {"b": 3}) == {"b": b"two"}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_good_archive_comes_out_whole_whatever_its_compression(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    data = tar(("top/a", FILE, b"one"), ("top/link", LINK, "a"), ("top/d", DIR, ""), ("top/hard", HARD, "top/a"))
    out = unpack(compress(data), tmp_path)
    assert everything(out) == {"top", "top/a", "top/link", "top/d", "top/hard"}
    assert (out / "top/link").read_bytes() == (out / "top/hard").read_bytes() == b"one"


HOSTILE: dict[str, tuple[Spec, ...]] = {
    "..": (("a/../../evil", FILE, b"x"),),
    "absolute": (("/evil", FILE, b"x"),),
    "control character": (("a\nb", FILE, b"x"),),
    "out of the destination": (("link", LINK, "../evil"),),
    "link to '/etc'": (("link", LINK, "/etc"),),
    "link to 'd/../../x'": (("a/link", LINK, "d/../../x"),),
    "below 'link'": (("link", LINK, "d"), ("link/evil", FILE, b"x")),
    "below 'file'": (("file", FILE, b"x"), ("file/evil", FILE, b"x")),
    "no file of the archive": (("hard", HARD, "nowhere"),),
    "through '..'": (("hard", HARD, "../evil"),),
    "special file": (("null", tarfile.CHRTYPE, ""),),
    "pipe": (("fifo", tarfile.FIFOTYPE, ""),),
    "there twice": (("a", FILE, b"x"), ("a", LINK, "b")),
}


@pytest.mark.parametrize("reason", HOSTILE)
def test_a_hostile_member_is_refused_by_name_and_nothing_is_written_outside(tmp_path: Path, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        unpack(tar(("fine", FILE, b"x"), *HOSTILE[reason]), tmp_path)
    assert reason in str(caught.value)
    assert everything(tmp_path) <= {"out", "out/fine", "out/link", "out/file", "out/a", "out/d"}


def test_a_bomb_is_stopped_at_the_limit(tmp_path: Path) -> None:
    bomb = gzip.compress(tar(("zeros", FILE, bytes(5_000_000))))
    with pytest.raises(Refused, match="more than 1000000 bytes"):
        unpack(bomb, tmp_path, limits=archive.Limits(total=1_000_000))
    many = tar(*((f"f{n}", FILE, b"") for n in range(30)))
    with pytest.raises(Refused, match="more than 20 members"):
        unpack(many, tmp_path / "many", limits=archive.Limits(members=20))


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_cut_is_seen_wherever_it_falls(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    whole = compress(tar(("a", FILE, os.urandom(3000)), ("b", FILE, b"two")))
    padding = len(whole.rstrip(b"\0")) if compress is bytes else len(whole)  # plain tar ends in zeros
    for index, cut in enumerate({*range(1, padding - 1, 97), padding // 2, padding - 1}):
        with pytest.raises(Refused, match="damaged or truncated"):
            unpack(whole[:cut], tmp_path / str(index))


def test_a_cut_right_behind_a_member_is_seen(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="end-of-archive marker"):
        unpack(tar(("a", FILE, b"one"), end=False), tmp_path)


def test_names_that_differ_by_case_are_kept_apart_where_the_file_system_can(tmp_path: Path) -> None:
    out = unpack(tar(("xt_MARK.c", FILE, b"upper"), ("xt_mark.c", FILE, b"lower")), tmp_path)
    assert (out / "xt_MARK.c").read_bytes() == b"upper"


def test_a_file_that_is_already_there_is_never_written_over(tmp_path: Path) -> None:
    """What a file system without case would do to the second of two such names."""
    item = archive.Item("xt_mark.c", "file", 0o644, 3, "", io.BytesIO(b"new"))
    (tmp_path / "xt_mark.c").write_bytes(b"old")
    with pytest.raises(Refused, match="only by case"):
        archive._write(item, tmp_path / "xt_mark.c", tmp_path, "test.tar")
    assert (tmp_path / "xt_mark.c").read_bytes() == b"old"


def test_the_listing_of_a_stream_is_that_of_the_unpacked_tree(tmp_path: Path) -> None:
    data = tar(("top/a", FILE, b"one"), ("top/d/link", LINK, "../a"), ("top/hard", HARD, "top/a"))
    listed = archive.listing(io.BytesIO(data), "test.tar", strip=1)
    assert listed == git_tree.of_directory(unpack(data, tmp_path) / "top")


paths = st.one_of(
    st.text("ab./\\\n", min_size=1, max_size=12),
    st.sampled_from(["../evil", "/evil", "a/../../evil", "a", "a/b", "b", "A", "l", "l/x", "", "."]),
)
kinds = st.sampled_from([FILE, LINK, HARD, DIR, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.BLKTYPE])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(paths, kinds, paths, st.binary(max_size=20)), max_size=6), st.data())
def test_whatever_an_archive_holds_it_is_unpacked_inside_or_refused(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes, str, bytes]], data: st.DataObject
) -> None:
    base = tmp_path_factory.mktemp("hostile")
    raw = bytearray(tar(*((n, k, content if k == FILE else target) for n, k, target, content in members if n)))
    for _ in range(data.draw(st.integers(0, 2))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (base / "canary").write_text("untouched")
    with contextlib.suppress(PipelineError):
        unpack(bytes(raw), base)
    assert {entry.name for entry in base.iterdir()} <= {"canary", "out"}
    assert (base / "canary").read_text() == "untouched"
    for path in (base / "out").rglob("*"):
        assert Path(os.path.realpath(path)).is_relative_to(os.path.realpath(base / "out"))
