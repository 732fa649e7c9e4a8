"""Download pinned files into the store, from any address that has them.

A file that the store has is taken from there, and nothing that speaks to a server is imported. Places are tried in
order, mirrors first (`attempts`). Bytes become an object of the store only with the right digest. Must not know what a
file is for.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import HostLacks, Locked, PipelineError, Refused, Unreachable, UsageError
from pipeline.sources.wanted import Fetched, Options, Wanted

if TYPE_CHECKING:
    from pipeline.core.console import Console, Meter
    from pipeline.sources.store import Store

_T = TypeVar("_T")


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
    from pipeline.sources.attempts import Download

    key = "unpinned-" + hashlib.sha256("\n".join([wanted.name, *wanted.urls]).encode()).hexdigest()
    with store.using(), _locked(store, key, meter):
        job = Download(wanted, store, options, meter, store.partial(key), threading.Event(), prove)
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
            from pipeline.sources.attempts import Download

            if damaged := store.evict(wanted.sha256, locked=True):
                meter.note(f"warning: {damaged}")
            fetched = Download(wanted, store, options, meter, store.partial(wanted.sha256), stop).run()
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
