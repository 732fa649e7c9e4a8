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
from pipeline.sources.download import Attempt, Options, Wanted, addresses
from pipeline.sources.transport import Address, Failed

# Of the downloader's own patience. With its defaults an address has 16 seconds in all (`transport`: twice the sum).
SHARE = 0.2


@dataclass(frozen=True)
class Silent:
    """A file that no address has, with the result of each address."""

    name: str
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class _Patience:
    """Time limits of the preflight in seconds, as `transport.Timeouts`."""

    connect: float
    stall: float


def look(wanted: Sequence[Wanted], options: Options) -> list[Silent]:
    """Probe every address of `wanted` in parallel; return the files that none of their addresses has.

    Returns as soon as that is known. With `offline` only what is on this machine is asked.
    """
    told: queue.SimpleQueue[tuple[str, Attempt | None]] = queue.SimpleQueue()
    places = {item.name: list(addresses(item, options)) for item in wanted}
    patience = _Patience(options.connect * SHARE, options.stall * SHARE)

    def ask(name: str, address: Address) -> None:
        told.put((name, _asked(address, patience, options.offline)))

    for name, asked in places.items():
        for address in asked:  # daemons: those that nobody waits for any more do not keep us
            threading.Thread(target=ask, args=(name, address), name=f"look-{name}", daemon=True).start()
    open_, failed = dict(places), defaultdict[str, list[Attempt]](list)
    while undecided := [name for name in open_ if len(failed[name]) < len(places[name])]:
        name, attempt = told.get()
        if attempt is None:
            open_.pop(name, None)
        elif name in undecided:
            failed[name].append(attempt)
    return [Silent(name, _in_order(failed[name], places[name])) for name in open_]


def _in_order(attempts: Iterable[Attempt], asked: Sequence[Address]) -> tuple[Attempt, ...]:
    order = [address.shown for address in asked]
    return tuple(sorted(attempts, key=lambda attempt: order.index(attempt.url)))


def _asked(address: Address, patience: _Patience, offline: bool) -> Attempt | None:
    """Return the failure of an address; None when it begins to deliver, or asks for a later attempt."""
    if offline and address.path is None:
        return Attempt(address.shown, "not asked: offline")
    try:
        with transport.opened(address, 0, "", patience):
            return None
    except Failed as failure:
        return Attempt(address.shown, failure.what) if failure.final or not failure.answered else None
    except Exception as error:  # noqa: BLE001 - in a thread of its own: whoever waits must be told
        return Attempt(address.shown, str(error) or type(error).__name__)


def failure(silent: Sequence[Silent], hint: str) -> Unreachable:
    """Return the error: each file with each address's result."""
    rows = [f"{len(silent)} source{'s' * (len(silent) != 1)} cannot be had from here: no address answers"]
    for item in silent:
        rows.append(f"  {item.name}")
        rows += [f"    {attempt.url}: {attempt.what}" for attempt in item.attempts] or ["    it has no address"]
    return Unreachable(
        "\n".join(rows), why="what is not here must be fetched before anything is built; nothing was begun", hint=hint
    )
