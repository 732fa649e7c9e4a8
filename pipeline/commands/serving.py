"""Run the HTTP server of the published repositories."""

from __future__ import annotations

from pipeline.config.context import RunContext
from pipeline.errors import UsageError
from pipeline.publish import server


def serve(context: RunContext, listen: str) -> None:
    """Serve until interrupted. Raises `UsageError` where nothing is published, and as `server.opened`."""
    root, console = context.settings.artifacts / "repo", context.console
    if not root.is_dir():
        what = "there is no repository to serve; expected a published one"
        raise UsageError(what, where=str(root), hint="./inv build-all")
    with server.opened(root, listen or server.LISTEN, console.note) as running:
        host = f"[{running.host}]" if ":" in running.host else running.host
        console.say(f"serving {root} at http://{host}:{running.port}/ until Ctrl-C")
        running.serve_forever()
    console.note("the server has ended")
