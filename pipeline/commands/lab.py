"""`inv boot`, `inv smoke` and `inv lab`: the lab over a line's published repository, and what comes of it."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands import closing_summary
from pipeline.commands.build import BuildCommand
from pipeline.commands.build_summary import BuildResult, Forecast
from pipeline.commands.closing_summary import LabResult
from pipeline.config import command_line, git_checkout, line_checks, next_command
from pipeline.config.context import RunContext
from pipeline.config.line_model import Line
from pipeline.core import fingerprint, fs, neutral, process
from pipeline.core.console import write
from pipeline.core.locks import locked
from pipeline.core.suggestion import did_you_mean, unknown
from pipeline.errors import HostLacks, Refused, TestsFailed, UsageError
from pipeline.lab import run_record
from pipeline.lab.report.results import PAGE
from pipeline.lab.scenarios import NAMES, module_name
from pipeline.packaging.scheduler import LOCK
from pipeline.publish.layout import directory_of
from pipeline.recipes import guest_userland

if TYPE_CHECKING:
    from pipeline.lab import runner
    from pipeline.lab.report import results
    from pipeline.lab.repository import Repository
    from pipeline.lab.scenario_context import ScenarioContext
    from pipeline.lab.vm.machine import Machine
    from pipeline.sandbox.runtime import Image


_LATEST = "latest"  # the link to the results of the last run
_TOGETHER = 2  # scenarios
_PATIENT = ("keepalived",)  # begun first: most of their time they wait for clocks
_KEPT = 10  # runs whose results are kept


@dataclass(frozen=True)
class BuildAllResult:
    """A build, and the lab's run after it where there was one."""

    built: BuildResult | Forecast
    lab: LabResult | None

    def to_json(self) -> dict[str, object]:
        """Return it as `--json` prints it."""
        return {**self.built.to_json(), **({"lab": self.lab} if self.lab else {})}


