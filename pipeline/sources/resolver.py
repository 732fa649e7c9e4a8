"""Fetch and verify every source of a line, and record the proof of each.

What was proven once of bytes that cannot change is recorded in the store under the digest of
those bytes and of the pins, so that a second run proves nothing again and makes no request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import git_checkout, lock_file
from pipeline.config.line_model import Debian, DebianSource, FileSource, Line, LineIdentity, SrpmSource, required
from pipeline.config.settings import Settings
from pipeline.core import documents, neutral
from pipeline.core.console import Console
from pipeline.core.fs import read_limited, write_atomic
from pipeline.core.suggestion import unknown
from pipeline.core.units import human_bytes
from pipeline.errors import Refused, Unreachable, UsageError
from pipeline.formats import file_kind
from pipeline.sources import download
from pipeline.sources.line_sources import LineSources
from pipeline.sources.public_keys import LARGEST_KEYS, PublicKeys
from pipeline.sources.records import (
    Answer,
    IndexDigests,
    KeptKey,
    Members,
    Proof,
    Resolved,
    SourceEvidence,
    Verified,
)
from pipeline.sources.store import Store
from pipeline.sources.wanted import Fetched, Options, Wanted

if TYPE_CHECKING:  # imported where they are used: a run that has everything needs neither
    from pipeline.sources.apt import AptRoot, Index
    from pipeline.sources.openpgp import PublicKey
    from pipeline.sources.preflight import MissingSource

_RULES = 3  # version of what a proof records; 2 added the state of its key


@dataclass(frozen=True)
class NewPin(LineIdentity):
    """A source that was pinned, and the lock file that has its pin."""

    source: str
    pin: lock_file.Pin
    lock: Path


@dataclass(frozen=True)
class _Pinned:
    """A source with a known digest, before its content is verified."""

    name: str
    wanted: Wanted
    version: str
    how: str


_ANOTHER = "look at the file that was kept; --mirror DIR uses a good copy from DIR"


class Sources:
    """The sources of one line in one run.

    `answers` are Debian's answers that an earlier run used: what it used none of is not fetched, and a fetch with them
    is not recorded as the line's last.
    """

    def __init__(
        self, line: Line, settings: Settings, console: Console, answers: Mapping[str, Answer] | None = None
    ) -> None:
        self.line, self.settings, self.console, self.answers = line, settings, console, answers
        self.store = Store(settings.store, console.warn)
        self.options = Options.from_settings(settings)
        self.lock = lock_file.read(line)
        self._keys = PublicKeys(line.data.keys, self.beside_line, self.store, settings, console)
        self._apt: AptRoot | None = None
        self._fetched: set[str] = set()  # while asking an index, before the fetch of all
        self._verified: dict[str, Verified] = {}

    def fetch(self, image: str = "") -> list[Verified]:
        """Fetch and verify all sources; raise `Refused` at the end for one that is not pinned yet.

        Sources that only one builder image needs are fetched only when it is `image`: a host that
        builds in another one, or not at all, may have no apt to find them with. What an earlier call
        verified is not resolved a second time.
        """
        wanted = {name: source for name, source in self._used() if _needed(source, image)}
        unpinned = [name for name, source in wanted.items() if not self._known(name, source)]
        left_out = {*unpinned, *self._verified}
        pinned = [self._pinned(name, source) for name, source in wanted.items() if name not in left_out]
        fetched_all = download.fetch_all([item.wanted for item in pinned], self.store, self.options, self.console)
        with self.store.using():
            for item, fetched in zip(pinned, fetched_all, strict=True):
                self._verified[item.name] = self._verify(item, fetched)
        found = [self._verified[name] for name in wanted if name in self._verified]
        if self.answers is None:
            self._record(found)
        if unpinned:
            raise self._not_pinned(unpinned)
        return found

    @property
    def verified(self) -> Mapping[str, Verified]:
        """The sources that this run has verified so far, by name."""
        return dict(self._verified)

    def answer(self, name: str) -> Answer | None:
        """Return the recorded answer of Debian's index about a source; None for another kind of source."""
        source = self.line.data.sources[name]
        if not isinstance(source, DebianSource):
            return None
        return (self.answers or {}).get(name) or self.store.record(self._record_name(name, source), Answer)

    def newest(self, name: str) -> Answer:
        """Ask Debian's signed index about a source, whatever is recorded; record nothing.

        Raises `Refused` for an index that is not as signed, and where it has another file than the pinned one.
        """
        source = self.line.data.sources[name]
        if not isinstance(source, DebianSource):
            raise UsageError(f"{name}: expected a source of Debian's index", hint=f"./inv lines {self.line.name}")
        return self._ask_index(name, source.model_copy(update={"made_for": None}))

    @property
    def has_index(self) -> bool:
        """Whether this run has read Debian's index."""
        return self._apt is not None

    def take(self, name: str, answer: Answer) -> None:
        """Record an answer of Debian's index as the one to build from."""
        source = self.line.data.sources[name]
        if isinstance(source, DebianSource):
            self.store.write_record(self._record_name(name, source), answer)

    def pinned_files(self) -> list[tuple[str, Wanted]]:
        """Return the sources whose digest the line file or the lock file pins, by name."""
        known = [(name, source) for name, source in self._sources() if self._known(name, source)]
        return [(n, self._pinned(n, source).wanted) for n, source in known if not isinstance(source, DebianSource)]

    def has_own(self, image: str) -> bool:
        """Return whether there are sources that only building in `image` needs."""
        return any(_needed(source, image) and not _needed(source, "") for _, source in self._sources())

    def unavailable(self) -> list[MissingSource]:
        """Return the sources that are neither in the store nor delivered by any address, within seconds.

        A Debian source is asked for where the index has named its address already.
        """
        missing = [item for item in self._addressed() if not download.in_store(item, self.store)]
        for digest in (item.sha256 for item in missing if item.sha256 is not None):
            if damaged := self.store.evict(digest):
                self.console.warn(str(damaged))
        if not missing:
            return []
        from pipeline.sources import preflight

        return preflight.probe(missing, self.options)

    def _addressed(self) -> Iterator[Wanted]:
        for name, source in self._sources():
            if not isinstance(source, DebianSource):
                yield self._pinned(name, source).wanted
            elif not self.settings.refresh and (record := self.store.record(self._record_name(name, source), Answer)):
                yield _wanted(record)

    def pin(self, name: str) -> lock_file.Pin:
        """Prove a source without a digest and write its pin to the lock file."""
        source = self.line.data.sources.get(name)
        if not isinstance(source, SrpmSource):
            pinnable = [n for n, s in self._sources() if isinstance(s, SrpmSource)]
            raise unknown(f"source of {self.line.name} to pin", name, pinnable, hint=f"./inv lines {self.line.name}")
        by = git_checkout.identity(self.line.lock_file.parent)
        lock = self.store.object_lock(f"unpinned-{source.file}")
        with self.console.progress() as progress, self.store.using(), lock:
            wanted = Wanted(source.file, source.urls, source.sha256, source.size)
            proofs: list[Proof] = []

            def prove(path: Path) -> None:
                if kind := file_kind.no_rpm(path):
                    raise Refused(f"{source.file}: expected a source package, got {kind}", hint=_ANOTHER)
                self.console.note(f"{source.file}: checking signature, NEVRA, spec and kernel tree")
                proofs.append(self._prove_srpm(path, source))

            meter = progress.meter(source.file)
            fetched = download.fetch_unverified(wanted, self.store, self.options, meter, prove)
            self.store.write_origin(fetched.sha256, fetched.url or "")  # before the object is there, as for any
            self.store.adopt(fetched.path, fetched.sha256)
        [proof] = proofs
        pin = lock_file.Pin(
            sha256=fetched.sha256,
            size=fetched.size,
            signer=proof.signer,
            fingerprint=proof.fingerprint,
            signed=proof.signed,
            nevra=proof.nevra,
            spec=proof.spec,
            tree=proof.tree,
            url=fetched.url or "",
            pinned=datetime.now(UTC).isoformat(timespec="seconds"),
            by=by,
        )
        self.store.write_record(self._proof_name(fetched.sha256, source), proof)
        lock_file.write(self.line, name, pin)
        return pin

    def _sources(self) -> Iterator[tuple[str, FileSource | SrpmSource | DebianSource]]:
        yield from self.line.data.sources.items()

    def _used(self) -> Iterator[tuple[str, FileSource | SrpmSource | DebianSource]]:
        for name, source in self._sources():
            if self.answers is None or name in self.answers or not isinstance(source, DebianSource):
                yield name, source

    def _known(self, name: str, source: FileSource | SrpmSource | DebianSource) -> bool:
        return not isinstance(source, SrpmSource) or source.sha256 is not None or name in self.lock

    def _not_pinned(self, names: Sequence[str]) -> Refused:
        return Refused(
            f"{', '.join(names)} of the line {self.line.name} is not pinned yet",
            where=str(self.line.lock_file),
            why="upstream published no digest; its signature, NEVRA, spec and kernel tree can be proven instead",
            hint=" && ".join(f"./inv pin {self.line.name} {name}{self._line_option()}" for name in names),
        )

    def _line_option(self) -> str:
        return f" --line-file {neutral.word(self.settings.line_file)}" if self.settings.line_file else ""

    def _pinned(self, name: str, source: FileSource | SrpmSource | DebianSource) -> _Pinned:
        if isinstance(source, DebianSource):
            return self._resolved(name, source)
        if isinstance(source, FileSource):
            wanted = Wanted(source.file, source.urls, source.sha256, source.size, wrapped=source.wrapped)
            return _Pinned(name, wanted, "", "digest pinned in the line file")
        pin = self.lock.get(name)
        if source.sha256 is None and pin is not None:
            wanted = Wanted(source.file, source.urls, pin.sha256, pin.size)
            return _Pinned(name, wanted, source.nevra, f"digest pinned by {pin.by} on {pin.pinned[:10]}")
        wanted = Wanted(source.file, source.urls, source.sha256, source.size)
        return _Pinned(name, wanted, source.nevra, "digest pinned in the line file")

    def _verify(self, item: _Pinned, fetched: Fetched) -> Verified:
        source = self.line.data.sources[item.name]
        how = item.how
        if isinstance(source, SrpmSource):
            how += "; " + self._proof(fetched, source).sentence
        elif isinstance(source, FileSource) and source.members:
            self._check_members(fetched, source)
            how += f"; {len(source.members)} members as pinned"
        return Verified(
            name=item.name,
            file=item.wanted.name,
            path=fetched.path,
            sha256=fetched.sha256,
            size=fetched.size,
            origin=self.store.origin(fetched.sha256),
            version=item.version,
            how=how,
            new=fetched.url is not None or fetched.sha256 in self._fetched,
        )

    def _record(self, found: Sequence[Verified]) -> None:
        known = self.store.record(f"line-{self.line.name}", LineSources)
        own = evidence(self.line, found)
        used = replace(own, sources=(*own.sources, *self._used_elsewhere(known, found)))
        if known != used:
            self.store.write_record(f"line-{self.line.name}", used)
        file = self.settings.artifacts / "evidence" / self.line.name / "sources.json"
        text = documents.to_json(own).encode()
        if not file.is_file() or file.stat().st_size != len(text) or file.read_bytes() != text:
            write_atomic(file, text)

    def _used_elsewhere(self, known: LineSources | None, found: Sequence[Verified]) -> list[SourceEvidence]:
        """Return the records of other images' sources, which are still in use."""
        others = {name for name, source in self._sources() if not _needed(source, "")} - {item.name for item in found}
        return [row for row in (known.sources if known else ()) if row.name in others]

    # Proofs, each made once of the same bytes and the same pins.

    def _proof_name(self, sha256: str, source: SrpmSource | FileSource) -> str:
        pins = {"source": source.model_dump(mode="json"), "keys": self._key_state(source), "rules": _RULES}
        return f"proof-{sha256}-{hashlib.sha256(json.dumps(pins, sort_keys=True).encode()).hexdigest()[:16]}"

    def _key_state(self, source: SrpmSource | FileSource) -> list[Any]:
        """Return the key state of a proof: the line's exceptions, and local copies that may have a revocation."""
        keys = [self.line.data.keys[name] for name in (source.signers if isinstance(source, SrpmSource) else ())]
        found = []
        for key in keys:
            digests = []
            for file in self._keys.files(key):
                with contextlib.suppress(OSError):  # not there, or nothing that is read as a key
                    digests.append(hashlib.sha256(read_limited(file, LARGEST_KEYS)).hexdigest())
            kept = self.store.record(f"key-{key.fingerprint}", KeptKey)
            found.append([key.model_dump(mode="json"), digests, kept.armor if kept else None])
        return found

    def _proof(self, fetched: Fetched, source: SrpmSource) -> Proof:
        name = self._proof_name(fetched.sha256, source)
        known = self.store.record(name, Proof)
        if known is None or self.settings.refresh or _has_expired(known):
            self.console.note(f"{source.file}: checking signature, NEVRA, spec and kernel tree")
            known = self._prove_srpm(fetched.path, source)
            self.store.write_record(self._proof_name(fetched.sha256, source), known)  # keys are kept by now
        return known

    def _prove_srpm(self, path: Path, source: SrpmSource) -> Proof:
        from pipeline.sources import srpm

        keys = self.public_keys(source.signers)
        manifest = self.beside_line(source.tree.manifest) if source.tree.manifest else None
        return srpm.prove(path, source, keys, manifest, self.settings.artifacts / "scratch")

    def _check_members(self, fetched: Fetched, source: FileSource) -> None:
        name = self._proof_name(fetched.sha256, source)
        if self.store.record(name, Members) is None:
            from pipeline.formats import archive

            found = archive.read(fetched.path, {member.path: 2 * member.size for member in source.members})
            for member in source.members:
                data = found.get(member.path)
                digest = hashlib.sha256(data).hexdigest() if data is not None else "no such file"
                if digest != member.sha256:
                    why = f"wanted {member.sha256} ({member.size} bytes), had {digest}"
                    raise Refused(
                        f"{member.path} in {source.file} is not the pinned one", where=str(fetched.path), why=why
                    )
            self.store.write_record(name, Members(tuple(sorted(found))))

    # Keys: from the host, beside the line file, an exported mirror, or the network; known by fingerprint.

    def public_keys(self, names: Sequence[str]) -> list[PublicKey]:
        """Return the available keys of the line among `names`. Raises `Unreachable` when there is none."""
        return self._keys.found(names)

    def beside_line(self, name: str) -> Path:
        """Return the path of a file named in a line file: absolute, or beside the file that names it."""
        beside = [path.parent / name for path in self.line.files]
        return next((path for path in beside if path.is_file()), beside[0])

    # Debian: the signed index is asked once, and its answer recorded.

    def _resolved(self, name: str, source: DebianSource) -> _Pinned:
        record = self.answer(name)
        if record is None or self.settings.refresh:
            record = self._ask_index(name, source)
            self.store.write_record(self._record_name(name, source), record)
        suites = " and ".join(index.suite for index in record.indexes)
        how = f"digest in Debian's signed index of {suites}"
        how += "".join(f"; {version} is newer and not available" for version in record.passed[:1])
        how += f"; {record.newer} is newer than what the patches are made for" if record.newer else ""
        return _Pinned(name, _wanted(record), record.version, how)

    def _record_name(self, name: str, source: DebianSource) -> str:
        return f"debian-{self.line.name}-{name}-{self._query_digest(source)}"

    def _query_digest(self, source: DebianSource) -> str:
        keys = [self.line.data.keys[key].fingerprint for key in self._debian.keyring]
        query = {"source": source.model_dump(mode="json"), "suites": self._debian.suites, "keys": keys}
        return hashlib.sha256(json.dumps(query, sort_keys=True).encode()).hexdigest()[:16]

    def _ask_index(self, name: str, source: DebianSource) -> Answer:
        """Query the index and return the answer to record; with `accept_older`, one whose file is available.

        The version that the patches are made for comes before any newer one.
        """
        from pipeline.sources import apt

        root = self.apt_root()
        versions = root.versions(source)
        fitting = [version for version in versions if apt.upstream_version(version) == source.made_for]
        if source.made_for and not fitting:
            missing = f"{source.made_for}, which the patches are made for, among {source.version}"
            self.console.warn(f"{name}: Debian's index has no {missing}")
        passed: list[str] = []
        for resolved in root.resolve(source, dict.fromkeys([*fitting, *versions])):
            if source.sha256 not in (None, resolved.sha256):
                why = f"wanted {source.sha256}, the index says {resolved.sha256}"
                raise Refused(f"Debian's index has another {resolved.file} than the pinned one", why=why)
            if not source.accept_older or self._is_available(resolved):
                newer = versions[0] if resolved.version in fitting and versions[0] not in fitting else ""
                return Answer(**asdict(resolved), indexes=root.evidence(), passed=tuple(passed), newer=newer)
            if resolved.version not in fitting:
                passed.append(resolved.version)
            self.console.warn(f"{name}: {resolved.version} is in Debian's index, but its file is not available yet")
        raise Unreachable(
            f"none of the {source.package} {source.version} versions in Debian's index could be fetched",
            why=f"tried {', '.join(versions)}",
            hint="name another archive: --debian-mirror URL",
        )

    def _is_available(self, resolved: Resolved) -> bool:
        wanted = Wanted(resolved.file, (resolved.url,), resolved.sha256, resolved.size)
        with self.console.progress() as progress, self.store.using():
            try:
                fetched = download.fetch(wanted, self.store, self.options, progress.meter(wanted.name))
            except Unreachable:
                return False
        if fetched.url is not None:
            self._fetched.add(fetched.sha256)
        return True

    def apt_root(self) -> AptRoot:
        """Return the private apt of this line, with its indexes read once per run."""
        if self._apt is None:
            self._apt = self._new_apt_root()
        return self._apt

    def indexes(self) -> list[tuple[Index, IndexDigests]]:
        """Return the local signed Debian indexes, each with the recorded digests of both its files.

        They are read anew when there are none, or when one is not what an answer of this line was found in.
        """
        from pipeline.sources import apt

        known = apt.evidence(apt.indexes(self._apt_directory))
        if not known or not all(self._is_recorded(digests) for _, digests in known):
            known = apt.evidence(self.apt_root().indexes())
        return known

    def _is_recorded(self, digests: IndexDigests) -> bool:
        """Return whether a recorded answer of this line comes from an index with these digests."""
        names = [
            self._record_name(name, source) for name, source in self._sources() if isinstance(source, DebianSource)
        ]
        answers = [record for name in names if (record := self.store.record(name, Answer))]
        return any(digests == index for answer in answers for index in answer.indexes)

    @property
    def _debian(self) -> Debian:
        return required(self.line.data.debian, "[debian]")

    @property
    def _apt_directory(self) -> Path:
        return self.settings.artifacts / "apt" / self.line.name

    def _new_apt_root(self) -> AptRoot:
        from pipeline.sources import apt, openpgp

        suites = self._debian.suites
        archives = apt.archive_addresses(suites, self.settings.debian_mirror, self.options.mirrors)
        if self.settings.offline and not all(address.startswith("file:") for address in archives.values()):
            raise Unreachable(
                "Debian's index has not been read yet and --offline forbids that",
                where=", ".join(archives.values()),
                hint="run once without --offline, or add --mirror DIR of an exported mirror",
            )
        ring = openpgp.keyring(self.public_keys(self._debian.keyring))
        with self.store.object_lock(f"apt-{self.line.name}"):
            sources = self.line.data.sources.values()
            packages = {source.package for source in sources if isinstance(source, DebianSource)}
            root = apt.AptRoot(self._apt_directory, archives, ring, packages)
            self.console.note(f"reading Debian's signed source index: {', '.join(suites)}")
            root.update()
        return root


def _has_expired(proof: Proof) -> bool:
    """Return whether a proof's key has expired since without the line's acceptance."""
    ends = proof.expires
    return ends is not None and datetime.now(UTC).timestamp() >= ends and not proof.accepted


def _wanted(record: Answer) -> Wanted:
    """Return the file in an index's recorded answer."""
    return Wanted(record.file, (record.url,), record.sha256, record.size)


def _needed(source: FileSource | SrpmSource | DebianSource, image: str) -> bool:
    """Return whether building in `image` needs the source; without an image, whether any build does."""
    return not isinstance(source, DebianSource) or source.image in (None, image)


def evidence(line: Line, found: Sequence[Verified]) -> LineSources:
    """Return what is true of these sources of a line, whichever run looks."""
    return LineSources(*line.identity, tuple(item.evidence() for item in found))


def summary(found: Sequence[Verified]) -> str:
    """Return one line for people: number of sources, their size, and how many are new."""
    new = [item for item in found if item.new]
    fetched = f"{len(new)} fetched ({human_bytes(sum(i.size for i in new))})" if new else "nothing fetched"
    return f"{len(found)} source{'s' * (len(found) != 1)} verified, {fetched}"
