"""The command line: one short task per verb. `./inv --list` shows them, `./inv --help VERB` each one.

Everything a verb needs is imported when it runs, so that asking for help costs nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.commands.task import Outcome, verb
from pipeline.config.context import RunContext
from pipeline.core import resources
from pipeline.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.audit.cve_report import CveReport
    from pipeline.commands.build_summary import BuildResult, Forecast
    from pipeline.commands.image import MadeImage
    from pipeline.commands.lab import BuildAllResult, LabCommand
    from pipeline.commands.lines import ListedLine, ShownLine
    from pipeline.commands.logs import Log
    from pipeline.commands.patches import VerifiedLine
    from pipeline.commands.refresh import RefreshedLine
    from pipeline.commands.shell import ShellResult
    from pipeline.commands.status import Status
    from pipeline.config.line_model import Line
    from pipeline.host.facts import Finding
    from pipeline.lab.report.results import Report
    from pipeline.patching.compare import Comparison
    from pipeline.sources.line_sources import LineSources
    from pipeline.sources.resolver import NewPin
    from pipeline.sources.store_maintenance import Cleaned

# Groups of verbs in the help, in its order; the last one is AUDITS.
ALL = "everything at once"
SOURCES = "sources and patches"
BUILDS = "builds"
LABS = "lab"
RESULTS = "results"
PROJECT = "lines, host, tests"
FETCHING = ("line-file", "mirror", "debian-mirror", "offline", "refresh", "jobs", "retries", "stall", "connect")


def _line(context: RunContext, *, writes: bool = True, name: str = "") -> Line:
    """Load the line that the settings choose, or the one called `name`."""
    from pipeline.config import line_loader, line_names

    line = line_loader.load(name or context.settings.line or None, context.settings.line_file)
    line_names.claim(line, context.settings.artifacts, write=writes)
    if line.notice:
        context.console.warn(line.notice)
    return line


@verb("line", *FETCHING, "image", group=SOURCES, example="fetch lts61", words=("line",))
def fetch(context: RunContext) -> LineSources:
    """Fetch and verify every source of a line; a second run makes no request."""
    from pipeline.sources import resolver

    chosen = _line(context)
    found = resolver.Sources(chosen, context.settings, context.console).fetch(context.settings.image)
    rows = [(item.name, item.version, item.file, f"{item.sha256[:16]}…", item.how) for item in found]
    context.console.table(("source", "version", "file", "sha256", "established by"), rows, f"line {chosen.label}")
    context.console.say(resolver.summary(found))
    return resolver.evidence(chosen, found)


@verb(
    *FETCHING,
    group=SOURCES,
    example="pin el6 kernel-srpm",
    help={"line": "the line's name", "source": "the source to pin, as the line file names it"},
)
def pin(context: RunContext, line: str, source: str) -> NewPin:
    """Prove a source that upstream published no digest of, and write its pin to the lock file."""
    from pipeline.sources import resolver

    chosen = _line(context, name=line)
    made = resolver.Sources(chosen, context.settings, context.console).pin(source)
    context.console.table(("what", "value"), list(vars(made).items()), f"line {chosen.label}: {source} pinned")
    context.console.say(f"written to {chosen.lock_file}; commit it")
    return resolver.NewPin(*chosen.identity, source, made, chosen.lock_file)


@verb(
    "line-file",
    group=PROJECT,
    example="lines lts61",
    words=("line",),
    help={"line": "print the whole resolved line of this name", "show": "the same as LINE"},
    values={"show": "LINE"},
    plain=True,
)
def lines(context: RunContext, line: str = "", show: str = "") -> ShownLine | list[ListedLine]:
    """List the lines, or print one whole, overrides and pins included."""
    from pipeline.commands import lines as display
    from pipeline.config import line_loader

    if name := line or show:
        return display.show_line(line_loader.load(name, context.settings.line_file), context.console)
    if context.settings.line_file:
        return display.show_line(line_loader.load(None, context.settings.line_file), context.console)
    return display.list_lines([line_loader.load(name) for name in resources.line_names()], context.console)


@verb(
    "line",
    *(name for name in FETCHING if name != "refresh"),  # it has one of its own, which no settings file turns on
    "dry-run",
    group=SOURCES,
    example="patches el6",
    words=("line",),
    pairs=("diff",),
    values={"diff": "OLD NEW", "classify": "FILE"},
    help={
        "diff": "compare two versions of a patch by effect",
        "classify": "find the role of a patch file that belongs to no series",
        "refresh": "rebase the project's own patches onto what the signed Debian index has now: show each change, prove"
        " the refreshed series, then write patches and series.toml",
    },
)
def patches(
    context: RunContext, diff: list[str] | None = None, classify: str = "", refresh: bool = False
) -> Comparison | VerifiedLine | RefreshedLine | Outcome:
    """Prove each role's patches by content, and apply them to the real tree in a scratch copy."""
    from pipeline.commands import patches as command

    if diff and len(diff) != 2:
        raise UsageError("--diff: expected two patch files", hint="./inv patches --diff OLD NEW")
    if refresh and (diff or classify):
        what = "--refresh: it is about all patches of a line; expected neither --diff nor --classify"
        raise UsageError(what, hint="./inv patches LINE --refresh")
    if context.settings.dry_run and not refresh:
        what = "--dry-run: only --refresh changes anything; expected both or neither"
        raise UsageError(what, hint="./inv patches LINE --refresh --dry-run")
    chosen = _line(context, writes=not (diff or classify))
    if diff:
        return command.compare_files(diff, chosen, context)
    if refresh:
        from pipeline.commands.refresh import refresh_line

        return refresh_line(chosen, context)
    if not classify:
        return command.verify_line(chosen, context)
    found = command.classify_file(classify, chosen, context)
    return Outcome(found, ExitCode.OK if found.option.right else ExitCode.REFUSED)


