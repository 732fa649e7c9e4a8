"""Take one line through a night: its upstreams, a held build, the lab, the audit, and only then the release.

Every part is recorded when it begins and when it ends, so that the record of a killed night tells how far it came.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.build import BuildCommand
from pipeline.commands.build_summary import BuildResult
from pipeline.commands.lab import LabCommand
from pipeline.config.context import RunContext
from pipeline.config.line_model import Line
from pipeline.core import disk_space, faults, fingerprint, fs
from pipeline.core.disk_space import is_there
from pipeline.errors import HostLacks, Mistake, PipelineError, Refused, UsageError
from pipeline.nights import record
from pipeline.nights.record import Failure, LineNight, Night, NightStep, Part, Phase, Recorder, Upstream, Verdict
from pipeline.packaging.scheduler import Outcome, State
from pipeline.publish.layout import directory_of
from pipeline.recipes import guest_userland

if TYPE_CHECKING:
    from pipeline.audit.audit import Examined
    from pipeline.audit.policy import PolicyFile

_MOST_ERROR = 2000  # characters of an error that the record keeps


@dataclass
class LineRun:
    """One line in the night of `recorder`; `before` are the earlier nights, `rules` the policy of the audit."""

    line: Line
    context: RunContext
    recorder: Recorder
    before: Sequence[Night]
    rules: PolicyFile
    now: LineNight = field(init=False)

    def __post_init__(self) -> None:
        directory = directory_of(self.line.name, small=self.context.settings.kernel_config == "small")
        latest = self.context.settings.artifacts / "repo" / directory / "latest"
        self.now = LineNight(self.line.name, directory, before=latest.resolve().name if is_there(latest) else "")

    @cached_property
    def lab(self) -> LabCommand:
        """The lab and the build before it, whose snapshot is held."""
        lab = LabCommand(self.line, self.context)
        lab.job.hold = True
        return lab

    @property
    def job(self) -> BuildCommand:
        """The build."""
        return self.lab.job

    def run(self) -> LineNight:
        """Go through all phases until one fails, and record the outcome.

        An error that is none of ours ends this line alone: it is the host's, or a mistake of this program. Raises
        `HostLacks` where nothing can be recorded, and what stops the whole night.
        """
        self._save()
        try:
            self._look()
            built = self._build()
            self._smoke(built)
            self._audit()
            self._release()
        except PipelineError as error:
            self._fail(error)
        except BrokenPipeError:  # nobody reads what this program says
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other lines have their night
            self._fail(self._unforeseen(error))
        return self.now

    def _unforeseen(self, error: Exception) -> PipelineError:
        """Return the host's problem behind an error, or the mistake of this program, whose trace is kept."""
        if found := disk_space.host_error(error, self.context.settings.artifacts):
            return found
        what = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):
            return HostLacks(f"the host: {what}; expected none", hint="dmesg")
        file = self.recorder.place / f"mistake-{self.now.directory}.txt"
        with disk_space.writing(file.parent):
            fs.write_atomic(file, "".join(traceback.format_exception(error)))
        return Mistake(f"a mistake in this program: {what}", where=str(file), hint="report it with that file")

    def _save(self, **changes: Any) -> None:
        self.now = replace(self.now, **changes)
        self.recorder.save_line(self.now)

    @contextlib.contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        """Record a phase as begun, and its seconds when it ends, however that is."""
        self.context.console.note(f"{self.now.directory}: {phase}")
        self._save(phase=phase)
        begun = time.monotonic()
        try:
            yield
        finally:
            seconds = round(time.monotonic() - begun, 2)
            self.now = replace(self.now, seconds={**self.now.seconds, phase: seconds})

    def _look(self) -> None:
        """Look at the upstreams. Raises `Refused` for an alarm: nothing of the line is built then."""
        from pipeline.nights import upstream
        from pipeline.sources.resolver import Sources

        if self.context.settings.offline:
            return
        with self._phase(Phase.UPSTREAM):
            sources = Sources(self.line, self.context.settings, self.context.console)
            found = upstream.look(sources, update=self.context.settings.update)
            self.now = replace(self.now, examined=len(found), upstream=tuple(each for each in found if each.text))
            for each in self.now.upstream:
                if each.state is not Upstream.SAME:
                    self.context.console.say(f"{self.now.directory}: {each.source}: {each.state}: {each.text}")
            alarms = [each for each in found if each.state is Upstream.ALARM]
            if alarms:
                raise Refused(
                    f"{alarms[0].source}: {alarms[0].text}",
                    where=alarms[0].where,
                    why="what was pinned must not change: nothing of this line is built before a person has looked",
                    hint=f"./inv lines {self.line.name}",
                )

    def _build(self) -> BuildResult:
        with self._phase(Phase.BUILD):
            built = self.job.build_all()
            if not isinstance(built, BuildResult) or not built.snapshot:
                why = "an unsigned one, as --sign-later leaves it, can be neither booted nor released"
                raise UsageError("the night: built no signed snapshot; expected one", why=why, hint="./inv build-all")
            packages = built.summary.packages
            self._save(
                steps=_steps(built.summary.outcomes.values()),
                packages=len(packages),
                bytes=sum(package.size for package in packages),
                snapshot=built.snapshot,
                sources=tuple(sorted({each.sha256 for each in self.job.preparation.sources.verified.values()})),
            )
            return built

    def _smoke(self, built: BuildResult) -> None:
        from pipeline.lab.report import results

        settings = self.context.settings
        with self._phase(Phase.SMOKE):
            played = self.lab.after(self.now.snapshot, built.key(guest_userland.STEP), always=settings.smoke_always)
            if played is None:
                why = "--no-smoke" if settings.no_smoke else "the line has no scenarios"
                self.now = replace(self.now, smoke=Part(f"not played: {why}"))
                return
            text = f"{played.scenarios - len(played.failed)} of {played.scenarios} scenarios passed"
            text += ", with this snapshot before" if played.reused else ""
            names = (results.PAGE, results.JSON, results.JUNIT)
            place = f"lab-{self.now.directory}"
            page, *_ = [self._copy(played.report.with_name(name), f"{place}/{name}") for name in names]
            self.now = replace(self.now, smoke=Part(text, page, played.reused))
            if not played.passed:
                raise self.lab.failure(played.failed, played.report, self.now.snapshot)

    @property
    def _snapshot(self) -> Path:
        return self.lab.latest.parent / "snapshots" / self.now.snapshot

    def _audit(self) -> None:
        """Audit the snapshot, unless it passed before by the same rules and the same code."""
        from pipeline.audit import release_key
        from pipeline.audit.page import json_beside

        with self._phase(Phase.AUDIT):
            code = fingerprint.digest("pipeline.audit.audit", "pipeline.audit.page")
            expired = release_key.problem_of(self._snapshot)  # what passed before fails from that day on
            compared = [self.now.snapshot, self.rules.sha256, code, expired]
            subject = hashlib.sha256(json.dumps(compared).encode()).hexdigest()
            name = f"audit-{self.now.directory}.html"
            if passed := self._passed_audit(subject):
                night, part = passed
                before = record.place_of(self.recorder.place.parent, night) / part.page
                self._copy(json_beside(before), json_beside(Path(name)).name)
                self.now = replace(self.now, audit=replace(part, page=self._copy(before, name), reused=True))
                return
            self._examine(subject, name)

    def _examine(self, subject: str, name: str) -> None:
        from pipeline.audit import audit, page
        from pipeline.audit.audit import Standing
        from pipeline.audit.findings import Result

        examined = audit.examine(self._snapshot, self.rules, Standing.HELD)
        page.write(self.recorder.place / name, examined, self.lab.reports)
        verdict = examined.audit.verdict
        self.now = replace(self.now, audit=Part(_counted(examined), name, subject=subject))
        if verdict is Result.FAIL:
            self.now = replace(self.now, audit=replace(self.now.audit, subject=""))  # so that it is done anew
            row = next(row for row in examined.audit.findings if row.result is Result.FAIL)
            raise Refused(
                f"the audit: {row.check}: {row.subject}: {row.reason}",
                where=str(self.recorder.place / name),
                hint=f"./inv audit {self.now.snapshot}",
            )

    def _passed_audit(self, subject: str) -> tuple[int, Part] | None:
        """Return the newest night in which this very audit passed, and its outcome."""
        for night in reversed(self.before):
            line = night.line(self.now.directory)
            if line and line.audit.subject == subject:
                return night.number, line.audit
        return None

    def _release(self) -> None:
        """Make the snapshot the latest, which nothing but the phase tells until it is that."""
        with self._phase(Phase.RELEASE):
            faults.point("night.before-latest")
            self.job.make_latest(self._snapshot)
            faults.point("night.after-latest")
        self._save(verdict=self.now.passed, released=True)

    def _copy(self, page: Path, name: str) -> str:
        """Keep a page beside the record, since lab and old nights lose theirs; return its name, empty without one."""
        target = self.recorder.place / name
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(page.resolve(), target)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(page, target)
        return name if target.is_file() else ""

    def _fail(self, error: PipelineError) -> None:
        """Record a failure, and print it."""
        outcomes = self.job.runner.outcomes if self.now.phase is Phase.BUILD else {}
        failed = next((each for each in outcomes.values() if each.state is State.FAILED and each.error), None)
        first = failed.error if failed and failed.error else error
        alarm = self.now.phase is Phase.UPSTREAM and any(e.state is Upstream.ALARM for e in self.now.upstream)
        failure = Failure(
            phase=self.now.phase,
            step=failed.step if failed else "",
            error=first.what[:_MOST_ERROR],
            where=first.where,
            next=self.context.console.commands(first.hint or error.hint),
            code=int(error.code),
        )
        self.context.console.warn(f"{self.now.directory}: {failure.phase} failed: {error}")
        steps = _steps(outcomes.values()) or self.now.steps
        verdict = Verdict.ALARM if alarm else Verdict.RED
        moved = record.is_moved(self.now, self.context.settings.artifacts)
        self._save(verdict=verdict, failure=failure, steps=steps, released=moved)


def _steps(outcomes: Sequence[Outcome] | Any) -> dict[str, NightStep]:
    return {each.step: NightStep(each.state.value, each.why, round(each.seconds, 2), each.key) for each in outcomes}


def _counted(examined: Examined) -> str:
    """Count an audit's findings: `61 pass, 4 warn`."""
    from pipeline.audit.findings import Result

    rows = examined.audit.findings
    return ", ".join(f"{n} {each}" for each in Result if (n := sum(row.result is each for row in rows)))
