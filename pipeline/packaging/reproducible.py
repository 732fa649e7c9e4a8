"""Whether two builds of the same steps gave the same files, byte for byte, and what differs where they did not.

diffoscope, where it is installed, looks into the packages; rpm's own header says which files and which tags
differ everywhere. Must not know what is built, nor who builds it twice.
"""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as xml
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.core import neutral, process
from pipeline.core.fs import sha256_of, write_atomic
from pipeline.errors import BuildFailed, Refused
from pipeline.packaging import rpmbuild
from pipeline.sources import rpm_query

# Tags that differ whenever anything does, and so tell nothing.
_FOLLOWING = frozenset({"Sha1header", "Sha256header", "Sigmd5", "Sigsize", "Payloaddigest", "Payloaddigestalt"})
_OUTPUTS = ("rpms/*.rpm", "bin/*")  # of a step: packages, or programs
_SHOWN = 8  # names of one kind in an error
_PATIENCE = 3600.0  # seconds for diffoscope, which unpacks everything that is in a kernel


@dataclass(frozen=True)
class Compared:
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

    def as_dict(self) -> dict[str, Any]:
        """As evidence and `--json` have it."""
        return {**asdict(self), "differences": list(self.differences), "same": self.same}


def compare(first: Mapping[str, Path], second: Mapping[str, Path], reports: Path) -> list[Compared]:
    """Compares the packages below `first` and `second`, by step the output directory of each build.

    What differs is explained in `reports`, whose content is that of this comparison alone.
    """
    shutil.rmtree(reports, ignore_errors=True)
    found = []
    for step in first:
        outputs = first[step], second[step]
        names = {path.relative_to(place) for place in outputs for kind in _OUTPUTS for path in place.glob(kind)}
        found += [_pair(step, outputs[0] / name, outputs[1] / name, reports) for name in sorted(names)]
    return found


def check(compared: list[Compared]) -> None:
    """Raises `BuildFailed` that names every package that came out different, and why as far as it is known."""
    different = [item for item in compared if not item.same]
    if not different:
        return
    rows = [f"{len(different)} of {len(compared)} packages came out different when they were built again"]
    for item in different:
        rows.append(f"    {item.file} (step {item.step}): {item.first[:16] or 'none'}, {item.second[:16] or 'none'}")
        rows += [f"        {text}" for text in item.differences]
    reports = [item.report for item in different if item.report]
    lacking = "apt-get install diffoscope-minimal, then again: it looks into the files"
    read = neutral.command(["less", reports[0]]) if reports else lacking
    raise BuildFailed("\n".join(rows), why="something in the build is not fixed: a time, a path, an order", hint=read)


def _pair(step: str, one: Path, other: Path, reports: Path) -> Compared:
    first, second = (sha256_of(path) if path.is_file() else "" for path in (one, other))
    if first == second:
        return Compared(step, one.name, first, second)
    if not (first and second):
        return Compared(step, one.name, first, second, ("only one of the two builds made it",))
    report = _diffoscope(one, other, reports / step.replace(":", "-") / f"{one.name}.txt")
    told = (f"report: {report}",) if report else ()
    seen = _in_headers(one, other) if one.suffix == ".rpm" else ()
    return Compared(step, one.name, first, second, (*seen, *told), report)


def _diffoscope(one: Path, other: Path, report: Path) -> str:
    """The report's path; empty when diffoscope is not there or could not compare them."""
    if shutil.which("diffoscope") is None:
        return ""
    report.parent.mkdir(parents=True, exist_ok=True)
    argv = ["diffoscope", "--text", str(report), str(one), str(other)]
    result = process.run(argv, timeout=_PATIENCE, accept=range(256))  # 1: they differ; 2: it had trouble
    if not report.is_file():
        write_atomic(report, f"{process.reproducer(argv)}\n{result.text}{result.error_text}")
    return str(report)


def _in_headers(one: Path, other: Path) -> tuple[str, ...]:
    """What rpm's header says: files that differ, are missing, or are more, and the tags that differ."""
    before, after = rpmbuild.package(one).files, rpmbuild.package(other).files
    kinds = (
        ("files that differ", [name for name in before.keys() & after.keys() if before[name] != after[name]]),
        ("files in the first build only", before.keys() - after.keys()),
        ("files in the second build only", after.keys() - before.keys()),
    )
    told = [f"{what}: {_listed(names)}" for what, names in kinds if names]
    old, new = _tags(one), _tags(other)
    tags = sorted(name for name in (old.keys() | new.keys()) - _FOLLOWING if old.get(name) != new.get(name))
    told += [f"header tags that differ: {', '.join(tags)}"] if tags else []
    return tuple(told) or ("files and header agree: their order, the compression, or times in the payload do not",)


def _listed(names: Any) -> str:
    """The first of them, in order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more


def _tags(rpm: Path) -> dict[str, str]:
    """Every tag of an RPM's header, as `rpm --xml` prints it."""
    try:
        tree = xml.fromstring(rpm_query.tags(rpm))
    except xml.ParseError as error:
        raise Refused(f"{rpm.name}: rpm prints its header as no XML; expected one: {error}", where=str(rpm)) from None
    return {str(tag.get("name")): xml.tostring(tag, "unicode") for tag in tree.iter("rpmTag")}