@dataclass(frozen=True)
class LabCommand:
    """The lab of one line in one run; `servers` is that of another line, whose packages the real servers have."""

    line: Line
    context: RunContext
    servers: LabCommand | None = None

    @cached_property
    def job(self) -> BuildCommand:
        """The build of the guests' userland, which knows the builder image."""
        return BuildCommand(self.line, self.context)

    @property
    def latest(self) -> Path:
        """The link to the line's newest snapshot."""
        name = directory_of(self.line.name, small=self.job.publishing.small)
        return self.context.settings.artifacts / "repo" / name / "latest"

    @property
    def guests(self) -> Path:
        """Where what guests boot is made, of all lines together."""
        return self.context.settings.artifacts / "lab"

    @property
    def reports(self) -> Path:
        """Where a run's results go."""
        names = [self.latest.parent.name, *([self.servers.latest.parent.name] if self.servers else [])]
        return self.context.settings.artifacts / "reports" / "lab" / "+".join(names)  # a line's name has no plus

    def smoke(self, names: Sequence[str], *, keep: bool = False) -> results.Report:
        """Play scenarios, all that the line has where none is named, and return the report.

        `keep`: a person gets into the guests before a scenario's network goes.
        Raises `TestsFailed` when one did not do what it must; the report is written all the same.
        """
        found, work = self._play(names, keep=keep)
        if not found.passed:
            raise self.failure(found.failed, work / PAGE)
        return found

    def _play(
        self, names: Sequence[str], *, keep: bool = False, snapshot: Path | None = None
    ) -> tuple[results.Report, Path]:
        """Play scenarios with a snapshot, that of the settings where None; return the report and its directory."""
        from pipeline.lab.report import terminal

        chosen = _chosen(names or tuple(self.line.data.lab))
        if self.servers:
            chosen = _of_two_lines(chosen, named=bool(names))
        with locked(self.guests / LOCK, shared=True):  # so that what guests boot is not cleaned away
            environment = self.environment(keep=keep, snapshot=snapshot)
            with run_record.recording(environment.work, self._beginning(environment)) as recorder:
                self._remember(environment.work)

                def save(played: Sequence[results.Scenario]) -> None:
                    used = environment.accelerator  # may have changed
                    recorder.save(scenarios=tuple(played), accelerator=used.name, accelerator_why=used.why)

                self._all(environment, chosen, save)
                recorder.end()
        terminal.print_report(recorder.report, self.context.console, environment.work / PAGE)
        return recorder.report, environment.work

    def _beginning(self, environment: runner.LabEnvironment) -> results.Report:
        """Return the report of a run that begins."""
        from pipeline.lab.report import results

        repository, accelerator = environment.repository, environment.accelerator
        servers, label, sets = environment.servers, self.line.label, [*repository.sets.values()]
        if servers:
            label = f"{label} with real servers of {servers.line.label}"
            sets += servers.repository.sets.values()
        checkout = None
        with contextlib.suppress(HostLacks):  # without git
            checkout = git_checkout.of_project()
        before = run_record.runs(self.reports)
        return results.Report(
            line=label,
            snapshot=repository.id,
            fingerprint=repository.fingerprint,
            server_snapshot=servers.repository.id if servers else "",
            server_fingerprint=servers.repository.fingerprint if servers else "",
            accelerator=accelerator.name,
            accelerator_why=accelerator.why,
            packages={package.nevra: package.sha256 for packages in sets for package in packages.values()},
            started=time.time(),
            host=f"{platform.node()}, {platform.system()} {platform.release()}, {os.cpu_count()} processors",
            pid=os.getpid(),
            command=command_line.as_typed(sys.argv[1:]),
            commit=checkout.commit if checkout else "",
            dirty=checkout.dirty if checkout else False,
            previous=f"../{before[-1].path.name}/{PAGE}" if before else "",
        )

    def failure(self, failed: Sequence[str], path: Path, snapshot: str = "") -> TestsFailed:
        """Return the error of a run in which these scenarios failed; without any, none applies.

        `snapshot`: the one that was booted, where it is not the latest.
        """
        if not failed:
            why = f"`./inv lines {line_checks.option(self.line)}` says why"
            return TestsFailed("no scenario applies to this line", where=str(path), hint=why)
        chosen = snapshot or self.context.settings.snapshot
        repeat = f"--scenario {failed[0]}" + (f" --snapshot {neutral.word(chosen)}" if chosen else "")
        return TestsFailed(
            f"the lab's scenarios failed: {', '.join(failed)}",
            where=str(path),
            hint=f"the page shows each check and console; `./inv lab {repeat}` plays it and stays",
        )

    def build_all(self) -> BuildAllResult:
        """Build and publish everything, then play the lab, all from what the run prepares once.

        Raises `TestsFailed` where the lab failed, after the summary of everything.
        """
        begun = time.monotonic()
        built = self.job.build_all()
        if isinstance(built, Forecast):
            return BuildAllResult(built, None)
        played = self.after(built.snapshot, built.key(guest_userland.STEP))
        closing_summary.tell(self.context.console, built, played, time.monotonic() - begun, self.job.options)
        if played and not played.passed:
            raise self.failure(played.failed, played.report)
        return BuildAllResult(built, played)

    def after(self, snapshot: str, guests: str, *, always: bool = False) -> LabResult | None:
        """Play everything after a build, unless that passed before with the same snapshot and the same lab.

        `snapshot` is the id of what the build published, `guests` the key of the programs of its guests; `always`: play
        it all the same. Nothing is played, and None returned, where nothing was published or the settings or the line
        have it so.
        """
        settings = self.context.settings
        if settings.no_smoke or settings.only or not snapshot or not self.line.data.lab:
            return None
        what = run_record.Subject(
            line=self.line.label,
            snapshot=snapshot,
            guests=guests,
            scenarios={name: row.model_dump(mode="json") for name, row in self.line.data.lab.items()},
            code=_code(),
        )
        if not always and (path := self._passed_before(what)):
            self.context.console.say(f"the lab passed with this snapshot before: {path}")
            return LabResult.of(run_record.states(path.parent), path, reused=True)
        if before := run_record.unresolved(self.reports, snapshot):
            self.context.console.say(f"the lab failed with this snapshot before: {before.page}")
        found, work = self._play((), snapshot=self.latest.with_name("snapshots") / snapshot)
        states = {scenario.name: scenario.state for scenario in found.scenarios}
        if not found.passed:
            return LabResult.of(states, work / PAGE, reused=False)
        run_record.record(work, what, found)
        fs.replace_symlink(self.reports / run_record.LINK, work.name)
        return LabResult.of(states, self.reports / run_record.LINK / PAGE, reused=False)

    def _passed_before(self, what: run_record.Subject) -> Path | None:
        """Return the page of a passed run of `what`, if record and report are of that run."""
        place = self.reports / run_record.LINK
        if not os.path.lexists(place):
            return None
        known, problems = run_record.read_record(place)
        if problems:
            self.context.console.warn(f"the lab is played again: {place}/{problems[0][0]}: {problems[0][1]}")
            return None
        return place / PAGE if known == what else None

    def environment(self, *, keep: bool = False, snapshot: Path | None = None) -> runner.LabEnvironment:
        """Return what scenarios run in: the verified snapshot, the guests' programs, and a new directory of results.

        Raises as `_repository` does, and `HostLacks` for missing programs.
        """
        from pipeline.host import kvm, programs
        from pipeline.lab import runner
        from pipeline.lab.vm import network

        context = self.context
        programs.ensure({"lab"}, context.console)
        repository, servers = self._repository(snapshot), None
        if self.servers:
            servers = runner.Published(self.servers.line, self.servers._repository())
        programs_of_guests, builder = self._userland()
        work = self.reports / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"
        work.mkdir(parents=True)
        accelerator = network.Accelerator.detect(kvm.Probe(context.settings.artifacts, kernel_provider=self._kernel))
        context.console.note(f"guests run with {accelerator.name}: {accelerator.why}")
        return runner.LabEnvironment(
            line=self.line,
            repository=repository,
            userland=programs_of_guests,
            builder=builder,
            cache=self.guests,
            work=work,
            accelerator=accelerator,
            note=context.console.note,
            keep=by_hand if keep else None,
            capture=context.settings.capture,
            patience=context.settings.patience,
            servers=servers,
        )

    def _chosen_snapshot(self) -> Path:
        """Return the snapshot of the settings, else the line's latest. Raises `UsageError` without one."""
        from pipeline.audit import evidence

        settings = self.context.settings
        if settings.snapshot:
            path, place = evidence.find_snapshot(settings.snapshot, settings.artifacts), self.latest.parent
            if path.resolve().parent.parent != place.resolve():
                what = f"--snapshot: expected one of {place.name}, got one of {path.parent.parent.name}"
                raise UsageError(
                    what, where=str(path), why="a line's guests boot its own packages", hint="./inv status"
                )
            return path
        if not self.latest.exists():
            raise UsageError("there is no repository to boot from", where=str(self.latest), hint=self.job.command)
        return self.latest.resolve()

    def _repository(self, snapshot: Path | None = None) -> Repository:
        """Return the verified snapshot to boot. Raises as `opened`, and `Refused` for another signer."""
        path = snapshot or self._chosen_snapshot()
        try:
            return opened(path, self._signer(path))
        except Refused as error:
            error.hint = error.hint or self._anew(path)
            raise

    def _signer(self, path: Path) -> str:
        """Return the key that must have signed the snapshot: `gpg-key`, else the recorded one.

        Raises `Refused` where the snapshot names another one.
        """
        from pipeline.publish import keys, signers, verify

        settings, directory = self.context.settings, self.latest.parent.name
        record = signers.record_path(settings.artifacts, directory)
        known = signers.expected_fingerprint(settings.artifacts, directory, path)
        wanted = keys.named(settings.gpg_key) if settings.gpg_key else known
        found = verify.signer(path)
        trusting = next_command.command("smoke", ["--gpg-key", found], self.job.options)
        if not wanted:
            raise Refused(
                f"the signing key of the line {self.line.name}: expected its fingerprint in a record, got none",
                where=str(record),
                why="the key that lies beside a snapshot proves nothing; to verify against it all the same: "
                + trusting,
                hint=self.job.command,
            )
        if wanted != found:
            by = "--gpg-key" if settings.gpg_key else str(record)
            raise Refused(
                f"the snapshot was signed by another key: expected {wanted}, got {found}",
                where=str(path),
                why=f"expected by {by}; a snapshot that is meant to come from elsewhere: {trusting}",
                hint=trusting if found == known else self._anew(path),
            )
        return wanted

    def _anew(self, path: Path) -> str:
        """Return the command that publishes another snapshot in place of the one at `path`, which is kept."""
        if not path.is_relative_to(self.latest.parent.resolve()):
            return self.job.command  # only a link of ours leads there
        place = neutral.word(path)
        return f"mv -T --backup=numbered {place} {place}.refused && {self.job.command}"

    def _kernel(self) -> Path:
        """Return Debian's kernel for the KVM probe."""
        from pipeline.sources import probe_kernel

        return probe_kernel.package(self.context.settings, self.context.console)

    def _userland(self) -> tuple[Path, Image]:
        """Return the guests' own programs, built where they are not there, and the image they need libraries of."""
        return self.job.userland(), self.job.preparation.image(guest_userland.IMAGE)

    def _all(
        self,
        environment: runner.LabEnvironment,
        chosen: Sequence[str],
        save: Callable[[Sequence[results.Scenario]], None],
    ) -> None:
        """Play scenarios, two at a time, by hand one after the other; `save` takes those that have ended, in order."""
        if environment.keep:
            played: list[results.Scenario] = []
            for name in chosen:
                played.append(self._played(environment, name))
                save(played)
            return
        order = sorted(chosen, key=_PATIENT.__contains__, reverse=True)
        with ThreadPoolExecutor(_TOGETHER) as pool:
            playing = {name: pool.submit(self._played, environment, name) for name in order}
            try:
                saved = 0
                while wait(playing.values(), timeout=0.2).not_done:  # in short waits, so that Ctrl-C is heard
                    ended = [playing[name] for name in chosen if playing[name].done()]
                    if len(ended) > saved:
                        saved = len(ended)
                        save([future.result() for future in ended if not future.exception()])
            except BaseException:  # Ctrl-C, or results that cannot be written
                pool.shutdown(wait=False, cancel_futures=True)
                process.stop_all()
                raise
        save([playing[name].result() for name in chosen])

    def _played(self, environment: runner.LabEnvironment, name: str) -> results.Scenario:
        from pipeline.lab import runner

        console = self.context.console
        console.note(f"{name}: starting")
        played = runner.run_scenario(environment, name)
        passed = sum(check.passed for check in played.checks)
        result = f"{passed} of {len(played.checks)} checks, {played.seconds:.1f} s" if played.checks else played.why
        console.note(f"{name}: {played.state}, {result}")
        return played

    def _remember(self, work: Path) -> None:
        """Point `latest` to this run's results, remove old ones, and let those that were killed say so."""
        run_record.settle(self.reports)
        fs.replace_symlink(self.reports / _LATEST, work.name)
        runs = sorted(path for path in self.reports.iterdir() if path.is_dir() and not path.is_symlink())
        kept = (self.reports / run_record.LINK).resolve()
        for old in runs[:-_KEPT]:
            if old.resolve() != kept:
                shutil.rmtree(old)


