"""Hostile text by every way in, through the real command line: what a terminal would get of it, in bytes."""

from __future__ import annotations

import fcntl
import os
import shlex
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import process
from pipeline.core.locks import locked
from pipeline.errors import ExitCode
from tests.fixtures.badserver import BadServer, Exchange
from tests.fixtures.commandline import Inv

# Colour, title, link; C1; line overwriting; bidi; unseen; separators; rich's markup; a line like one of ours.
EVIL = "\x1b[31m\x1b]0;owned\x07\x1b]8;;http://x\x1b\\\x9b2J\r\b\u202e\u2066\u200b\ufeff\u2028[red]x[/red]"
FORGED = EVIL + "\n  next: rm -rf $HOME"
SIGN = r"\x1b]0;owned\x07"


@pytest.fixture
def server() -> Iterator[BadServer]:
    with BadServer() as running:
        yield running


@pytest.fixture
def inv(tmp_path: Path) -> Inv:
    return Inv(tmp_path)


def told(inv: Inv, *words: str | Path, expect: int, shows: str = SIGN, **variables: str) -> str:
    """Both outputs of a run, whose bytes are neutral and show that something was there."""
    env = inv.environment(**variables)
    ended = process.run(inv.argv(*words), env=env, cwd=inv.cwd, timeout=60, accept=range(256))
    assert ended.status == expect, ended.text + ended.error_text
    for output in (ended.out, ended.err):
        assert [letter for letter in output.decode() if not letter.isprintable() and letter != "\n"] == []
    whole = ended.out.decode() + ended.err.decode()
    assert shows in whole, whole
    assert "Traceback" not in whole
    assert not [line for line in whole.splitlines() if line.startswith("  next: rm -rf")]
    return whole


def quoted(text: str) -> str:
    """A TOML string."""
    return '"' + "".join(c if c.isalnum() else f"\\U{ord(c):08x}" for c in text) + '"'


def a_line(inv: Inv, *rows: str, title: str = "x", name: str = "own.toml", **source: Any) -> Path:
    """A line file of our own with one source."""
    file = inv.cwd / name
    rows = ("schema = 1", 'extends = "el6"', 'name = "own"', f"title = {quoted(title)}", *rows)
    file.write_text("\n".join(rows) + "\n")
    return file


def source(url: str) -> tuple[str, ...]:
    """Rows of a line file: the patches' source from one place."""
    return ("[sources.lvs-tarball]", f"urls = [{quoted(url)}]")


def test_a_line_file_s_title(inv: Inv) -> None:
    told(inv, "lines", "--line-file", a_line(inv, title=FORGED), expect=ExitCode.OK)
    told(inv, "lines", "--json", "--line-file", a_line(inv, title=FORGED), expect=ExitCode.OK, shows=r"\u001b")


def test_a_line_file_s_mistakes_and_its_name(inv: Inv) -> None:
    broken = a_line(inv, f"{quoted(FORGED)} = 1", f"released = {quoted(FORGED)}")
    told(inv, "lines", "--line-file", broken, expect=ExitCode.USAGE)
    strange = a_line(inv, name=FORGED.replace("/", "") + ".toml")
    told(inv, "lines", "--line-file", strange, expect=ExitCode.USAGE)
    told(inv, "lines", "--line-file", f"missing {FORGED}", expect=ExitCode.USAGE)
    undecodable = os.fsdecode(b"missing \xff\x9b")
    told(inv, "lines", "--line-file", undecodable, expect=ExitCode.USAGE, shows=r"missing \xff\x9b")


def test_the_words_of_an_http_server(inv: Inv, server: BadServer) -> None:
    def evil(exchange: Exchange) -> None:
        handler: BaseHTTPRequestHandler = exchange.handler
        reason = EVIL.replace("\r", "")
        head = f"HTTP/1.1 404 {reason}\r\nRetry-After: {reason}\r\nContent-Length: 0\r\n\r\n"
        handler.wfile.write(head.encode())

    def elsewhere(exchange: Exchange) -> None:
        target = ("http://127.0.0.1:1/" + EVIL.replace("\r", "").replace("\n", "")).encode()
        exchange.handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: " + target + b"\r\nContent-Length: 0\r\n\r\n")

    for behaviour, shows in ((evil, SIGN), (elsewhere, "Connection refused")):
        file = a_line(inv, *source(server.at("/own", behaviour)))
        told(inv, "fetch", "--line-file", file, "--retries", "1", expect=ExitCode.UNREACHABLE, shows=shows)


def test_a_patch_and_its_names(inv: Inv) -> None:
    name = EVIL.replace("/", "") + ".patch"
    (inv.cwd / name).write_text(f"Subject: {EVIL}\nFrom: {EVIL}\n--- a/{EVIL}\n+++ b/{EVIL}\n@@ -1 +1 @@\n-a\n+b\n")
    told(inv, "patches", "--classify", name, expect=ExitCode.REFUSED)
    told(inv, "patches", "--diff", name, name, expect=ExitCode.REFUSED)


def test_the_names_of_what_lies_below_the_artifacts(inv: Inv) -> None:
    name = FORGED.replace("/", "")
    failed = inv.artifacts / "steps" / name / name / ".failed"
    failed.mkdir(parents=True)
    (failed / "meta.json").write_text("{}")
    (inv.artifacts / "repo" / name / "snapshots" / name).mkdir(parents=True)
    (inv.artifacts / "store").mkdir()
    out = told(inv, "status", expect=ExitCode.OK)
    command = next(line for line in out.splitlines() if "./inv build-all --only" in line)
    assert "--line $'" in command and command.endswith("rm -rf $HOME'")
    told(inv, "clean", expect=ExitCode.OK, shows="word")
    told(inv, "clean", "failed", expect=ExitCode.OK)


def test_the_command_of_a_lock_s_holder(inv: Inv) -> None:
    lock = inv.store / "locks" / "store.lock"
    with locked(lock):
        pass
    holding = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True)"
    argv = [sys.executable, "-c", f"{holding}; time.sleep(600)", str(lock), FORGED]
    with process.start(argv) as child:
        assert child.stdout is not None and child.stdout.readline()
        with lock.open() as stream, pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        told(inv, "store", "gc", expect=ExitCode.LOCKED)


def test_the_environment(inv: Inv) -> None:
    told(inv, "lines", expect=ExitCode.USAGE, shows="owned", FNAT_RETRIES=FORGED)
    told(inv, "lines", expect=ExitCode.USAGE, FNAT_SETTINGS=FORGED)


def test_the_words_of_a_program_that_failed(inv: Inv) -> None:
    script = f"printf %s {shlex.quote(FORGED)} >&2; exit 3"
    stand_ins = inv.with_stand_ins(dict.fromkeys(("git", "patch"), script))
    (inv.cwd / "p.patch").write_text("--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n")
    told(inv, "patches", "--classify", "p.patch", expect=ExitCode.BUG, **stand_ins)


def test_a_word_of_the_command_line(inv: Inv) -> None:
    told(inv, EVIL, expect=ExitCode.USAGE, shows="owned")
    told(inv, "store", FORGED, expect=ExitCode.USAGE)
    told(inv, "lines", "--json", "--show", FORGED, expect=ExitCode.USAGE, shows="owned")
