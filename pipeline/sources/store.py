"""Keep files by digest in the content-addressed store: verified, complete, immutable.

A verified file is moved here by one rename; unverified files stay in `partial/`, wrong ones in `bad/`. An object is
compared with its name at each use: by its stamp (`manifest`), and by its content where the stamp moved. Must not know
where files come from or what they are for.

    sha256/ab/<hex>   objects, mode 0444, named by their own digest
    partial/          downloads on the way, each with a sidecar that says where it comes from
    bad/              evidence: <sha256 it has>-<name>
    records/          small sealed documents, such as what a floating source resolved to, or an object's stamp
    locks/            the store's lock and one lock per object
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote

from pipeline.core import decoder, disk_space, documents, faults, manifest, rlimits
from pipeline.core.fs import read_limited, remove, write_atomic
from pipeline.core.locks import locked
from pipeline.core.units import human_bytes
from pipeline.errors import HostLacks, Locked, Refused

T = TypeVar("T")
_STAMP = "stamp-"  # what the names of records of objects' stamps begin with
_NO_FILE = "no-regular-file"  # instead of the digest of what has none
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Damaged:
    """An object whose content no longer matches its digest, and its new place."""

    sha256: str
    actual: str
    kept: Path

    def __str__(self) -> str:
        return f"the store's {self.sha256[:16]}… is not what was fetched: sha256 {self.actual}; kept as {self.kept}"


@dataclass(frozen=True)
class Collected:
    """Result of `Store.gc`; `freed` in bytes."""

    removed: tuple[Path, ...]
    freed: int


@dataclass(frozen=True)
class Stamp:
    """The document of an object's stamp when its content was last verified."""

    stamp: tuple[int, ...]


@dataclass(frozen=True)
class Origin:
    """The document of where an object came from, and when; `fetched` an ISO 8601 time."""

    address: str
    fetched: str


@dataclass(frozen=True)
class Sidecar:
    """The document beside a download on its way: the URL and the validator (ETag, Last-Modified) of its bytes."""

    url: str
    validator: str


@dataclass(frozen=True)
class _Named:
    """A record as it is written: under which name, and what it says."""

    record: str
    says: Mapping[str, object]


class _Damage:
    """In place of a record that is not as it was written."""


