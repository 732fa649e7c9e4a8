"""Describe what a step was made from: sources, patches, trees, builder image, recipe, and the outputs of other steps.

A step reads only what its key covers. So its materials are those whose digests the inputs of its key contain, and none
has to be listed by a recipe.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline import __version__
from pipeline.audit import statement
from pipeline.audit.statement import Pin, Resource
from pipeline.config import git_checkout, lock_file
from pipeline.config.git_checkout import Version
from pipeline.config.line_model import FileSource, Line, Patch, RoleName, SrpmSource
from pipeline.core import documents, resources
from pipeline.core.decoder import encode
from pipeline.core.fs import read_limited
from pipeline.core.manifest import Manifest
from pipeline.formats import git_tree
from pipeline.packaging import step_record
from pipeline.sandbox.images import PackageList

if TYPE_CHECKING:
    from pipeline.packaging.graph import Work
    from pipeline.packaging.step_record import Record
    from pipeline.patching.apply import PatchReport
    from pipeline.patching.patch_file import PatchFile
    from pipeline.patching.patched_trees import Trees
    from pipeline.patching.series_rules import RoleProof
    from pipeline.patching.tool_series import PatchedTools
    from pipeline.patching.verified_patch import VerifiedPatch
    from pipeline.sources.records import Verified
    from pipeline.sources.resolver import Sources

_TOML, _DIFF, _JSON = "application/toml", "text/x-diff", "application/json"


class Established(Protocol):
    """Facts that a run has established of its line when a step runs."""

    @property
    def sources(self) -> Sources:
        """The line's sources."""

    @property
    def trees(self) -> Trees:
        """The kernel tree after each role's series."""

    @property
    def proofs(self) -> Mapping[RoleName, RoleProof]:
        """The proofs of the roles, established with `trees`."""

    @property
    def tools(self) -> PatchedTools:
        """The series of the tools."""


@dataclass(frozen=True)
class LineText:
    """A file that says what the line is: its name in statements, its path, and its bytes when the run began."""

    name: str
    path: Path
    data: bytes

    @cached_property
    def versions(self) -> tuple[Version, ...]:
        """The versions that git knows, the newest first."""
        return git_checkout.history(self.path)

    def since(self, text: str) -> Version | None:
        """Return the oldest version since which the file has held `text`; None where git knows of none."""
        found = None
        for version in self.versions:
            if text.encode() not in version.data:
                break
            found = version
        return found


