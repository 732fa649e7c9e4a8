"""Look for changes where a line's sources come from; change nothing of what is built, but for an update that is taken.

Debian's signed index may have a newer version: an update. Of a file that is pinned by digest the bytes at its own
addresses may have changed: an alarm, whatever the reason. A file is read whole where its address gives no validator,
or another one than when it was last read whole and right. Mirrors of the settings are not looked at: what they give is
held against its digest when it is fetched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import PipelineError, Refused, Unreachable
from pipeline.nights.record import SourceState, Upstream
from pipeline.sources import apt, transport
from pipeline.sources.records import Answer
from pipeline.sources.resolver import Sources
from pipeline.sources.transport import Address, Body, Failed
from pipeline.sources.wanted import Wanted

_ATTEMPTS = 2  # of an address


@dataclass(frozen=True)
class Seen:
    """The validator (ETag, Last-Modified) of an address when its file was last read whole and right."""

    validator: str


@dataclass(frozen=True)
class _Looked:
    """An address of a pinned file: `digest` of other bytes than the pinned ones, or `problem` of no answer."""

    address: str
    digest: str = ""
    problem: str = ""


def look(sources: Sources, *, update: bool) -> list[SourceState]:
    """Return the state of every source of a line; with `update` take newer versions for this and later builds."""
    # A source without an answer was never used here: the build asks for it when it needs it.
    used = {name: answer for name in sources.line.data.sources if (answer := sources.answer(name))}
    found = [*_debian(sources, used, update=update)]
    pinned = [(name, wanted) for name, wanted in sources.pinned_files() if wanted.urls and wanted.sha256]
    with ThreadPoolExecutor(sources.options.jobs) as pool:
        return [*found, *pool.map(lambda item: _pinned(sources, *item), pinned)]


def _debian(sources: Sources, used: Mapping[str, Answer], *, update: bool) -> Iterator[SourceState]:
    """Yield the state of each source of Debian's index, which is read once for all."""
    failed: PipelineError | None = None
    for name, answer in used.items():
        if failed is not None:
            yield SourceState(name, Upstream.UNREACHABLE, answer.version, "", failed.where, failed.what)
            continue
        try:
            yield _compared(sources, name, answer, sources.newest(name), update=update)
        except Refused as error:
            yield SourceState(name, Upstream.ALARM, answer.version, "", error.where, f"{error.what}; {error.why}")
        except Unreachable as error:
            failed = None if sources.has_index else error
            yield SourceState(name, Upstream.UNREACHABLE, answer.version, "", error.where, error.what)


def _compared(sources: Sources, name: str, used: Answer, now: Answer, *, update: bool) -> SourceState:
    """Compare what is built from with what the index has now."""
    if used.sha256 == now.sha256:
        return SourceState(name, Upstream.SAME, now.version, now.version, now.url, "")
    if used.version == now.version:
        text = f"version {now.version} has another digest in Debian's index; expected {used.sha256}, got {now.sha256}"
        return SourceState(name, Upstream.ALARM, used.sha256, now.sha256, now.url, text)
    if apt.is_older(now.version, used.version):
        text = f"Debian's index has {now.version}, older than {used.version}: a mirror that is behind, or a withdrawal"
        return SourceState(name, Upstream.UNREACHABLE, used.version, now.version, now.url, text)
    if update:
        sources.take(name, now)
    state = Upstream.TAKEN if update else Upstream.UPDATE
    return SourceState(name, state, used.version, now.version, now.url, f"{used.version} -> {now.version}")


def _pinned(sources: Sources, name: str, wanted: Wanted) -> SourceState:
    """Compare the file at each of its own addresses with its digest."""
    pinned = wanted.sha256 or ""
    looked = [_looked(sources, wanted, Address(url, transport.local_path(url))) for url in wanted.urls]
    changed = next((each for each in looked if each.digest), None)
    if changed is not None:
        text = f"{wanted.name} was changed at its address; expected {pinned}, got {changed.digest}"
        return SourceState(name, Upstream.ALARM, pinned, changed.digest, changed.address, text)
    silent = [each for each in looked if each.problem]
    text = "; ".join(f"{each.address}: {each.problem}" for each in silent)
    state = Upstream.UNREACHABLE if len(silent) == len(looked) else Upstream.SAME
    return SourceState(name, state, pinned, "" if silent else pinned, silent[0].address if silent else "", text)


def _looked(sources: Sources, wanted: Wanted, address: Address) -> _Looked:
    record = f"seen-{hashlib.sha256(f'{address.url} {wanted.sha256}'.encode()).hexdigest()}"
    problem = ""
    for _ in range(_ATTEMPTS):
        try:
            with transport.opened(address, 0, "", sources.options) as body:
                known = sources.store.record(record, Seen)
                if body.total in (None, wanted.size) and body.validator and known == Seen(body.validator):
                    return _Looked(address.shown)
                digest, validator = _digest(body, wanted), body.validator
        except Failed as failure:
            problem = failure.what
            if failure.final:
                break
            continue
        if digest != wanted.sha256:
            return _Looked(address.shown, digest)
        sources.store.write_record(record, Seen(validator))
        return _Looked(address.shown)
    return _Looked(address.shown, problem=problem)


def _digest(body: Body, wanted: Wanted) -> str:
    """Return the SHA-256 of a body, or a sentence about its size where that is not the pinned one.

    Raises `Failed` for a body that broke off.
    """
    most = wanted.most if wanted.size is None else wanted.size
    if body.total is not None and wanted.size not in (None, body.total):
        return f"a file of {body.total} bytes"
    digest, size = hashlib.sha256(), 0
    while piece := body.read():
        digest.update(piece)
        size += len(piece)
        if size > most:
            return f"a file of more than {most} bytes"
    if body.total not in (None, size):
        raise Failed(f"broke off after {size} of {body.total} bytes")
    return digest.hexdigest()
