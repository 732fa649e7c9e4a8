"""Notify a program or an address of a night's outcome. What fails here is reported, and never fails the night."""

from __future__ import annotations

import json
import queue
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pipeline import __version__
from pipeline.config.settings import Settings
from pipeline.core import process
from pipeline.errors import PipelineError, UsageError
from pipeline.nights import record
from pipeline.nights.record import LineNight, Night

_PROGRAM = 60.0  # seconds for the program
_CONNECT, _ANSWER = 5.0, 15.0  # seconds for the address, for each time that anything comes from there
_WHOLE = 30.0  # seconds for all of one attempt, however slowly its answer dribbles
_ATTEMPTS = 3
_LATER = {408, 425, 429, *range(500, 600)}  # RFC 9110 section 15.5: these may get better


def check(settings: Settings) -> None:
    """Raise `UsageError` for a program or an address that none can be; an address is not repeated."""
    try:
        words = shlex.split(settings.notify_command)
    except ValueError as error:
        raise _wrong(
            "notify-command", f"a program with its options, got {settings.notify_command!r}: {error}"
        ) from None
    if settings.notify_command and not (words and words[0].strip()):
        raise _wrong("notify-command", f"a program with its options, got {settings.notify_command!r}")
    try:
        address = urlsplit(settings.notify_url)
        is_address = address.scheme in ("http", "https") and bool(address.hostname) and (address.port or 1) > 0
    except ValueError:
        is_address = False
    if settings.notify_url and not is_address:
        raise _wrong("notify-url", "an address for http or https, got another text")


def _wrong(name: str, expected: str) -> UsageError:
    why = "a night would end without anyone being told of it"
    return UsageError(f"--{name}: cannot be used; expected {expected}", why=why, hint="./inv --help nightly")


def is_due(settings: Settings, before: Sequence[Night], night: Night) -> bool:
    """Return whether to notify: always, or when a line's verdict is not that of its last night that came to an end."""
    if settings.notify_when == "always":
        return True
    return any(_last_verdict(before, line) != line.verdict for line in night.lines)


def _last_verdict(before: Sequence[Night], line: LineNight) -> record.Verdict | None:
    known = (found.verdict for night in reversed(before) if (found := night.line(line.directory)))
    return next((verdict for verdict in known if verdict is not record.Verdict.KILLED), None)


def document(night: Night, nights: Sequence[Night], index: Path) -> str:
    """Return the JSON that is sent: the outcome of the night, of each line, and the page."""
    lines = []
    for line in night.lines:
        since = record.broken_since(nights, line.directory)
        failure = line.failure
        lines.append(
            {
                "line": line.directory,
                "verdict": line.verdict,
                "snapshot": line.snapshot,
                "released": line.released,
                "updates": [{"source": each.source, "state": each.state, "text": each.text} for each in line.upstream],
                "failure": {"phase": failure.phase, "step": failure.step, "error": failure.error} if failure else None,
                "broken_since": since.number if since else None,
            }
        )
    whole = {"night": night.number, "begun": night.date, "verdict": night.verdict, "exit_code": int(night.code)}
    return json.dumps({**whole, "lines": lines, "page": str(index.absolute())}, indent=1) + "\n"


def send(settings: Settings, text: str, wait: Callable[[float], None] = time.sleep) -> str:
    """Notify program and address of the settings; return what came of it as a sentence, empty without either."""
    ways: list[tuple[str, Callable[[], str]]] = []
    if settings.notify_command:
        ways.append(("program", lambda: _run(settings.notify_command, text)))
    if settings.notify_url:
        ways.append(("address", lambda: _post(settings.notify_url, text, wait)))
    return "; ".join(f"{name}: {problem or 'notified'}" for name, way in ways for problem in [way()])


def failed(sentence: str) -> bool:
    """Return whether a sentence of `send` has a failure."""
    return any(not part.endswith(": notified") for part in sentence.split("; ") if part)


def _run(command: str, text: str) -> str:
    """Return the problem of a program that did not take the text; empty for none."""
    try:
        process.run(shlex.split(command), stdin=text.encode(), timeout=_PROGRAM)
    except (PipelineError, ValueError) as error:  # ValueError: no shell word
        return f"failed: {str(error).splitlines()[0]}"
    return ""


def _post(url: str, text: str, wait: Callable[[float], None]) -> str:
    """Return the problem of an address that did not take the text; empty for none."""
    problem = ""
    for pause in (*_pauses(), None):
        problem, retry = _attempt(url, text)
        if not problem or not retry or pause is None:
            break
        wait(pause)
    return problem and f"failed: {problem}"


def _pauses() -> Iterable[float]:
    return (float(2**number) for number in range(_ATTEMPTS - 1))


def _attempt(url: str, text: str) -> tuple[str, bool]:
    """Return the problem of one request, which names no part of the address, and whether another may succeed.

    The request has a thread of its own, which does not outlive this program: limits of a connection begin anew with
    every byte, and those of a look-up of names are the system's.
    """
    answers: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_request(url, text)), daemon=True).start()
    try:
        return answers.get(timeout=_WHOLE)
    except queue.Empty:
        return f"no whole answer within {_WHOLE:g} s", True


def _request(url: str, text: str) -> tuple[str, bool]:
    """Make one request as `_attempt`, without an end of its own; redirects are not followed, wherever they lead."""
    import requests

    headers = {"Content-Type": "application/json", "User-Agent": f"lvs-fullnat-pipeline/{__version__}"}
    limits = (_CONNECT, _ANSWER)
    try:
        answer = requests.post(
            url, data=text.encode(), headers=headers, timeout=limits, allow_redirects=False, stream=True
        )
    except requests.Timeout:
        return f"no answer within {_CONNECT + _ANSWER:g} s", True
    except requests.ConnectionError:
        return "no connection", True
    except (OSError, ValueError):  # addresses hold tokens, and the texts of these errors hold addresses
        return "not an address for http or https", False
    except Exception as error:  # noqa: BLE001 - in a thread of its own: whoever waits must be told
        return type(error).__name__, False
    with answer:
        if 200 <= answer.status_code < 300:
            return "", False
        return f"HTTP {answer.status_code}", answer.status_code in _LATER
