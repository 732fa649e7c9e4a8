"""Decompress gzip, xz, lzma, bzip2 and zstd streams in bounded memory and time, recognised by content.

For what a stranger made: a decoder gets no more memory than the field's compressors need, a stream that unpacks to too
much is refused while it is read, and so are one that is cut off and bytes behind its end.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import itertools
import lzma
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from pipeline.errors import Refused

PIECE = 1 << 20  # compressed bytes given to a decoder at a time
# Bytes that a decoder returns at most at a time: what a bomb can add before it is looked at. No more than a block of
# zstd: the memory of larger pieces is given back to the kernel, and faulted in again, each time.
STEP = 128 << 10
# Pieces of a batch, and batches, that are decoded ahead: to hand over each piece would take longer than to use it.
_BATCH, _AHEAD = 32, 4
# What `xz -9` and zstd's level 22 need for reading: 64 and 128 MiB of window.
_XZ_MEMORY, _ZSTD_WINDOW_LOG = 128 << 20, 27
# No kernel's file is compressed so far: the best of Debian's 6.1 is 1:40, a text 1:10. Below the first bytes a file of
# zeros may be part of a whole that is not.
_RATIO_MOST, _RATIO_FROM = 250, 64 << 20


@dataclass(frozen=True)
class Limits:
    """Maximum bytes of a stream once unpacked, and the moment of `time.monotonic` at which reading ends."""

    total: int
    deadline: float


_PATIENCE = 60.0  # seconds for one file


def soon(total: int) -> Limits:
    """Return the limits of one file of at most `total` bytes."""
    return Limits(total, time.monotonic() + _PATIENCE)


class _Decoder(Protocol):
    eof: bool
    unused_data: bytes
    needs_input: bool

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Plain:
    """The decoder of what is not compressed; it ends where its input does."""

    eof, unused_data, needs_input = False, b"", True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return data


def _gzip() -> _Decoder:
    from isal import igzip_lib  # takes a third of zlib's time

    return cast(_Decoder, igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP))


def _lzma() -> _Decoder:
    return cast(_Decoder, lzma.LZMADecompressor(lzma.FORMAT_AUTO, _XZ_MEMORY))


def _zstd() -> _Decoder:
    module = zstd_module()
    window = {module.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    return cast(_Decoder, module.ZstdDecompressor(options=window))


def zstd_module() -> Any:
    """Return the module that decodes zstd: the standard library has one from Python 3.14 on."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


# By the first bytes. That of lzma is its usual properties and dictionary sizes of whole KiB: the format has no other.
_DECODERS: tuple[tuple[bytes, str, Callable[[], _Decoder]], ...] = (
    (b"\x1f\x8b\x08", "gzip", _gzip),
    (b"\xfd7zXZ\0", "xz", _lzma),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    (b"BZh", "bzip2", lambda: cast(_Decoder, bz2.BZ2Decompressor())),
    (b"\x5d\0\0", "lzma", _lzma),
)
_CPIO = b"070701"  # the one content that is read without compression: rpm's w.ufdio


def compression(magic: bytes) -> str:
    """Return the name of the compression of a stream by its first bytes; empty for none that is known."""
    return next((name for start, name, _ in _DECODERS if magic.startswith(start)), "")


def _errors() -> tuple[type[Exception], ...]:
    zstd = sys.modules.get("backports.zstd") or sys.modules.get("compression.zstd")
    igzip = sys.modules.get("isal.igzip_lib")
    loaded = [*([zstd.ZstdError] if zstd else []), *([igzip.IsalError] if igzip else [])]
    return (lzma.LZMAError, OSError, EOFError, *loaded)


