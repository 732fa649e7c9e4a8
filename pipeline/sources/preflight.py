"""Probe all download URLs in parallel before anything long begins.

Without it a host without network would go through each address, each with its retries, for minutes. An address
is believed to have the file when it begins to answer; only the downloader finds out what the answer is worth.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.errors import Unreachable
from pipeline.sources import transport
from pipeline.sources.attempts import addresses
from pipeline.sources.transport import Address, Failed
from pipeline.sources.wanted import Attempt, Options, Wanted

# Of the downloader's own patience. With its defaults an address has 16 seconds in all (`transport`: twice the sum).
SHARE = 0.2


@dataclass(frozen=True)
class MissingSource:
    """A file that no address has, with the result of each address."""

    name: str
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class _ProbeTimeouts:
    """Time limits of the preflight in seconds, as `transport.Timeouts`."""

    connect: float
    stall: float


def probe(wanted: Sequence[Wanted], options: Options) -> list[MissingSource]:
    """Probe every address of `wanted` in parallel; return the files that none of their addresses has.

    Returns as soon as that is known. With `offline` only what is on this machine is asked.
    """
    results: queue.SimpleQueue[tuple[str, Attempt | None]] = queue.SimpleQueue()
    places = {item.name: list(addresses(item, options)) for item in wanted}
    timeouts = _ProbeTimeouts(options.connect * SHARE, options.stall * SHARE)

    def work(name: str, address: Address) -> None:
        results.put((name, _probe(address, timeouts, options.offline)))

    for name, candidates in places.items():
        for address in candidates:  # daemons: late ones do not delay the end of the process
            threading.Thread(target=work, args=(name, address), name=f"look-{name}", daemon=True).start()
    open_, failed = dict(places), defaultdict[str, list[Attempt]](list)
    while undecided := [name for name in open_ if len(failed[name]) < len(places[name])]:
        name, attempt = results.get()
        if attempt is None:
            open_.pop(name, None)
        elif name in undecided:
            failed[name].append(attempt)
    return [MissingSource(name, _in_order(failed[name], places[name])) for name in open_]


def _in_order(attempts: Iterable[Attempt], candidates: Sequence[Address]) -> tuple[Attempt, ...]:
    order = [address.shown for address in candidates]
    return tuple(sorted(attempts, key=lambda attempt: order.index(attempt.url)))


def _probe(address: Address, timeouts: _ProbeTimeouts, offline: bool) -> Attempt | None:
    """Return the failure of an address; None when it begins to deliver, or asks for a later attempt."""
    if offline and address.path is None:
        return Attempt(address.shown, "not requested: offline")
    try:
        with transport.opened(address, 0, "", timeouts):
            return None
    except Failed as failure:
        return Attempt(address.shown, failure.what) if failure.final or not failure.answered else None
    except Exception as error:  # noqa: BLE001 - in a thread of its own: whoever waits must be told
        return Attempt(address.shown, str(error) or type(error).__name__)


def failure(missing: Sequence[MissingSource], hint: str) -> Unreachable:
    """Return the error: each file with each address's result."""
    rows = [f"{len(missing)} source{'s' * (len(missing) != 1)} cannot be fetched from here: no address answers"]
    for item in missing:
        rows.append(f"  {item.name}")
        rows += [f"    {attempt.url}: {attempt.what}" for attempt in item.attempts] or ["    no address"]
    return Unreachable(
        "\n".join(rows), why="missing sources must be fetched before a build; nothing was started", hint=hint
    )
