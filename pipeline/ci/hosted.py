"""Render the files of services that run jobs in a checkout of their own, away from this host: GitHub and GitLab."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.ci import nights, places
from pipeline.ci.kinds import Request
from pipeline.config.settings import TABLE, default_artifacts
from pipeline.core import neutral, resources, templates
from pipeline.errors import UsageError

_RUNNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SUBJECT = "Build LVS-FULLNAT repositories every night"


@dataclass(frozen=True)
class RunLine:
    """A command of a job: what the service calls it, and its line for a shell."""

    title: str
    line: str


@dataclass(frozen=True)
class Hosted:
    """A kind that is one file of a repository; `runner` is the label of hosts that run its jobs."""

    name: str
    template: str
    file: str
    runner: str
    takes: frozenset[str] = frozenset({"runner"})

    def files(self, request: Request) -> Mapping[str, str]:
        """Return the one file. Raises `UsageError` for what another host would not have."""
        runner = request.options.get("runner", self.runner)
        if not _RUNNER.fullmatch(runner):
            raise UsageError(f"--runner: {runner!r}; expected a runner's label", hint="./inv --help ci")
        return {
            self.file: templates.render(
                self.template,
                made_by=request.made_by(self.name),
                names=", ".join(request.names),
                key="-".join(request.names),
                cron=request.at.cron,
                runner=runner,
                commands=_lines(request),
            )
        }

    def commands(self, request: Request, output: Path) -> Sequence[str]:
        """Return the commands that put the file into this checkout and to the service."""
        checkout = str(resources.data_root())
        git = ["git", "-C", checkout]
        copied = [["cp", "-R", f"{output}/.", checkout]] if str(output.resolve()) != checkout else []
        found = [*copied, [*git, "add", self.file], [*git, "commit", "-m", _SUBJECT], [*git, "push"]]
        return [neutral.command(words) for words in found]


def github() -> Hosted:
    """Return the kind `github`: a workflow of GitHub Actions."""
    return Hosted("github", "ci/github/nightly.yml.j2", ".github/workflows/lvs-fullnat-nightly.yml", "ubuntu-24.04")


def gitlab() -> Hosted:
    """Return the kind `gitlab`: a job of GitLab CI."""
    return Hosted("gitlab", "ci/gitlab/gitlab-ci.yml.j2", ".gitlab-ci.yml", "lvs-fullnat")


def _lines(request: Request) -> Sequence[RunLine]:
    """Return the commands of a night. Raises `UsageError` for settings that only this host can follow."""
    artifacts = request.settings.artifacts
    if artifacts not in (TABLE["artifacts"].default, default_artifacts(os.environ)):
        why = "a job keeps what lies in its checkout, and caches hold no keys"
        raise UsageError(f"--artifacts: {artifacts}; expected none here", why=why, hint="./inv --help ci")
    found = []
    for words in nights.commands(request):
        if foreign := next(_foreign(request, words), None):
            what = f"{foreign}: a place of this host; expected one in the checkout, or a URL"
            raise UsageError(what, hint="./inv --help ci")
        if "${{" in (line := neutral.command(["./inv", *words])):
            raise UsageError(f"{line}: expected no expression of the service", hint="./inv --help ci")
        found.append(RunLine(f"Run {words[0]} of {', '.join(_named(request, words))}", line))
    return found


def _foreign(request: Request, words: Sequence[str]) -> Iterator[Path]:
    """Yield the places outside of the checkout that the words of a command name."""
    for row, path in places.named(request.settings):
        if row.option in words and (path.is_absolute() or ".." in path.parts):
            yield path


def _named(request: Request, words: Sequence[str]) -> Sequence[str]:
    return [name for name in request.names if name in words]
