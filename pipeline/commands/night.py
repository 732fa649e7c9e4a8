"""Run a night: lines one after the other, its record and pages, what is kept, who is notified."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.commands import clean, lines
from pipeline.commands.night_line import LineRun
from pipeline.commands.task import Outcome
from pipeline.config import command_line, line_loader, line_names
from pipeline.config.context import RunContext
from pipeline.config.line_model import Line
from pipeline.core import faults, fs
from pipeline.core.console import Console
from pipeline.core.disk_space import writing
from pipeline.core.locks import locked
from pipeline.core.units import human_seconds
from pipeline.errors import Locked, PipelineError
from pipeline.nights import index, junit, notification, record, retention
from pipeline.nights.record import LineNight, Night, Recorder, Verdict
from pipeline.publish import mirrorlist


def run(names: Sequence[str], policy: str, context: RunContext) -> Outcome:
    """Run a night of these lines, and return its record with its exit code.

    Raises `Locked` while another night goes on, `UsageError` for unknown lines, an unreadable policy, and nobody who
    could be notified.
    """
    from pipeline.audit import policy as policies

    notification.check(context.settings)
    chosen = _lines(names, context)
    rules = policies.load(Path(policy) if policy else None)
    nights = record.root(context.settings.artifacts)
    try:
        with locked(nights / record.LOCK, wait=False):
            night = _Night(nights, context)
            with night.recording():
                for line, own in chosen:
                    LineRun(line, own, night.recorder, night.before, rules).run()
                ended = night.end()
    except Locked as error:
        if error.where != str(nights / record.LOCK):
            raise
        what = "the night: another one goes on; expected it to be over"
        raise Locked(what, where=error.where, why=error.why, hint="wait for it to end, then try again") from None
    return Outcome(ended, ended.code)


def _lines(names: Sequence[str], context: RunContext) -> list[tuple[Line, RunContext]]:
    """Return the lines of the night, each with the context of its run: pins are not refreshed in passing."""
    settings = replace(context.settings, refresh=False, only=(), force=(), dry_run=False, snapshot="", server_line="")
    context = replace(context, settings=settings)
    if names:
        return [lines.by_name(name, context) for name in dict.fromkeys(names)]
    line = line_loader.load(settings.line or None, settings.line_file)
    line_names.claim(line, settings.artifacts)
    return [(line, context)]


class _Night:
    """The night that goes on, for the holder of the lock; killed ones before it are settled and reported."""

    def __init__(self, nights: Path, context: RunContext) -> None:
        self.nights, self.context = nights, context
        self.killed = record.settle(nights)
        for night in self.killed:
            context.console.warn(
                f"night {night.number} was killed: {_where_killed(night)}; its finished steps are used"
            )
        for damaged in record.unreadable(nights):
            context.console.warn(str(damaged))
        self.before = record.load(nights)
        number = record.next_number(nights)
        begun = Night(number, time.time(), os.getpid(), command_line.as_typed(sys.argv[1:]))
        self.recorder = Recorder(record.place_of(nights, number), begun)
        self.recorder.save()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record why a night does not come to its end, where that can be recorded; the next night settles it."""
        try:
            yield
        except BaseException as error:
            why = str(error).split("\n", 1)[0] or "it was stopped by a signal"
            kind = "" if isinstance(error, PipelineError) else f"{type(error).__name__}: "
            with contextlib.suppress(OSError, PipelineError):  # the first error is the one to tell
                self.recorder.save(why=f"{kind}{why}")
            raise

    def end(self) -> Night:
        """Collect what no recorded night needs, notify, record the end, and write the pages; print the outcome."""
        console, place = self.context.console, self.recorder.place
        try:
            self._collect(console)
        except (OSError, PipelineError) as error:  # what is not removed today goes with the next night
            console.warn(f"what no night needs was not removed: {error}")
        night = self.recorder.night
        known = [*self.before, night]
        self.recorder.save(notified=self._notify(known))
        with writing(self.nights):
            fs.write_atomic(place / record.JUNIT, junit.document(self.recorder.night))
        self.recorder.save(ended=True)
        faults.point("night.ended")
        page = index.write(self.nights)
        console.say(outcome(self.recorder.night, page, self.context.settings.artifacts / "repo"))
        return self.recorder.night

    def _collect(self, console: Console) -> None:
        """Remove the oldest records, and what nothing refers to any more where this night may have added to it."""
        settings = self.context.settings
        pruned = retention.prune(self.nights, settings.keep_nights)
        worked = [line for line in self.recorder.night.lines if line.ran or line.failure or pruned or self.killed]
        for line in worked:
            removed, left = clean.remove(clean.superseded(line.line, settings.artifacts))
            if removed:
                console.note(f"{line.directory}: {len(removed)} superseded results removed")
            for item, error in left:
                console.warn(f"{item.path}: not removed: {error.what}")

    def _notify(self, known: Sequence[Night]) -> str:
        """Notify where that is due; return what came of it, which never changes the night's outcome."""
        settings, console, night = self.context.settings, self.context.console, self.recorder.night
        try:
            if not notification.is_due(settings, self.before, night):
                return ""
            sent = notification.send(settings, notification.document(night, known, self.nights / record.INDEX))
        except Exception as error:  # noqa: BLE001 - whatever it is, the night has its outcome; its text may hold a secret
            sent = f"notification: failed: {type(error).__name__}"
        if notification.failed(sent):
            console.warn(f"the notification failed: {sent}")
        return sent


def _where_killed(night: Night) -> str:
    found = [f"in {line.phase} of {line.directory}" for line in night.lines if line.verdict is Verdict.KILLED]
    return ", ".join(found) or "between two lines"


def _readers(line: LineNight, repository: Path) -> str:
    """Return what readers of a line that failed get, as `latest` and the mirrorlists are now."""
    leads = mirrorlist.leads(repository / line.directory)
    latest = leads.pop("latest", "")
    stays = "latest stays" if latest == line.before else f"latest is {latest or 'gone'}"
    astray = [f"{name} leads to {found or 'nothing'}" for name, found in leads.items() if found != latest]
    return ", but ".join(filter(None, (stays, ", ".join(astray))))


def outcome(night: Night, page: Path, repository: Path) -> str:
    """Return the outcome of a night in one line; what readers get of a line that failed is read from `repository`."""
    parts = []
    for line in night.lines:
        changed = "changed" if line.changed else "unchanged"
        described = f"{changed}, {line.snapshot[:12]}" if line.snapshot else "no snapshot"
        if line.failure:
            step = f" {line.failure.step}" if line.failure.step else ""
            described = f"{line.failure.phase}{step} failed; {_readers(line, repository)}"
        parts.append(f"{line.directory} {line.verdict} ({described}; smoke {line.smoke.text or 'not reached'})")
    text = f"night {night.number}, {night.date}: {night.verdict}: {'; '.join(parts)}"
    return f"{text}; {human_seconds(night.seconds)}; {page}"
