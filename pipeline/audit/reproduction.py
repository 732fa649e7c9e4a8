"""Compare a rebuild with the packages of a snapshot: identical, different and why, or why that stays unknown.

What it was made from is read out of its signed statements: line file, lock file, digests of sources, keys of builder
images, and all inputs of each step. A package that differs counts as different only when every input was the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from pipeline.audit import release_key, statement
from pipeline.audit.audit import Examined
from pipeline.audit.findings import Result
from pipeline.audit.statement import Kind
from pipeline.audit.statement_checks import Stated
from pipeline.config import git_checkout, line_loader
from pipeline.config.line_model import DebianSource, Line
from pipeline.core import neutral, resources
from pipeline.core.fs import sha256_of, write_atomic
from pipeline.errors import PipelineError, Refused
from pipeline.packaging import reproducible
from pipeline.packaging.graph import StepGraph
from pipeline.packaging.scheduler import Outcome
from pipeline.packaging.step_record import OUT
from pipeline.publish.layout import PUBLISH
from pipeline.publish.snapshot_contents import Document
from pipeline.sources.records import Answer

_NEED = "step "  # before the name of a step in the names of inputs: the key of what was used
_CODE, _IMAGE = "code", "image"
_SHOWN = 3  # packages of a builder image in a reason


class Verdict(StrEnum):
    """The result for a package, or for all: the worst of them."""

    IDENTICAL = "identical"
    CANNOT = "cannot"
    DIFFERENT = "different"


@dataclass(frozen=True)
class Package:
    """A published package and its rebuild: both SHA-256 of the unsigned file, empty for one that was not rebuilt.

    `kept` is the rebuilt file where it differs, `report` what diffoscope wrote about it; empty without.
    """

    package: str
    step: str
    verdict: Verdict
    published: str
    rebuilt: str = ""
    reasons: tuple[str, ...] = ()
    kept: str = ""
    report: str = ""


@dataclass(frozen=True)
class Reproduction:
    """The rebuild of a snapshot. `commit` is the one that its packages were built at, empty where none is stated."""

    snapshot: str
    line: str
    commit: str
    packages: tuple[Package, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all packages."""
        order = list(Verdict)
        return max((each.verdict for each in self.packages), key=order.index, default=Verdict.CANNOT)

    def to_json(self) -> dict[str, object]:
        """Return it as `--json` prints it."""
        return {"verdict": self.verdict, **vars(self)}


@dataclass(frozen=True)
class StatedBuild:
    """The build of a snapshot as its statements, whose signatures were checked, tell it."""

    path: Path
    document: Document
    steps: Mapping[str, Stated]

    @classmethod
    def of(cls, examined: Examined) -> StatedBuild:
        """Return the build of an audited snapshot. Raises `Refused` where the audit failed.

        That its key has expired since does not matter.
        """
        rows = [row for row in examined.audit.findings if row.check != release_key.CHECK]
        failed = [row for row in rows if row.result is Result.FAIL]
        if failed or examined.audited is None:
            first = failed[0]
            raise Refused(
                f"the snapshot: its audit failed: {first.check}: {first.subject}: {first.reason}",
                where=str(examined.audit.path),
                why="what was not published by its keys is not worth hours of building",
                hint=neutral.command(["./inv", "audit", examined.audit.path]),
            )
        steps = {name: each for name, each in examined.stated.items() if name != PUBLISH}
        return cls(examined.audit.path, examined.audited.document, steps)

    @cached_property
    def recipe(self) -> statement.RecipeFacts:
        """The code that built it, by the statement of its first step."""
        return next(iter(self.steps.values())).found(Kind.RECIPE)[0].facts(statement.RecipeFacts)

    @cached_property
    def images(self) -> dict[str, str]:
        """The key of each builder image by its name."""
        found = [resource for each in self.steps.values() for resource in each.found(Kind.IMAGE)]
        return {r.name.rpartition(" ")[2]: r.facts(statement.ImageFacts).key for r in found}

    def line(self, place: Path, line_file: Path | None) -> Line:
        """Load the line: `line_file`, the project's, or an override's files as embedded, written to `place`.

        Raises `PipelineError` where the file does not fit this checkout, or names files that no statement embeds.
        """
        if line_file is not None:
            return line_loader.load(line_file=line_file)
        parameters = next(iter(self.steps.values())).statement.predicate.buildDefinition.externalParameters.line
        if not parameters.override_sha256:
            return line_loader.load(parameters.name)
        each = next(iter(self.steps.values()))
        own = [r for kind in (Kind.LINE_FILE, Kind.LOCK_FILE) for r in each.found(kind) if "/" not in r.name]
        for resource in own:  # those of the project bear their directory
            write_atomic(place / resource.name, resource.data)
        [file] = [place / r.name for r in own if r.digest["sha256"] == parameters.override_sha256]
        return line_loader.load(line_file=file)

    def answers(self, line: Line) -> dict[str, Answer]:
        """Return Debian's answers of that time, by the line's name of the source."""
        found = {resource.name: resource for each in self.steps.values() for resource in each.found(Kind.SOURCE)}
        answers = {}
        for name, source in line.data.sources.items():
            if isinstance(source, DebianSource):
                for file, resource in found.items():
                    if file.startswith(f"{source.package}_"):
                        answers[name] = _answer(source.package, resource)
        return answers

    def obstacles(self, graph: StepGraph) -> dict[str, list[str]]:
        """Return for each step of both what keeps a rebuild by the plan `graph` from having the same inputs.

        Only `code` may differ in a rebuild that is worth trying: other code can make the same bytes.
        """
        found: dict[str, list[str]] = {}
        for name, step in graph.steps.items():  # in topological order
            if name not in self.steps:
                continue
            each, planned = self.steps[name], graph.parts[name]
            found[name] = [f"two builds of it never have the same bytes: {step.differs}"] if step.differs else []
            for part in sorted(each.inputs.keys() | planned.keys()):
                if part != _CODE and not part.startswith(_NEED) and each.inputs.get(part) != planned.get(part):
                    found[name].append(self._difference(each, part))
            if needs := [need for need in step.needs if found.get(need)]:
                found[name].append(f"made from {', '.join(needs)}")
        return found

    def _difference(self, each: Stated, part: str) -> str:
        if part == _IMAGE:
            image = each.found(Kind.IMAGE)
            name = image[0].name if image else "the builder image"
            return f"{name} of that time, {each.inputs.get(part, 'none')}, is not kept here, and today's is another"
        return f"its input {part!r} is another here"

    def other_code(self, name: str, graph: StepGraph) -> str:
        """Return the reason why the step's code is another one here; empty where it is the same."""
        if self.steps[name].inputs.get(_CODE) == graph.parts[name][_CODE]:
            return ""
        here = git_checkout.of_project()
        made, dirty = self.recipe.commit, self.recipe.dirty
        if not made or dirty:
            return "built by code that no commit has"
        return f"built by the code of commit {made[:12]}; here is {here.commit[:12] if here else 'no checkout'}"

    def worktree(self) -> str:
        """Return the command that rebuilds with the code of that time; empty where no commit has it."""
        commit = self.recipe.commit
        if not commit or self.recipe.dirty:
            return ""
        root, place = neutral.word(resources.data_root()), f"../at-{commit[:12]}"
        there = f"cd {root} && git worktree add {place} {commit} && cd {place}"
        return f"{there} && ./inv reproduce {neutral.word(self.path)}"


