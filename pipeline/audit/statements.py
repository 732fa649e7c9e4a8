"""Make the statement of each step's execution when it runs.

The scheduler keeps it with the step's record and reuses it with that; the statement of a publication lies beside the
snapshot, under `attestations/`, with copies of those of all steps that made its packages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.audit.materials import Materials
from pipeline.audit.statement import (
    BUILD_TYPE,
    BUILDER,
    BuildDefinition,
    Builder,
    ByproductFacts,
    ConfigurationFacts,
    DifferenceFacts,
    ExternalParameters,
    InternalParameters,
    LineParameters,
    Metadata,
    Provenance,
    Resource,
    RunDetails,
    RunFacts,
    Statement,
    embedded,
)
from pipeline.config.line_model import Line, RoleName
from pipeline.core import documents
from pipeline.core.decoder import encode
from pipeline.core.fs import read_limited
from pipeline.core.manifest import Manifest
from pipeline.formats import kconfig, rpm_header
from pipeline.inspect import kernel_files
from pipeline.packaging import compiled_sources, rpmbuild, step_record

if TYPE_CHECKING:
    from pipeline.packaging.graph import Work
    from pipeline.packaging.step_record import Record
    from pipeline.publish.snapshot_contents import Document

EVIDENCE = "evidence.json"  # in a step's output
STOCK_KERNEL = f"kernel:{RoleName.STOCK}"
_JSON, _TEXT = "application/json", "text/plain"


@dataclass(frozen=True)
class Statements:
    """The maker of one line's statements in one run; `runtime` names what runs commands in builder images."""

    line: Line
    materials: Materials
    runtime: Callable[[], str]

    def of_execution(self, work: Work, record: Record) -> Statement:
        """Return the statement of an execution that is over."""
        definition = BuildDefinition(
            BUILD_TYPE,
            self._external(work),
            self._internal(work, record),
            self.materials.of_step(work, record),
        )
        details = RunDetails(
            Builder(BUILDER, {"lvs-fullnat-pipeline": __version__}),
            Metadata(
                f"{record.line}/{record.step}/{record.key}/{record.begun:.3f}-{record.pid}",
                _time(record.begun),
                _time(record.begun + (record.seconds or 0)),
            ),
            tuple(_byproducts(work, record)),
        )
        return Statement(tuple(_subjects(work, record)), Provenance(definition, details))

    def _external(self, work: Work) -> ExternalParameters:
        override, step = self.line.override, work.step.name
        line = LineParameters(
            name=self.line.name,
            kernel=self.line.data.kernel,
            extends=override.base if override else "",
            override_sha256=override.sha256 if override else "",
            overrides=override.changes if override else (),
        )
        command = work.command("build-all", "--only", step, "--force", step)
        return ExternalParameters(line, step, work.options, command)

    def _internal(self, work: Work, record: Record) -> InternalParameters:
        return InternalParameters(
            key=record.key,
            inputs=record.inputs,
            runtime=self.runtime() if "image" in record.inputs else "",
            jobs=work.jobs,
            compiler_cache=work.compiler_cache,
            why=record.why,
        )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _subjects(work: Work, record: Record) -> Iterator[Resource]:
    """Yield what the step made: each file of its output, and of each package also header and payload by themselves.

    Of a publication: the signed packages, header and payload of each, and the list of all files that OpenPGP signs.
    """
    if work.facts.snapshot is not None:
        yield from _published(work.facts.snapshot.path, record)
    for path, entry in sorted(record.output.items()):
        if entry.kind == "file" and path not in (EVIDENCE, compiled_sources.FILE):
            yield Resource(path, digest={"sha256": entry.content})
        if path.endswith(".rpm"):
            package = work.out / path
            yield _body(path, rpm_header.body_sha256(package, rpm_header.read(package)))


def _body(name: str, digest: str) -> Resource:
    return Resource(f"{name}#body", digest={"sha256": digest})


def _published(snapshot: Path, record: Record) -> Iterator[Resource]:
    from pipeline.publish.snapshot import bills_of_materials
    from pipeline.publish.verify import SUMS

    for name in (SUMS, "snapshot.json"):
        yield Resource(name, digest={"sha256": record.made[str(snapshot.absolute())][name].content})
    for name, row in sorted(_document(snapshot).packages.items()):
        yield Resource(name, digest={"sha256": row.sha256})
        yield _body(name, row.body_sha256)
    for name, entry in sorted(record.made[str(bills_of_materials(snapshot).absolute())].items()):
        if name:
            yield Resource(f"sboms/{name}", digest={"sha256": entry.content})


def _document(snapshot: Path) -> Document:
    from pipeline.publish import verify

    return verify.read_document(snapshot)


def _byproducts(work: Work, record: Record) -> Iterator[Resource]:
    if step_record.LOG in record.made:
        digest = {"sha256": record.made[step_record.LOG][""].content}
        yield Resource("log", digest=digest, annotations=encode(ByproductFacts("log")))
    for name, kind in ((EVIDENCE, "evidence"), (compiled_sources.FILE, "compiled sources")):
        if name in record.output:
            data = read_limited(work.out / name, documents.MOST)
            facts = ByproductFacts("evidence" if kind == "evidence" else "compiled sources")
            yield embedded(name, data, _JSON, facts, git=False)
    for package, config in _configurations(work.out, record.output).items():
        yield embedded(f"config of {package}", config, _TEXT, ConfigurationFacts(package), git=False)
    if work.facts.snapshot is not None:
        yield from _differences(work)
    cache = work.facts.ccache
    hits, misses = (cache.hits, cache.misses) if cache else (-1, -1)
    figures = RunFacts(record.seconds or 0.0, work.facts.compilations, hits, misses)
    yield Resource("facts", annotations=encode(figures))


def _configurations(out: Path, made: Manifest) -> dict[str, bytes]:
    """Return the finished configurations of the kernels in a step's output, by package; the rest has none."""
    found = {}
    for path in sorted(made):
        if Path(path).match("rpms/kernel-*.rpm"):
            package = rpmbuild.read_package(out / path)
            configs = [name for name in package.files if name.startswith("/boot/config-")]
            for content in kernel_files.read(package, configs).values() if configs else ():
                found[package.nevra] = content
    return found


def _differences(work: Work) -> Iterator[Resource]:
    """Yield for each kernel of a publication in which options it differs from the stock kernel."""
    kernels = {name: out for name, out in work.needs.items() if name.startswith("kernel:")}
    found = {name: _configurations(out, work.records[name].output) for name, out in kernels.items()}
    for stock, config in found.pop(STOCK_KERNEL, {}).items():
        for package, own in (pair for configurations in found.values() for pair in configurations.items()):
            facts = DifferenceFacts(package, stock, compare(config, own))
            yield Resource(f"configuration of {package} against {stock}", annotations=encode(facts))


def compare(stock: bytes, own: bytes) -> Mapping[str, tuple[str, ...]]:
    """Return the symbols with another value in the configuration `own`: the stock value, and its own."""
    before, after = (kconfig.values(text.decode(errors="replace")) for text in (stock, own))
    pairs = {name: (before.get(name, "n"), after.get(name, "n")) for name in sorted(before.keys() | after.keys())}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
