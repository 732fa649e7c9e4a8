"""Take results from a shared store that a web server publishes.

Nothing is stored there: what would keep a name's first object, a PUT with `If-None-Match: *`, many servers take and
do not heed, and so replace what others have taken already. Hosts that store do that in the directory itself, or
with rsync.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipeline.core import fs, temporary
from pipeline.core.fs import read_limited
from pipeline.errors import Mistake, Refused, Unreachable
from pipeline.packaging import shared_store
from pipeline.sources.wanted import Options, Wanted

if TYPE_CHECKING:
    from pipeline.core.console import Meter
    from pipeline.sources.transport import Address


@dataclass(frozen=True)
class HttpStore:
    """A store below `url`; `options` are those of downloads, `meter` shows the progress of one."""

    url: str
    options: Options
    meter: Callable[[str], Meter] = field(repr=False)
    is_writable = False

    @property
    def address(self) -> str:
        """The address, without a password."""
        return self._at("").shown.rstrip("/")

    def check(self) -> None:
        """Raise `Unreachable` unless a web server answers there, whatever it says: what it publishes has no index."""
        from pipeline.sources import transport

        try:
            with transport.opened(self._at(""), 0, "", self.options):
                pass
        except transport.Failed as failure:
            if not failure.answered:
                raise Unreachable(
                    f"the shared store: {failure.what}; expected a web server that answers",
                    where=self.address,
                    hint="check the network and try again, or drop --shared-store: every step is then built here",
                ) from None

    def read(self, name: str, most: int) -> bytes | None:
        """Return an object; None where the server says that there is none."""
        with temporary.scratch("shared-") as place:
            found = self._download(name, place, most)
            return read_limited(found, most) if found else None

    def copy(self, name: str, target: Path, size: int) -> None:
        """Copy an object of `size` bytes to the new file `target`."""
        with fs.scratch(target.parent, f"{target.name}.") as place:
            found = self._download(name, place, size)
            if found is None:
                raise shared_store.missing(self.address, name)
            shared_store.check_size(self.address, name, found, size)
            found.rename(target)

    def add(self, name: str, source: Path) -> bool:
        """Store nothing. Raises `Mistake`."""
        raise Mistake(f"{name}: cannot be stored over HTTP", where=self.address)

    create = add

    def remove(self, name: str) -> None:
        """Remove nothing. Raises `Mistake`."""
        raise Mistake(f"{name}: cannot be removed over HTTP", where=self.address)

    def _download(self, name: str, place: Path, most: int) -> Path | None:
        """Download an object of at most `most` bytes below `place`; return its path, None where there is none."""
        from pipeline.sources.attempts import Download
        from pipeline.sources.store import Store

        store, file = Store(place), PurePosixPath(name).name
        wanted = Wanted(file, (self._at(name).url,), None, None, most)
        job = Download(wanted, store, self.options, self.meter(file), store.partial("object"), threading.Event())
        try:
            return job.run().path
        except (Refused, Unreachable) as error:
            if job.attempts and job.attempts[-1].missing:
                return None
            answer = job.attempts[-1].what if job.attempts else error.what
            raise type(error)(f"{name} in the shared store: {answer}", where=self.address) from None

    def _at(self, name: str) -> Address:
        from pipeline.sources.transport import Address

        return Address(f"{self.url.rstrip('/')}/{quote(name)}")