@dataclass
class Materials:
    """The materials of one line's steps in one run. `read` are its files, the lock file too, as the run found them."""

    line: Line
    artifacts: Path
    established: Established
    read: Mapping[Path, bytes]
    _busy: threading.RLock = field(init=False, default_factory=threading.RLock)  # steps run beside each other

    @cached_property
    def _texts(self) -> tuple[LineText, ...]:
        return tuple(_text(path, data) for path, data in self.read.items() if path != self.line.lock_file)

    @cached_property
    def _lock(self) -> tuple[LineText, ...]:
        return tuple(_text(path, data) for path, data in self.read.items() if path == self.line.lock_file)

    def begin(self) -> None:
        """Note the project's commit, once: a checkout that moves on during hours of building did not make the step."""
        with self._busy:
            _ = self._checkout

    def of_step(self, work: Work, record: Record) -> tuple[Resource, ...]:
        """Return everything that the step was made from."""
        covered = "\n".join(record.inputs.values())
        with self._busy:
            return (
                self._recipe(record),
                *self._line_files(),
                *self._sources(covered),
                *self._kernel_series(covered),
                *self._tool_series(covered),
                *self._image(record),
                *_needs(work),
            )

    @cached_property
    def _checkout(self) -> git_checkout.Checkout | None:
        return git_checkout.of_project()

    def _recipe(self, record: Record) -> Resource:
        found, code = self._checkout, record.inputs.get("code", "")
        commit, dirty = (found.commit, found.dirty) if found else ("", False)
        digest = {"gitCommit": commit} if commit else {"sha256": code}
        return Resource(
            "recipe", digest=digest, annotations=encode(statement.RecipeFacts(__version__, commit, dirty, code))
        )

    def _line_files(self) -> Iterator[Resource]:
        for text in self._texts:
            yield _line_file(text, "line file")
        for text in self._lock:
            yield _line_file(text, "lock file")

    def _sources(self, covered: str) -> Iterator[Resource]:
        """Yield the sources, and the archives of which used patches are members."""
        archives = {patch.source for role in self._used_roles(covered) for patch in self._patches(role)}
        for source in self.established.sources.verified.values():
            if source.sha256 in covered or source.name in archives:
                yield self._source(source)

    def _source(self, source: Verified) -> Resource:
        facts = statement.SourceFacts(
            version=source.version,
            size=source.size,
            how=source.how,
            pin=self._pin_of_source(source),
            members=self._members(source.name),
        )
        digest = {"sha256": source.sha256, "gitBlob": _blob_of(source.path)}
        return Resource(source.file, digest=digest, downloadLocation=source.origin, annotations=encode(facts))

    def _members(self, name: str) -> dict[str, str]:
        source = self.line.data.sources[name]
        return {m.path: m.sha256 for m in source.members} if isinstance(source, FileSource | SrpmSource) else {}

    def _pin_of_source(self, source: Verified) -> Pin:
        if (answer := self.established.sources.answer(source.name)) is not None:
            return Pin("", "Debian's signed index", answer.indexes[0].date, "", answer.indexes)
        pin = lock_file.parse(self._lock[0].data, self._lock[0].path).get(source.name) if self._lock else None
        if pin is None or pin.sha256 != source.sha256:
            return self._pin(source.sha256)
        since = self._lock[0].since(source.sha256)
        return Pin(self._lock[0].name, pin.by, pin.pinned, since.commit if since else "")

    def _pin(self, digest: str) -> Pin:
        """Return who wrote a digest into one of the line's files, by its history."""
        text = next((text for text in self._texts if digest.encode() in text.data), None)
        since = text.since(digest) if text else None
        name = text.name if text else ""
        return Pin(name, since.author, since.date, since.commit) if since else Pin(name, "", "", "")

    def _kernel_series(self, covered: str) -> Iterator[Resource]:
        """Yield the kernel's tree where it was used, and for each role whose whole series was, its tree and patches.

        Of a line without any series no tree is read.
        """
        source = self.established.sources.verified.get(str(self.line.data.kernel_source))
        if source and source.sha256 in covered and any(role.series for role in self.line.data.roles.values()):
            facts = statement.TreeFacts(source.name, "", 0)
            digest = {"gitTree": self.established.trees.pristine().tree}
            yield Resource("kernel tree", digest=digest, annotations=encode(facts))
        for role in self._used_roles(covered):
            yield from self._role(role)

    def _patches(self, role: RoleName) -> list[Patch]:
        return [self.line.data.patches[name] for name in self.line.data.roles[role].series]

    def _used_roles(self, covered: str) -> list[RoleName]:
        """Return the roles with patches whose whole series was used."""
        found = []
        for role in self.line.data.roles:
            applied = [p.leave_out[-1].sha256_after if p.leave_out else p.sha256 for p in self._patches(role)]
            if applied and all(digest in covered for digest in applied):
                found.append(role)
        return found

    def _role(self, role: RoleName) -> Iterator[Resource]:
        trees, proof = self.established.trees, self.established.proofs[role]
        left = trees.of(role)
        after = statement.TreeFacts(str(self.line.data.kernel_source), role.value, left.changed)
        yield Resource(f"kernel tree of {role}", digest={"gitTree": left.tree}, annotations=encode(after))
        rule = statement.RuleFacts(
            role.value, proof.found.by, proof.proven_by, proof.found.option.numbers if proof.found.option else ()
        )
        reports = trees.report(role).patches
        for position, (item, report) in enumerate(zip(trees.series[role], reports, strict=True), 1):
            yield self._patch(item.parsed, report, rule, (role.value, position, item.where), item)

    def _tool_series(self, covered: str) -> Iterator[Resource]:
        for tool, model in self.line.data.tools.items():
            if model.patches and all(patch.sha256 in covered for patch in model.patches):
                tools = self.established.tools
                proof = tools.of(tool)
                rule = statement.RuleFacts("", proof.by, f"the series of {tool}", ())
                found = zip(tools.series[tool].patches, proof.report.patches, model.patches, strict=True)
                for position, (item, report, pinned) in enumerate(found, 1):
                    yield self._patch(item.parsed, report, rule, (tool, position, pinned.file))

    def _patch(
        self,
        parsed: PatchFile,
        report: PatchReport,
        rule: statement.RuleFacts,
        place: tuple[str, int, str],
        item: VerifiedPatch | None = None,
    ) -> Resource:
        """Describe a patch at its `place`: series, position, path. `item` is a kernel's, which may leave parts out."""
        member = item is not None and item.model.source is not None
        facts = statement.PatchFacts(
            series=place[0],
            position=place[1],
            origin=item.origin if item and member else statement.OF_THE_PROJECT,
            path=place[2],
            patch_id=parsed.patch_id or "",
            applied_sha256=hashlib.sha256(item.data).hexdigest() if item else parsed.sha256,
            left_out=tuple(
                statement.LeftOutFacts(left.file, left.why, dict(left.config), left.sha256_before, left.sha256_after)
                for left in (item.model.leave_out if item else ())
            ),
            rule=rule,
            pin=self._pin(parsed.sha256),
            files=tuple(_files(report)),
        )
        return statement.embedded(parsed.name, parsed.data, _DIFF, facts)

    def _image(self, record: Record) -> Iterator[Resource]:
        key = record.inputs.get("image", "")
        for listed in sorted((self.artifacts / "images").glob(f"*/{key}/packages.json")) if key else ():
            data = read_limited(listed, documents.MOST)
            facts = statement.ImageFacts(key, len(documents.parse(PackageList, data).packages))
            yield statement.embedded(f"builder image {listed.parents[1].name}", data, _JSON, facts, git=False)
            return


