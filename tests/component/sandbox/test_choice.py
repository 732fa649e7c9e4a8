"""Which runtime is chosen, what is said of it, and that an explicit choice never gives way."""

from __future__ import annotations

import io
import socket
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest

from pipeline.core.console import Console
from pipeline.errors import HostLacks, UsageError
from pipeline.host.facts import Host
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.choice import choose
from pipeline.sandbox.container import ContainerEngine


class _Answer(BaseHTTPRequestHandler):
    """What an engine says of itself, and no more."""

    def do_GET(self) -> None:
        data = b'{"Version": "27.1", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "somebody"

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Host]:
    """A host whose engine answers."""
    with ThreadingUnixStreamServer(str(tmp_path / "docker.sock"), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Host(environ={}, run=tmp_path)
        server.shutdown()
        thread.join()


@pytest.fixture
def silent(tmp_path: Path) -> Host:
    """A host on which a socket was left, and nobody listens."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "docker.sock"))
    return Host(environ={}, run=tmp_path)


@pytest.fixture
def broken_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="fnat-") as name:  # the build user cannot look below pytest's own
        program = Path(name, "bwrap")
        program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
        program.chmod(0o755)
        program.parent.chmod(0o755)
        monkeypatch.setenv("PATH", f"{name}:/usr/bin:/bin:/usr/sbin:/sbin")
        yield


def test_bubblewrap_is_the_default_where_no_engine_answers(silent: Host) -> None:
    said = io.StringIO()
    assert isinstance(choose("auto", Console(err=said), silent), Bubblewrap)
    assert said.getvalue().startswith("builds run under bubblewrap 0.")
    assert "without a daemon" in said.getvalue()


def test_bubblewrap_is_preferred_to_an_engine(engine: Host) -> None:
    assert isinstance(choose("auto", Console(quiet=True), engine), Bubblewrap)


@pytest.mark.usefixtures("broken_bubblewrap")
def test_an_engine_is_taken_where_bubblewrap_does_not_isolate(engine: Host) -> None:
    said = io.StringIO()
    assert isinstance(choose("auto", Console(err=said), engine), ContainerEngine)
    assert "builds run under Docker 27.1: answers, and bubblewrap: no isolation" in said.getvalue()


@pytest.mark.usefixtures("broken_bubblewrap")
def test_bubblewrap_asked_for_never_gives_way_to_an_engine(engine: Host) -> None:
    with pytest.raises(HostLacks, match="bubblewrap: no isolation") as caught:
        choose("bubblewrap", Console(quiet=True), engine)
    assert "No permissions to create new namespace" in caught.value.why
    assert caught.value.hint


def test_an_engine_asked_for_never_gives_way_to_bubblewrap(silent: Host) -> None:
    with pytest.raises(HostLacks, match="container engine: none answers") as caught:
        choose("docker", Console(quiet=True), silent)
    assert caught.value.hint


def test_an_engine_asked_for_is_taken(engine: Host) -> None:
    assert choose("docker", Console(quiet=True), engine).name == "Docker 27.1"


@pytest.mark.usefixtures("broken_bubblewrap")
def test_without_either_both_reasons_are_told(silent: Host) -> None:
    with pytest.raises(HostLacks, match="runtime: none isolates builds on this host") as caught:
        choose("auto", Console(quiet=True), silent)
    assert "No permissions" in caught.value.why and "no engine answers" in caught.value.why


def test_no_other_runtime_is_known() -> None:
    with pytest.raises(UsageError, match="runtime: expected one of auto"):
        choose("chroot", Console(quiet=True))
