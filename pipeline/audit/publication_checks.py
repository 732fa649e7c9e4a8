"""Check that the files of a publication are those that its signed statement is about: lists and bills of materials.

Packages are checked with the statements of the steps that made them: `pipeline.audit.statement_checks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.audit.findings import Findings
from pipeline.audit.snapshot_checks import Audited
from pipeline.core.fs import sha256_of
from pipeline.publish.snapshot import bills_of_materials
from pipeline.publish.verify import SUMS

_CHECK = "subject"
_BILLS = "sboms/"
_FORMATS = (".cdx.json", ".spdx.json")
_WHOLE = "snapshot"  # the name of the bills of all packages
_IN_SNAPSHOT = (SUMS, "snapshot.json")


def check(audited: Audited, subjects: Mapping[str, str], findings: Findings) -> None:
    """Check each subject of the publication's statement, by its name and SHA-256, that is no package of the snapshot.

    There must be all that a publication states, and no bill of materials besides.
    """
    packages = audited.document.packages
    for name in _IN_SNAPSHOT:
        _require(name, audited.path / name, subjects.get(name), findings)
    place = bills_of_materials(audited.path)
    wanted = [f"{_BILLS}{name}" for name in _names(packages)]
    stated = [name for name in subjects if name.startswith(_BILLS)]
    bad = [name for name in dict.fromkeys([*wanted, *stated]) if not _bill(name, place, subjects, findings)]
    there = {f"{_BILLS}{path.name}" for path in place.iterdir()} if place.is_dir() else set()
    surplus = sorted(there - {*wanted, *stated})
    for name in surplus:
        findings.fail(_CHECK, name, "surplus: the publication states no such bill of materials")
    if not bad and not surplus:
        findings.good(_CHECK, "bills of materials", f"{len(stated)} files, each as the publication states it")
    known = {*_IN_SNAPSHOT, *stated, *(name for file in packages for name in (file, f"{file}#body"))}
    for name in sorted(subjects.keys() - known):
        findings.fail(_CHECK, name, "the publication states it, and the snapshot has no such package")


def _names(packages: Mapping[str, object]) -> Iterator[str]:
    for name in (*(file.removesuffix(".rpm") for file in packages), _WHOLE):
        yield from (f"{name}{suffix}" for suffix in _FORMATS)


def _bill(name: str, place: Path, subjects: Mapping[str, str], findings: Findings) -> bool:
    file = name.removeprefix(_BILLS)
    if Path(file).name != file:
        findings.fail(_CHECK, name, "no name of a bill of materials")
        return False
    problem = _problem(place / file, subjects.get(name))
    if problem:
        findings.fail(_CHECK, name, problem)
    return not problem


def _require(name: str, path: Path, digest: str | None, findings: Findings) -> None:
    findings.require(_CHECK, name, _problem(path, digest), "the one that the publication's statement is about")


def _problem(path: Path, digest: str | None) -> str:
    if digest is None:
        return "the publication's statement is not about it"
    if path.is_symlink() or not path.is_file():
        return f"missing from {path.parent}; expected SHA-256 {digest}, as the publication states"
    actual = sha256_of(path)
    return (
        "" if actual == digest else f"another file; expected SHA-256 {digest}, as the publication states, got {actual}"
    )