def _text(path: Path, data: bytes) -> LineText:
    root = resources.data_root()
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    return LineText(name, path, data)


def _line_file(text: LineText, kind: str) -> Resource:
    last = text.versions[0] if text.versions else None
    facts = statement.LineFileFacts(
        kind="lock file" if kind == "lock file" else "line file",
        commit=last.commit if last else "",
        author=last.author if last else "",
        date=last.date if last else "",
        modified=last is not None and last.data != text.data,
    )
    return statement.embedded(text.name, text.data, _TOML, facts)


def _blob_of(path: Path) -> str:
    return git_tree.of_directory(path.parent, [path.name])[path.name].blob


def _files(report: PatchReport) -> Iterator[statement.FileFacts]:
    for file in report.files:
        yield statement.FileFacts(
            path=file.path,
            old_path=file.old_path,
            status=file.status.value,
            before=file.before.blob if file.before else "",
            after=file.after.blob if file.after else "",
            hunks=tuple(statement.HunkFacts(hunk.number, hunk.line, hunk.offset) for hunk in file.hunks),
        )


def _needs(work: Work) -> Iterator[Resource]:
    """Yield the steps whose outputs were used, by their statements, and the packages in them."""
    for name, out in work.needs.items():
        known = work.records[name]
        made = known.made.get(step_record.STATEMENT, {}).get("")
        facts = statement.StepFacts(known.key, known.digest)
        digest = {"sha256": made.content if made else known.digest}
        yield Resource(name, digest=digest, annotations=encode(facts))
        yield from packages(out, known.output, statement.PackageFacts(name))
    for name, execution in work.stated.items():
        facts = statement.StepFacts(execution.key, "")
        yield Resource(name, digest={"sha256": execution.statement_sha256}, annotations=encode(facts))


def packages(out: Path, made: Manifest, facts: statement.PackageFacts) -> Sequence[Resource]:
    """Describe the packages of a step's output."""
    return [
        Resource(Path(path).name, digest={"sha256": entry.content}, annotations=encode(facts))
        for path, entry in sorted(made.items())
        if path.endswith(".rpm")
    ]
