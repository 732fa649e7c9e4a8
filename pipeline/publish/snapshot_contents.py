"""Define a snapshot's content and its texts: snapshot.json, the .repo files, the README.

A snapshot's id is the digest of the packages' headers and payloads, the key, and the code of the texts. So the
same content is the same snapshot, its id is known before signing, and can be recomputed from snapshot.json.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal

from pipeline import __version__
from pipeline.core import decoder, neutral
from pipeline.core.fs import sha256_of
from pipeline.errors import Refused, UsageError
from pipeline.formats import rpm_header
from pipeline.publish import el6_compat, repodata
from pipeline.publish.attestation_key import PublicKey
from pipeline.publish.keys import WARNING, SigningKey
from pipeline.publish.layout import PLACEHOLDER, directory_of
from pipeline.publish.signing import UnsignedPackage

FORMAT: Final = 2  # 2 added the attestation key
FileName = Annotated[str, re.compile(r"[A-Za-z0-9_+~^][A-Za-z0-9._+~^-]*")]  # of a package, or a set
ID_DIGITS = 32
RPM48_READERS = "rpm 4.8 and yum 3.2"
MIRRORLIST_PREFIX, KEYS = "mirrorlist-", "keys"  # beside `latest`: a mirrorlist for each set, the directory of keys
METADATA_EXPIRE = 3600  # seconds for which clients use metadata, and yum 3.2 a mirrorlist, without a look at ours
# yum 3.2 would begin at a random address of a mirrorlist and keep the list for a day; dnf knows neither option.
_OLD_YUM = {"failovermethod": "priority", "mirrorlist_expire": METADATA_EXPIRE}
# Not in the id: what follows from the content and the key, and how the same content came about.
_DERIVED = ("size", "sha256", "keys", "unsigned_sha256")


@dataclass(frozen=True)
class BuiltPackage:
    """A package that a step built. `small`: its kernel has the small configuration, for the lab only.

    `sha256` is the file's digest in the step's record, `key` that step's key, `rebuild_command` rebuilds the package;
    empty without a record.
    """

    path: Path
    step: str
    small: bool = False
    sha256: str = ""
    key: str = ""
    rebuild_command: str = ""


@dataclass(frozen=True)
class Contents:
    """The content of a snapshot to publish: the packages of each role's set.

    `label` and `notice` are the line's; `old_readers` means that rpm 4.8 and yum 3.2 must be able to
    install from it; `small` makes a snapshot for the lab, apart from the line's own; `attestation` is the key that the
    steps' statements are signed with, None without statements.
    """

    line: str
    label: str
    sets: Mapping[str, Sequence[BuiltPackage]]
    notice: str = ""
    old_readers: bool = False
    small: bool = False
    baseurl: str = PLACEHOLDER
    attestation: PublicKey | None = None

    @property
    def directory(self) -> str:
        """The line's directory in the repository; a small snapshot never becomes a line's latest."""
        return directory_of(self.line, small=self.small)


@dataclass(frozen=True)
class Member:
    """One package of a snapshot: its source file, its headers, and its steps with their keys."""

    unsigned: UnsignedPackage
    package: rpm_header.RpmFile
    body_sha256: str
    steps: Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """A package in snapshot.json; `size` in bytes and `sha256` are those of the signed file."""

    nevra: str
    body_sha256: str
    steps: tuple[str, ...]
    keys: tuple[str, ...]
    unsigned_sha256: str
    size: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class Signer:
    """The signing key in snapshot.json, and the name of its file."""

    name: Annotated[str, re.compile("[A-Za-z0-9-]+")]
    identity: str
    fingerprint: str
    development: bool


@dataclass(frozen=True)
class Attestation:
    """The public key of the statements in snapshot.json: its id, the name of its file, and what that holds."""

    id: Annotated[str, re.compile("[0-9a-f]{64}")]
    file: FileName
    pem: str
    development: bool


@dataclass(frozen=True)
class MadeBy:
    """The programs that made a snapshot, by version, and the digest of our own code."""

    pipeline: str
    createrepo_c: str
    code: str


@dataclass(frozen=True)
class Document:
    """snapshot.json. `timestamp` in seconds since 1970; `sets` has the names of packages by the name of a set.

    The names are opened as files of the snapshot: none leads out of it.
    """

    format: Literal[2]
    id: str
    line: str
    label: str
    notice: str
    small: bool
    readers: str
    baseurl: str
    key: Signer
    attestation: Attestation | None
    timestamp: int
    made_by: MadeBy
    sets: Mapping[FileName, tuple[FileName, ...]]
    packages: Mapping[FileName, Row]

    @property
    def directory(self) -> str:
        """The line's directory in the repository."""
        return directory_of(self.line, small=self.small)


