"""Connect to QEMU's monitors with the package qemu.qmp: events of guests, and the lab's few commands.

The package is asyncio's; here one thread with one loop serves all guests, and callers wait for it.
We listen, QEMU connects: so the first event cannot be missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

T = TypeVar("T")
COMMAND_TIMEOUT = 5.0  # seconds for a command: QEMU answers in milliseconds, or not at all


_MAX_EVENTS = 200  # names of events: QEMU has about 60, and a hostile one might make up others


class MonitorLost(Exception):
    """An unresponsive monitor: QEMU is gone, or hangs."""


@dataclass
class Monitor:
    """One guest's monitor. `events`: the reason of the first event of each name, empty where it has none."""

    client: QMPClient
    loop: asyncio.AbstractEventLoop
    events: dict[str, str] = field(default_factory=dict)

    def event(self, name: str) -> str | None:
        """Return the reason of the first event of that name, empty without a reason; None without such an event."""
        return self.events.get(name)

    def command(self, name: str) -> None:
        """Execute a command without arguments. Raises `MonitorLost`."""
        _wait(self.loop, self.client.execute(name), name)


class Monitors:
    """All monitors of a lab, and the thread with their loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="lab-monitors", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def listen(self, guest: str, path: Path) -> Iterator[Monitor]:
        """Provide a monitor that listens at `path` for a QEMU started meanwhile."""
        monitor = _wait(self.loop, self._listen(guest, path), "listening")
        following = asyncio.run_coroutine_threadsafe(_follow(monitor), self.loop)
        try:
            yield monitor
        finally:
            following.cancel()
            with contextlib.suppress(MonitorLost):
                _wait(self.loop, _disconnect(monitor), "leaving")

    def close(self) -> None:
        """End the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _listen(self, guest: str, path: Path) -> Monitor:
        from qemu.qmp import QMPClient

        client = QMPClient(guest)
        await client.start_server(str(path))
        return Monitor(client, self.loop)


async def _follow(monitor: Monitor) -> None:
    """Collect events until QEMU is gone."""
    await monitor.client.accept()
    async for event in monitor.client.events:
        data = event.get("data")
        reason = str(data.get("reason", data.get("action", ""))) if isinstance(data, dict) else ""
        if len(monitor.events) < _MAX_EVENTS:
            monitor.events.setdefault(str(event["event"]), reason)


async def _disconnect(monitor: Monitor) -> None:
    with contextlib.suppress(Exception):  # whatever ended the session is not what anybody asks about any more
        await monitor.client.disconnect()


def _wait(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], what: str) -> T:
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result(timeout=COMMAND_TIMEOUT)
    except Exception as error:
        future.cancel()
        raise MonitorLost(f"{what}: {error or type(error).__name__}") from error
