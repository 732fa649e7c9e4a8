"""The command line: one short task per verb. `./inv --list` shows them, `./inv --help VERB` each one.

Everything a verb needs is imported when it runs, so that asking for help costs nothing.
"""

from __future__ import annotations

from typing import Any

from pipeline.cli import Outcome, verb
from pipeline.errors import ExitCode, UsageError
from pipeline.session import Session

FETCHING = ("line-file", "mirror", "debian-mirror", "offline", "refresh", "jobs", "retries", "stall", "connect")
# Verbs that fetch and prove take the line whose sources every host can have; verbs that build take the one that
# the project is for.
DEFAULT_LINE, BUILT_LINE = "lts61", "el6"
LINE = {"line": f"the line's name; `./inv lines` lists them [{DEFAULT_LINE}]"}
BUILT = {"line": f"the line's name; `./inv lines` lists them [{BUILT_LINE}]"}


def _line(session: Session, name: str, default: str = DEFAULT_LINE, *, writes: bool = True) -> Any:
    from pipeline import linenames, lines

    line = lines.load(name or (None if session.settings.line_file else default), session.settings.line_file)
    linenames.claim(line, session.settings.artifacts, write=writes)
    if line.notice:
        session.console.warn(line.notice)
    return line


@verb(*FETCHING, "image", words=("line",), help=LINE)
def fetch(session: Session, line: str = "") -> Any:
    """Fetch and verify every source of a line; a second run makes no request."""
    from pipeline.sources import fetching

    chosen = _line(session, line)
    found = fetching.Sources(chosen, session.settings, session.console).fetch(session.settings.image)
    rows = [(item.name, item.version, item.file, f"{item.sha256[:16]}…", item.how) for item in found]
    session.console.table(("source", "version", "file", "sha256", "established by"), rows, f"line {chosen.label}")
    session.console.say(fetching.summary(found))
    return {**chosen.evidence(), "sources": [item.as_dict() for item in found]}


@verb(*FETCHING, help={"line": "the line's name", "source": "the source to pin, as the line file names it"})
def pin(session: Session, line: str, source: str) -> Any:
    """Prove a source that upstream published no digest of, and write its pin to the lock file."""
    from dataclasses import asdict

    from pipeline.sources import fetching

    chosen = _line(session, line)
    made = fetching.Sources(chosen, session.settings, session.console).pin(source)
    session.console.table(("what", "value"), list(asdict(made).items()), f"line {chosen.label}: {source} pinned")
    session.console.say(f"written to {chosen.lock_file}; commit it")
    return {**chosen.evidence(), "source": source, "pin": asdict(made), "lock": str(chosen.lock_file)}


@verb("line-file", help={"show": "print the whole resolved line of this name"}, plain=True)
def lines(session: Session, show: str = "") -> Any:
    """List the lines, or print one whole, overrides and pins included."""
    from pipeline import lines as model
    from pipeline import showing

    if show or session.settings.line_file:
        return showing.show_line(model.load(show or None, session.settings.line_file), session.console)
    return showing.list_lines([model.load(name) for name in model.names()], session.console)


@verb(
    *FETCHING,
    words=("line",),
    pairs=("diff",),
    help={
        **LINE,
        "diff": "compare two versions of a patch by effect: --diff A B",
        "classify": "find the role of a patch file that belongs to no series",
    },
)
def patches(session: Session, line: str = "", diff: list[str] | None = None, classify: str = "") -> Any:
    """Prove each role's patches by content, and apply them to the real tree in a scratch copy."""
    from pipeline.patching import report

    if diff and len(diff) != 2:
        raise UsageError("--diff takes two patch files", hint="./inv patches --diff A B")
    reading = bool(diff or classify)
    chosen = _line(session, line, "el6" if reading else DEFAULT_LINE, writes=not reading)
    if diff:
        return report.compare_files(diff, chosen, session)
    if not classify:
        return report.prove_line(chosen, session)
    found = report.classify_file(classify, chosen, session)
    return Outcome(found, ExitCode.OK if found["option"]["right"] else ExitCode.REFUSED)


LIMITS = ("build-time", "build-silence", "build-memory", "build-disk", "build-processes")
BUILDING = (
    *("runtime", "image", "centos-base", "kernel-config", "build-jobs", "no-ccache", *LIMITS),
    *("force", "keep-going", "explain", "dry-run", "verify", "check-reproducible"),
)
PUBLISHING = ("gpg-key", "baseurl", "only", "no-smoke")


@verb(*FETCHING, *BUILDING, *PUBLISHING, words=("line",), help=BUILT)
def build_all(session: Session, line: str = "") -> Any:
    """Do everything: verified sources, proven patches, packages, a signed repository, and traffic through them."""
    from pipeline.labjob import LabJob

    job = LabJob(_line(session, line, BUILT_LINE), session)
    built = job.job.build_all()
    return {**built, **job.after(built)}


@verb(
    *FETCHING,
    *BUILDING,
    many="name",
    help={
        "name": "kernel, ipvsadm, keepalived, role-packages, or userland for the lab; may be repeated",
        "role": "of the kernel only this one: director, realserver or stock",
        **BUILT,
    },
)
def build(session: Session, name: list[str] | None = None, role: str = "", line: str = "") -> Any:
    """Build the packages of these names only; they are neither signed nor published."""
    from pipeline.mainjob import MainJob

    return MainJob(_line(session, line, BUILT_LINE), session).build(name or (), role)


