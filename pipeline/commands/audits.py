"""The verbs of an auditor: of packages and published snapshots alone, wherever they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.commands.task import Outcome, verb
from pipeline.config.context import RunContext

if TYPE_CHECKING:
    from pipeline.audit.snapshot_diff import SnapshotDiff
    from pipeline.audit.trace import Trace

AUDITS = "audit"


@verb(
    group=AUDITS,
    example="audit 4f0c2a91 --policy policy.toml",
    words=("snapshot",),
    values={"policy": "FILE", "write-policy": "FILE", "html": "FILE", "vsa": "FILE", "vsa-key": "FILE"},
    help={
        "snapshot": "a snapshot's directory or id, or the name of a line, which means its latest",
        "policy": "what is accepted: keys, lines, roles, sources, patches; docs/audit.md",
        "write-policy": "write a policy that accepts what this snapshot is, to go on from",
        "html": "write one page for people and the same as JSON beside it: findings, patches, roles, materials, lab",
        "vsa": "write the result as a signed SLSA verification summary",
        "vsa-key": "the ECDSA P-256 key in PEM to sign it with",
    },
    plain=True,
)
def audit(
    context: RunContext,
    snapshot: str,
    policy: str = "",
    write_policy: str = "",
    html: str = "",
    vsa: str = "",
    vsa_key: str = "",
) -> Outcome:
    """Audit a published snapshot from its bytes up: signatures, statements, sources, patches, roles, freshness."""
    from pipeline.commands import audit as auditing

    return auditing.audit_snapshot(
        context, snapshot, policy_file=policy, write_policy=write_policy, html=html, vsa=vsa, vsa_key=vsa_key
    )


@verb(
    group=AUDITS,
    example="identify kernel.rpm --expect realserver",
    many="file",
    values={"file": "FILE.rpm", "expect": "ROLE", "depth": "HOW-FAR"},
    choices={"expect": ("director", "realserver", "both", "stock"), "depth": ("header", "boot", "modules")},
    help={
        "file": "a package of anyone; of two it is said whether they work together",
        "expect": "director, realserver, both or stock; another one ends with exit code 4",
        "depth": "how far a package is read: header, boot or modules [modules]",
        "installed": "the running kernel of this host instead of a package",
    },
    plain=True,
)
def identify(
    context: RunContext, file: list[str] | None = None, expect: str = "", depth: str = "", installed: bool = False
) -> Outcome:
    """Identify what a kernel, module set or tool is by its content, whatever its name says."""
    from pipeline.commands import identify as identifying

    return identifying.identify(context, file or [], expect, depth, installed=installed)


@verb(
    group=AUDITS,
    example="trace 4f0c2a91 net/netfilter/ipvs/ip_vs_conn.c",
    words=("snapshot", "thing"),
    help={
        "snapshot": "a snapshot's directory or id, or the name of a line, which means its latest",
        "thing": "a source file, a file of a package, a module, a symbol, an option of a kernel, a patch",
    },
    plain=True,
)
def trace(context: RunContext, snapshot: str, thing: str) -> Trace:
    """Trace something of a snapshot back to patch, source, address and who pinned it, and forward to packages."""
    from pipeline.commands import trace as tracing

    return tracing.trace(context, snapshot, thing)


@verb(
    *("runtime", "mirror", "debian-mirror", "offline", "line-file", "build-jobs", "module-key", "module-certificate"),
    "only",
    group=AUDITS,
    example="reproduce 4f0c2a91",
    words=("snapshot",),
    help={"snapshot": "a snapshot's directory or id, or the name of a line, which means its latest"},
)
def reproduce(context: RunContext, snapshot: str) -> Outcome:
    """Rebuild a snapshot from its statements and the store: each package identical, different and why, or cannot."""
    from pipeline.commands import reproduce as rebuilding

    return rebuilding.reproduce(context, snapshot)


@verb(
    group=AUDITS,
    example="diff 4f0c2a91 latest",
    words=("before", "after"),
    help={
        "before": "a published snapshot: its id or how that begins, its directory, latest, or DIRECTORY/latest",
        "after": "the snapshot to compare it with",
    },
    values={"before": "SNAPSHOT", "after": "SNAPSHOT"},
    plain=True,
)
def diff(context: RunContext, before: str, after: str) -> SnapshotDiff:
    """Compare two snapshots: sources, patches, configuration, packages with their files and dependencies, sizes."""
    from pipeline.commands import diff as comparing

    return comparing.diff(context, before, after)