@dataclass
class Stream:
    """The unpacked bytes of a compressed one. `pull` returns its next piece, empty at its end; `name` is for messages.

    Inside `ahead` a thread of its own pulls and decodes what comes next. Errors are `Refused`.
    """

    pull: Callable[[], bytes]
    name: str
    limits: Limits
    decoder: _Decoder | None = field(init=False, default=None)
    consumed: int = field(init=False, default=0)
    produced: int = field(init=False, default=0)
    _ready: bytes = field(init=False, default=b"")
    _at: int = field(init=False, default=0)
    _pieces: Iterator[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._pieces = self._decoded()

    @contextlib.contextmanager
    def ahead(self) -> Iterator[None]:
        """Decode a few batches ahead of what is read; afterwards nothing is pulled any more."""
        decoded = self._pieces
        with ThreadPoolExecutor(1) as pool:
            self._pieces = self._batches(pool, decoded)
            try:
                yield
            finally:
                pool.shutdown(cancel_futures=True)

    def exactly(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if len(self._ready) - self._at >= size:
            self._at += size
            return self._ready[self._at - size : self._at]
        return b"".join(self.pieces(size))

    def skip(self, size: int) -> None:
        """Pass over the next `size` bytes."""
        while size:
            if self._at == len(self._ready) and not self._fill():
                raise self.refuse("truncated")
            step = min(size, len(self._ready) - self._at)
            self._at += step
            size -= step

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes in pieces."""
        while size:
            if self._at == len(self._ready) and not self._fill():
                raise self.refuse("truncated")
            piece = self._ready[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def rest(self) -> Iterator[bytes]:
        """Yield all bytes to the end in pieces."""
        while self._at < len(self._ready) or self._fill():
            piece, self._at = self._ready[self._at :], len(self._ready)
            yield piece

    def end(self, padding: int) -> None:
        """Read to the end. Raises `Refused` for more than `padding` bytes, or for others behind the compressed ones."""
        left = 0
        for piece in self.rest():
            left += len(piece)
            if left > padding:
                raise self.refuse(f"more than {padding} bytes behind its end")

    def refuse(self, problem: str) -> Refused:
        """Return the error of a stream that is not as it must be."""
        return Refused(f"{self.name}: damaged or hostile: {problem}", why="nothing in it can be believed")

    def _fill(self) -> bool:
        """Make the next piece the one that is read; return False at the end of the stream."""
        self._ready, self._at = next(self._pieces, b""), 0
        return bool(self._ready)

    @staticmethod
    def _batches(pool: ThreadPoolExecutor, decoded: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the pieces that the pool's one thread takes from `decoded`."""
        coming: deque[Future[list[bytes]]] = deque()
        while True:
            while len(coming) < _AHEAD:
                coming.append(pool.submit(lambda: list(itertools.islice(decoded, _BATCH))))
            if not (batch := coming.popleft().result()):
                return
            yield from batch

    def _decoded(self) -> Iterator[bytes]:
        """Yield the decoded pieces."""
        while piece := self._next():
            yield piece

    def _next(self) -> bytes:
        """Return the next decoded piece, empty at the end of the stream."""
        while True:
            if time.monotonic() > self.limits.deadline:
                raise self.refuse("it took too long to unpack")
            if self.decoder is not None and self.decoder.eof:
                if self.decoder.unused_data or self.pull():
                    raise self.refuse("bytes behind the compressed ones")
                return b""
            data = b""
            if self.decoder is None or self.decoder.needs_input:
                data = self.pull()
                if not data and isinstance(self.decoder, _Plain):
                    return b""
                if not data:
                    raise self.refuse("truncated")
                self.consumed += len(data)
            piece = self._decode(data)
            self._check(len(piece))
            if piece:
                return piece

    def _decode(self, data: bytes) -> bytes:
        try:
            if self.decoder is None and data.startswith(_CPIO):
                self.decoder = _Plain()
            elif self.decoder is None:
                self.decoder = next((make() for start, _, make in _DECODERS if data.startswith(start)), None)
            if self.decoder is None:
                raise self.refuse(f"no compression that is known, {data[:6].hex(' ')}")
            return self.decoder.decompress(data, STEP)
        except _errors() as error:
            raise self.refuse(str(error)) from None

    def _check(self, size: int) -> None:
        self.produced += size
        if self.produced > self.limits.total:
            raise self.refuse(f"more than {self.limits.total} bytes unpacked")
        if self.produced > max(_RATIO_FROM, _RATIO_MOST * self.consumed):
            raise self.refuse(f"unpacks to more than {_RATIO_MOST} times its size")


def unpacked(data: bytes, name: str, limits: Limits) -> bytes:
    """Return the content of a compressed file, or `data` itself where no known compression begins it."""
    if not compression(data):
        return data
    source = io.BytesIO(data)
    return b"".join(Stream(lambda: source.read(PIECE), name, limits).rest())
