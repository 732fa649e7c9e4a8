"""Find a kind of CI by its name. It is imported when files of it are rendered."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.ci.kinds import Kind


def _systemd() -> Kind:
    from pipeline.ci.systemd import Systemd

    return Systemd()


def _buildbot() -> Kind:
    from pipeline.ci.buildbot import Buildbot

    return Buildbot()


KINDS: Mapping[str, Callable[[], Kind]] = {
    "systemd": _systemd,
    "buildbot": _buildbot,
}
