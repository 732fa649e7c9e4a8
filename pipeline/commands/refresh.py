"""Rebase the project's own patches of a line onto its current sources, and show every change before it is written.

The refreshed series is proven as `./inv patches` proves any, in a copy, before a patch is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.config.context import RunContext
from pipeline.config.line_model import DebianSource, Line, LineIdentity, RoleName, required
from pipeline.core import fs, neutral
from pipeline.errors import Refused, UsageError
from pipeline.patching import patched_trees, refresh, series, series_files, tool_series
from pipeline.patching.apply import DELETED
from pipeline.patching.refresh import MovedHunk, RefreshedPatch
from pipeline.patching.series_files import Edit, Key
from pipeline.patching.verified_patch import VerifiedPatch
from pipeline.sources import apt
from pipeline.sources.records import Verified
from pipeline.sources.resolver import Sources


@dataclass(frozen=True)
class NewEffect:
    """The blob that a patch leaves of a file: the recorded one, and the one that it leaves now."""

    path: str
    recorded: str
    now: str


@dataclass(frozen=True)
class PatchChange:
    """The outcome for one patch, and its digests before and now; `review` has what a person must look at."""

    patch: str
    file: str
    state: str
    recorded: str
    sha256: str
    moved: tuple[MovedHunk, ...]
    effect: tuple[NewEffect, ...]
    review: tuple[str, ...]


@dataclass(frozen=True)
class SeriesChange:
    """The outcome for the series of a role or a tool on its source; `effect` is that of a tool, as a whole."""

    series: str
    source: str
    version: str
    patches: tuple[PatchChange, ...]
    effect: tuple[NewEffect, ...] = ()


@dataclass(frozen=True)
class RefreshedLine(LineIdentity):
    """The refreshed series of a line, those left out with the reason, and the files that were written."""

    series: tuple[SeriesChange, ...]
    left_out: Mapping[str, str]
    written: tuple[Path, ...]


@dataclass
class _Changes:
    """The changes to write: patches, (old, new) by file, and texts of the series file by key."""

    files: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    values: dict[Key, str] = field(default_factory=dict)

    def patch(self, file: str, found: RefreshedPatch, key: Key) -> None:
        """Add a patch's file and its digest. Raises `Refused` where another series needs the file otherwise."""
        if self.files.setdefault(file, (found.old.data, found.new.data))[1] != found.new.data:
            raise Refused(
                f"patch {found.name}: another series has the same file and needs it otherwise",
                where=file,
                why="one file cannot be both",
                hint="give each series a file of its own",
            )
        if found.new.data != found.old.data:
            self.values[(*key, "sha256")] = found.new.sha256

    def effect(self, name: str, key: Key, recorded: Mapping[str, str], now: Mapping[str, str]) -> tuple[NewEffect, ...]:
        """Add the blobs that differ from the recorded ones. Raises `Refused` for files that have no row."""
        if missing := sorted(now.keys() - recorded.keys()):
            raise Refused(
                f"{name}: the effect has no row for {', '.join(missing)}",
                where=series_files.SERIES,
                why="only the values of rows that are there are replaced",
                hint=f'add the row "{missing[0]}" = "{"0" * 40}" and repeat the command',
            )
        found = tuple(NewEffect(path, recorded[path], blob) for path, blob in now.items() if recorded[path] != blob)
        self.values.update({(*key, "effect", item.path): item.now for item in found})
        return found

    def edit(self, place: Path) -> Edit:
        """Return the change of the directory `place`."""
        return series_files.edit(place, {n: pair for n, pair in self.files.items() if pair[0] != pair[1]}, self.values)


