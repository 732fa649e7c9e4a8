"""Export a line's sources for a host without network, and import and verify them there.

An exported directory is a mirror for `--mirror DIR`: `files/` by digest, `keys/` by fingerprint,
`debian*/` laid out as the part of Debian's archive that holds the signed indexes, and `lines/`
with the lock file. Nothing in it is trusted: pins, fingerprints and Debian's signatures are
checked on the other side as if it came from the network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import line_checks
from pipeline.config.line_model import DebianSource, Line, SrpmSource
from pipeline.config.settings import Settings
from pipeline.core import documents, neutral, resources
from pipeline.core.console import Console
from pipeline.core.fs import copy_verified, sha256_of, write_atomic
from pipeline.core.units import human_bytes
from pipeline.errors import HostLacks, UsageError
from pipeline.sources.line_sources import LineSources
from pipeline.sources.records import KeptKey
from pipeline.sources.resolver import Sources, evidence, summary

_README = """This directory carries the line {label} to a host without network.
There, in a checkout of the project:

    {command}

Every digest and signature is checked again there.
"""


@dataclass(frozen=True)
class Export(LineSources):
    """An exported mirror: the sources in it, and its directory."""

    directory: Path


def export(line: Line, settings: Settings, console: Console, directory: str, image: str = "") -> Export:
    """Write everything the line needs below `directory`; fetch missing sources first.

    What only one builder image needs is carried when it is `image`.
    """
    target = Path(directory)
    if target.exists() and not target.is_dir():
        raise UsageError("not a directory", where=directory)
    sources = Sources(line, settings, console)
    found = sources.fetch(image)
    try:
        with sources.store.using():
            for item in found:
                _copy(item.path, target / "files" / item.sha256, item.sha256)
        _export_keys(sources, target)
        if any(isinstance(line.data.sources[item.name], DebianSource) for item in found):
            _export_indexes(sources, target)
        for file in _line_files(sources):
            _copy(file, target / "lines" / line.name / file.name)
        write_atomic(target / f"README-{line.name}.txt", _README.format(label=line.label, command=_command(line)))
        carried = evidence(line, found)
        write_atomic(target / f"mirror-{line.name}.json", documents.to_json(carried))
    except OSError as error:
        raise HostLacks(f"the mirror cannot be written: {error}", where=directory) from None
    console.say(f"line {line.label}: {len(found)} files, {human_bytes(sum(i.size for i in found))}, in {target}")
    console.say(f"on the other host: {_command(line)}")
    return Export(*line.identity, carried.sources, target)


def import_(line: Line, settings: Settings, console: Console, directory: str, image: str = "") -> LineSources:
    """Import a line's sources from an exported directory into the store, without network requests."""
    if not any(Path(directory).glob("mirror-*.json")):
        hint = "./inv mirror export DIR, on a host with network"
        raise UsageError("not an exported mirror: no mirror-LINE.json in it", where=directory, hint=hint)
    offline = replace(settings, offline=True, refresh=True, mirror=(directory, *settings.mirror))
    found = Sources(line, offline, console).fetch(image)
    console.say(summary(found))
    console.say(f"next, without network: ./inv fetch {line_checks.option(line)} --offline")
    return evidence(line, found)


def _command(line: Line) -> str:
    """Return the command for the other host, with the exported line file where that is not the project's."""
    if line.files[0].parent == resources.lines_dir():
        return f"./inv mirror import DIR --line {line.name}"
    file = neutral.word(line.files[0].name)
    return f"./inv mirror import DIR --line-file DIR/lines/{line.name}/{file}"


def _line_files(sources: Sources) -> list[Path]:
    """Return the line's own files, its lock, and the keys and manifests beside it."""
    line = sources.line
    named = [name for key in line.data.keys.values() for name in key.files if not Path(name).is_absolute()]
    named += [s.tree.manifest for s in line.data.sources.values() if isinstance(s, SrpmSource) and s.tree.manifest]
    files = [*line.files, line.lock_file, *(sources.beside_line(name) for name in named)]
    return [file for file in files if file.is_file()]


def _copy(source: Path, target: Path, sha256: str = "") -> None:
    """Copy a file atomically; keep an identical one.

    `sha256` is what the bytes must be, where that is known. Raises `Refused`: nothing else leaves this machine.
    """
    sha256 = sha256 or sha256_of(source)
    if target.is_symlink() or not target.is_file() or sha256_of(target) != sha256:
        copy_verified(source, target, sha256)


def _export_keys(sources: Sources, target: Path) -> None:
    """Export the keys used here, so that signatures can be verified without network."""
    for key in sources.line.data.keys.values():
        record = sources.store.record(f"key-{key.fingerprint}", KeptKey)
        if record is not None:
            write_atomic(target / "keys" / f"{key.fingerprint}.asc", record.armor)


def _export_indexes(sources: Sources, target: Path) -> None:
    """Export Debian's signed indexes behind the recorded answers, in its archive's layout."""
    for index, digests in sources.indexes():
        archive = "debian-security" if index.suite.endswith("-security") else "debian"
        release = target / archive / "dists" / index.suite
        _copy(index.inrelease, release / "InRelease", digests.inrelease)
        _copy(index.sources, release / "main" / "source" / f"Sources{index.sources.suffix}", digests.sources)
