"""Find a kind of CI by its name. It is imported when files of it are rendered."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.ci.kinds import Kind


def _github() -> Kind:
    from pipeline.ci import hosted

    return hosted.github()


def _gitlab() -> Kind:
    from pipeline.ci import hosted

    return hosted.gitlab()


def _systemd() -> Kind:
    from pipeline.ci.systemd import Systemd

    return Systemd()


def _buildbot() -> Kind:
    from pipeline.ci.buildbot import Buildbot

    return Buildbot()


KINDS: Mapping[str, Callable[[], Kind]] = {
    "github": _github,
    "gitlab": _gitlab,
    "systemd": _systemd,
    "buildbot": _buildbot,
}