def refresh_line(line: Line, context: RunContext) -> RefreshedLine:
    """Make the line's own patches anew for its current sources; write all of them, or nothing.

    The signed index is asked again, but for `--offline`; with `--dry-run` nothing is written. Raises `UsageError` for a
    line without patches of its own, and `Refused` for a hunk that does not apply, and for a refreshed series that does
    not prove its role.
    """
    place = series_files.directory(line)
    roles, left_out = _own_roles(line)
    settings = replace(context.settings, refresh=not context.settings.offline)
    sources = Sources(_of_newest(line), settings, context.console)
    verified = {item.name: item for item in sources.fetch()}
    with sources.store.object_lock(f"refresh-{line.name}"):
        work = _Work(line, sources, verified, settings.artifacts)
        found = [*(work.role(role) for role in roles), *work.tools()]
        work.made_for()
        for item in found:
            _show(item, context)
        for title, why in left_out.items():
            context.console.say(f"{title}: left as it is: {why}")
        written = _write(work, place, context) if work.changes.values else ()
    if not work.changes.values:
        context.console.say("every patch applies as it is and leaves what is recorded: nothing is written")
    return RefreshedLine(*line.identity, tuple(found), left_out, written)


def _of_newest(line: Line) -> Line:
    """Return the line with the newest version of each source, whatever its patches were made for."""
    sources = {
        name: source.model_copy(update={"made_for": None}) if isinstance(source, DebianSource) else source
        for name, source in line.data.sources.items()
    }
    return replace(line, data=line.data.model_copy(update={"sources": sources}))


def _own_roles(line: Line) -> tuple[list[RoleName], dict[str, str]]:
    """Return the roles whose patches are all the project's own, and the others with the reason that they are left."""
    roles, left_out = [], {}
    for role, model in line.data.roles.items():
        strange = [n for n in model.series if line.data.patches[n].file is None or line.data.patches[n].leave_out]
        if strange:
            left_out[str(role)] = f"{', '.join(strange)} is upstream's, taken whole or not at all"
        elif model.series:
            roles.append(role)
    if not roles and not any(tool.patches for tool in line.data.tools.values()):
        what = "; ".join(f"{role}: {why}" for role, why in left_out.items()) or "none of its roles has a patch"
        raise UsageError(
            f"--refresh: the line {line.name} has no patches of the project's own; {what}",
            why="a patch of upstream's that was made anew would no longer be what upstream published",
            hint=f"./inv patches {line.name}",
        )
    return roles, left_out


class _Work:
    """The refresh of one line: its series, and all that is to be written."""

    def __init__(self, line: Line, sources: Sources, verified: Mapping[str, Verified], artifacts: Path) -> None:
        self.line, self.sources, self.verified, self.artifacts = line, sources, verified, artifacts
        self.trees = patched_trees.Trees(sources, series.verify_patches(line, verified), verified)
        self.tool_series = tool_series.verify(line)
        self.changes = _Changes()
        self.rejects = artifacts / "rejects" / line.name
        if self.rejects.exists():
            fs.remove(self.rejects)  # of an earlier run

    def role(self, role: RoleName) -> SeriesChange:
        """Refresh the series of a role."""
        source = self.verified[required(self.line.data.kernel_source, "kernel-source")]
        patches = self.trees.series[role]
        data = [(item.name, item.data) for item in patches]
        with fs.scratch(self.artifacts / "scratch", "series-") as directory:
            files = self.trees.pristine().files
            found = refresh.refresh(data, refresh.Place(files, directory / "new", self.rejects, source.file))
        return SeriesChange(str(role), source.file, source.version, tuple(map(self._patch_of_role, patches, found)))

    def _patch_of_role(self, item: VerifiedPatch, found: RefreshedPatch) -> PatchChange:
        file, key = str(item.model.file), ("patches", item.name)
        self.changes.patch(file, found, key)
        return _change(file, found, self.changes.effect(item.name, key, item.model.effect, found.effect))

    def tools(self) -> Iterator[SeriesChange]:
        """Refresh the series of each tool that has one."""
        for tool in self.tool_series.values():
            if tool.patches:
                yield self._tool(tool)

    def _tool(self, tool: tool_series.VerifiedSeries) -> SeriesChange:
        source = self.verified[tool.tool]
        with fs.scratch(self.artifacts / "scratch", "series-") as directory:
            listing = tool_series.unpack(tool, source, directory / "pristine")
            place = refresh.Place(directory / "pristine", directory / "new", self.rejects, source.file)
            found = refresh.refresh([(item.name, item.data) for item in tool.patches], place)
        changes = []
        for number, (item, patch) in enumerate(zip(tool.model.patches, found, strict=True)):
            self.changes.patch(item.file, patch, ("tools", tool.tool, "patches", number))
            changes.append(_change(item.file, patch, ()))
        whole = {path: blob for patch in found for path, blob in patch.effect.items()}
        pristine = {path: listing[path].blob if path in listing else DELETED for path in whole}
        left = {path: blob for path, blob in whole.items() if blob != pristine[path]}
        effect = self.changes.effect(f"tools.{tool.tool}", ("tools", tool.tool), tool.model.effect, left)
        return SeriesChange(tool.tool, source.file, source.version, tuple(changes), effect)

    def made_for(self) -> None:
        """Note the versions that the patches are made for from now on."""
        for name, source in self.line.data.sources.items():
            if isinstance(source, DebianSource) and source.made_for is not None and name in self.verified:
                version = apt.upstream_version(self.verified[name].version)
                if version != source.made_for:
                    self.changes.values["sources", name, "made-for"] = version

    def prove(self, place: Path) -> list[str]:
        """Prove the series in the directory `place` as those of any line, and return the proofs in words."""
        line = series_files.edited_line(self.line, place)
        trees = patched_trees.Trees(self.sources, series.verify_patches(line, self.verified), self.verified)
        proofs = series.verify_roles(line, trees)
        for role in proofs:
            trees.of(role)
        tools = tool_series.PatchedTools(tool_series.verify(line), self.verified, self.artifacts)
        return [
            *(f"{role} {proof.found.by}" for role, proof in proofs.items()),
            *(f"{name} {tools.of(name).by}" for name, tool in tools.series.items() if tool.patches),
        ]