def opened(path: Path, fingerprint: str) -> Repository:
    """Return the snapshot at `path`, after verifying every digest and every signature by this key.

    Raises `Refused` for a damaged one.
    """
    from pipeline.formats import rpm_header
    from pipeline.lab.repository import Package, Repository
    from pipeline.publish import verify

    document = verify.verify_snapshot(path, fingerprint)
    found: dict[str, dict[str, Package]] = {}
    for name, members in document.sets.items():
        headers = {file: rpm_header.read(path / name / file) for file in members}
        found[name] = {
            header.name: Package(
                path / name / file,
                header.nevra,
                document.packages[file].sha256,
                f"{header.header.text(rpm_header.Tag.VERSION)}-{header.header.text(rpm_header.Tag.RELEASE)}",
            )
            for file, header in headers.items()
        }
    return Repository(path, document, found)


def _code() -> str:
    """Return the digest of the lab's own code."""
    scenarios = map(module_name, NAMES)  # imported by name
    return fingerprint.digest("pipeline.lab.runner", "pipeline.lab.report.page", *scenarios)


def _chosen(names: Sequence[str]) -> list[str]:
    if wrong := [name for name in names if name not in NAMES]:
        raise unknown("scenario", wrong, NAMES, hint="./inv smoke --scenario boot")
    return [name for name in NAMES if name in names]


