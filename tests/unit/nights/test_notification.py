"""Notifications: when they are due, what a program and an address get, and what becomes of their failures."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline.config.settings import load
from pipeline.errors import UsageError
from pipeline.nights import notification
from pipeline.nights.record import Verdict
from tests.unit.nights.test_record import line, night

GREEN, RED = night(1, line(Verdict.GREEN, "a")), night(2, line(Verdict.RED))


class Hook(BaseHTTPRequestHandler):
    """An address that answers with these codes in turn, and keeps what it gets."""

    codes: ClassVar[list[int]] = []
    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        """Keeps the body."""
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.codes.pop(0))
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def hook() -> Iterator[str]:
    Hook.codes, Hook.bodies = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()


def test_it_is_due_when_a_line_s_verdict_changes_or_always() -> None:
    settings = load({}, {})
    assert notification.is_due(settings, [], GREEN) and notification.is_due(settings, [GREEN], RED)
    assert not notification.is_due(settings, [GREEN], GREEN) and not notification.is_due(settings, [GREEN, RED], RED)
    killed = night(3, line(Verdict.KILLED))
    assert not notification.is_due(settings, [GREEN, RED, killed], RED), "a killed night says nothing of the line"
    assert notification.is_due(load({"notify_when": "always"}, {}), [GREEN], GREEN)


def test_the_document_tells_outcome_failure_and_since_when(tmp_path: Path) -> None:
    third = night(3, line(Verdict.RED))
    sent = json.loads(notification.document(third, [GREEN, RED, third], tmp_path / "index.html"))
    assert (sent["night"], sent["verdict"], sent["exit_code"], sent["page"]) == (3, "red", 5, f"{tmp_path}/index.html")
    (only,) = sent["lines"]
    assert (only["line"], only["failure"]["step"], only["broken_since"]) == ("lts61", "ipvsadm", 2)


def test_a_program_gets_it_on_standard_input_without_a_shell(tmp_path: Path) -> None:
    file = tmp_path / "a file;x"
    settings = load({"notify_command": f"tee '{file}'"}, {})
    assert notification.send(settings, "text") == "program: notified" and file.read_text() == "text"
    for command in ("false", "/no/such/program", "an 'open quote"):
        outcome = notification.send(load({"notify_command": command}, {}), "text")
        assert outcome.startswith("program: failed: ") and notification.failed(outcome)


@pytest.mark.parametrize(
    ("codes", "outcome", "requests"),
    [
        ([204], "address: notified", 1),
        ([500, 429, 200], "address: notified", 3),
        ([503, 503, 503], "address: failed: HTTP 503", 3),
        ([404], "address: failed: HTTP 404", 1),
        ([302], "address: failed: HTTP 302", 1),
    ],
)
def test_an_address_gets_it_three_times_at_most(hook: str, codes: list[int], outcome: str, requests: int) -> None:
    Hook.codes, waits = list(codes), list[float]()
    assert notification.send(load({"notify_url": hook}, {}), "text", waits.append) == outcome
    assert Hook.bodies == [b"text"] * requests and waits == [1.0, 2.0][: requests - 1]
    assert notification.failed(outcome) is (": failed" in outcome)


def test_no_failure_repeats_an_address_which_may_hold_a_secret() -> None:
    for url in ("http://127.0.0.1:9/secret", "nonsense secret", "http://[secret"):
        outcome = notification.send(load({"notify_url": url}, {}), "text", lambda _: None)
        assert notification.failed(outcome) and "secret" not in outcome


class Dribbling(Hook):
    """An address whose answer never ends: a byte of its header now and then."""

    def do_POST(self) -> None:
        """Dribbles."""
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"H")
                time.sleep(0.1)


def test_an_answer_that_dribbles_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notification, "_WHOLE", 0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), Dribbling) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = load({"notify_url": f"http://127.0.0.1:{server.server_port}/secret"}, {})
        begun = time.monotonic()
        sent = notification.send(settings, "text", lambda _: None)
        assert sent == "address: failed: no whole answer within 0.5 s" and time.monotonic() - begun < 10
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("notify_command", value) for value in ("   ", "''", "an 'open quote", "\t", "' ' x")),
        *(("notify_url", value) for value in ("   ", "nonsense secret", "file:///secret", "http://", "http://[secret")),
        *(("notify_url", value) for value in ("ftp://host/secret", "http://host:secret/", "/secret")),
    ],
)
def test_nobody_who_could_be_notified_is_a_mistake_of_usage_before_the_night(name: str, value: str) -> None:
    with pytest.raises(UsageError) as refused:
        notification.check(load({name: value}, {}))
    assert name.replace("_", "-") in refused.value.what and "secret" not in str(refused.value)


def test_a_program_and_an_address_that_can_be_are_taken() -> None:
    notification.check(load({}, {}))
    notification.check(load({"notify_command": "mail -s 'a night'", "notify_url": "https://host:8443/hook?x"}, {}))


def test_nothing_is_sent_where_nobody_is_named() -> None:
    assert notification.send(load({}, {}), "text") == "" and not notification.failed("")
