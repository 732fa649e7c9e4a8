"""Download pinned files from any address that has them, and verify every byte.

Places are tried in order, mirrors first; each gets several attempts unless what went wrong there
cannot get better. Bytes are hashed as they come, resumed where a server can prove that the file
is still the same, and become an object of the store only with the right digest. Must not know
what a file is for, nor ever use a name a server sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from pipeline.config.settings import Settings
from pipeline.core import faults
from pipeline.core.console import Console, Meter
from pipeline.errors import HostLacks, Locked, PipelineError, Refused, Unreachable, UsageError
from pipeline.formats import file_kind
from pipeline.sources import transport
from pipeline.sources.part_file import PartWriter
from pipeline.sources.store import Partial, Store
from pipeline.sources.transport import Address, Body, Failed, Wrong, local_path

SLOWEST = 1024  # bytes per second; less than this over a whole stall time is a stall
FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0  # seconds between attempts: doubling from one to the other
_T = TypeVar("_T")


@dataclass(frozen=True)
class Wanted:
    """A file to fetch. `name` is its file name in the line file, and on mirrors.

    `urls` are its own addresses, in order; `size` in bytes; `sha256` None only for a source that
    is pinned on first use. `most` bounds a file whose size is not known: a server may send without end.
    Raises `UsageError` for a name that is not a plain file name.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None
    size: int | None
    most: int = 4 << 30  # bytes; the largest source known here, a kernel's, has 140 MB

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or re.search(r"[/\0]", self.name):
            raise UsageError(f"not a file name: {self.name!r}", why="mirrors are asked for it; it must not leave them")


@dataclass(frozen=True)
class Attempt:
    """One failed attempt at one address (shown without its password), in words."""

    url: str
    what: str
    wrong: Wrong | None = None


@dataclass(frozen=True)
class Fetched:
    """A fetched file. `url` None for one already in the store. `attempts` are the failed ones before."""

    name: str
    path: Path
    sha256: str
    size: int
    url: str | None
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Options:
    """Options of downloads. `mirrors` are directories or URLs; `stall` and `connect` in seconds.

    `wait` and `jitter` (a number in [0, 1)) are there for tests.
    """

    mirrors: tuple[str, ...]
    offline: bool
    jobs: int
    retries: int
    stall: float
    connect: float
    wait: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random

    @classmethod
    def from_settings(cls, settings: Settings) -> Options:
        """Return the options in a run's settings."""
        return cls(
            mirrors=settings.mirror,
            offline=settings.offline,
            jobs=settings.jobs,
            retries=settings.retries,
            stall=settings.stall,
            connect=settings.connect,
        )


def fetch(wanted: Wanted, store: Store, options: Options, meter: Meter) -> Fetched:
    """Fetch `wanted` into the store and return its place; send no request when it is there already.

    Raises `Refused` when any place gave wrong bytes and none the right ones, `Unreachable` when
    no place gave anything, `HostLacks` when no disk space is left.
    """
    return _fetch(wanted, store, options, meter, threading.Event())


def fetch_unverified(
    wanted: Wanted, store: Store, options: Options, meter: Meter, prove: Callable[[Path], object] | None = None
) -> Fetched:
    """Download a file without a pin, outside the store's objects, and return it with its digest.

    `prove` raises `Refused` for a file that is not the one: it is kept as a bad one, and the next address is asked.
    The caller holds `store.using()` and an object lock of its own (so that only one run pins the
    file) until it has verified the file and called `store.adopt` or `store.keep_bad`. Raises as
    `fetch` does.
    """
    key = "unpinned-" + hashlib.sha256("\n".join([wanted.name, *wanted.urls]).encode()).hexdigest()
    with store.using(), _locked(store, key, meter):
        job = _Job(wanted, store, options, meter, store.partial(key), threading.Event(), prove)
        fetched = job.run()
        # Named by content, so that what a killed run left is found and replaced by the next one.
        path = fetched.path.rename(fetched.path.with_name(f"unverified-{fetched.sha256}"))
        return replace(fetched, path=path)