def _of_two_lines(chosen: Sequence[str], *, named: bool) -> list[str]:
    """Return the scenarios whose servers may be another line's; refuse others that were named."""
    from pipeline.lab.scenarios import load_scenario

    possible = [name for name in NAMES if not load_scenario(name, ()).of_one_line]
    if named and (wrong := [name for name in chosen if name not in possible]):
        what = f"--server-line: expected a scenario that two lines can play together, got {', '.join(wrong)}"
        raise UsageError(what, why=f"those are {', '.join(possible)}", hint="./inv smoke --scenario fullnat")
    return [name for name in chosen if name in possible]


def _say(text: str) -> None:
    write(sys.stdout, text)


def by_hand(context: ScenarioContext, read: Callable[[str], str] = input, say: Callable[[str], None] = _say) -> None:
    """Open shells in the guests for a person, one at a time, until the person leaves."""
    say(f"the network is running; a guest's name opens a shell in it: {', '.join(context.machines)}")
    say("exit leaves the shell, and here ends the lab. To try there:")
    for name, line in {**_TO_TRY, "server1": f"ip route; {context.dialect.reader.stats.strip()}"}.items():
        if name in context.machines:
            say(f"  {name:10} {line}")
    while True:
        try:
            typed = read("guest> ").strip()
        except (EOFError, BrokenPipeError):
            return
        if typed == "exit":
            return
        if typed in context.machines:
            _shell(context[typed])
        elif typed:
            meant = did_you_mean(typed, context.machines)
            say(f"there is no guest {typed}{meant}; guests: {', '.join(context.machines)}; exit ends the lab")


_TO_TRY = {
    "client": "fnat-guest ask VIP 80 / 6",
    "director": "ipvsadm -Ln; ipvsadm -Lnc",
    "director1": "ipvsadm -Ln; ip address",
}


def _shell(machine: Machine) -> None:
    """Open a guest's shell at this terminal, which passes every key on."""
    from pipeline.sandbox.terminal import raw_mode

    source = sys.stdin.fileno()
    with raw_mode() if os.isatty(source) else contextlib.nullcontext():
        machine.open_shell(source, sys.stdout.fileno(), shutil.get_terminal_size)
