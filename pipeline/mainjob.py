"""`inv build-all`: from verified sources to a signed repository snapshot.

Puts the parts together and holds no knowledge of its own: sources, the proof of each series, the
builder image, the plan of the line's recipe, and the snapshot at its end.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.build import lts61, sandboxed
from pipeline.build.plan import Plan, Step, Work
from pipeline.build.runner import Outcome, Runner, State, read_meta
from pipeline.console import human_bytes
from pipeline.errors import BuildFailed, PipelineError, UsageError
from pipeline.lines import Line, RoleName
from pipeline.patching import report
from pipeline.sandbox import images
from pipeline.sandbox.runtime import Ended, Job, Limits, Runtime
from pipeline.session import Session
from pipeline.sources.fetching import Sources

if TYPE_CHECKING:
    from pipeline.publish.contents import Contents

RECIPES = {"lts61": lts61}
IMAGE = "debian12"
PUBLISH = "repository"
HEARTBEAT = 20.0  # seconds between lines that say what is running
_TOOLS = ("ipvsadm", "keepalived")
_PUBLISH_CODE = ("pipeline.mainjob", "pipeline.publish.contents", "pipeline.publish.repository")


class LazyRuntime:
    """The runtime asked for, looked for only when something has to be built."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @cached_property
    def _chosen(self) -> Runtime:
        from pipeline.sandbox.choice import choose

        chosen = choose(self._session.settings.runtime, self._session.console)
        for left in chosen.reap():
            self._session.console.note(f"removed what a killed run left: {left}")
        return chosen

    @property
    def name(self) -> str:
        """As evidence names it."""
        return self._chosen.name

    def run(self, job: Job) -> Ended:
        """Runs the job."""
        return self._chosen.run(job)

    def shell(self, job: Job) -> int:
        """The job on the person's terminal."""
        return self._chosen.shell(job)

    def reap(self) -> list[str]:
        """Nothing: that was done when it was chosen."""
        return []