LIMITS = ("build-time", "build-silence", "build-memory", "build-disk", "build-processes")
BUILDING = (
    *("runtime", "image", "centos-base", "kernel-config", "build-jobs"),
    *("no-ccache", "ccache-remote", "ccache-writer", "attestation-key", *LIMITS),
    *("shared-store", "shared-keys"),
    *("force", "keep-going", "explain", "dry-run", "verify", "check-reproducible"),
)
PACKAGES = ("kernel", "ipvsadm", "keepalived", "role-packages", "userland")
ROLES = ("director", "realserver", "stock")
PUBLISHING = ("gpg-key", "module-key", "module-certificate", "baseurl", "valid-days", "sign-later", "only", "no-smoke")


@verb(
    "line",
    *FETCHING,
    *BUILDING,
    *PUBLISHING,
    group=ALL,
    example="build-all lts61 --kernel-config small",
    words=("line",),
)
def build_all(context: RunContext) -> BuildAllResult:
    """Do everything: verified sources, proven patches, packages, a signed repository, and traffic through them."""
    from pipeline.commands.lab import LabCommand

    return LabCommand(_line(context), context).build_all()


@verb(
    "line",
    *FETCHING,
    *BUILDING,
    group=BUILDS,
    example="build lts61 kernel --role stock",
    words=("line",),
    many="name",
    choices={"name": PACKAGES, "role": ROLES},
    help={
        "name": "kernel, ipvsadm, keepalived, role-packages, or userland for the lab; may be repeated",
        "role": "of the kernel only this one: director, realserver or stock",
    },
)
def build(context: RunContext, name: list[str] | None = None, role: str = "") -> BuildResult | Forecast:
    """Build the packages of these names only; they are neither signed nor published."""
    from pipeline.commands.build import BuildCommand

    return BuildCommand(_line(context), context).build(name or (), role)


@verb(
    "line",
    *FETCHING,
    "image",
    "centos-base",
    group=BUILDS,
    example="image lts61",
    words=("line",),
    help={"fresh": "make it anew from the archive as it is now, for later builds"},
)
def image(context: RunContext, fresh: bool = False) -> MadeImage:
    """Make a missing builder image, and describe the image."""
    from pipeline.commands import image as imaging
    from pipeline.commands.build import BuildCommand

    job = BuildCommand(_line(context), context)
    return imaging.have(lambda: job.image(fresh=fresh), context, fresh=fresh)


