"""Resolve Debian source packages by Debian's signed metadata, in a private apt root.

apt fetches the signed index and checks it: which versions there are, and each file's digest. The
files themselves go through the one downloader. The host's apt lists are neither read nor
changed; of its configuration only the archive's address and the proxies are taken.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from pipeline.config.line_model import DebianSource
from pipeline.core import process
from pipeline.core.disk_space import writing
from pipeline.core.fs import sha256_of, write_atomic
from pipeline.core.locks import locked
from pipeline.errors import PipelineError, Refused, Unreachable, UsageError
from pipeline.formats import apt_sources, decompression
from pipeline.sources.records import IndexDigests, Resolved

# What apt-get says of an index that was had and is not what it must be.
_BAD = re.compile(
    r"not signed|NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG|invalid signature|NOSPLIT|NODATA|Hash Sum mismatch"
    r"|unexpected size|is expired|is not valid yet"
)
INDEX_TIMEOUT = 300.0  # seconds for all indexes together; about 10 MB for one suite


@dataclass(frozen=True)
class Index:
    """A signed index: its suite, date and the digests of both its files."""

    suite: str
    date: str
    inrelease: Path
    sources: Path


def is_archive(base: str) -> bool:
    """Return whether `base` is a local directory with the layout of a Debian archive."""
    return (Path(base) / "dists").is_dir()


def archive_addresses(suites: Sequence[str], setting: str, mirrors: Sequence[str]) -> dict[str, str]:
    """Return the archive of each suite: from a local mirror, the setting, or the host's own apt.

    A security suite lives in the archive beside: `debian` and `debian-security`.
    """
    local = next((m for m in mirrors if is_archive(f"{m}/debian")), None)
    base = f"file:{quote(str(Path(local).resolve()))}/debian" if local else setting.rstrip("/")
    found = {suite: _beside(base, suite) for suite in suites} if base else _of_host(suites)
    if missing := [suite for suite in suites if suite not in found]:
        raise UsageError(
            f"no Debian archive is known for {', '.join(missing)}",
            why="this host's apt does not use one",
            hint="add --debian-mirror URL; the list of mirrors: https://www.debian.org/mirror/list",
        )
    for address in found.values():
        if re.search(r"[\s\[\]\"]", address):  # apt would read an option of its own into it, such as trusted=yes
            raise UsageError(f"{address!r} is no address of an archive", hint="./inv --help fetch")
    return found


def _beside(base: str, suite: str) -> str:
    return f"{base}-security" if suite.endswith("-security") else base


def _of_host(suites: Sequence[str]) -> dict[str, str]:
    """Return addresses from the host's apt sources, for any Debian release on the host."""
    argv = ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"]
    try:
        listed = process.run(argv, env=_host_environment()).text
    except (process.ProgramMissing, process.ProgramFailed):
        return {}
    rows = [line.rsplit(" ", 2) for line in dict.fromkeys(listed.splitlines())]
    entries = [(address.rstrip("/"), release) for address, release, component in rows if component == "main"]
    found = {suite: _best_match(suite, entries) for suite in suites}
    return {suite: address for suite, address in found.items() if address}


def _best_match(suite: str, entries: Sequence[tuple[str, str]]) -> str:
    """Return the address with Debian's path or the release `suite`, at best both: others have `bookworm` too."""
    kind = "/debian-security" if suite.endswith("-security") else "/debian"
    by_path = [entry for entry in entries if entry[0].endswith(kind)]
    by_release = [entry for entry in entries if entry[1] == suite]
    both = [entry for entry in by_path if entry in by_release]
    return next((address for address, _ in (*both, *by_release, *by_path)), "")


_LOCK = "lists.lock"  # shared by those who ask the lists, held alone while they are read anew
_INDEX_MOST = 1 << 30  # bytes of an unpacked index; that of Debian 12 has 51 MB


@dataclass(frozen=True)
class _Stanza:
    """A version of a source package: the fields of an index, and the address of the archive whose index it is."""

    fields: Mapping[str, str]
    archive: str

    @property
    def version(self) -> str:
        return self.fields["Version"]

    def address_of(self, name: str) -> str:
        """Return the address of one of its files."""
        return "/".join((self.archive, quote(f"{self.fields['Directory']}/{name}", safe="/+:~")))


