"""Open the store that several hosts share, of the kind that its address has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import rsync
from pipeline.errors import UsageError
from pipeline.packaging.shared_store import DirectoryStore, SharedStore

if TYPE_CHECKING:
    from pipeline.config.context import RunContext
    from pipeline.core.console import Console

_FORMS = "a directory, HOST:DIRECTORY, rsync://HOST/MODULE, or http://… or https://…, which is only read"


def opened(context: RunContext) -> SharedStore | None:
    """Return the store of the settings, which is there; None without one, and offline without one on this host.

    Raises `UsageError` for an address of no known form or a missing directory, and `Unreachable`.
    """
    settings, console = context.settings, context.console
    address = settings.shared_store
    if not address:
        return None
    store = _of_kind(address, context)
    if settings.offline and not isinstance(store, DirectoryStore):
        console.note(f"the shared store {store.address} is not used: offline")
        return None
    store.check()
    if not store.is_writable:
        console.note(f"the shared store {store.address} is only read: results are taken from it, and none is stored")
    return store


def _of_kind(address: str, context: RunContext) -> SharedStore:
    scheme = address.partition("://")[0].lower() if "://" in address else ""
    if scheme in ("http", "https"):
        from pipeline.packaging.http_store import HttpStore
        from pipeline.sources.wanted import Options

        options = replace(Options.from_settings(context.settings), mirrors=())
        return HttpStore(address, options, lambda name: _Notes(context.console, name))
    if scheme not in ("", "rsync"):
        raise UsageError(f"shared-store: {address}; expected {_FORMS}", hint="./inv --help build")
    if rsync.is_remote(address):
        from pipeline.host import programs
        from pipeline.packaging.rsync_store import RsyncStore

        programs.ensure({"publish"}, context.console)
        return RsyncStore(address)
    return DirectoryStore(Path(address).expanduser())


@dataclass(frozen=True)
class _Notes:
    """A meter that prints retries alone: beside the progress of steps that of their downloads is too much."""

    console: Console
    name: str

    def start(self, total: int | None, done: int = 0) -> None:
        """Begin or restart."""

    def advance(self, count: int) -> None:
        """Add bytes."""

    def note(self, text: str) -> None:
        """Print a note."""
        self.console.note(f"{self.name}: {text}")
