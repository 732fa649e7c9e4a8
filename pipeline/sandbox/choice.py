"""Which runtime runs the jobs. An explicit choice never gives way to another."""

from __future__ import annotations

from pipeline.config.settings import TABLE
from pipeline.core.console import Console
from pipeline.errors import HostLacks, UsageError
from pipeline.host import engines
from pipeline.host.facts import Host
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.container import ContainerEngine, answering
from pipeline.sandbox.runtime import Runtime


def choose(setting: str, console: Console, host: Host | None = None) -> Runtime:
    """The runtime asked for, or, for `auto`, bubblewrap where it isolates, else an engine that answers.

    Says which and why. Raises `HostLacks` with what is missing when there is none.
    """
    host = host or Host()
    if setting not in (known := TABLE["runtime"].choices):
        raise UsageError(f"there is no runtime {setting}", why=f"runtimes: {', '.join(known)}")
    if setting == "bubblewrap":
        return _said(console, _bubblewrap(host), "it was asked for")
    if setting == "docker":
        return _said(console, engine(host), "it was asked for")
    try:
        return _said(console, _bubblewrap(host), "it isolates builds here and needs no daemon")
    except HostLacks as lacking:
        try:
            return _said(console, engine(host), f"it answers, and {lacking.what}")
        except HostLacks as silent:
            why = "\n".join(f"{error.what}: {error.why}" for error in (lacking, silent))
            raise HostLacks("nothing on this host can isolate a build", why=why, hint=lacking.hint) from None


def _said(console: Console, runtime: Runtime, why: str) -> Runtime:
    console.note(f"builds run under {runtime.name}: {why}")
    return runtime


def _bubblewrap(host: Host) -> Bubblewrap:
    """bubblewrap, after it has isolated a job of our user in the host's own tree."""
    runtime = Bubblewrap()
    try:
        runtime.prove_on_host()
    except HostLacks as error:
        hint = engines.check_bubblewrap(host).remedy or error.hint
        raise HostLacks(error.what, why=error.why, hint=hint) from None
    return runtime


def engine(host: Host | None = None) -> ContainerEngine:
    """The first engine that answers. Raises `HostLacks` when none does."""
    host = host or Host()
    if found := answering(host):
        return found[0]
    finding = engines.check_engines(host)
    raise HostLacks("no container engine answers", why=finding.found, hint=finding.remedy)
