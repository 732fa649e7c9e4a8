"""Compare two builds of the same steps byte for byte, and explain the differences.

diffoscope, where it is installed, looks into the packages; rpm's own header says which files and which tags
differ everywhere. Must not know what is built.
"""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as xml
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core import neutral, process
from pipeline.core.fs import sha256_of, write_atomic
from pipeline.errors import BuildFailed, Refused
from pipeline.packaging import rpmbuild
from pipeline.sources import rpm_query

# Tags that differ whenever anything does, and those of signatures: they tell nothing.
_DERIVED_TAGS = frozenset(
    {"Sha1header", "Sha256header", "Sigmd5", "Sigsize", "Longsigsize", "Payloaddigest", "Payloaddigestalt"}
    | {"Rsaheader", "Dsaheader", "Sigpgp", "Siggpg", "Filesignatures"}
)
_OUTPUTS = ("rpms/*.rpm", "bin/*")  # of a step: packages, or programs
_MAX_NAMES = 8  # names of one kind in an error
_DIFFOSCOPE_TIMEOUT = 3600.0  # seconds for diffoscope, which unpacks everything that is in a kernel


@dataclass(frozen=True)
class Comparison:
    """One package or program of a step, built twice: both digests, empty where one build did not make it.

    `differences` are sentences, `report` the file that diffoscope wrote, empty without one.
    """

    step: str
    file: str
    first: str
    second: str
    differences: tuple[str, ...] = ()
    report: str = ""

    @property
    def same(self) -> bool:
        """Whether both builds gave the same bytes."""
        return self.first == self.second

    def to_json(self) -> dict[str, object]:
        """Return the comparison as evidence and `--json` have it."""
        return {**vars(self), "same": self.same}


@dataclass(frozen=True)
class RebuildResult:
    """Two builds of the same steps: each package compared; steps left out, with the reason."""

    compared: Sequence[Comparison] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


def compare(first: Mapping[str, Path], second: Mapping[str, Path], reports: Path) -> list[Comparison]:
    """Compare the packages below `first` and `second`, the output directories of the two builds by step.

    What differs is explained in `reports`, whose content is that of this comparison alone.
    """
    shutil.rmtree(reports, ignore_errors=True)
    found = []
    for step in first:
        outputs = first[step], second[step]
        names = {path.relative_to(place) for place in outputs for kind in _OUTPUTS for path in place.glob(kind)}
        found += [_compare_file(step, outputs[0] / name, outputs[1] / name, reports) for name in sorted(names)]
    return found


def check(compared: Sequence[Comparison]) -> None:
    """Raise `BuildFailed` with all packages that differ, and the known reasons."""
    different = [item for item in compared if not item.same]
    if not different:
        return
    rows = [f"{len(different)} of {len(compared)} packages differ between two builds; expected the same bytes"]
    for item in different:
        rows.append(f"    {item.file} (step {item.step}): {item.first[:16] or 'none'}, {item.second[:16] or 'none'}")
        rows += [f"        {text}" for text in item.differences]
    reports = [item.report for item in different if item.report]
    lacking = "apt-get install diffoscope-minimal, and repeat: the report shows the differing files"
    read = neutral.command(["less", reports[0]]) if reports else lacking
    raise BuildFailed("\n".join(rows), why="a time, a path or an order in the build varies", hint=read)


def _compare_file(step: str, one: Path, other: Path, reports: Path) -> Comparison:
    first, second = (sha256_of(path) if path.is_file() else "" for path in (one, other))
    if first == second:
        return Comparison(step, one.name, first, second)
    if not (first and second):
        return Comparison(step, one.name, first, second, ("only one of the two builds made it",))
    differences, report = explain(one, other, reports / step.replace(":", "-") / f"{one.name}.txt")
    return Comparison(step, one.name, first, second, differences, report)


def explain(one: Path, other: Path, report: Path) -> tuple[tuple[str, ...], str]:
    """Return sentences about what differs in two files, signatures apart, and the path of diffoscope's report.

    It is written to `report`; the path is empty without diffoscope.
    """
    written = _diffoscope(one, other, report)
    differences = _header_differences(one, other) if one.suffix == ".rpm" else ()
    return (*differences, *((f"report: {written}",) if written else ())), written


def _diffoscope(one: Path, other: Path, report: Path) -> str:
    """Write diffoscope's report and return its path; empty without diffoscope."""
    if shutil.which("diffoscope") is None:
        return ""
    report.parent.mkdir(parents=True, exist_ok=True)
    argv = ["diffoscope", "--text", str(report), str(one), str(other)]
    result = process.run(argv, timeout=_DIFFOSCOPE_TIMEOUT, accept=range(256))  # 1: they differ; 2: it had trouble
    if not report.is_file():
        write_atomic(report, f"{process.reproducer(argv)}\n{result.text}{result.error_text}")
    return str(report)


def _header_differences(one: Path, other: Path) -> tuple[str, ...]:
    """Compare two RPM headers: files that differ, are missing or are additional, and tags that differ."""
    before, after = rpmbuild.read_package(one).files, rpmbuild.read_package(other).files
    kinds = (
        ("files that differ", [name for name in before.keys() & after.keys() if before[name] != after[name]]),
        ("files in the first build only", before.keys() - after.keys()),
        ("files in the second build only", after.keys() - before.keys()),
    )
    found = [f"{what}: {_listed(names)}" for what, names in kinds if names]
    old, new = _tags(one), _tags(other)
    tags = sorted(name for name in (old.keys() | new.keys()) - _DERIVED_TAGS if old.get(name) != new.get(name))
    found += [f"header tags that differ: {', '.join(tags)}"] if tags else []
    return tuple(found) or ("files and header agree: their order, the compression, or times in the payload do not",)


def _listed(names: Iterable[str]) -> str:
    """Return the first names in order, and the number of further ones."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _MAX_NAMES} more" if len(ordered) > _MAX_NAMES else ""
    return ", ".join(ordered[:_MAX_NAMES]) + more


def _tags(rpm: Path) -> dict[str, str]:
    """Return all tags of an RPM's header, as `rpm --xml` prints them."""
    try:
        tree = xml.fromstring(rpm_query.tags(rpm))
    except xml.ParseError as error:
        raise Refused(f"{rpm.name}: rpm prints its header as no XML; expected one: {error}", where=str(rpm)) from None
    return {str(tag.get("name")): xml.tostring(tag, "unicode") for tag in tree.iter("rpmTag")}