def members(contents: Contents) -> dict[str, Member]:
    """Return all packages by file name. Raises `UsageError` and `Refused` for unpublishable ones."""
    _check(contents)
    by_file: dict[str, Member] = {}
    for name, packages in contents.sets.items():
        in_set = set[Path]()
        for built in packages:
            if built.path not in in_set:
                in_set.add(built.path)
                _add(by_file, built, contents.line, name)
    if contents.old_readers:
        for member in by_file.values():
            el6_compat.check(member.unsigned.path)
    return by_file


def _add(by_file: dict[str, Member], built: BuiltPackage, line: str, name: str) -> None:
    sha256 = sha256_of(built.path)
    unsigned = UnsignedPackage(built.path, built.sha256 or sha256, built.rebuild_command)
    unsigned.check(sha256)
    package = rpm_header.read(built.path)
    digest = rpm_header.body_sha256(built.path, package)
    before = by_file.get(package.file_name)
    if before is not None and before.body_sha256 != digest:
        raise Refused(
            f"{package.nvra}: two different packages of this name; expected one",
            where=f"{before.unsigned.path} and {built.path}, set {name}",
            why="an installed package could not be told from the other one",
            hint=f"./inv lines --show {neutral.word(line)}; then give each role a buildid of its own in the line file",
        )
    steps = {**(before.steps if before else {}), built.step: built.key}
    by_file[package.file_name] = Member(unsigned, package, digest, steps)


def _check(contents: Contents) -> None:
    for name in (contents.line, *contents.sets):
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
            raise UsageError(
                f"the name {name!r}: not allowed; expected a-z and 0-9, and . _ - after the first character",
                why="lines and sets are directories of the repository",
                hint="./inv lines",
            )
    if not contents.sets or not all(contents.sets.values()):
        empty = ", ".join(name for name, packages in contents.sets.items() if not packages)
        raise UsageError(
            f"the set {empty}: empty; expected packages"
            if empty
            else "the snapshot: no sets; expected one for each role",
            why="a host with this set enabled would install stock packages instead",
            hint="./inv status",
        )
    if not re.fullmatch(r"[a-z]+://?[!-~]+", contents.baseurl):
        raise UsageError(
            f"baseurl: not a URL; expected one such as {PLACEHOLDER}, got {contents.baseurl!r}",
            why="the .repo files name it",
            hint="./inv --help build-all",
        )
    small = sorted({str(b.path) for packages in contents.sets.values() for b in packages if b.small})
    if small and not contents.small:
        raise Refused(
            "packages of the small configuration: not publishable; expected packages of the full one",
            where=", ".join(small),
            why="the small configuration boots in the lab and lacks drivers of real machines",
            hint="./inv build-all --kernel-config full",
        )


def document(contents: Contents, by_file: Mapping[str, Member], key: SigningKey, code: str) -> Document:
    """Return the unsigned snapshot.json with its id; `code` is the digest of the publishing code."""
    by_path = {b.path: rpm_header.read(b.path).file_name for packages in contents.sets.values() for b in packages}
    packages = {
        name: Row(
            nevra=m.package.nevra,
            body_sha256=m.body_sha256,
            steps=tuple(sorted(m.steps)),
            keys=tuple(m.steps[step] for step in sorted(m.steps)),
            unsigned_sha256=m.unsigned.sha256,
        )
        for name, m in sorted(by_file.items())
    }
    unidentified = Document(
        format=FORMAT,
        id="",
        line=contents.line,
        label=contents.label,
        notice=contents.notice,
        small=contents.small,
        readers=RPM48_READERS if contents.old_readers else "",
        baseurl=contents.baseurl.rstrip("/"),
        key=Signer(key.name, key.identity, key.fingerprint, key.development),
        attestation=_attestation(contents.attestation),
        timestamp=max(key.created, *(member.package.build_time for member in by_file.values())),
        made_by=MadeBy(__version__, repodata.version(), code),
        sets={name: tuple(sorted({by_path[b.path] for b in contents.sets[name]})) for name in sorted(contents.sets)},
        packages=packages,
    )
    return replace(unidentified, id=snapshot_id(unidentified))


