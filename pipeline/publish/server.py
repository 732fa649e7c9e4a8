"""Serve published repositories over HTTP: read-only, with byte ranges and validators, and nothing outside their tree.

For a lab, a network of one's own, or behind a proxy that speaks TLS. Hidden files, which are those of runs at work, and
whatever a link leads out of the tree to are not found. Directories are not listed: clients know what they want.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from wsgiref.types import StartResponse, WSGIEnvironment

from pipeline.errors import HostLacks, UsageError

if TYPE_CHECKING:
    from werkzeug.serving import BaseWSGIServer
    from werkzeug.wrappers import Response

LISTEN = "127.0.0.1:8000"
IDLE = 60  # seconds for which a client may be silent
METHODS = ("GET", "HEAD")
TYPES = {
    ".asc": "application/pgp-signature",
    ".bz2": "application/x-bzip2",
    ".gz": "application/gzip",
    ".json": "application/json",
    ".pem": "application/x-pem-file",
    ".rpm": "application/x-rpm",
    ".xml": "application/xml",
}
KEY_TYPE = "application/pgp-keys"
TEXT = "text/plain"  # mirrorlists, .repo files, README, SHA256SUMS


def address(listen: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`, with brackets around an IPv6 address. Raises `UsageError`."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        what = f"--listen: expected ADDRESS:PORT, got {listen!r}"
        raise UsageError(what, why="the default is read on this host alone", hint=f"./inv serve --listen {LISTEN}")
    return host.removeprefix("[").removesuffix("]"), int(port)


@contextlib.contextmanager
def opened(root: Path, listen: str, log: Callable[[str], None]) -> Iterator[BaseWSGIServer]:
    """Yield a server of the tree `root` that listens; `serve_forever` answers until it is interrupted.

    `log` gets a line for each answer. Raises `UsageError` for an address of another form, and `HostLacks` for one that
    cannot be used.
    """
    from werkzeug.serving import make_server

    host, port = address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family)
    except OSError as error:  # a name that is not known, too
        what = f"the address {listen}: {error.strerror}; expected one of this host that is free"
        raise HostLacks(what, hint=f"./inv serve --listen {LISTEN.rpartition(':')[0]}:0") from None
    with bound:
        application = Application(root)
        server = make_server(host, port, application, threaded=True, request_handler=_handler(log), fd=bound.fileno())
        with contextlib.closing(server.socket):
            yield server


class Application:
    """A WSGI application that serves the files below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        from werkzeug.exceptions import HTTPException

        try:
            response = self._answer(environ)
        except HTTPException as error:
            response = _refusal(error)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.pop("Date", None)  # the server adds it
        return response(environ, start_response)

    def _answer(self, environ: WSGIEnvironment) -> Response:
        from werkzeug.exceptions import MethodNotAllowed, NotFound
        from werkzeug.utils import send_file
        from werkzeug.wrappers import Request

        request = Request(environ)
        if request.method not in METHODS:
            raise MethodNotAllowed(METHODS)
        file = self.find(request.path)
        if file is None:
            raise NotFound
        if request.range is None or request.range.units != "bytes" or len(request.range.ranges) != 1:
            environ.pop("HTTP_RANGE", None)  # RFC 9110, 14.2: what a server does not know, or do, it ignores
        return send_file(file, environ, mimetype=content_type(request.path), conditional=True)

    def find(self, path: str) -> Path | None:
        """Return the file of a request's path; None where there is none for readers."""
        parts = PurePosixPath("/", path).parts[1:]
        if any(part.startswith(".") or "\0" in part for part in parts):
            return None
        try:
            file = self.root.joinpath(*parts).resolve(strict=True)
        except (OSError, RuntimeError):
            return None
        is_ours = file.is_relative_to(self.root) and not any(
            part.startswith(".") for part in file.relative_to(self.root).parts
        )
        return file if is_ours and file.is_file() and os.access(file, os.R_OK) else None


def content_type(path: str) -> str:
    """Return the media type of a file by its name."""
    name = PurePosixPath(path).name
    return KEY_TYPE if name.startswith("RPM-GPG-KEY-") else TYPES.get(PurePosixPath(name).suffix, TEXT)


def _refusal(error: Any) -> Response:
    """Return an error of HTTP as one line of text, with the headers that it needs."""
    from werkzeug.wrappers import Response

    headers = [(key, value) for key, value in error.get_headers() if key.lower() != "content-type"]
    return Response(f"{error.code} {error.name}\n", error.code, headers, mimetype="text/plain")


def _handler(log: Callable[[str], None]) -> type[Any]:
    from werkzeug.serving import WSGIRequestHandler

    lock = threading.Lock()

    class Handler(WSGIRequestHandler):
        """A handler of requests that logs one line for each."""

        timeout = IDLE
        server_version, sys_version = "lvs-fullnat", ""

        def version_string(self) -> str:
            """Return the server's name, without versions of programs."""
            return self.server_version

        def parse_request(self) -> bool:
            """Read a request's head; one whose address cannot be read is answered with 400."""
            if not super().parse_request():
                return False
            try:
                urlsplit(self.path)
            except ValueError:
                self.send_error(400)
                return False
            return True

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Log an answer."""
            with lock:
                log(f"{self.address_string()} {getattr(self, 'requestline', '')} {code}")

        def log_error(self, format: str, *args: Any) -> None:
            """Log an error of a connection; that of a request is logged as its answer."""
            if not format.startswith("code "):
                super().log_error(format, *args)

        def log(self, type: str, message: str, *args: Any) -> None:
            """Log an error of a connection."""
            with lock:
                log(f"{self.address_string()} {message % args}")

    return Handler
