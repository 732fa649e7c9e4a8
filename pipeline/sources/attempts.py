"""Try every address of a file, each several times, until one delivers the bytes that are wanted.

Bytes are hashed as they come, and resumed where a server can prove that the file is still the same. Must not know
what a file is for, nor ever use a name a server sent.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipeline.core import faults
from pipeline.errors import PipelineError, Refused, Unreachable
from pipeline.formats import file_kind
from pipeline.sources import transport, wrapping
from pipeline.sources.part_file import PartWriter
from pipeline.sources.transport import Address, Body, Failed, local_path
from pipeline.sources.wanted import Attempt, Fetched, Options, Wanted, Wrong
from pipeline.sources.wrapping import WrappedAddress

if TYPE_CHECKING:
    from pipeline.core.console import Meter
    from pipeline.sources.store import Partial, Store

SLOWEST = 1024  # bytes per second; less than this over a whole stall time is a stall
FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0  # seconds between attempts: doubling from one to the other


class Stopped(Exception):
    """The end of the whole run by Ctrl-C."""


def addresses(wanted: Wanted, options: Options) -> Iterator[Address]:
    """Yield every address of `wanted`, mirrors first, wrapped copies last."""
    for mirror in options.mirrors:
        local = Path(mirror) if "://" not in mirror else local_path(mirror)
        if local is None:
            yield Address(f"{mirror.rstrip('/')}/{quote(wanted.name)}")
            continue
        yield Address("", local / wanted.name)
        if wanted.sha256 is not None:  # the layout of an exported mirror
            yield Address("", local / "files" / wanted.sha256)
    for url in wanted.urls:
        yield Address(url, local_path(url))
    yield from map(wrapping.address, wanted.wrapped)


@dataclass
class Download:
    """One download, by the holder of its partial file's lock."""

    wanted: Wanted
    store: Store
    options: Options
    meter: Meter
    part: Partial
    stop: threading.Event
    prove: Callable[[Path], object] | None = None
    refusals: list[Refused] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)

    def run(self) -> Fetched:
        """Return the file with the right digest (any, without a pin), still in `partial/`."""
        if fetched := self._complete_already():
            return fetched
        for address in addresses(self.wanted, self.options):
            if fetched := self._address(address):
                for attempt in filter(lambda attempt: attempt.wrong, self.attempts):
                    self.meter.note(f"warning: {attempt.url} {attempt.what}")
                return fetched
        raise self._failure()

    def _complete_already(self) -> Fetched | None:
        """Return a partial file that is complete by its digest, left by a run killed after the last byte."""
        size = self.part.size()
        if not size or self.wanted.sha256 is None or self.wanted.size not in (None, size):
            return None
        with self.part.path.open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
        return self._fetched(actual, size, self.part.origin()[0] or None) if actual == self.wanted.sha256 else None

    def _fetched(self, sha256: str, size: int, url: str | None) -> Fetched:
        faults.point("verify.done")
        if url and self.wanted.sha256:  # before the sidecar, which says so too, is gone: a kill must not lose it
            self.store.write_origin(sha256, url)
        return Fetched(self.wanted.name, self.part.settle(), sha256, size, url, tuple(self.attempts))

    def _address(self, address: Address) -> Fetched | None:
        """Make all attempts at one address; return None when none succeeded."""
        if isinstance(address, WrappedAddress):
            return self._unwrapped(address)
        if self.options.offline and address.path is None:
            self.attempts.append(Attempt(address.shown, "not requested: offline"))
            return None
        for number in range(1, self.options.retries + 1):
            if self.stop.is_set():
                raise Stopped
            try:
                return self._once(address)
            except Failed as failure:
                self.attempts.append(Attempt(address.shown, failure.what, failure.wrong, failure.missing))
                if failure.final:
                    return None
                if number < self.options.retries:
                    self._pause(f"{address.shown}: {failure.what}", number, failure.after)
        return None

    def _unwrapped(self, address: WrappedAddress) -> Fetched | None:
        """Fetch the text at `address` and return the verified file in it; None when that failed."""
        sha256, size = self.wanted.sha256, self.wanted.size
        if sha256 is None or size is None:
            raise ValueError(f"{self.wanted.name} is wrapped and has no pin")
        found: list[bytes] = []

        def unwrap(text: Path) -> None:
            found.append(wrapping.unwrapped(text, address.wrapped, sha256, size))

        # By name a part of this file's: it stays to be resumed as long as the file is wanted.
        part = self.store.partial(f"{sha256}.wrapped")
        text = Wanted(f"{self.wanted.name}.wrapped", (), None, address.wrapped.size)
        job = Download(text, self.store, self.options, self.meter, part, self.stop, unwrap, attempts=self.attempts)
        if job._address(Address(address.url, address.path)) is None:
            return None
        part.forget()
        self.part.restart(address.origin, "")
        with self.store.writing(size):
            self.part.path.write_bytes(found[-1])
        return self._fetched(sha256, size, address.origin)

    def _pause(self, text: str, number: int, after: float) -> None:
        """Wait with full jitter, so that clients of a restarted server do not return at once."""
        seconds = self.options.jitter() * min(LONGEST_WAIT, FIRST_WAIT * 2 ** (number - 1))
        seconds = max(seconds, min(after, LONGEST_WAIT))
        self.meter.note(f"{text}; attempt {number + 1} of {self.options.retries} in {seconds:.1f} s")
        self.options.wait(seconds)

    def _once(self, address: Address, *, resume: bool = True) -> Fetched:
        """Make one attempt, with all checks. Raises `Failed`."""
        offset, validator = self._resumable(address) if resume else (0, "")
        with transport.opened(address, offset, validator, self.options) as body:
            sha256, size = self._receive(address, body)
        faults.point("download.done")
        refusal = None
        if self.wanted.sha256 in (None, sha256) and self.wanted.size in (None, size):
            refusal = self._refusal()
            if refusal is None:
                return self._fetched(sha256, size, address.shown)
        if body.start:
            # The file may have changed between two attempts; only a whole one tells.
            self.meter.note(f"{address.shown}: the resumed file is not the wanted one; downloading the whole file")
            return self._once(address, resume=False)
        self.part.settle()
        kind = file_kind.of(self.part.path)
        reasons = [refusal.what if refusal else "", "" if refusal and kind in refusal.what else kind, body.about]
        kept = self.store.keep_bad(self.part.path, self.wanted.name, sha256)
        if refusal:
            refusal.where = f"{address.shown}, kept as {kept}"
            refusal.why = "; ".join(filter(None, [f"it is {reasons[1]}" if reasons[1] else "", refusal.why]))
            self.refusals.append(refusal)
        what = "; ".join(
            filter(None, [f"gave wrong bytes: sha256 {sha256}, {size} bytes", *reasons, f"kept as {kept}"])
        )
        raise Failed(what, final=True, wrong=Wrong(sha256, size, kept))

    def _refusal(self) -> Refused | None:
        """Return the caller's objection to a file without a pin."""
        try:
            if self.prove is not None:
                self.prove(self.part.path)
        except Refused as refusal:
            return refusal
        return None

    def _resumable(self, address: Address) -> tuple[int, str]:
        """Return the offset to resume at and the validator to send; 0 when there is nothing to resume."""
        url, validator = self.part.origin()
        size = self.part.size()
        enough = self.wanted.size is not None and size >= self.wanted.size
        if address.path is not None or url != address.shown or not validator or enough:
            return 0, ""
        return size, validator

    def _receive(self, address: Address, body: Body) -> tuple[str, int]:
        """Receive the whole body; return digest and size in bytes of the completed file."""
        wanted = self.wanted.size
        if wanted is not None and body.total is not None and wanted != body.total:
            what = f"announces {body.total} bytes, wanted {wanted}" + (f"; {body.about}" if body.about else "")
            raise Failed(what, final=True, wrong=Wrong(None, body.total, None))
        if wanted is None and (body.total or 0) > self.wanted.most:
            raise Failed(f"announces {body.total} bytes, more than {self.wanted.most}", final=True)
        if not body.start:
            self.part.restart(address.shown, body.validator)
        total = body.total if wanted is None else wanted
        self.meter.start(total, body.start)
        with self.store.writing(total and total - body.start), PartWriter(self.part.path) as part:
            size = self._pump(body, part)
        if wanted is None and size > self.wanted.most:
            self.part.forget()  # what has no end is no evidence, and would fill the disk
            raise Failed(f"sends more than {self.wanted.most} bytes", final=True)
        short = total is not None and size < total
        another = body.total is None and size > 0 and file_kind.of(self.part.path)  # such as a page to sign in on
        if short and not another and not (body.whole and body.total is None):
            raise Failed(f"broke off at {size} of {total} bytes")
        return part.sha256.hexdigest(), size

    def _pump(self, body: Body, part: PartWriter) -> int:
        """Copy bytes until the end, or one chunk past the allowed size; return the file's size in bytes.

        Only time spent waiting for the sender counts against it, not that of our own disk.
        """
        size, waited, moved = body.start, 0.0, 0
        while size <= (self.wanted.most if self.wanted.size is None else self.wanted.size):
            before = time.monotonic()
            chunk = body.read()
            waited += time.monotonic() - before
            if not chunk:
                break
            if self.stop.is_set():
                raise Stopped
            part.put(chunk)
            self.meter.advance(len(chunk))
            size, moved = size + len(chunk), moved + len(chunk)
            if waited >= self.options.stall:
                if moved < SLOWEST * waited:
                    raise Failed(f"too slow: {moved} bytes in {waited:.1f} s")
                waited, moved = 0.0, 0
        return size

    def _failure(self) -> PipelineError:
        """Return the error: the wanted file, and the result of every address."""
        reasons = Counter(f"{attempt.url}: {attempt.what}" for attempt in self.attempts)
        lines = [f"  {text}" + (f" ({times} times)" if times > 1 else "") for text, times in reasons.items()]
        wrong = [attempt for attempt in self.attempts if attempt.wrong]
        if len(self.refusals) == len(wrong) == 1:
            return self.refusals[0]  # which says more
        name, size = self.wanted.name, self.wanted.size
        digest = f"sha256 {self.wanted.sha256}" if self.wanted.sha256 else "any digest, to be proven"
        pinned = f"  wanted {digest}, {'any size' if size is None else f'{size} bytes'}"
        if wrong:
            return Refused(
                "\n".join([f"{name}: downloaded content differs from the pinned file", pinned, *lines]),
                where=wrong[0].url,
                why="the file was changed or replaced there, or the pin is wrong; nothing of it is used",
                hint="look at the file that was kept; --mirror DIR uses a good copy from DIR",
            )
        if self.options.offline:
            hint = "drop --offline, or add --mirror DIR with the file in DIR"
        else:
            hint = "check the network and try again, or add --mirror DIR with the file in DIR"
        return Unreachable("\n".join([f"{name}: no address delivered the file", pinned, *lines]), hint=hint)
