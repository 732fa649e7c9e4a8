"""Transfer bytes from one address: http(s), ftp, or a local file.

Each opener yields a `Body` that starts where the caller's part ends only if the sender proves that
it still is the same file. Must not know what is wanted, nor where bytes go.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import email.utils
import ftplib
import functools
import http.client
import io
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from pipeline import __version__
from pipeline.core.fs import CHUNK
from pipeline.errors import UsageError
from pipeline.sources.wanted import Wrong

if TYPE_CHECKING:
    import requests

_REDIRECTS = 10
_LATER = {408, 425, 429, *range(500, 600)}  # RFC 9110 section 15.5: these may get better, all others will not
_MISSING = {404, 410}
_LINES_MOST = 1000  # lines of an FTP server's answer: some greet with a page of text
_T = TypeVar("_T")


class Timeouts(Protocol):
    """Time limits in seconds: for a connection, and for the next byte."""

    @property
    def connect(self) -> float:
        """Seconds for a connection."""

    @property
    def stall(self) -> float:
        """Seconds for the next byte."""


class Failed(Exception):
    """A failed attempt. `final`: a retry is useless; `after`: seconds the server requests to wait.

    `answered`: something is there, it only did not give the file; `missing`: it says that there is none.
    """

    def __init__(
        self,
        what: str,
        *,
        final: bool = False,
        after: float = 0.0,
        wrong: Wrong | None = None,
        answered: bool = False,
        missing: bool = False,
    ) -> None:
        super().__init__(what)
        self.what, self.final, self.after, self.wrong = what, final, after, wrong
        self.answered, self.missing = answered, missing


@dataclass(frozen=True)
class Address:
    """An address: a URL, or a local path. `shown` is the form for people, without a password."""

    url: str
    path: Path | None = None

    @property
    def shown(self) -> str:
        """The address for people, without a password."""
        if self.path is not None:
            return str(self.path)
        parts = split(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def split(url: str) -> SplitResult:
    """Split a URL. Raises `UsageError` for an invalid one."""
    try:
        return urlsplit(url)
    except ValueError as error:
        raise UsageError(f"not a URL: {url!r}: {error}") from None


def local_path(url: str) -> Path | None:
    """Return the path in a file:// URL; None for other URLs."""
    parts = split(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        return None
    return Path(unquote(parts.path))


@dataclass(frozen=True)
class Body:
    """A file in transfer. `read` returns the next bytes and b"" at the end, and raises `Failed`.

    `start` is the offset of the first byte, `total` the size of the whole file as announced,
    `validator` what proves later that it is still the same file, "" for nothing. `whole`: the
    protocol tells the end of the file from a connection that broke. `about` explains wrong bytes.
    """

    read: Callable[[], bytes]
    start: int = 0
    total: int | None = None
    validator: str = ""
    whole: bool = True
    about: str = ""


@contextlib.contextmanager
def opened(address: Address, offset: int, validator: str, options: Timeouts) -> Iterator[Body]:
    """Open the file at `address`, from `offset` on when provably the same file, else from its beginning."""
    scheme = urlsplit(address.url).scheme
    if address.path is not None:
        opened = _opened_file(address.path)
    elif scheme in ("http", "https"):
        opened = _opened_http(address.url, offset, validator, options)
    elif scheme == "ftp":
        opened = _opened_ftp(address.url, offset, validator, options)
    else:
        raise Failed(f"unknown kind of address: {scheme or 'not a URL'}", final=True)
    with opened as body:
        yield body


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """Run `call()` in its own thread and raise `Failed` after `seconds`.

    A look-up of a name knows no time limit, and headers that come byte by byte outlast any limit
    on a single read.
    """
    answer: concurrent.futures.Future[_T] = concurrent.futures.Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    concurrent.futures.wait([answer], seconds)
    if not answer.done():
        raise Failed(f"no answer within {seconds:g} s")
    return answer.result()


def _answer_timeout(options: Timeouts) -> float:
    """Return the seconds until an answer must begin, including look-up, connection and redirects."""
    return 2 * (options.connect + options.stall)


@contextlib.contextmanager
def _opened_file(path: Path) -> Iterator[Body]:
    if not path.is_file():  # nor a pipe or a device, which might never end
        raise Failed("is not there" if not path.exists() else "is not a file", final=True)
    try:
        stream = path.open("rb", buffering=0)
    except OSError as error:
        raise Failed(error.strerror or str(error), final=True) from None
    with stream:

        def read() -> bytes:
            try:
                return stream.read(CHUNK)
            except OSError as error:
                raise Failed(error.strerror or str(error), final=True) from None

        yield Body(read, total=os.fstat(stream.fileno()).st_size)


@contextlib.contextmanager
def _opened_http(url: str, offset: int, validator: str, options: Timeouts) -> Iterator[Body]:
    import requests

    with requests.Session() as session, contextlib.ExitStack() as open_responses:
        session.max_redirects = _REDIRECTS
        redirects = list[str]()
        session.hooks["response"].append(functools.partial(_follow_redirect, redirects))

        def ask(start: int) -> requests.Response:
            send = functools.partial(_ask, session, url, start, validator, options, redirects)
            response = _within(_answer_timeout(options), send)
            return open_responses.enter_context(contextlib.closing(response))

        response = ask(offset)
        if offset and (response.status_code == 416 or not _is_continued(response, offset, validator)):
            offset, response = 0, ask(0)
        elif response.status_code == 200:
            offset = 0
        _check_status(response, 206 if offset else 200)
        yield _http_body(response, offset, options)


def _follow_redirect(targets: list[str], response: requests.Response, **_: Any) -> None:
    """Note where a redirect leads, and drop its body: requests would read all of it, and it may have no end."""
    if response.is_redirect:
        targets.append(response.headers["Location"])
        response.raw.close()
        response.raw = io.BytesIO()


def _ask(
    session: requests.Session, url: str, offset: int, validator: str, options: Timeouts, redirects: list[str]
) -> requests.Response:
    """Send one GET without reading the body. Raises `Failed`. `redirects` are the targets of redirects so far."""
    import requests

    # identity: the pinned bytes are those of the file, not those of a transfer's compression
    headers = {"User-Agent": f"lvs-fullnat-pipeline/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    try:
        return session.get(url, headers=headers, stream=True, timeout=(options.connect, options.stall))
    except requests.TooManyRedirects:
        raise Failed(f"more than {_REDIRECTS} redirects", final=True) from None
    except (OSError, ValueError) as error:  # RequestException is an OSError
        what = _innermost(error)
        # requests raises ValueErrors for what is no address, also when a redirect led there.
        final = isinstance(error, ValueError) or "CERTIFICATE_VERIFY_FAILED" in what or _is_unknown_name(error)
        if (proxy := _proxy_of(url)) and (isinstance(error, requests.exceptions.ProxyError) or "SOCKS" in what):
            what = f"the proxy {Address(proxy).shown} (from the environment): {what}"
            if "SOCKS" in what:
                what = f"the proxy {Address(proxy).shown} (from the environment): SOCKS; expected an HTTP proxy"
        elif redirects:
            if isinstance(error, requests.exceptions.InvalidSchema):
                what = "not followed; expected http or https"
            what = f"redirected to {_shown(redirects[-1])}: {what}"
        raise Failed(what, final=final) from None


def _shown(url: str) -> str:
    """Return an address as messages show it, also one that is none."""
    try:
        return Address(url).shown
    except UsageError:
        return f"{url[:200]!r}, which is no address"


def _proxy_of(url: str) -> str:
    """Return the proxy that the environment names for this address; empty without one."""
    import requests.utils

    return requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url)) or ""


