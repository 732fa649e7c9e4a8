"""Choose the runtime of jobs. An explicit choice never falls back to another runtime."""

from __future__ import annotations

from pipeline.config.settings import TABLE
from pipeline.core.console import Console
from pipeline.errors import HostLacks, UsageError
from pipeline.host import engines
from pipeline.host.facts import Host
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.container import ContainerEngine, available_engines
from pipeline.sandbox.runtime import Runtime


def choose(setting: str, console: Console, host: Host | None = None) -> Runtime:
    """Return the requested runtime, or for `auto` bubblewrap where it isolates, else an engine that answers.

    Prints the choice and its reason. Raises `HostLacks` with the reasons of all when there is none.
    """
    host = host or Host()
    if setting not in (known := TABLE["runtime"].choices):
        raise UsageError(f"runtime: expected one of {', '.join(known)}, got {setting!r}", hint="./inv doctor")
    if setting == "bubblewrap":
        return _announced(console, _bubblewrap(host), "requested by --runtime")
    if setting == "docker":
        return _announced(console, first_engine(host), "requested by --runtime")
    try:
        return _announced(console, _bubblewrap(host), "isolates builds on this host, without a daemon")
    except HostLacks as lacking:
        try:
            return _announced(console, first_engine(host), f"answers, and {lacking.what}")
        except HostLacks as silent:
            why = "\n".join(f"{error.what}: {error.why}" for error in (lacking, silent))
            raise HostLacks(
                "runtime: none isolates builds on this host; expected one", why=why, hint=lacking.hint
            ) from None


def _announced(console: Console, runtime: Runtime, why: str) -> Runtime:
    console.note(f"builds run under {runtime.name}: {why}")
    return runtime


def _bubblewrap(host: Host) -> Bubblewrap:
    """Return bubblewrap, after a trial job was isolated in the host's own tree."""
    runtime = Bubblewrap()
    try:
        runtime.prove_on_host()
    except HostLacks as error:
        hint = engines.check_bubblewrap(host).remedy or error.hint
        raise HostLacks(error.what, why=error.why, hint=hint) from None
    return runtime


def first_engine(host: Host | None = None) -> ContainerEngine:
    """Return the first engine that answers. Raises `HostLacks` when none does."""
    host = host or Host()
    if found := available_engines(host):
        return found[0]
    finding = engines.check_engines(host)
    raise HostLacks("container engine: none answers; expected one", why=finding.found, hint=finding.remedy)