def _attestation(key: PublicKey | None) -> Attestation | None:
    if key is None:
        return None
    return Attestation(key.id, f"ATTESTATION-KEY-{key.name}.pem", key.pem.decode(), key.development)


def snapshot_id(document: Document) -> str:
    """Return the id of a snapshot.json, independent of an id in it."""
    content = {name: value for name, value in decoder.encode(document).items() if name != "id"}
    content["packages"] = {
        name: {key: value for key, value in row.items() if key not in _DERIVED}
        for name, row in content["packages"].items()
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:ID_DIGITS]


def to_json(document: Document) -> str:
    """Return the text of snapshot.json."""
    return json.dumps(decoder.encode(document), indent=2, sort_keys=True) + "\n"


def key_file(document: Document) -> str:
    """Return the name of the public key's file."""
    return f"RPM-GPG-KEY-{document.key.name}"


def repo_file(document: Document, name: str) -> str:
    """Return the .repo file of one set, for yum and dnf."""
    directory = document.directory
    base = f"{document.baseurl}/{directory}"
    development = document.key.development
    lines = [f"# {text}" for text in _heading(document)]
    lines += [f"# {text}" for text in (_priority_guards(document, name) if document.readers else ())]
    values = {
        "name": f"{document.label}: {name}" + (f" ({WARNING})" if development else ""),
        "mirrorlist": f"{base}/{MIRRORLIST_PREFIX}{name}",
        **(_OLD_YUM if document.readers else {}),
        "metadata_expire": METADATA_EXPIRE,
        "enabled": 1,
        "gpgcheck": 1,
        "repo_gpgcheck": 1,
        "gpgkey": f"{base}/{KEYS}/{key_file(document)}",
        "skip_if_unavailable": 0,  # a repository that is not what it must be is an error, not less to choose from
        "priority": 1,
    }
    section = f"[{directory}-{name}{'-development' if development else ''}]"
    return "\n".join([*lines, section, *(f"{key}={neutral.line(str(value))}" for key, value in values.items()), ""])


def _heading(document: Document) -> list[str]:
    """Return the first lines of all texts; one line each, whatever a label or notice holds."""
    texts = [f"Line {document.label}, snapshot {document.id}."]
    if document.notice:
        texts.append(f"NOTICE: {document.notice}.")
    if document.small:
        texts.append("SMALL CONFIGURATION: for the lab, not for real machines.")
    if document.baseurl == PLACEHOLDER:
        texts.append(f"PLACEHOLDER ADDRESS: {PLACEHOLDER} serves nothing; publish with --baseurl URL.")
    if document.key.development:
        texts.append(f"{WARNING}: anybody who can read its directory could have signed this.")
    return [neutral.line(" ".join(text.split())) for text in texts]


def _priority_guards(document: Document, name: str) -> list[str]:
    """Explain how to keep stock packages, whose versions sort higher, from replacing ours."""
    files = document.sets[name]
    names = sorted({document.packages[file].nevra.rsplit("-", 2)[0] for file in files})
    return [
        "Stock packages of the same names sort higher and would replace these on `yum update`. Two guards:",
        "1. yum-plugin-priorities, which reads `priority` below;",
        "2. in the section of every other repository:",
        f"   exclude={' '.join(names)}",
    ]


def _statements(document: Document) -> list[str]:
    """Return the README's lines about statements."""
    if document.attestation is None:
        return []
    warning = f": {WARNING}" if document.attestation.development else ""
    return [
        f"Statements about how each package was made: ../../attestations/{document.id}/, signed with the key in",
        f"  {document.attestation.file}{warning}",
        "",
    ]


def readme(document: Document) -> str:
    """Return the snapshot's README."""
    key = document.key
    sets = [
        f"  {name}/  {len(files)} packages, {document.directory}-{name}.repo" for name, files in document.sets.items()
    ]
    return "\n".join(
        [
            *_heading(document),
            "",
            "Every package, every repodata/repomd.xml and SHA256SUMS is signed by",
            f"  {neutral.line(key.identity)}",
            f"  {key.fingerprint}, in {key_file(document)}",
            "Compare the fingerprint with the one you were given by another way before you trust it.",
            "",
            "Sets, one repository each:",
            *sets,
            "",
            *_statements(document),
            "snapshot.json lists every package with the step that built it. This directory never changes.",
            "",
        ]
    )