class AptRoot:
    """A private apt, whose directory holds its own lists, configuration and keyring.

    It reads the source index of the archives for these source packages, or with `binary` that of the amd64 packages.
    """

    def __init__(
        self,
        root: Path,
        archives: Mapping[str, str],
        keyring: bytes,
        packages: Iterable[str] = (),
        *,
        binary: bool = False,
    ) -> None:
        self.root, self.archives, self.packages = root.resolve(), dict(archives), frozenset(packages)
        for part in ("lists/partial", "cache/archives/partial", "etc"):
            (self.root / part).mkdir(parents=True, exist_ok=True)
        write_atomic(self.root / "status", "")
        sources = apt_sources.text("deb" if binary else "deb-src", self.archives, keyring)
        write_atomic(self.root / "apt.sources", sources)
        write_atomic(self.root / "apt.conf", self._configuration())

    def _configuration(self) -> str:
        local = any(address.startswith("file:") for address in self.archives.values())
        settings = {
            "Dir": "/",
            "Dir::State": f"{self.root}",
            "Dir::State::lists": f"{self.root}/lists",
            "Dir::State::status": f"{self.root}/status",
            "Dir::Cache": f"{self.root}/cache",
            "Dir::Etc": f"{self.root}/etc",
            "Dir::Etc::parts": f"{self.root}/etc",
            "Dir::Etc::sourcelist": f"{self.root}/apt.sources",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "",  # as ourselves: another user could not write here
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::GzipIndexes": "true",  # kept as signed, so that they can be carried elsewhere
            "Acquire::CompressionTypes::Order::": "xz",
            "Acquire::IndexTargets::deb-src::Sources::KeepCompressedAs": "xz",
            "Acquire::ForceHash": "sha256",
            "Acquire::Retries": "2",
            # A carried archive is as old as it is; its signature and digests are checked all the same.
            **({"Acquire::Check-Valid-Until": "false"} if local else {}),
            **_host_proxies(),
        }
        return "".join(f'{name} "{value}";\n' for name, value in settings.items())

    def _run(self, *argv: str, timeout: float = 60.0, accept: Sequence[int] = (0,)) -> process.Result:
        environment = process.clean_environment(APT_CONFIG=str(self.root / "apt.conf"))
        with writing(self.root):
            return process.run(argv, env=environment, timeout=timeout, accept=accept)

    def update(self) -> None:
        """Read the indexes anew. Raises `Refused` when a signature is not good, else `Unreachable`."""
        with locked(self.root / _LOCK), self._empty_lists():
            self._read_indexes()
        self.__dict__.pop("_stanzas", None)

    def _ask(self, *argv: str) -> str:
        """Run one of apt's programs on the lists, locked against a concurrent update."""
        with locked(self.root / _LOCK, shared=True):
            return self._run(*argv).text

    @contextlib.contextmanager
    def _empty_lists(self) -> Iterator[None]:
        """Start with empty lists, and restore the previous ones where the update fails.

        apt takes a list of its own for what it was when it fetched it, and never reads it against the signed digest.
        """
        lists, before = self.root / "lists", self.root / "lists.old"
        if before.is_dir():  # of a killed run
            shutil.rmtree(lists, ignore_errors=True)
        elif lists.is_dir():
            lists.rename(before)
        (lists / "partial").mkdir(parents=True)
        try:
            yield
        except BaseException:
            shutil.rmtree(lists)
            if before.is_dir():
                before.rename(lists)
            raise
        shutil.rmtree(before, ignore_errors=True)

    def _read_indexes(self) -> None:
        try:
            self._run("apt-get", "-q", "update", timeout=INDEX_TIMEOUT)
        except process.ProgramFailed as error:
            where = ", ".join(f"{address} {suite}" for suite, address in self.archives.items())
            text = str(error)
            bad = _BAD.search(text)
            kind: type[PipelineError] = Refused if bad else Unreachable
            what = "is not signed by a pinned key, damaged or out of date" if bad else "could not be read"
            raise kind(f"Debian's source index {what}", where=where, why=error.what, hint=_HINT) from None
        self._copy_linked_lists()

    def _copy_linked_lists(self) -> None:
        """Replace apt's links into a local mirror by copies: the medium may be removed."""
        for link in [path for path in (self.root / "lists").iterdir() if path.is_symlink()]:
            write_atomic(link, link.read_bytes())

    def versions(self, source: DebianSource) -> list[str]:
        """Return the matching versions, the newest first. Raises `Unreachable` when the index has none."""
        offered = {stanza.version for stanza in self._stanzas[source.package]}
        matching = {version for version in offered if _matches(version, source.version)}
        if not matching:
            raise Unreachable(
                f"Debian's index has no {source.package} {source.version}",
                where=", ".join(f"{address} {suite}" for suite, address in self.archives.items()),
                why=f"it offers {', '.join(sorted(offered)) or 'nothing'}",
                hint="change the version in the line file, or name an archive that has it: --debian-mirror URL",
            )
        return sorted(matching, key=functools.cmp_to_key(self._order), reverse=True)

    def resolve(self, source: DebianSource, versions: Iterable[str]) -> Iterator[Resolved]:
        """Yield the upstream tarballs of these versions, each once."""
        stanzas = {stanza.version: stanza for stanza in self._stanzas[source.package]}
        digests = set()
        for version in versions:
            resolved = _upstream(source, stanzas[version])
            if resolved.sha256 not in digests:  # Debian's own revisions share one upstream tarball
                digests.add(resolved.sha256)
                yield resolved

    def binary(self, package: str) -> Resolved:
        """Return the newest amd64 package of this name. Raises `Unreachable` when the index has none."""
        try:
            listed = self._ask("apt-get", "download", "--print-uris", package)
        except process.ProgramFailed as error:
            raise Unreachable(f"Debian's index has no package {package}", why=error.what, hint=_HINT) from None
        row = re.search(r"^'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})$", listed, re.MULTILINE)
        if row is None:
            raise Refused(f"apt gave no SHA-256 of the package {package}", why=listed.strip())
        return Resolved(package, unquote(row[2]).split("_")[1], unquote(row[2]), row[1], int(row[3]), row[4])

    def dependencies(self, package: str) -> list[str]:
        """Return the names of the packages that `package` depends on."""
        text = self._ask("apt-cache", "depends", "--important", package)
        return re.findall(r"^ +Depends: (\S+)$", text, re.MULTILINE)

    @functools.cached_property
    def _stanzas(self) -> Mapping[str, list[_Stanza]]:
        """The versions of each package, read once for all: an index is unpacked in half a second."""
        found: dict[str, list[_Stanza]] = {name: [] for name in self.packages}
        wanted = re.compile(rb"\nPackage: (%s)\n" % b"|".join(re.escape(name.encode()) for name in self.packages))
        with locked(self.root / _LOCK, shared=True):
            for index in _indexes(self.root):
                limits = decompression.soon(_INDEX_MOST)
                data = b"\n" + decompression.unpacked(index.sources.read_bytes(), index.sources.name, limits)
                for match in wanted.finditer(data):
                    end = data.find(b"\n\n", match.end())
                    begin = data.rfind(b"\n\n", 0, match.end())
                    fields = _fields(data[max(begin, 0) : end if end >= 0 else len(data)].decode(errors="replace"))
                    if "Version" in fields:
                        found[match[1].decode()].append(_Stanza(fields, self.archives[index.suite]))
        return found

    def _order(self, one: str, other: str) -> int:
        """Compare two different versions in dpkg's order."""
        return -1 if is_older(one, other) else 1

    def indexes(self) -> list[Index]:
        """Return the signed indexes behind the answers."""
        return indexes(self.root)

    def evidence(self) -> tuple[IndexDigests, ...]:
        """Return the indexes in the form that records store."""
        return tuple(digests for _, digests in evidence(self.indexes()))


