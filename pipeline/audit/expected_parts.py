"""Name what a statement of its kind of step must say and does not: docs/buildtype.md has the table.

The key of a step tells its kind: a reader trusts the inputs, since snapshot.json lists the key that they give.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pipeline.audit import statement
from pipeline.audit.embedded_files import EmbeddedFiles
from pipeline.audit.statement import Kind, Provenance, Statement
from pipeline.publish.layout import PUBLISH

_KERNEL = "kernel:"
_COMPILING = (_KERNEL, "package:", "ipvsadm", "keepalived")  # beginnings of the names of steps that compile
_STOCK = f"{_KERNEL}stock"
_UNSIGNED = "unsigned"  # the input of a publication that signed what another run had left unsigned


def missing(
    stated: Statement, files: EmbeddedFiles, others: Mapping[str, Statement], makers: Collection[str]
) -> Iterator[str]:
    """Yield each part that the statement lacks.

    `others` are all statements about the snapshot by step, `makers` the steps that made packages of it.
    """
    predicate = stated.predicate
    yield from _line_files(predicate, files)
    yield from _pinning_files(predicate, files)
    yield from _archives(predicate)
    yield from _positions(predicate)
    yield from _trees(predicate, files, others)
    yield from _used_packages(predicate, others)
    yield from _byproducts(predicate)
    if predicate.buildDefinition.externalParameters.step == PUBLISH:
        yield from _of_publication(predicate, others, makers)


def _inputs(predicate: Provenance) -> Mapping[str, str]:
    return predicate.buildDefinition.internalParameters.inputs


def _line_files(predicate: Provenance, files: EmbeddedFiles) -> Iterator[str]:
    line = predicate.buildDefinition.externalParameters.line
    for name in filter(None, (line.name, line.extends)):
        if name not in files.names:
            yield f"the line file of {name}"
    digests = {resource.digest.get("sha256") for resource in predicate.found(Kind.LINE_FILE)}
    if line.override_sha256 and line.override_sha256 not in digests:
        yield f"the line file {line.override_sha256} of the line {line.name}"
    for name in sorted(files.series - files.described):
        yield f"the line file with the patch {name} of a series"


def _pinning_files(predicate: Provenance, files: EmbeddedFiles) -> Iterator[str]:
    """Yield the files that pin a source or a patch, and are not embedded.

    No step runs before all of its line's sources are pinned; who only signs what another host made needs none.
    """
    for name in () if _UNSIGNED in _inputs(predicate) else sorted(files.unpinned):
        yield f"the lock file that pins the source {name}"
    embedded = {resource.name for kind in (Kind.LINE_FILE, Kind.LOCK_FILE) for resource in predicate.found(kind)}
    pins = [(source.name, source.facts(statement.SourceFacts).pin) for source in predicate.found(Kind.SOURCE)]
    pins += [(patch.name, patch.facts(statement.PatchFacts).pin) for patch in predicate.found(Kind.PATCH)]
    for name, pin in pins:
        if pin.file and pin.file not in embedded:
            yield f"the file {pin.file}, which pins {name}"


def _archives(predicate: Provenance) -> Iterator[str]:
    """Yield the archives that patches were taken from, and are no source."""
    digests = [resource.digest.get("sha256", "") for resource in predicate.found(Kind.SOURCE)]
    origins = {patch.facts(statement.PatchFacts).origin for patch in predicate.found(Kind.PATCH)} - {
        statement.OF_THE_PROJECT
    }
    for origin in sorted(origins):
        if not any(digest in origin for digest in digests):
            yield f"the source of patches {origin}"


def _positions(predicate: Provenance) -> Iterator[str]:
    """Yield the places of a series that no patch has, or several."""
    series: dict[str, list[int]] = {}
    for facts in (patch.facts(statement.PatchFacts) for patch in predicate.found(Kind.PATCH)):
        series.setdefault(facts.series, []).append(facts.position)
    for name, positions in sorted(series.items()):
        if sorted(positions) != list(range(1, len(positions) + 1)):
            yield f"a patch of the series {name}: there are those at {', '.join(map(str, sorted(positions)))}"


def _trees(predicate: Provenance, files: EmbeddedFiles, others: Mapping[str, Statement]) -> Iterator[str]:
    """Yield the trees of a step that used the kernel's source: of a line without any series there are none."""
    kernels = (other.predicate for step, other in others.items() if step.startswith(_KERNEL))
    sources = {source for kernel in kernels if (source := _inputs(kernel).get("source"))}
    trees = {resource.facts(statement.TreeFacts).role for resource in predicate.found(Kind.TREE)}
    if files.series and _inputs(predicate).get("source") in sources and "" not in trees:
        yield "the kernel's pristine tree"
    rules = (patch.facts(statement.PatchFacts).rule for patch in predicate.found(Kind.PATCH))
    for role in sorted({rule.role for rule in rules if rule.role} - trees):
        yield f"the kernel's tree after the series of {role}"


def _used_packages(predicate: Provenance, others: Mapping[str, Statement]) -> Iterator[str]:
    """Yield the packages of used steps; those that another host built and this one signed are not listed."""
    rows = predicate.found(Kind.PACKAGE)
    found = {(r.facts(statement.PackageFacts).step, r.name, r.digest.get("sha256")) for r in rows}
    for name in sorted(_inputs(predicate)):
        step = name.removeprefix("step ")
        if step == name or step not in others:
            continue
        for subject in others[step].subject:
            file = subject.name.rpartition("/")[2]
            if file.endswith(".rpm") and (step, file, subject.digest.get("sha256")) not in found:
                yield f"the package {file} of the step {step}"


def _byproducts(predicate: Provenance) -> Iterator[str]:
    """Yield the by-products of a step that ran in a builder image."""
    step = predicate.buildDefinition.externalParameters.step
    if "image" not in _inputs(predicate):
        return
    wanted = [Kind.LOG, Kind.EVIDENCE]
    wanted += [Kind.COMPILED] if step.startswith(_COMPILING) else []
    wanted += [Kind.CONFIGURATION] if step.startswith(_KERNEL) else []
    for kind in wanted:
        if not predicate.found(kind):
            yield f"its by-product {kind}"


def _of_publication(predicate: Provenance, others: Mapping[str, Statement], makers: Collection[str]) -> Iterator[str]:
    inputs = _inputs(predicate)
    steps = {resource.name for resource in predicate.found(Kind.STEP)}
    for step in sorted(makers):
        if step not in steps:
            yield f"the step {step}, which made packages of the snapshot"
        elif _UNSIGNED not in inputs and f"step {step}" not in inputs:
            yield f"its input step {step}, which made packages of the snapshot"
    compared = {resource.facts(statement.DifferenceFacts).package for resource in predicate.found(Kind.DIFFERENCE)}
    for step in sorted(others) if f"step {_STOCK}" in inputs and _configured(others, _STOCK) else ():
        if step.startswith(_KERNEL) and step != _STOCK and f"step {step}" in inputs:
            for package in sorted(_configured(others, step) - compared):
                yield f"its by-product {Kind.DIFFERENCE} of {package}"


def _configured(others: Mapping[str, Statement], step: str) -> set[str]:
    """Return the packages whose configuration a step stated."""
    rows = others[step].predicate.found(Kind.CONFIGURATION) if step in others else []
    return {resource.facts(statement.ConfigurationFacts).package for resource in rows}
