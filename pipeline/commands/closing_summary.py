"""Print the end of `inv build-all`: what was made, what the lab found, and the next command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.commands.build_summary import BuildResult
from pipeline.config import next_command
from pipeline.core import neutral
from pipeline.core.console import Console
from pipeline.core.units import human_seconds
from pipeline.publish.layout import PLACEHOLDER


@dataclass(frozen=True)
class LabResult:
    """The page of the lab's run after a build; `reused` where it passed with the same snapshot before.

    `scenarios` is the number of those that were played; all but `failed` passed.
    """

    report: Path
    reused: bool
    scenarios: int
    failed: tuple[str, ...]

    @classmethod
    def of(cls, states: Mapping[str, str], report: Path, *, reused: bool) -> LabResult:
        """Return the result of a run whose scenarios ended in these states."""
        played = {name: state for name, state in states.items() if state != "left out"}
        return cls(report, reused, len(played), tuple(name for name, state in played.items() if state != "passed"))

    @property
    def passed(self) -> bool:
        """Whether something was played, and all of it passed."""
        return self.scenarios > 0 and not self.failed


def tell(
    console: Console, built: BuildResult, played: LabResult | None, seconds: float, options: Sequence[str]
) -> None:
    """Print packages, snapshot, lab, time, what the person has now, and the next command for the line's `options`."""
    snapshot, lab = built.summary.snapshot, "not played"
    if played:
        passed = played.scenarios - len(played.failed)
        before = ", played before" if played.reused else ""
        lab = f"{passed} of {played.scenarios} scenarios passed{before}; page: {played.report}"
    owned, following = _result_and_next(built, played, options)
    rows = {
        "packages": len(built.summary.packages),
        "snapshot": f"{snapshot.id}, in {snapshot.path}" if snapshot else "none",
        "lab": lab,
        "time": human_seconds(seconds),
        "you have": owned,
        "next": following,
    }
    console.say(f"build-all of {built.line.label}:")
    for name, value in rows.items():
        console.say(f"  {name:9} {value}")


def _result_and_next(built: BuildResult, played: LabResult | None, options: Sequence[str]) -> tuple[str, str]:
    """Return what the person has now, and the next command."""

    def command(verb: str, *words: str) -> str:
        return next_command.command(verb, words, options)

    snapshot = built.summary.snapshot
    if built.unsigned is not None:
        return f"an unsigned snapshot, in {built.unsigned}", command("sign", built.unsigned.name, "--gpg-key", "KEY")
    if snapshot is None:
        return "unsigned packages", command("build-all")
    if played is None:
        return "a signed repository that was not tried", command("smoke")
    if not played.passed:
        failing = command("lab", "--scenario", played.failed[0]) if played.failed else command("smoke")
        return "a signed repository that failed in the lab", failing
    if snapshot.development:
        return "a repository for trying, signed by a development key", command("build-all", "--gpg-key", "FINGERPRINT")
    if snapshot.baseurl == PLACEHOLDER:
        return "a signed repository without an address for clients", command("build-all", "--baseurl", "URL")
    copied = f"cp {neutral.word(snapshot.latest)}/*.repo /etc/yum.repos.d/"
    return f"a signed repository for {snapshot.baseurl}", f"on a machine that is to use one of its sets: {copied}"