@verb(
    "verify",
    "shared-keys",
    group=RESULTS,
    example="status lts61 --verify",
    words=("line",),
    help={"line": "with --verify: of steps and snapshots only what is this line's"},
    plain=True,
)
def status(context: RunContext, line: str = "") -> Status | Outcome:
    """Print each step's last state, snapshots, nights, images and sizes, from the disk alone."""
    from pipeline.audit import integrity
    from pipeline.commands import status as described

    found = described.tell(context)
    if not context.settings.verify:
        return found
    differing = integrity.verify(context, line)
    verified = described.VerifiedStatus(**vars(found), differing=differing)
    return Outcome(verified, ExitCode.REFUSED if differing else ExitCode.OK)


@verb(
    group=RESULTS,
    example="logs lts61 kernel:stock --follow",
    words=("line", "step"),
    help={
        "step": "a step, as `./inv status` names it; all are listed without one",
        "line": "only of this line",
        "follow": "print what is added until the step ends; the running one, where no step is named",
    },
    plain=True,
)
def logs(context: RunContext, step: str = "", line: str = "", follow: bool = False) -> list[Log]:
    """List the logs of the steps' last runs, print one, or follow it."""
    from pipeline.commands import logs as printing

    return printing.logs(context, step, line, follow=follow)


@verb(
    group=RESULTS,
    example="clean failed old",
    words=("line",),
    many="what",
    choices={"what": ("failed", "old", "ccache", "steps", "images", "guests", "all")},
    help={
        "what": "failed, old, ccache, steps, images, guests, or all of these; without a word nothing is removed",
        "line": "only what is this line's",
    },
)
def clean(context: RunContext, what: list[str] | None = None, line: str = "") -> Outcome:
    """Remove results that can be rebuilt, or list them with their sizes."""
    from pipeline.commands import clean as cleaning

    return Outcome(*cleaning.clean(what or (), line, context))


@verb(
    "line",
    "runtime",
    "line-file",
    "image",
    "kernel-config",
    *LIMITS,
    group=BUILDS,
    example="shell lts61 kernel:stock",
    words=("line", "step"),
    help={"step": "the step that failed, as its message names it"},
)
def shell(context: RunContext, step: str) -> ShellResult:
    """Open a shell in the sandbox of a failed step, at the point of failure."""
    from pipeline.commands.build import BuildCommand
    from pipeline.commands.shell import shell as enter

    line = _line(context, writes=False)
    return enter(line, step, context, BuildCommand(line, context).options)


LAB = ("runtime", "image", "kernel-config", "gpg-key", "snapshot", "scenario", "keep", "capture", "patience")


def _lab(context: RunContext) -> LabCommand:
    """Return the lab of the chosen line, with real servers of another line where the settings name one."""
    from pipeline.commands import lines
    from pipeline.commands.lab import LabCommand

    chosen, other = _line(context), context.settings.server_line
    if not other:
        return LabCommand(chosen, context)
    if other == chosen.name:
        what = f"--server-line: expected another line than the director's, got {other}"
        raise UsageError(what, hint="leave --server-line out")
    servers, of_servers = lines.by_name(other, context)
    settings = replace(of_servers.settings, server_line="", snapshot="")
    return LabCommand(chosen, context, LabCommand(servers, replace(context, settings=settings)))


@verb("line", *FETCHING, *LAB, "server-line", group=LABS, example="smoke lts61 --scenario nat", words=("line",))
def smoke(context: RunContext) -> Report:
    """Boot the published packages in QEMU, send real traffic through them, and report what was seen."""
    return _lab(context).smoke(context.settings.scenario, keep=context.settings.keep)


@verb("line", *FETCHING, *LAB, group=LABS, example="boot lts61", words=("line",))
def boot(context: RunContext) -> Report:
    """Boot every published kernel and look at it from inside: the scenario `boot` alone."""
    from pipeline.commands.lab import LabCommand

    return LabCommand(_line(context), context).smoke(("boot",), keep=context.settings.keep)


@verb("line", *FETCHING, *LAB, "server-line", group=LABS, example="lab lts61 --scenario nat", words=("line",))
def lab(context: RunContext) -> Report:
    """Play one scenario, leave its network running, and give a shell in each guest."""
    from pipeline.lab.scenarios import NAMES

    if len(context.settings.scenario) != 1:
        got = ", ".join(context.settings.scenario) or "none"
        what = f"--scenario: expected one scenario, got {got}"
        raise UsageError(what, why=f"known: {', '.join(NAMES)}", hint="./inv lab --scenario nat")
    return _lab(context).smoke(context.settings.scenario, keep=True)