def _is_unknown_name(error: BaseException | None) -> bool:
    """Return whether a name server answered that a name does not exist."""
    while error is not None:
        if isinstance(error, socket.gaierror):
            return error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
        error = error.__cause__ or error.__context__
    return False


def _is_continued(response: requests.Response, offset: int, validator: str) -> bool:
    """Return False for a part other than the requested one, or of another file."""
    if response.status_code != 206:
        return True
    changed = validator.startswith('"') and response.headers.get("ETag", validator) != validator
    return _content_range(response)[0] == offset and not changed


def _content_range(response: requests.Response) -> tuple[int, int | None]:
    """Parse first byte and total size of `Content-Range: bytes 5-9/10` (RFC 9110, 14.4); -1 when invalid."""
    match = re.fullmatch(
        r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", response.headers.get("Content-Range", "").strip()
    )
    if not match:
        return -1, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _check_status(response: requests.Response, wanted: int) -> None:
    status = response.status_code
    if status != wanted:
        after = _seconds(response.headers.get("Retry-After", ""))
        what = f"HTTP {status} {response.reason}".rstrip()
        if response.is_redirect is False and status in range(300, 400):
            what += ", without an address to go to"
        raise Failed(what, final=status not in _LATER, after=after, answered=True, missing=status in _MISSING)


def _about(response: requests.Response) -> str:
    """Return origin and type of the answer where they differ from the request."""
    kind, coding = (response.headers.get(name, "") for name in ("Content-Type", "Content-Encoding"))
    deviations = []
    if response.history:
        deviations.append(f"redirected to {Address(response.url or '').shown}")
    if kind.lower().startswith(("text/html", "application/xhtml")):
        deviations.append(f"of type {kind.partition(';')[0].strip()}")
    if coding.lower() not in ("", "identity"):
        deviations.append(f"with the encoding {coding[:40]}, which was not requested")
    return ", ".join(deviations)


