"""The verb of every night."""

from __future__ import annotations

from pipeline.commands.task import Outcome, verb
from pipeline.config.context import RunContext

_FETCHING = ("line-file", "mirror", "debian-mirror", "offline", "jobs", "retries", "stall", "connect")
_BUILDING = (
    *("runtime", "image", "centos-base", "kernel-config", "build-jobs"),
    *("no-ccache", "ccache-remote", "ccache-writer", "attestation-key"),
    *("build-time", "build-silence", "build-memory", "build-disk", "build-processes", "keep-going", "verify"),
)
_PUBLISHING = ("gpg-key", "module-key", "module-certificate", "baseurl", "valid-days", "no-smoke", "patience")
_NIGHTS = ("keep-nights", "update", "smoke-always", "notify-command", "notify-url", "notify-when")


@verb(
    *_FETCHING,
    *_BUILDING,
    *_PUBLISHING,
    *_NIGHTS,
    *("shared-store", "shared-keys"),
    group="everything at once",
    example="nightly --update",
    many="line",
    help={
        "line": "a line's name; may be repeated, default: the line of the settings",
        "policy": "what the audit accepts: keys, lines, roles, sources, patches; docs/audit.md",
    },
    values={"line": "LINE", "policy": "FILE"},
)
def nightly(context: RunContext, line: list[str] | None = None, policy: str = "") -> Outcome:
    """Look for changed upstreams, build what changed, try and audit it, and only then make it the latest."""
    from pipeline.commands import night

    return night.run(line or (), policy, context)