@verb(
    *FETCHING,
    "image",
    "centos-base",
    help={"fresh": "make it anew from the archive as it is now, for later builds", **BUILT},
)
def image(session: Session, fresh: bool = False, line: str = "") -> Any:
    """Make the builder image, or say that it is there and what is in it."""
    from pipeline import imaging
    from pipeline.mainjob import MainJob

    job = MainJob(_line(session, line, BUILT_LINE), session)
    return imaging.have(lambda: job.image(fresh=fresh), session, fresh=fresh)


@verb(
    "verify",
    words=("line",),
    help={"line": "with --verify: of steps and snapshots only what is this line's"},
    plain=True,
)
def status(session: Session, line: str = "") -> Any:
    """Say what is there: each step's last state, snapshots, images, sizes; asks nothing but the disk."""
    from pipeline import status as told
    from pipeline import verification

    said = told.tell(session)
    if not session.settings.verify:
        return said
    differing = verification.verify(session, line)
    return Outcome({**said, "differing": differing}, ExitCode.REFUSED if differing else ExitCode.OK)


@verb(
    many="what",
    help={
        "what": "failed, old, ccache, steps, images, guests, or all of these; without a word nothing is removed",
        "line": "only what is this line's",
    },
)
def clean(session: Session, what: list[str] | None = None, line: str = "") -> Any:
    """Remove what can be made again, or say what could be removed and how much room that gives."""
    from pipeline import cleaning

    return Outcome(*cleaning.clean(what or (), line, session))


@verb(
    "runtime",
    "line-file",
    "image",
    "kernel-config",
    *LIMITS,
    help={"step": "the step that failed, as its message names it", **BUILT},
)
def shell(session: Session, step: str, line: str = "") -> Any:
    """Open a shell in the sandbox of a failed step, at the point of failure."""
    from pipeline.mainjob import shell as enter

    return enter(_line(session, line, BUILT_LINE, writes=False), step, session)


LAB = ("runtime", "image", "kernel-config", "gpg-key", "scenario", "keep", "capture")


@verb(*FETCHING, *LAB, words=("line",), help=BUILT)
def smoke(session: Session, line: str = "") -> Any:
    """Boot the published packages in QEMU, send real traffic through them, and report what was seen."""
    from pipeline.labjob import LabJob

    return LabJob(_line(session, line, BUILT_LINE), session).smoke(
        session.settings.scenario, keep=session.settings.keep
    )


@verb(*FETCHING, *LAB, words=("line",), help=BUILT)
def boot(session: Session, line: str = "") -> Any:
    """Boot every published kernel and look at it from inside: the scenario `boot` alone."""
    from pipeline.labjob import LabJob

    return LabJob(_line(session, line, BUILT_LINE), session).smoke(("boot",), keep=session.settings.keep)


@verb(*FETCHING, *LAB, words=("line",), help=BUILT)
def lab(session: Session, line: str = "") -> Any:
    """Play one scenario, leave its network running, and give a shell in each guest."""
    from pipeline.lab.scenarios import NAMES
    from pipeline.labjob import LabJob

    if len(session.settings.scenario) != 1:
        raise UsageError("which scenario?", why=f"one of: {', '.join(NAMES)}", hint="./inv lab --scenario nat")
    return LabJob(_line(session, line, BUILT_LINE), session).smoke(session.settings.scenario, keep=True)


@verb(*FETCHING, "image", help={"action": "export or import", "directory": "the mirror's directory", **LINE})
def mirror(session: Session, action: str, directory: str, line: str = "") -> Any:
    """Carry a line's sources to a host without network: `mirror export DIR`, `mirror import DIR`."""
    from pipeline.sources import carrying

    chosen = _line(session, line)
    if action == "export":
        return carrying.export(chosen, session.settings, session.console, directory, session.settings.image)
    if action == "import":
        return carrying.import_(chosen, session.settings, session.console, directory, session.settings.image)
    raise UsageError(f"there is no `mirror {action}`", why="actions: export, import", hint="./inv mirror export DIR")


@verb(help={"action": "gc (remove what no line's last fetch used) or verify (hash everything again)"})
def store(session: Session, action: str) -> Any:
    """Look after the store: `store gc`, `store verify`."""
    from pipeline.sources import upkeep

    if action == "gc":
        return upkeep.gc(session.settings, session.console)
    if action == "verify":
        data, damaged = upkeep.verify(session.settings, session.console)
        return Outcome(data, ExitCode.REFUSED if damaged else ExitCode.OK)
    raise UsageError(f"there is no `store {action}`", why="actions: gc, verify", hint="./inv store verify")


@verb(
    *FETCHING,
    plain=True,
    help={"kernel": "the kernel image to probe KVM with [one in /boot, else Debian's cloud kernel]"},
)
def doctor(session: Session, kernel: str = "") -> Any:
    """Say whether this host can do the work: each finding, what it affects, how to mend it."""
    from pipeline.host import doctor as checks

    def debian_kernel() -> Any:
        from pipeline.sources import probekernel

        return probekernel.package(session.settings, session.console)

    findings = checks.run(session.settings, session.console, kernel, debian_kernel)
    return Outcome([finding.as_dict() for finding in findings], checks.exit_code(findings))


@verb(
    *("line-file", "mirror", "runtime", "image", "kernel-config"),
    help={
        "only": "unit, component or e2e [all]",
        "match": "only tests whose names match, as pytest's -k takes it",
        "real_el6": "the acceptance checks of el6 on real material, which --mirror and --line-file name",
    },
    plain=True,
)
def test(session: Session, only: str = "", match: str = "", real_el6: bool = False) -> Any:
    """Run the tests; what they need is started by them, and missing things fail."""
    from pipeline import testing

    return testing.accept_el6(session, match) if real_el6 else testing.run(session.console, only, match)