def _seconds(retry_after: str) -> float:
    """Convert Retry-After, a number of seconds or a date (RFC 9110 section 10.2.3), to seconds from now."""
    if retry_after.isascii() and retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _http_body(response: requests.Response, offset: int, options: Timeouts) -> Body:
    headers, raw = response.headers, response.raw
    raw.enforce_content_length = False  # `_receive` compares sizes, and can say where it broke off
    length = headers.get("Content-Length", "").strip()
    total = offset + int(length) if re.fullmatch("[0-9]{1,18}", length) else None  # as offsets, in 63 bits
    if offset:
        total = _content_range(response)[1] or total
    etag = headers.get("ETag", "")
    # A weak ETag speaks of meaning, not of bytes: If-Range must not carry it (RFC 9110 section 13.1.5).
    validator = etag if etag.startswith('"') else headers.get("Last-Modified", "")

    def read() -> bytes:
        return _read_http(raw, options.stall)

    chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
    return Body(read, offset, total, validator, whole=total is not None or chunked, about=_about(response))


def _read_http(raw: Any, stall: float) -> bytes:
    """Return available bytes of the body, undecoded: a full chunk could take hours at a slow server."""
    import urllib3.exceptions as errors

    try:
        data: bytes = raw.read1(CHUNK, decode_content=False)
        return data
    except (errors.ReadTimeoutError, TimeoutError):
        raise Failed(f"no byte for {stall:g} s") from None
    except (errors.HTTPError, OSError) as error:
        raise Failed(_innermost(error)) from None


def _innermost(error: BaseException) -> str:
    """Return the first cause's own text, without the wrapping of libraries."""
    no_answer = (http.client.BadStatusLine, http.client.UnknownProtocol)
    while inner := error.__cause__ or error.__context__:
        if isinstance(error, no_answer):
            break  # what is inside speaks of Python's numbers
        error = inner
    if isinstance(error, no_answer) and not isinstance(error, http.client.RemoteDisconnected):
        return f"not an HTTP answer: {str(error.args[0])[:60]!a}"
    if isinstance(error, ValueError) and "int() with base 16" in str(error):
        return "the length of a chunk is no number"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, http.client.IncompleteRead):
        return "broke off between two chunks"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


class _Ftp(ftplib.FTP):
    """FTP with a limit on the lines of an answer, all of which ftplib keeps."""

    lines_read = 0

    def getline(self) -> str:
        """Return one line of an answer."""
        self.lines_read += 1
        if self.lines_read > _LINES_MOST:
            raise ftplib.error_perm(f"the server says more than {_LINES_MOST} lines")
        return super().getline()


@contextlib.contextmanager
def _opened_ftp(url: str, offset: int, validator: str, options: Timeouts) -> Iterator[Body]:
    """Open an FTP transfer, with time and size of the file in place of an ETag. Uses no proxy."""
    ftp = _Ftp()
    try:
        opened = _within(_answer_timeout(options), lambda: _ftp_transfer(ftp, url, offset, validator, options))
        with opened.connection as connection:

            def read() -> bytes:
                with _ftp_errors(options.stall):
                    chunk = connection.recv(CHUNK)
                    if not chunk:
                        connection.close()
                        ftp.voidresp()  # a transfer that was cut ends in the same silence
                    return chunk

            yield Body(read, opened.start, opened.total, opened.validator)
    finally:
        ftp.close()


@dataclass(frozen=True)
class _Transfer:
    connection: socket.socket
    start: int
    total: int | None
    validator: str


def _ftp_transfer(ftp: ftplib.FTP, url: str, offset: int, validator: str, options: Timeouts) -> _Transfer:
    parts = urlsplit(url)
    path = unquote(parts.path)
    with _ftp_errors(options.stall):
        ftp.connect(parts.hostname or "", parts.port or ftplib.FTP_PORT, timeout=options.connect)
        ftp.timeout = options.stall
        if ftp.sock is not None:
            ftp.sock.settimeout(options.stall)
        ftp.login(unquote(parts.username or ""), unquote(parts.password or ""))
        ftp.voidcmd("TYPE I")
        total, changed = _ftp_answer(lambda: ftp.size(path)), _ftp_answer(lambda: ftp.sendcmd(f"MDTM {path}"))
        current = f"{changed}/{total}" if changed and total is not None else ""
        if current != validator or not offset:
            offset = 0
        try:
            connection, _ = ftp.ntransfercmd(f"RETR {path}", rest=offset or None)
        except ftplib.error_perm:
            if not offset:
                raise
            offset, (connection, _) = 0, ftp.ntransfercmd(f"RETR {path}")  # this server knows no REST
        connection.settimeout(options.stall)
    return _Transfer(connection, offset, total, current)


def _ftp_answer(ask: Callable[[], _T]) -> _T | None:
    """Return the answer to an optional command; None where the server lacks it."""
    try:
        return ask()
    except ftplib.error_perm:
        return None


@contextlib.contextmanager
def _ftp_errors(stall: float) -> Iterator[None]:
    try:
        yield
    except ftplib.error_perm as error:
        raise Failed(f"FTP {error}", final=True) from None
    except TimeoutError:
        raise Failed(f"no byte for {stall:g} s") from None
    except ValueError as error:  # ftplib refuses line breaks in a path
        raise Failed(str(error), final=True) from None
    except ftplib.all_errors as error:
        raise Failed(f"FTP {_innermost(error)}") from None