class Store:
    """The store under `root`, created by the first write. `note` receives reports of damage."""

    def __init__(self, root: Path, note: Callable[[str], object] = lambda _: None) -> None:
        self.root, self.note = root, note
        self._objects, self._partial = root / "sha256", root / "partial"
        self._bad, self._locks, self._records = root / "bad", root / "locks", root / "records"

    def path(self, sha256: str) -> Path:
        """Return the object's path, present or not. Raises `ValueError` for anything but lower-case SHA-256."""
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError(f"not a SHA-256 in lower-case hex: {sha256!r}")
        return self._objects / sha256[:2] / sha256

    def has(self, sha256: str, size: int | None = None) -> bool:
        """Return whether the object is present, whole, and of `size` bytes when given.

        Its content is read where its stamp is not the one that was recorded when it was last found right.
        """
        path = self.path(sha256)
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or size not in (None, status.st_size):
                return False
            if self._stamped(sha256) == manifest.stamp(status):
                return True
            actual, status = manifest.sha256_at(path)
        except (OSError, ValueError):
            return False
        if actual == sha256:
            with contextlib.suppress(HostLacks):  # a store that may only be read is read again each time
                self._stamp(sha256, status)
        return actual == sha256

    def _stamped(self, sha256: str) -> tuple[int, ...] | None:
        """Return the recorded stamp of the object's last verification; None without one."""
        found = self._read(f"{_STAMP}{sha256}", Stamp)
        return found.stamp if isinstance(found, Stamp) else None

    def _stamp(self, sha256: str, status: os.stat_result) -> None:
        self.write_record(f"{_STAMP}{sha256}", Stamp(manifest.stamp(status)))

    def adopt(self, temporary: Path, sha256: str) -> Path:
        """Make a verified file an object by one rename; return its path.

        `temporary` is on the store's file system, such as in its `partial/`, and is gone
        afterwards. When the object is there already nothing else happens. Raises `HostLacks`.
        """
        target = self.path(sha256)
        if self.has(sha256):
            temporary.unlink(missing_ok=True)
            return target
        with self.writing(temporary.stat().st_size):
            target.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(target):
                self._move_away(target)
            _to_disk(temporary)
            temporary.chmod(0o444)
            with temporary.open("rb") as adopted:
                faults.point("publish.before-rename")
                temporary.replace(target)
                faults.point("publish.after-rename")
                status = os.fstat(adopted.fileno())  # of the very file, whatever is under its name by now
            for directory in (target.parent, self._objects):
                _to_disk(directory)
            self._stamp(sha256, status)
        return target

    def evict(self, sha256: str, *, locked: bool = False) -> Damaged | None:
        """Move a damaged object to `bad/`; return None when there is none.

        `locked`: the caller holds the object's lock. Who does not leaves it alone while another does.
        """
        path = self.path(sha256)
        if self.has(sha256) or not os.path.lexists(path):
            return None
        try:
            with contextlib.nullcontext() if locked else self.object_lock(sha256, wait=False):
                return None if _actual(path) == sha256 or not os.path.lexists(path) else self._move_away(path)
        except Locked:
            return None

    def _move_away(self, path: Path) -> Damaged:
        actual = _actual(path)
        return Damaged(path.name, actual, self.keep_bad(path, path.name, actual))

    def keep_bad(self, temporary: Path, name: str, actual_sha256: str) -> Path:
        """Move a wrong file to `bad/`, where a person can examine it."""
        safe = re.sub(r"[^A-Za-z0-9._+-]", "_", name)[:100]
        kept = self._bad / f"{actual_sha256}-{safe}"
        with self.writing():
            self._bad.mkdir(parents=True, exist_ok=True)
            if stat.S_ISREG(temporary.lstat().st_mode):
                temporary.chmod(0o444)
            elif os.path.lexists(kept):
                kept = kept.with_name(f"{kept.name}-{time.time_ns()}")  # a directory takes no other's place
            temporary.replace(kept)
        return kept

    def partial(self, key: str) -> Partial:
        """Return the unfinished download under `key`; only for the holder of `object_lock(key)`."""
        return Partial(self, key)

    def record(self, name: str, kind: type[T]) -> T | None:
        """Return the document called `name`; None when there is none.

        Moves a damaged one, or one of another name, to `bad/`, so that the answer or proof is obtained again.
        """
        found = self._read(name, kind)
        if isinstance(found, _Damage):
            path = self._record(name)
            self.keep_bad(path, path.name, _actual(path))
            self.note(f"the record {name} of the store: damaged, ignored")
            return None
        return found

    def records(self, prefix: str, kind: type[T]) -> dict[str, T]:
        """Return every document whose name begins with `prefix`. Raises `Refused` for a damaged one."""
        found = {}
        for name in self._names(prefix):
            document = self._read(name, kind)
            if isinstance(document, _Damage):
                why = "what it says is needed to know what may go"
                where, hint = str(self._record(name)), f"./inv fetch {name.removeprefix(prefix)}"
                raise Refused(f"record {name} of the store: damaged", where=where, why=why, hint=hint)
            if document is not None:
                found[name] = document
        return found

    def _names(self, prefix: str = "") -> list[str]:
        names = [unquote(path.stem) for path in sorted(self._records.glob("[!.]*.json"))]
        return [name for name in names if name.startswith(prefix)]

    def _read(self, name: str, kind: type[T]) -> T | _Damage | None:
        """Return the document, None without one, `_Damage` for one changed or renamed since written, or no `kind`."""
        try:
            known = documents.unseal(_Named, manifest.text_at(self._record(name)))
            return decoder.decode(kind, known.says) if known.record == name else _Damage()
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return _Damage()

    def write_record(self, name: str, document: object) -> None:
        """Replace the document called `name` by one rename. Raises `HostLacks`."""
        text = documents.seal(_Named(name, decoder.encode(document)))
        with self.writing(len(text)):
            write_atomic(self._record(name), text)

    def write_origin(self, sha256: str, address: str) -> None:
        """Record origin and time of an object."""
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        self.write_record(f"origin-{sha256}", Origin(address, moment))

    def origin(self, sha256: str) -> str:
        """Return the origin of an object; `the store` for objects older than such records."""
        found = self.record(f"origin-{sha256}", Origin)
        return found.address if found and found.address else "the store"

    def _record(self, name: str) -> Path:
        return self._records / f"{quote(name, safe='')}.json"

    @contextlib.contextmanager
    def object_lock(self, key: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the lock for fetching `key`; after waiting, look for the object first.

        `wait=False` raises `Locked` instead. Nobody takes two of them, so nobody waits in a ring.
        """
        with self._lock(f"objects/{quote(key, safe='')}.lock", shared=False, wait=wait):
            yield

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Hold the shared lock of runs that fetch or read objects; nothing is removed meanwhile."""
        with self._lock("store.lock", shared=True, wait=True):
            yield

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the exclusive lock for removing objects. Raises `Locked` with the holder's name."""
        with self._lock("store.lock", shared=False, wait=False):
            yield

    @contextlib.contextmanager
    def _lock(self, name: str, *, shared: bool, wait: bool) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            with self.writing():  # taking the lock may make a file; the errors of those who hold it are their own
                held.enter_context(locked(self._locks / name, shared=shared, wait=wait))
            yield

    def verify(self) -> list[Damaged]:
        """Hash every object; move damaged ones to `bad/` and report them."""
        damaged = []
        with self.using():
            for path in sorted(self._objects.glob("*/*")):
                if _actual(path) != path.name and (found := self._set_aside(path)):
                    damaged.append(found)
        return damaged

    def _set_aside(self, path: Path) -> Damaged | None:
        with self.object_lock(path.name):
            # Look again: another run may have moved or replaced it before the lock was ours.
            if not os.path.lexists(path) or _actual(path) == path.name:
                return None
            return self._move_away(path)

    def problems(self) -> Iterator[tuple[Path, str]]:
        """Read every object and record, and yield each problem: its path and a text."""
        for path in sorted(self._objects.glob("*/*")):
            if (actual := _actual(path)) != path.name:
                yield path, f"SHA-256 {actual}; expected {path.name}"
        for name in self._names():
            if isinstance(self._read(name, dict[str, object]), _Damage):
                yield self._record(name), "not as it was written"

    def gc(self, keep: set[str]) -> Collected:
        """Remove objects that are not in `keep`, stale downloads, and bad files.

        A download on its way to an object in `keep` stays, to be resumed. Raises `Locked` when
        anyone uses the store, and `ValueError` for what is no digest before anything is removed.
        """
        kept = {self.path(digest) for digest in keep}
        removed, freed = [], 0
        with self.changing(), self.writing():
            for path in [*self._objects.glob("*/*"), *self._stale(keep)]:
                if path not in kept:
                    freed += path.lstat().st_size
                    remove(path)
                    self._record(f"{_STAMP}{path.name}").unlink(missing_ok=True)
                    removed.append(path)
            for shard in self._objects.glob("*"):
                with contextlib.suppress(OSError):  # not empty
                    shard.rmdir()
        return Collected(tuple(removed), freed)

    def _stale(self, keep: set[str]) -> Iterator[Path]:
        yield from self._bad.glob("*")
        yield from self._records.glob(".*")  # temporaries of killed writes
        for path in self._partial.glob("*"):
            digest = path.name.partition(".")[0]
            if digest not in keep or self.has(digest):
                yield path

    @contextlib.contextmanager
    def writing(self, needed: int | None = None) -> Iterator[None]:
        """Convert "no space" and "not permitted" into `HostLacks`; `needed` in bytes when known."""
        try:
            yield
        except OSError as error:
            if limit := rlimits.exceeded(error):
                raise limit from error
            if error.errno in (*disk_space.FULL, errno.EFBIG):
                amount = f"for {human_bytes(needed)} " if needed else ""
                failure = disk_space.full_error(self.root, error)
                hint = "free some space there, then run the same command again: it goes on where it stopped"
                what = failure.what.replace("no disk space is left", f"no disk space {amount}is left in the store")
                raise HostLacks(
                    f"{what}: {error.strerror}",
                    where=str(self.root),
                    why=failure.why,
                    hint=hint if failure.hint == disk_space.HINT else failure.hint,
                ) from error
            if error.errno in _FORBIDDEN:
                raise HostLacks(f"the store cannot be written: {error.strerror}", where=str(self.root)) from error
            raise


class Partial:
    """An unfinished, unverified download with its sidecar, which identifies the file.

    The sidecar is written after the bytes of another file are gone and before the first new
    byte comes, so that whatever kills the run it never speaks of bytes of another origin.
    """

    def __init__(self, store: Store, key: str) -> None:
        directory = store.root / "partial"
        self._store, self._directory, self._key = store, directory, key
        self.path, self._sidecar = directory / f"{key}.part", directory / f"{key}.json"

    def size(self) -> int:
        """Return the size in bytes, 0 for none."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def origin(self) -> tuple[str, str]:
        """Return URL and validator (ETag, Last-Modified) of the bytes; empty texts when unknown."""
        try:
            document = documents.parse(Sidecar, read_limited(self._sidecar, documents.MOST))
        except (OSError, ValueError):
            return "", ""
        return document.url, document.validator

    def restart(self, url: str, validator: str) -> None:
        """Start with an empty file for bytes from `url`."""
        with self._store.writing():
            self.forget()
            self._directory.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            write_atomic(self._sidecar, documents.to_json(Sidecar(url, validator)))

    def settle(self) -> Path:
        """Remove the sidecar of a complete file; return the file's path."""
        self._sidecar.unlink(missing_ok=True)
        for leftover in self._directory.glob(f".{self._sidecar.name}.*"):  # of a killed write
            leftover.unlink(missing_ok=True)
        return self.path

    def forget(self) -> None:
        """Remove file and sidecar."""
        self.path.unlink(missing_ok=True)
        self.settle()


def _actual(path: Path) -> str:
    """Return the SHA-256 of a regular file, and a description of anything else."""
    try:
        return manifest.sha256_at(path)[0]
    except (OSError, ValueError):
        return _NO_FILE


def _to_disk(path: Path) -> None:
    """Flush a file's bytes, or a directory's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
