"""The verbs of a repository's publisher: copy it to where clients read it, and serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.commands.task import verb
from pipeline.config.context import RunContext

if TYPE_CHECKING:
    from pipeline.commands.build_summary import BuildResult
    from pipeline.publish.upload import Uploaded

REPOSITORY = "repository"


@verb(
    *("line", "line-file", "kernel-config", "gpg-key"),
    group=REPOSITORY,
    example="publish --to repo.example.com:/srv/lvs",
    words=("line",),
    values={"to": "TARGET", "keep": "NUMBER", "replaces": "ID"},
    help={
        "to": "a directory, HOST:DIRECTORY for rsync over ssh, or rsync://HOST/MODULE; empty or published to before",
        "keep": "snapshots to keep there; younger ones that clients may still read stay too [5]",
        "replaces": "the latest snapshot there, where its statement cannot be verified here; docs/publishing.md",
    },
)
def publish(context: RunContext, to: str, keep: str = "", replaces: str = "") -> Uploaded:
    """Copy the latest snapshot, verified, to where clients read it, and lead them to it when all of it is there."""
    from pipeline.commands import publish_copy

    return publish_copy.publish(context, to, keep, replaces)


@verb(
    *("line-file", "gpg-key", "attestation-key", "shared-keys", "valid-days"),
    group=REPOSITORY,
    example="sign 4f0c2a91 --gpg-key FINGERPRINT",
    values={"unsigned": "UNSIGNED"},
    help={"unsigned": "what `build-all --sign-later` made: its directory, or its id or how that begins"},
)
def sign(context: RunContext, unsigned: str) -> BuildResult:
    """Sign an unsigned snapshot, verified by its steps' statements, and publish it as the line's latest."""
    from pipeline.commands import sign_later

    return sign_later.sign(context, unsigned)


@verb(
    group=REPOSITORY,
    example="serve --listen 127.0.0.1:8000",
    values={"listen": "ADDRESS:PORT"},
    help={"listen": "where to listen; port 0 is a free one [127.0.0.1:8000, for this host alone]"},
    plain=True,
)
def serve(context: RunContext, listen: str = "") -> None:
    """Serve the published repositories over HTTP, read-only, until it is interrupted."""
    from pipeline.commands import serving

    serving.serve(context, listen)
