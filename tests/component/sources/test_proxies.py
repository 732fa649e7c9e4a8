"""Proxies that are dead or of another kind are named, and a name that does not exist is looked up once."""

from __future__ import annotations

import socket

import pytest

from pipeline.errors import Unreachable
from tests.fixtures.badserver import good
from tests.fixtures.downloads import BODY, Bench


@pytest.fixture
def dead() -> str:
    """The address of a port on which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize(
    ("variable", "scheme", "says"),
    [
        ("http_proxy", "http", "Connection refused"),
        ("ALL_PROXY", "http", "Connection refused"),
        ("all_proxy", "socks5", "SOCKS; expected an HTTP proxy"),
    ],
)
def test_a_proxy_that_is_of_no_use_is_named_without_its_password(
    bench: Bench, dead: str, monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str, says: str
) -> None:
    monkeypatch.setenv(variable, f"{scheme}://me:secret@{dead}")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(Unreachable) as caught:
        bench.fetch("http://nowhere.invalid/f")
    assert f"the proxy {scheme}://{dead} (from the environment): " in caught.value.what
    assert says in caught.value.what and "secret" not in caught.value.what


def test_no_proxy_is_honoured(bench: Bench, dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://{dead}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    bench.fetch(bench.server.at("/f", good(BODY)))


@pytest.mark.parametrize(("number", "attempts"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, 3)])
def test_only_a_name_server_without_an_answer_is_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, attempts: int
) -> None:
    calls: list[object] = []

    def look_up(*words: object, **_: object) -> None:
        calls.append(words)
        raise socket.gaierror(number, "no such luck")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(Unreachable, match="no such luck"):
        bench.fetch("http://nowhere.invalid/f")
    assert len(calls) == attempts