@dataclass
class MainJob:
    """One line's way from sources to a repository, in one session."""

    line: Line
    session: Session

    @property
    def base(self) -> str:
        """The project's line whose recipe builds this one."""
        return self.line.override.base if self.line.override else self.line.name

    @cached_property
    def runner(self) -> Runner:
        """What runs the plan."""
        settings = self.session.settings
        return Runner(
            settings.artifacts / "steps" / self.line.name,
            settings.build_jobs,
            self.session.console.note,
            settings.force,
            settings.keep_going,
        )

    def image(self, *, fresh: bool = False) -> images.Image:
        """The builder image, made when it is not there."""
        from pipeline.build import templates

        rendered = templates.render(f"containers/{IMAGE}/packages.j2")
        packages = images.package_list(rendered)
        root = self.session.settings.artifacts / "images"
        debian = _debian_line().data.debian
        assert debian is not None
        asked = images.DebianRecipe(IMAGE, packages, dict.fromkeys(debian.suites, ""), b"")
        known = None if fresh else images.kept(asked, root)
        return known or self._make_image(packages, root, fresh)

    def _make_image(self, packages: Sequence[str], root: Path, fresh: bool) -> images.Image:
        from pipeline.host import programs
        from pipeline.sources import apt, openpgp

        settings, console = self.session.settings, self.session.console
        programs.ensure({"build"}, console)
        line = _debian_line()
        assert line.data.debian is not None
        sources = Sources(line, settings, console)
        archives = apt.archive_addresses(line.data.debian.suites, settings.debian_mirror, ())
        ring = openpgp.keyring(sources.public_keys(line.data.debian.keyring))
        recipe = images.DebianRecipe(IMAGE, packages, archives, ring)
        return images.debian_image(recipe, root, console, offline=settings.offline, fresh=fresh)

    def plan(self) -> Plan:
        """Every step of this line. Fetches and proves the sources first: their digests are in the keys."""
        recipe = RECIPES.get(self.base)
        if recipe is None:
            raise UsageError(
                f"the line {self.line.name} cannot be built yet",
                why=f"lines with a recipe: {', '.join(RECIPES)}",
                hint="./inv build-all --line lts61; for this line: ./inv fetch, ./inv patches",
            )
        recipe.check_sources(self.line)
        settings, console = self.session.settings, self.session.console
        verified = {item.name: item for item in Sources(self.line, settings, console).fetch(IMAGE)}
        by_role: dict[RoleName, list[report.Proven]] = {}
        for item in report.prove_series(self.line, verified):
            by_role.setdefault(item.slot, []).append(item)
        bench = sandboxed.Bench(LazyRuntime(self.session), self.image(), self._ccache, Limits())
        steps = recipe.steps(self.line, verified, by_role, bench)
        whole = Plan([*steps, self._publish_step([step.name for step in steps])])
        return whole.only(settings.only) if settings.only else whole

    @property
    def _ccache(self) -> Path:
        return self.session.settings.artifacts / "ccache" / f"{self.base}-{IMAGE}"

    def _publish_step(self, needs: Sequence[str]) -> Step:
        settings = self.session.settings
        inputs = {
            "line": self.line.label,
            "notice": self.line.notice,
            "gpg-key": settings.gpg_key or "development",
            "baseurl": settings.baseurl,
        }
        return Step(PUBLISH, self._publish, inputs, tuple(needs), _PUBLISH_CODE)

    def _publish(self, work: Work) -> None:
        from pipeline.publish import repository, signing

        settings = self.session.settings
        wanted = self._contents(work.needs)
        with signing.opened(settings.gpg_key, settings.artifacts / "keys") as signer:
            made = repository.make_snapshot(wanted, signer, settings.artifacts / "repo")
        document = {"id": made.id, "path": str(made.path), "latest": str(made.latest), "fingerprint": made.fingerprint}
        (work.out / "snapshot.json").write_text(json.dumps({**document, "development": made.development}) + "\n")

    def _contents(self, needs: Mapping[str, Path]) -> Contents:
        """Which package goes into which set: a role's kernel, and what that role needs beside it."""
        from pipeline.publish.contents import Built, Contents

        def built(step: str, prefix: str = "") -> list[Built]:
            return [Built(path, step) for path in sandboxed.collected(needs, [step]) if path.name.startswith(prefix)]

        tools = [package for name in _TOOLS for package in built(name)]
        beside = {
            RoleName.DIRECTOR: [*tools, *built("role-packages", "lvs-fnat-director")],
            RoleName.REALSERVER: built("role-packages", "lvs-fnat-realserver"),
            RoleName.STOCK: [*tools, *built("role-packages")],
        }
        sets = {role.value: [*built(f"kernel:{role}"), *beside[role]] for role in self.line.data.roles}
        return Contents(
            line=self.line.name,
            label=self.line.label,
            sets=sets,
            notice=self.line.notice,
            old_readers=self.base == "el6",
            baseurl=self.session.settings.baseurl,
        )

    def build_all(self) -> dict[str, Any]:
        """Does everything and returns it as `--json` prints it. Raises the first step's error that failed."""
        settings = self.session.settings
        begun = time.monotonic()
        plan = self.plan()
        if settings.dry_run:
            return self._told(plan)
        self._forget_lost_snapshot(plan)
        with self._heartbeat(plan):
            outcomes = self.runner.run(plan)
        self._summary(plan, outcomes, time.monotonic() - begun)
        failed = [outcome for outcome in outcomes.values() if outcome.state is State.FAILED]
        if failed:
            raise _together(failed)
        return {**self.line.evidence(), "steps": {name: _as_dict(outcome) for name, outcome in outcomes.items()}}

    def _forget_lost_snapshot(self, plan: Plan) -> None:
        """A snapshot that was removed by hand is published again, although nothing changed."""
        if PUBLISH in plan.steps:
            place = self.runner.published(plan.steps[PUBLISH], plan.keys[PUBLISH])
            known = read_meta(place / "out" / "snapshot.json")
            if known and (not Path(known["path"]).is_dir() or Path(known["latest"]).resolve() != Path(known["path"])):
                self.runner.force = (*self.runner.force, PUBLISH)

    def _told(self, plan: Plan) -> dict[str, Any]:
        told = {name: (state.value, why) for name, (state, why) in self.runner.explain(plan).items()}
        rows = [(name, "would run" if state == "ran" else state, why) for name, (state, why) in told.items()]
        self.session.console.table(("step", "what", "because"), rows, f"line {self.line.label}")
        return {**self.line.evidence(), "steps": {name: {"would": s, "why": w} for name, (s, w) in told.items()}}

    @contextmanager
    def _heartbeat(self, plan: Plan) -> Iterator[None]:
        """Says now and then what is running and, from earlier runs, how long it takes."""
        done = threading.Event()
        begun = time.monotonic()

        def beat() -> None:
            while not done.wait(HEARTBEAT):
                running = [f"{name}{_usual(self.runner, step)}" for name, step in plan.steps.items()
                           if list(self.runner.directory(step).glob(".work-*"))]  # fmt: skip
                if running:
                    self.session.console.note(f"{time.monotonic() - begun:.0f} s: running {', '.join(running)}")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _summary(self, plan: Plan, outcomes: Mapping[str, Outcome], seconds: float) -> None:
        console = self.session.console
        if self.session.settings.explain or any(o.state is not State.REUSED for o in outcomes.values()):
            rows = [(o.step, o.state.value, f"{o.seconds:.1f} s", o.why) for o in outcomes.values()]
            console.table(("step", "what", "took", "because"), rows, f"line {self.line.label}")
        packages = [path for o in outcomes.values() for path in sorted((o.out / "out" / "rpms").glob("*.rpm"))]
        shown = [(p.name, human_bytes(p.stat().st_size), str(p.parent)) for p in packages]
        console.table(("package", "size", "unsigned copy in"), shown)
        snapshot = read_meta(outcomes[PUBLISH].out / "out" / "snapshot.json") if PUBLISH in outcomes else {}
        if snapshot:
            kind = "development key, NOT for production" if snapshot["development"] else "key"
            console.say(f"signed by the {kind}: {snapshot['fingerprint']}")
            console.say(f"repository: {snapshot['latest']} -> {snapshot['path']}")
            console.say(f"next: dnf --repofrompath=fnat,file://{Path(snapshot['latest']).resolve()}/stock list")
        console.say(f"{len(outcomes)} steps in {seconds:.1f} s")


