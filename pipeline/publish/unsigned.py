"""Keep a whole snapshot that is not signed yet, for a host that holds the key.

    <artifacts>/unsigned/<line>/<id>/contents.json            the line, its sets, packages and address
                                     packages/<step>/*.rpm    as the steps made them
                                     statements/<step>.intoto.json

Apart from the repository: no reader, and no lab, takes it for a published one. Its id is the digest of contents.json.
That of the snapshot it becomes is another one, since the signing key is part of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pipeline.core import documents, faults, trees
from pipeline.core.disk_space import writing
from pipeline.core.fs import copy_verified, scratch, write_atomic
from pipeline.errors import UsageError
from pipeline.publish.attestation_key import PublicKey
from pipeline.publish.snapshot_contents import ID_DIGITS, BuiltPackage, Contents, FileName

FILE, PACKAGES, STATEMENTS = "contents.json", "packages", "statements"
MOST = 16 << 20  # bytes of contents.json
HINT = "carry the whole directory again; `./inv build-all --sign-later` makes it"
Digest = Annotated[str, re.compile("[0-9a-f]{64}")]


@dataclass(frozen=True)
class UnsignedPackage:
    """A package: the step that made it with its key, the SHA-256 of its file, and whether it is a small kernel's."""

    file: FileName
    step: Annotated[str, re.compile("[a-z0-9][a-z0-9:_-]*")]
    key: str
    sha256: Digest
    small: bool

    def path(self, place: Path) -> Path:
        """Return the file's path in an unsigned snapshot."""
        return place / PACKAGES / self.step.replace(":", "-") / self.file


@dataclass(frozen=True)
class Unsigned:
    """contents.json: what a snapshot holds, but for the keys of the host that signs."""

    format: Literal[1]
    line: FileName
    label: str
    notice: str
    old_readers: bool
    small: bool
    baseurl: str
    sets: Mapping[FileName, tuple[UnsignedPackage, ...]]

    def packages(self) -> list[UnsignedPackage]:
        """Return each package once."""
        return list(dict.fromkeys(package for packages in self.sets.values() for package in packages))

    def contents(self, place: Path, key: PublicKey) -> Contents:
        """Return the content of the snapshot to publish by the attestation key `key`, with packages below `place`."""
        rebuild = f"./inv build-all --sign-later --force {{step}} --line {self.line}"
        sets = {
            name: [
                BuiltPackage(p.path(place), p.step, p.small, p.sha256, p.key, rebuild.format(step=p.step))
                for p in packages
            ]
            for name, packages in self.sets.items()
        }
        return Contents(
            line=self.line,
            label=self.label,
            sets=sets,
            notice=self.notice,
            old_readers=self.old_readers,
            small=self.small,
            baseurl=self.baseurl,
            attestation=key,
        )


def write(root: Path, contents: Contents, statements: Mapping[str, bytes]) -> Path:
    """Write an unsigned snapshot below `root`, <artifacts>/unsigned; return its directory.

    `statements` are the steps' signed statements and the keys of other hosts, by their names. Raises `Refused` for a
    package that changed since.
    """
    document = _document(contents)
    text = documents.to_json(document)
    place = root / contents.directory
    path = place / identity(text.encode())
    sources = {_row(built): built.path for packages in contents.sets.values() for built in packages}
    with writing(place), scratch(place, ".making-") as work:
        staging = work / path.name
        for package, source in sources.items():
            copy_verified(source, package.path(staging), package.sha256)
        for name, data in statements.items():
            write_atomic(staging / STATEMENTS / name, data)
        write_atomic(staging / FILE, text)
        faults.point("unsigned.before-rename")
        if path.exists():
            trees.remove(path)
        staging.rename(path)
    return path


def identity(data: bytes) -> str:
    """Return the id of an unsigned snapshot with this contents.json."""
    return hashlib.sha256(data).hexdigest()[:ID_DIGITS]


def read(path: Path) -> Unsigned:
    """Read contents.json; verifies nothing else. Raises `Refused`."""
    text = documents.read_text(path / FILE, hint=HINT, most=MOST)
    if (actual := identity(text.encode())) != path.resolve().name:
        raise documents.damaged(path / FILE, f"the digest {path.resolve().name} of the directory's name", actual, HINT)
    return documents.read(path / FILE, Unsigned, hint=HINT, most=MOST)


def find(name: str, root: Path) -> Path:
    """Return an unsigned snapshot: by its directory, or by its id or the beginning of that below `root`.

    Raises `UsageError`.
    """
    if (Path(name) / FILE).is_file():
        return Path(name)
    found = [path for path in root.glob(f"*/{'[0-9a-f]' * ID_DIGITS}") if name and path.name.startswith(name)]
    if len(found) != 1:
        known = ", ".join(sorted(path.name for path in root.glob(f"*/{'[0-9a-f]' * ID_DIGITS}"))) or "none"
        what = f"{name!r}: not an unsigned snapshot; expected its directory, or its id or how that begins"
        raise UsageError(what, why=f"below {root}: {known}", hint="./inv build-all --sign-later")
    return found[0]


def _document(contents: Contents) -> Unsigned:
    return Unsigned(
        format=1,
        line=contents.line,
        label=contents.label,
        notice=contents.notice,
        old_readers=contents.old_readers,
        small=contents.small,
        baseurl=contents.baseurl,
        sets={name: _rows(packages) for name, packages in sorted(contents.sets.items())},
    )


def _rows(packages: Sequence[BuiltPackage]) -> tuple[UnsignedPackage, ...]:
    return tuple(map(_row, packages))


def _row(built: BuiltPackage) -> UnsignedPackage:
    return UnsignedPackage(built.path.name, built.step, built.key, built.sha256, built.small)
