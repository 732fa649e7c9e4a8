"""Notify a program or an address of a night's outcome. What fails here is reported, and never fails the night."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pipeline import __version__
from pipeline.config.settings import Settings
from pipeline.core import process
from pipeline.errors import PipelineError
from pipeline.nights import record
from pipeline.nights.record import LineNight, Night

_PROGRAM = 60.0  # seconds for the program
_CONNECT, _ANSWER = 5.0, 15.0  # seconds for the address
_ATTEMPTS = 3
_LATER = {408, 425, 429, *range(500, 600)}  # RFC 9110 section 15.5: these may get better


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
    """Return the problem of one request, which names no part of the address, and whether another may succeed."""
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
    with answer:
        if 200 <= answer.status_code < 300:
            return "", False
        return f"HTTP {answer.status_code}", answer.status_code in _LATER