def fetch_all(wanted: Sequence[Wanted], store: Store, options: Options, console: Console) -> list[Fetched]:
    """Fetch all of `wanted`, `options.jobs` at a time, and return them in the same order.

    One failure stops no other file; at the end all errors are raised as one, and of their kinds
    `Refused` wins.
    """
    stop = threading.Event()
    with store.using(), console.progress() as progress:

        def one(item: Wanted) -> Fetched | Exception:
            try:
                return in_store(item, store) or _fetch(item, store, options, progress.meter(item.name), stop)
            except Exception as error:  # noqa: BLE001 - raised at the end, with those of the other files
                return error

        try:
            outcomes = _in_threads(one, wanted, options.jobs)
        finally:
            stop.set()  # after Ctrl-C the threads end at their next chunk
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    if errors:
        raise _combined(errors)
    return [outcome for outcome in outcomes if isinstance(outcome, Fetched)]


def _in_threads(work: Callable[[Wanted], _T], items: Sequence[Wanted], jobs: int) -> list[_T]:
    """Apply `work` to each item in daemon threads, so that Ctrl-C waits for none of them."""
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(items)):
        todo.put(index)
    done: dict[int, _T] = {}

    def loop() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                index = todo.get_nowait()
                done[index] = work(items[index])

    threads = [threading.Thread(target=loop, name=f"fetch-{n}", daemon=True) for n in range(min(jobs, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [done[index] for index in range(len(items))]


def _combined(errors: list[Exception]) -> Exception:
    """Combine errors into one; a defect of this program is raised as it is."""
    for error in errors:
        if not isinstance(error, PipelineError):
            return error
    if len(errors) == 1:
        return errors[0]
    worst = next((k for k in (Refused, UsageError, HostLacks, Unreachable) for e in errors if isinstance(e, k)), None)
    return (worst or PipelineError)("\n".join([f"{len(errors)} files could not be fetched", *map(str, errors)]))


def _fetch(wanted: Wanted, store: Store, options: Options, meter: Meter, stop: threading.Event) -> Fetched:
    if wanted.sha256 is None:
        raise ValueError(f"{wanted.name} has no pin: fetch_unverified is for such files")
    with store.using():
        if found := in_store(wanted, store):
            return found
        with _locked(store, wanted.sha256, meter):
            # Another run may have fetched it while this one waited.
            if found := in_store(wanted, store):
                return found
            if damaged := store.evict(wanted.sha256, locked=True):
                meter.note(f"warning: {damaged}")
            fetched = _Job(wanted, store, options, meter, store.partial(wanted.sha256), stop).run()
            return replace(fetched, path=store.adopt(fetched.path, wanted.sha256))


def in_store(wanted: Wanted, store: Store) -> Fetched | None:
    """Return the file when the store has it; None for a file without a pin."""
    if wanted.sha256 is None or not store.has(wanted.sha256, wanted.size):
        return None
    path = store.path(wanted.sha256)
    return Fetched(wanted.name, path, wanted.sha256, path.stat().st_size, None)


@contextlib.contextmanager
def _locked(store: Store, key: str, meter: Meter) -> Iterator[None]:
    """Hold the object's lock; note when that means waiting."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(store.object_lock(key, wait=False))
        except Locked as busy:
            meter.note(f"is being fetched already, waiting ({busy.why})")
            held.enter_context(store.object_lock(key))
        yield


class _Stopped(Exception):
    """The end of the whole run by Ctrl-C."""


def addresses(wanted: Wanted, options: Options) -> Iterator[Address]:
    """Yield every address of `wanted`, mirrors first."""
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


@dataclass
class _Job:
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
        if self.options.offline and address.path is None:
            self.attempts.append(Attempt(address.shown, "not requested: offline"))
            return None
        for number in range(1, self.options.retries + 1):
            if self.stop.is_set():
                raise _Stopped
            try:
                return self._once(address)
            except Failed as failure:
                self.attempts.append(Attempt(address.shown, failure.what, failure.wrong))
                if failure.final:
                    return None
                if number < self.options.retries:
                    self._pause(f"{address.shown}: {failure.what}", number, failure.after)
        return None

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
                raise _Stopped
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