def _fields(stanza: str) -> dict[str, str]:
    rows = re.findall(r"^([\w-]+):((?:.*)(?:\n .*)*)", stanza, re.MULTILINE)
    return {name: value.strip() for name, value in rows}


def _upstream(source: DebianSource, stanza: _Stanza) -> Resolved:
    files = [row.split() for row in stanza.fields.get("Checksums-Sha256", "").splitlines() if row.strip()]
    for digest, size, name in files:
        if re.search(r"\.orig\.tar\.\w+$", name) and "/" not in name:
            return Resolved(source.package, stanza.version, name, stanza.address_of(name), int(size), digest)
    raise Refused(f"the Debian source package {source.package} {stanza.version} has no upstream tarball")


def is_older(one: str, other: str) -> bool:
    """Return whether the version `one` comes before `other` in dpkg's order."""
    return process.run(["dpkg", "--compare-versions", one, "lt", other], accept=(0, 1)).status == 0


def upstream_version(version: str) -> str:
    """Return a version without Debian's revision and without its epoch: 6.1.9 of 6.1.9-2, 1.31 of 1:1.31-1."""
    epoch, colon, rest = version.partition(":")
    plain = rest if colon else epoch
    return plain.rpartition("-")[0] or plain


def evidence(found: Sequence[Index]) -> list[tuple[Index, IndexDigests]]:
    """Return each index with its record: suite, date, the digests of both its files."""
    return [(i, IndexDigests(i.suite, i.date, sha256_of(i.inrelease), sha256_of(i.sources))) for i in found]


def indexes(root: Path) -> list[Index]:
    """Return the signed indexes in the private apt root at `root`."""
    if not root.is_dir():
        return []
    with locked(root / _LOCK, shared=True):
        return list(_indexes(root))


def _indexes(root: Path) -> Iterator[Index]:
    for release in sorted((root / "lists").glob("*_InRelease")):
        text = release.read_text(errors="replace")
        suite = release.name.removesuffix("_InRelease").rpartition("_dists_")[2]
        date = re.search(r"^Date: (.*)$", text, re.MULTILINE)
        prefix = release.name.removesuffix("InRelease")
        for sources in (root / "lists").glob(f"{prefix}main_source_Sources*"):
            yield Index(suite, date[1] if date else "", release, sources)


_HINT = "check the network, or take another archive: --debian-mirror URL, or --mirror DIR of an exported one"


def _matches(version: str, wanted: str) -> bool:
    return version.startswith(wanted) if wanted.endswith(".") else version == wanted


def _host_environment() -> dict[str, str]:
    """Return the environment for the host's own apt, with the variable that names its settings."""
    return process.clean_environment(**{name: os.environ[name] for name in ("APT_CONFIG",) if name in os.environ})


def _host_proxies() -> dict[str, str]:
    """Return the proxy settings of the host's apt, and no others."""
    try:
        dumped = process.run(["apt-config", "dump"], env=_host_environment()).text
    except (process.ProgramMissing, process.ProgramFailed):
        return {}
    rows = re.findall(r'^(Acquire::(?:http|https|ftp)::Proxy(?:::[\w.-]+)?) "(.*)";$', dumped, re.MULTILINE)
    return {name: value for name, value in rows if value}
