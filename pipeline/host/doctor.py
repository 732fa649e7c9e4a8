"""Report whether this host can do the work: each finding, its effect, its remedy.

`fail` means that nothing works until it is repaired; `warn` that a later stage does not, or is slow.
A check that crashes is a `fail` that names our bug: an answer that is missing is never `ok`.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.config.settings import Settings
from pipeline.core import process
from pipeline.core.console import Console
from pipeline.core.disk_space import host_error
from pipeline.errors import ExitCode, PipelineError
from pipeline.host import engines, kvm, namespaces, programs, system
from pipeline.host.facts import Finding, Host, State
from pipeline.host.programs import GROUPS, Group, HostProgram

KernelProvider = Callable[[], Path | None]
Check = Callable[[], Finding]
NEEDED: frozenset[Group] = frozenset({"fetch"})  # groups without which nothing works; the others warn
VERSION_TIMEOUT = 2.0  # seconds for a program to say its version


def run(
    settings: Settings,
    console: Console,
    kernel: str = "",
    kernel_provider: KernelProvider | None = None,
    network: Check | None = None,
) -> list[Finding]:
    """Examine this machine and print the findings; `kernel` is the image to probe KVM with."""
    findings = examine(settings, kernel_provider, kernel=Path(kernel) if kernel else None, network=network)
    show(findings, console)
    return findings


def examine(
    settings: Settings,
    kernel_provider: KernelProvider | None = None,
    *,
    kernel: Path | None = None,
    host: Host | None = None,
    network: Check | None = None,
) -> list[Finding]:
    """Return every finding in the table's order; raise none of the checks' errors.

    `kernel_provider` gives a verified Debian kernel package; it is asked only when /dev/kvm opens
    and there is no kernel at hand. `kernel` is used instead of searching. `network` is the check that asks archives.
    """
    host = host or Host()
    artifacts = settings.artifacts
    boot_id = host.proc / "sys/kernel/random/boot_id"
    probe = kvm.Probe(
        artifacts, kernel, kernel_provider, path=host.path, device=host.kvm, boot=host.boot, boot_id=boot_id
    )
    checks: list[tuple[str, Check]] = [
        ("python", lambda: system.check_python(host)),
        *((f"programs: {group}", _program_check(host, group)) for group in GROUPS),
        ("disk", lambda: system.check_disk(host, artifacts)),
        ("artifacts", lambda: system.check_artifacts(artifacts)),
        ("memory", lambda: system.check_memory(host)),
        ("clock", lambda: system.check_clock(host)),
        ("entropy", lambda: system.check_entropy(host)),
        ("container engine", lambda: engines.check_engines(host)),
        ("bubblewrap", lambda: engines.check_bubblewrap(host)),
        ("images", lambda: namespaces.check(host)),
        *([("network", network)] if network else []),
        ("vsyscall", lambda: system.check_vsyscall(host)),
        ("kvm", lambda: check_kvm(probe)),
    ]
    return [guarded(name, check) for name, check in checks]


def exit_code(findings: Sequence[Finding]) -> ExitCode:
    """Return 7 when a finding is `fail`, else 0: a warning is no failure."""
    return ExitCode.HOST if any(finding.state == "fail" for finding in findings) else ExitCode.OK


def guarded(name: str, check: Check) -> Finding:
    """Return the check's finding; a crashed check gives a `fail` with the missing thing or a defect report."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks must still be heard
        if lacking := host_error(error, Path("artifacts")):
            return Finding(name, "fail", lacking.what, "this answer is missing", lacking.hint)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        found = f"this check crashed: {type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
        return Finding(name, "fail", found, "this answer is missing", "a mistake in this program; please report it")


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print the findings for people, one block each; one line for `ok`."""
    width = max((len(finding.name) for finding in findings), default=0)
    for finding in findings:
        console.say(f"{finding.state:4}  {finding.name:{width}}  {finding.found}")
        if finding.state != "ok":
            for label, text in (("affects", finding.affects), ("remedy", finding.remedy)):
                console.say(f"{'':{width + 8}}{label}: {text}" if text else "")
    counts = {state: sum(finding.state == state for finding in findings) for state in ("ok", "warn", "fail")}
    console.say(", ".join(f"{count} {state}" for state, count in counts.items()))


def _program_check(host: Host, group: Group) -> Check:
    return lambda: check_programs(host, group)


def check_programs(host: Host, group: Group) -> Finding:
    """Check the programs of one group: versions, missing programs, programs that fail to run."""
    lacking = programs.missing([group], host.path)
    broken: dict[HostProgram, str] = {}
    versions = []
    for program in programs.wanted([group]):
        if program not in lacking:
            version, problem = _version(program, host)
            versions.append(f"{program.command} {version}".strip())
            if problem:
                broken[program] = f"{program.command} does not run ({problem})"
    name = f"programs: {group}"
    if not lacking and not broken:
        return Finding(name, "ok", ", ".join(versions))
    found = "; ".join([*(f"{program.command} is not installed" for program in lacking), *broken.values()])
    state: State = "fail" if group in NEEDED else "warn"
    return Finding(name, state, found, GROUPS[group], programs.advice([*lacking, *broken], host.path))


def _version(program: HostProgram, host: Host) -> tuple[str, str]:
    """Return version and problem of a program on the path; one of them is empty."""
    found = programs.which(program.command, host.path)
    if found is None or not program.version:
        return "", ""
    try:
        output = process.run([found, *program.version], timeout=VERSION_TIMEOUT).text
    except PipelineError as error:
        return "", " ".join(error.what.split())
    number = re.search(r"\d+(\.\d+)+", output)
    return (number[0] if number else "of unknown version"), ""


def check_kvm(probe: kvm.Probe) -> Finding:
    """Check whether guests run under KVM; the fallback is emulation, which is slower and equally correct."""
    affects = "the lab's speed: guests run under emulation (TCG)"
    try:
        verdict = probe.probe()
    except OSError as error:
        found = f"not probed, since the answer cannot be kept: {error}"
        return Finding("kvm", "warn", found, affects, "see the finding about artifacts")
    if verdict.usable:
        return Finding("kvm", "ok", verdict.detail)
    found = verdict.detail if verdict.cause is kvm.Cause.NOT_PROBED else f"unusable: {verdict.detail}"
    retry = f"; asked again at the next boot, or without {probe.memory}" if verdict.kept else ""
    return Finding("kvm", "warn", found, affects, verdict.remedy + retry)