@verb(
    "line",
    *FETCHING,
    "image",
    group=SOURCES,
    example="mirror export DIR lts61",
    words=("action", "directory", "line"),
    choices={"action": ("export", "import")},
    values={"directory": "DIR"},
    help={"action": "export or import", "directory": "the mirror's directory"},
)
def mirror(context: RunContext, action: str, directory: str) -> LineSources:
    """Carry a line's sources to a host without network: `mirror export DIR`, `mirror import DIR`."""
    from pipeline.sources import mirror_export

    chosen = _line(context)
    if action == "export":
        return mirror_export.export(chosen, context.settings, context.console, directory, context.settings.image)
    return mirror_export.import_(chosen, context.settings, context.console, directory, context.settings.image)


@verb(
    group=SOURCES,
    example="store verify",
    choices={"action": ("gc", "verify")},
    help={
        "action": "gc (remove what neither a line's last fetch nor a recorded night used) or verify (hash"
        " everything again)"
    },
)
def store(context: RunContext, action: str) -> Cleaned | Outcome:
    """Clean or verify the store: `store gc`, `store verify`."""
    from pipeline.nights import retention
    from pipeline.sources import store_maintenance

    if action == "gc":
        kept = retention.sources(context.settings.artifacts)
        return store_maintenance.gc(context.settings, context.console, kept)
    found = store_maintenance.verify(context.settings, context.console)
    return Outcome(found, ExitCode.REFUSED if found.damaged else ExitCode.OK)


@verb(
    *FETCHING,
    group=PROJECT,
    example="doctor",
    plain=True,
    values={"kernel": "FILE"},
    help={"kernel": "the kernel image to probe KVM with [one in /boot, else Debian's cloud kernel]"},
)
def doctor(context: RunContext, kernel: str = "") -> Outcome:
    """Check whether this host can do the work: each finding, its effect, its remedy."""
    from pipeline.host import doctor as checks

    def debian_kernel() -> Path:
        from pipeline.sources import probe_kernel

        return probe_kernel.package(context.settings, context.console)

    def network() -> Finding:
        from pipeline.sources import archive_check

        return archive_check.check(context.settings)

    findings = checks.run(context.settings, context.console, kernel, debian_kernel, network)
    return Outcome(findings, checks.exit_code(findings))


@verb(
    *("line-file", "mirror", "runtime", "image", "kernel-config"),
    group=PROJECT,
    example="test --only unit",
    choices={"only": ("unit", "component", "e2e")},
    values={"only": "KIND", "match": "NAME"},
    help={
        "only": "unit, component or e2e [all]",
        "match": "only tests whose names match, as pytest's -k takes it",
        "real": "the acceptance checks of the default line on real material, which --mirror and --line-file name",
    },
    plain=True,
)
def test(context: RunContext, only: str = "", match: str = "", real: bool = False) -> None:
    """Run the tests; they start the servers they need, and fail where something is missing."""
    from pipeline.commands import test as testing

    if real:
        testing.accept_real(context, match)
    else:
        testing.run(context.console, only, match)


# Here, since the help has the verbs in the order of their definitions.
from pipeline.commands.audits import AUDITS, audit, diff, identify, reproduce, trace  # noqa: E402
from pipeline.commands.ci import ci  # noqa: E402
from pipeline.commands.cluster import cluster  # noqa: E402
from pipeline.commands.nightly import nightly  # noqa: E402
from pipeline.commands.repository import publish, serve, sign  # noqa: E402

__all__ = ["audit", "ci", "cluster", "diff", "identify", "nightly", "publish", "reproduce", "serve", "sign", "trace"]


@verb(
    "line",
    *FETCHING,
    "kernel-config",
    group=AUDITS,
    example="cves lts61 vulns/cve",
    words=("line", "path"),
    help={"path": "a file or a directory of CVE records in JSON 5, as cvelistV5 and the kernel's vulns.git have them"},
)
def cves(context: RunContext, path: str) -> CveReport:
    """Tell which CVE records concern a line's kernel, by its version and by the files that were compiled."""
    from pipeline.commands import cves as command

    return command.cves(context, _line(context, writes=False), path)