def _answer(package: str, resource: statement.Resource) -> Answer:
    facts = resource.facts(statement.SourceFacts)
    return Answer(
        package=package,
        version=facts.version,
        file=resource.name,
        url=resource.downloadLocation,
        size=facts.size,
        sha256=resource.digest["sha256"],
        indexes=facts.pin.indexes,
        passed=(),
    )


@dataclass(frozen=True)
class Comparison:
    """The comparison of a snapshot's packages with their rebuild by the plan `graph`; `reports` gets what differs."""

    build: StatedBuild
    graph: StepGraph
    obstacles: Mapping[str, list[str]]
    reports: Path

    def packages(self, outcomes: Mapping[str, Outcome], left_out: Collection[str]) -> Iterator[Package]:
        """Yield every package of the snapshot with its verdict, but those of the steps `left_out`."""
        for file, row in self.build.document.packages.items():
            for step in sorted({*row.steps} - {*left_out}):
                if step in outcomes:
                    yield self._compared(file, step, row.unsigned_sha256, outcomes[step])
                else:
                    reasons = tuple(self.obstacles.get(step, ["this version of the project plans no such step"]))
                    yield Package(file, step, Verdict.CANNOT, row.unsigned_sha256, reasons=reasons)

    def _compared(self, file: str, step: str, published: str, outcome: Outcome) -> Package:
        if outcome.error or outcome.record is None:
            why = _sentence(outcome.error) if outcome.error else outcome.why
            return Package(file, step, Verdict.CANNOT, published, reasons=(f"its rebuild failed: {why}",))
        made = next((outcome.out / OUT).glob(f"rpms/{file}"), None)
        if made is None:
            return self._differing(Package(file, step, Verdict.DIFFERENT, published, reasons=("not made again",)))
        digest = sha256_of(made)
        if digest == published:
            return Package(file, step, Verdict.IDENTICAL, published, digest)
        self.reports.mkdir(parents=True, exist_ok=True)
        kept = self.reports / file
        shutil.copyfile(made, kept)
        [signed, *_] = sorted(self.build.path.glob(f"*/{file}"))
        reasons, report = reproducible.explain(signed, kept, self.reports / f"{file}.txt")
        return self._differing(Package(file, step, Verdict.DIFFERENT, published, digest, reasons, str(kept), report))

    def _differing(self, found: Package) -> Package:
        """Return the verdict of a difference: one that other code made proves nothing."""
        other = self.build.other_code(found.step, self.graph)
        if not other:
            return found
        return Package(**{**vars(found), "verdict": Verdict.CANNOT, "reasons": (other, *found.reasons)})


def _sentence(error: PipelineError) -> str:
    return " ".join(filter(None, (error.what, error.where and f"({error.where})")))