def _change(file: str, found: RefreshedPatch, effect: tuple[NewEffect, ...]) -> PatchChange:
    review = [f"{hunk.path} hunk {hunk.number} goes where its context differs" for hunk in found.fuzzy]
    review += [] if found.same_lines else ["it adds or removes other lines than before"]
    return PatchChange(
        found.name, file, found.state, found.old.sha256, found.new.sha256, found.moved, effect, tuple(review)
    )


def _write(work: _Work, place: Path, context: RunContext) -> tuple[Path, ...]:
    """Prove the change in a copy, write it but for `--dry-run`, and return the written files."""
    edit = work.changes.edit(place)
    with fs.scratch(work.artifacts / "scratch", "series-") as directory:
        proofs = work.prove(series_files.copy_changed(place, edit, directory / place.name))
    say = context.console.say
    for proof in proofs:
        say(f"proven of the refreshed series: {proof}")
    what = f"{len(edit.new) - 1} patches and {len(work.changes.values)} values of {place / series_files.SERIES}"
    if context.settings.dry_run:
        say(f"nothing is written, as requested; it would be {what}")
        return ()
    series_files.publish(place, edit)
    say(f"written: {what}")
    say(f"next: git diff -- {neutral.word(place)}; then ./inv patches {work.line.name}, and commit it")
    return tuple(place / name for name in edit.new)


def _show(found: SeriesChange, context: RunContext) -> None:
    """Print the outcome for a series: each patch, each hunk that moved, each file with another effect."""
    rows = [(item.patch, item.sha256[:16] + "…", item.state) for item in found.patches]
    title = f"{found.series}: {found.source}" + (f", version {found.version}" if found.version else "")
    context.console.table(("patch", "sha256", "what changed"), rows, title)
    for item in found.patches:
        for hunk in item.moved:
            context.console.say(f"  {item.patch}: {_hunk(hunk)}")
            for line in hunk.context:
                context.console.say(f"      {line}")
        _show_effect(item.patch, item.effect, context)
        for text in item.review:
            context.console.warn(f"REVIEW {item.patch}: {text}")
    _show_effect(found.series, found.effect, context)


def _hunk(hunk: MovedHunk) -> str:
    fuzz = f", fuzz {hunk.fuzz}: expected (-), and what stands there (+)" if hunk.fuzz else ""
    offset = hunk.new_line - hunk.line
    return f"{hunk.path} hunk {hunk.number}: line {hunk.line} -> {hunk.new_line} (offset {offset}){fuzz}"


def _show_effect(title: str, effect: Sequence[NewEffect], context: RunContext) -> None:
    for item in effect:
        context.console.say(f"  {title}: leaves {item.path} as {item.now[:12]}, recorded was {item.recorded[:12]}")
