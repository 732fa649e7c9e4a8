"""Copy a line's latest snapshot to a directory or with rsync, and print what is there."""

from __future__ import annotations

from pathlib import Path

from pipeline.commands import publish_checks
from pipeline.config import line_loader
from pipeline.config.context import RunContext
from pipeline.core.disk_space import writing
from pipeline.core.rsync import Target
from pipeline.errors import Refused, UsageError
from pipeline.host import programs
from pipeline.publish import keys, signers, upload
from pipeline.publish.layout import directory_of
from pipeline.publish.upload import Uploaded


def publish(context: RunContext, to: str, keep: str, replaces: str) -> Uploaded:
    """Publish to a target. Raises as `upload.upload` and `publish_checks.check`."""
    settings, console = context.settings, context.console
    kept = _number(keep) if keep else upload.KEPT
    line = line_loader.load(settings.line or None, settings.line_file)
    place = settings.artifacts / "repo" / directory_of(line.name, small=settings.kernel_config == "small")
    if not (place / "latest").exists():
        what = f"there is no repository of the line {line.name}; expected a published one"
        raise UsageError(what, where=str(place / "latest"), hint="./inv build-all")
    programs.ensure({"publish"}, console)
    target = Target(to)
    upload.check_target(target, place.name)
    fingerprint = _signer(context, place)
    publish_checks.check(place, fingerprint, target, replaces)
    console.note(f"verifying and copying {(place / 'latest').resolve().name} to {to}")
    with writing(target.directory or settings.artifacts):
        done = upload.upload(place, fingerprint, target, kept)
    console.say(
        f"{place.name}: {done.snapshot} is the latest at {to}; {len(done.kept)} kept, {len(done.removed)} removed"
    )
    if done.foreign:
        console.warn(f"{to}: no snapshots of ours, and left there: {', '.join(done.foreign)}")
    return done


def _number(keep: str) -> int:
    if not keep.isascii() or not keep.isdigit() or not int(keep):
        what = f"--keep: expected a number, 1 or more, got {keep!r}"
        raise UsageError(what, hint="./inv --help publish")
    return int(keep)


def _signer(context: RunContext, place: Path) -> str:
    """Return the fingerprint of the key that must have signed: `gpg-key`, else the recorded one."""
    settings = context.settings
    if settings.gpg_key:
        return keys.named(settings.gpg_key)
    if known := signers.expected_fingerprint(settings.artifacts, place.name, place / "latest"):
        return known
    raise Refused(
        f"the signing key of {place.name}: expected its fingerprint in a record, got none",
        where=str(signers.record_path(settings.artifacts, place.name)),
        why="the key that lies beside a snapshot proves nothing",
        hint="./inv publish --to DIR --gpg-key FINGERPRINT",
    )