def _debian_line() -> Line:
    from pipeline import lines

    return lines.load("lts61")


def _usual(runner: Runner, step: Step) -> str:
    """How long the step took the last time it ran."""
    known = [read_meta(path) for path in runner.directory(step).glob("[!.]*/meta.json")]
    last = max(known, key=lambda meta: float(meta.get("begun", 0)), default={})
    return f" (last time {last['seconds']:.0f} s)" if "seconds" in last else ""


def _together(failed: Sequence[Outcome]) -> PipelineError:
    errors = [outcome.error for outcome in failed if outcome.error is not None]
    if len(errors) == 1:
        return errors[0]
    return BuildFailed("\n".join(map(str, errors)))


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    return {
        "state": outcome.state.value,
        "why": outcome.why,
        "key": outcome.key,
        "seconds": round(outcome.seconds, 2),
        "out": str(outcome.out / "out"),
    }


def shell(line: Line, step: str, session: Session) -> dict[str, Any]:
    """A shell where a step failed: the same image, mounts and environment; `$AGAIN` is the command."""
    directory = session.settings.artifacts / "steps" / line.name / step.replace(":", "-") / ".failed"
    job = sandboxed.remembered(directory)
    session.console.note(f"the sandbox of {step}, as it failed; `eval $AGAIN` runs its command again; `exit` leaves")
    return {"status": LazyRuntime(session).shell(job)}
